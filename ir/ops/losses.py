"""Losses."""

from __future__ import annotations

import math
import warnings

from .. import primitives as P
from ..errors import DeclarationError, DTypeError, ShapeError
from ..graph import Value
from ..registry import Note, op
from ..types import show_shape

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(what: str, reduction: str) -> None:
    """Raise `DeclarationError` unless `reduction` is one of torch's."""
    if reduction not in REDUCTIONS:
        raise DeclarationError(f"{what}: reduction is {reduction!r}; use 'mean', 'sum' or 'none'")


def reduce_loss(losses: Value, reduction: str) -> Value:
    """The mean, the sum, or the losses themselves."""
    return {"mean": P.mean, "sum": P.sum, "none": lambda each: each}[reduction](losses)


def _class_axis(logits: Value) -> int:
    return 1 if len(logits.shape) > 1 else 0


def _against_target(logits: Value, target: Value, ignore_index: int) -> tuple[Value, Value, Value, Value]:
    """What loss and gradient share: logits less their maximum, Σ exp of them, where the target is, whether it
    counts.
    """
    axis = _class_axis(logits)
    row_max = P.max(logits, axis, keepdim=True)
    shifted = logits - row_max
    sum_exp = P.sum(P.exp(shifted), axis, keepdim=True)
    target_column = P.reshape(target, (*target.shape[:axis], 1, *target.shape[axis:]))
    is_target = P.index_along(logits, axis) == target_column
    counted = target_column != ignore_index
    return shifted, sum_exp, is_target, counted


@op(
    domain={"logits": (-30, 30), "target": "class"},
    note=Note(
        formula="log Σ exp(logits) − logits[target], averaged over the targets that are not ignore_index",
        derivative="(softmax(logits) − one_hot(target)) / count",
        strengths="Convex in the logits; the gradient is the error in probability, and does not vanish while wrong.",
        weaknesses="Pushes logits apart for ever, hence overconfidence; sensitive to wrong labels.",
        use="Classification with one right class; feed logits, not probabilities.",
        source="torch.nn.functional.cross_entropy",
    ),
)
def cross_entropy(logits: Value, target: Value, *, ignore_index: int = -100, reduction: str = "mean") -> Value:
    """log Σ exp(logits) − logits[target]"""
    shifted, sum_exp, is_target, counted = _against_target(logits, target, ignore_index)
    axis = _class_axis(logits)
    # The maximum over one class, so that a target outside the classes makes the loss ∞, never a wrong number.
    target_logit = P.max(P.where(is_target, shifted, -math.inf), axis, keepdim=True)
    losses = P.where(counted, P.log(sum_exp) - target_logit, 0)
    if reduction == "none":
        return P.reshape(losses, target.shape)
    total = P.sum(losses)
    if reduction == "sum":
        return total
    count = P.sum(P.cast(counted, logits.dtype))
    return total / count


cross_entropy.sample = lambda graph, shape, dtype: cross_entropy(
    graph.input("logits", shape, dtype), graph.input("target", (*shape[:1], *shape[2:])[: len(shape) - 1], "int64")
)


@cross_entropy.gradient
def _(d_y, y, logits, target, *, ignore_index, reduction):
    shifted, sum_exp, is_target, counted = _against_target(logits, target, ignore_index)
    if reduction == "mean":
        count = P.sum(P.cast(counted, logits.dtype))
        d_y = d_y / count
    elif reduction == "none":
        d_y = P.reshape(d_y, counted.shape)
    d_row = P.where(counted, d_y, 0)
    softmax = P.exp(shifted) / sum_exp
    one_hot = P.cast(is_target, logits.dtype)
    return (softmax - one_hot) * d_row, None


@cross_entropy.declares
def _(
    input: Value, target: Value, *, ignore_index: int = -100, reduction: str = "mean", name: str | None = None
) -> Value:
    """Logits `input` (N, C), (C,) or (N, C, ...) against class indices `target` (N,), () or (N, ...), int64.

    Rows whose target is `ignore_index` count neither in the loss nor in the mean. A target outside the classes raises
    where the host can see it (CPU); on a GPU it makes the loss infinite.
    """
    check_reduction("cross_entropy", reduction)
    axis = _class_axis(input)
    if not input.shape:
        raise ShapeError(f"cross_entropy: {input.name!r} is 0-dim; logits have shape (N, C), (C,) or (N, C, ...)")
    if target.dtype.kind != "int":
        raise DTypeError(f"cross_entropy: target {target.name!r} is {target.dtype}; class indices are int64 (or int32)")
    wanted = input.shape[:axis] + input.shape[axis + 1 :]
    if target.shape != wanted:
        raise ShapeError(
            f"cross_entropy: logits {input.name!r} of shape {show_shape(input.shape)} want targets of shape "
            f"{show_shape(wanted)}, got {target.name!r} of shape {show_shape(target.shape)}"
        )
    return cross_entropy.apply(input, target, ignore_index=int(ignore_index), reduction=reduction, name=name)


@op(
    domain={"input": (-10, 10), "target": (-10, 10)},
    note=Note(
        formula="(input − target)², averaged",
        derivative="2 · (input − target) / count",
        strengths="Smooth; its minimum is the mean; the gradient fades as the fit gets good.",
        weaknesses="One outlier can outweigh all else; saturating outputs make it flat.",
        use="Regression with Gaussian noise.",
        source="torch.nn.functional.mse_loss",
    ),
)
def mse_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """(input − target)²"""
    error = input - target
    return reduce_loss(error * error, reduction)


mse_loss.sample = lambda graph, shape, dtype: mse_loss(
    graph.input("input", shape, dtype), graph.input("target", shape, dtype)
)


@mse_loss.declares
def _(input: Value, target: Value, *, reduction: str = "mean", name: str | None = None) -> Value:
    """Squared error of `input` against `target` of the same shape; other shapes broadcast with a warning, as in
    torch.
    """
    check_reduction("mse_loss", reduction)
    if input.shape != target.shape:
        warnings.warn(
            f"mse_loss: {input.name!r} of shape {show_shape(input.shape)} and {target.name!r} of shape "
            f"{show_shape(target.shape)} broadcast, which is rarely meant; give them one shape",
            stacklevel=3,
        )
    return mse_loss.apply(input, target, reduction=reduction, name=name)
