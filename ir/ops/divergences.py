"""Entropy, and how far one distribution is from another."""

from __future__ import annotations

import warnings

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from .reduction import check_same_shape, reduce_loss, spread

FAMILY = "losses"


@op(
    # A probability of 0, where torch's gradient for the target is NaN, has tests of its own.
    domain={"input": (-10, 0), "target": (0.05, 1)},
    note=Note(
        formula="target · (ln target − input), input a log-probability, reduced",
        derivative="−target for input; ln target + 1 − input for target",
        strengths="Zero only where the distributions agree; with a fixed target it is cross entropy less a constant.",
        weaknesses="Not symmetric; infinite where the target has mass and input has none; 'mean' divides by classes.",
        use="Distillation and variational models, with reduction='batchmean'.",
        source="torch.nn.functional.kl_div; Kullback and Leibler, 1951",
    ),
)
def kl_div(input: Value, target: Value, *, log_target: bool = False, reduction: str = "mean") -> Value:
    """target · (ln target − input); eᵗᵃʳᵍᵉᵗ · (target − input) with log_target"""
    losses = _pointwise_kl(input, target, log_target)
    if reduction == "batchmean":
        return P.sum(losses) / _batch(input)
    if reduction not in ("mean", "sum", "none"):
        raise DeclarationError(f"reduction is {reduction!r}; use 'batchmean', 'mean', 'sum' or 'none'")
    return reduce_loss(losses, reduction)


def _pointwise_kl(input: Value, target: Value, log_target: bool) -> Value:
    if log_target:
        return P.exp(target) * (target - input)
    return P.where(target == 0, 0, target * P.log(target)) - target * input


def _batch(input: Value) -> Value | int:
    return P.count_along(input, 0) if input.shape else 1


kl_div.sample = lambda graph, shape, dtype: kl_div(
    graph.input("input", shape, dtype), graph.input("target", shape, dtype), reduction="sum"
)


@kl_div.gradient
def _(d_y, y, input, target, *, log_target, reduction):
    losses = _pointwise_kl(input, target, log_target)
    d_each = d_y / _batch(input) if reduction == "batchmean" else spread(d_y, losses, reduction)
    if log_target:
        probability = P.exp(target)
        return -probability * d_each, probability * (target - input + 1) * d_each
    # target / target is 1, and NaN at 0, where the slope is infinite and torch says NaN.
    return -target * d_each, (P.log(target) + target / target - input) * d_each


@kl_div.declares
def _(
    input: Value, target: Value, *, log_target: bool = False, reduction: str = "mean", name: str | None = None
) -> Value:
    """Log-probabilities `input` against probabilities `target` (their logarithms with `log_target`); 'batchmean' is the
    divergence per row of axis 0, while 'mean' divides by all elements and warns, as in torch."""
    if reduction == "mean":
        warnings.warn(
            "kl_div: reduction 'mean' divides by batch and classes; 'batchmean' is the mathematical divergence",
            stacklevel=3,
        )
    if reduction == "batchmean" and not input.shape:
        raise ShapeError(f"kl_div: {input.name!r} is 0-dim and has no batch; use reduction='sum'")
    return kl_div.apply(input, target, log_target=log_target, reduction=reduction, name=name)


@op(
    domain={"p": (0.05, 1), "q": (0.05, 1)},
    note=Note(
        formula="½ Σ p ln(p/m) + ½ Σ q ln(q/m) over dim, m = (p + q)/2, averaged over rows",
        derivative="½ ln(p/m) for p, ½ ln(q/m) for q, over rows",
        strengths="Symmetric, finite even where one distribution has no mass, at most ln 2.",
        weaknesses="Flat once the distributions do not overlap.",
        use="Comparing distributions; the loss behind the first adversarial networks.",
        source="no torch function; Lin, 1991",
    ),
)
def js_divergence(p: Value, q: Value, *, dim: int = -1, reduction: str = "mean") -> Value:
    """½ Σ p ln(p/m) + ½ Σ q ln(q/m), m = (p + q)/2"""
    check_same_shape(p, q)
    # ln(p/m) is ln(1 + (p − q)/(p + q)), which keeps its digits where p and q are close.
    skew = (p - q) / (p + q)
    p_part = P.where(p == 0, 0, p * P.log1p(skew))
    q_part = P.where(q == 0, 0, q * P.log1p(-skew))
    return reduce_loss(P.sum(0.5 * (p_part + q_part), dim), reduction)


@js_divergence.gradient
def _(d_y, y, p, q, *, dim, reduction):
    skew = (p - q) / (p + q)
    d_each = _d_each(d_y, p, dim, reduction)
    return 0.5 * P.log1p(skew) * d_each, 0.5 * P.log1p(-skew) * d_each


def _d_each(d_y: Value, p: Value, dim: int, reduction: str) -> Value:
    """The cotangent of each element, where `dim` is summed and the rest reduced."""
    row = P.sum(p, dim, keepdim=True)
    return P.reshape(d_y, row.shape) if reduction == "none" else spread(d_y, row, reduction)


js_divergence.sample = lambda graph, shape, dtype: js_divergence(
    graph.input("p", shape, dtype), graph.input("q", shape, dtype)
)


@op(
    domain={"p": (0.05, 1)},
    note=Note(
        formula="−Σ p ln p over dim, 0 for p = 0, averaged over rows",
        derivative="−(1 + ln p) / rows",
        strengths="How uncertain a distribution is: 0 when sure, ln C when all is equal.",
        weaknesses="The slope is infinite at p = 0; nothing checks that p sums to 1.",
        use="A bonus that keeps policies exploring; a measure of confidence.",
        source="torch.special.entr, summed; Shannon, 1948",
    ),
)
def entropy(p: Value, *, dim: int = -1, reduction: str = "mean") -> Value:
    """−Σ p ln p over dim"""
    surprise = P.where(p == 0, 0, -p * P.log(p))
    return reduce_loss(P.sum(surprise, dim), reduction)


entropy.sample = lambda graph, shape, dtype: entropy(graph.input("p", shape, dtype))


@entropy.gradient
def _(d_y, y, p, *, dim, reduction):
    return ((-1 - P.log(p)) * _d_each(d_y, p, dim, reduction),)


@op(
    domain={"p": (0.05, 0.95)},
    note=Note(
        formula="−p ln p − (1 − p) ln(1 − p), averaged",
        derivative="ln((1 − p) / p) / count",
        strengths="How uncertain a yes or no is: 0 when sure, ln 2 at one half.",
        weaknesses="The slope is infinite at 0 and 1.",
        use="Confidence of binary predictions; a penalty that makes gates close to 0 or 1.",
        source="torch.special.entr of p and of 1 − p",
    ),
)
def binary_entropy(p: Value, *, reduction: str = "mean") -> Value:
    """−p ln p − (1 − p) ln(1 − p)"""
    yes = P.where(p == 0, 0, p * P.log(p))
    no = P.where(p == 1, 0, (1 - p) * P.log1p(-p))
    return reduce_loss(-(yes + no), reduction)


binary_entropy.sample = lambda graph, shape, dtype: binary_entropy(graph.input("p", shape, dtype))


@binary_entropy.gradient
def _(d_y, y, p, *, reduction):
    return ((P.log1p(-p) - P.log(p)) * spread(d_y, p, reduction),)
