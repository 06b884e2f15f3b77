"""Losses of regression: how far a number, or a distribution over numbers, is from the target."""

from __future__ import annotations

import inspect
import math

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import Op, op
from ..core.registry import Note
from ..core.types import broadcast, show_shape
from .declare import needs_float, torch_order
from .reduction import reduce_loss, spread, warn_of_broadcast

FAMILY = "losses"

_BOTH = {"input": (-10.0, 10.0), "target": (-10.0, 10.0)}


@op(
    domain=_BOTH,
    note=Note(
        formula="|input − target|, averaged",
        derivative="sign(input − target) / count; 0 where they are equal",
        strengths="Outliers count in proportion only; its minimum is the median.",
        weaknesses="The gradient does not decrease near the minimum, so steps overshoot; not smooth at 0.",
        use="Regression with heavy-tailed noise.",
        source="torch.nn.functional.l1_loss",
    ),
)
def l1_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """|input − target|"""
    return reduce_loss(abs(input - target), reduction)


@op(
    domain=_BOTH,
    note=Note(
        formula="e²/(2·beta) where |e| < beta, else |e| − beta/2, with e = input − target, averaged",
        derivative="e/beta where |e| < beta, else sign(e), over count",
        strengths="Smooth at 0 and linear far out; slope 1 outside whatever beta is.",
        weaknesses="beta must fit the scale of the errors.",
        use="Box regression in detection.",
        source="torch.nn.functional.smooth_l1_loss; Girshick, 2015",
    ),
)
def smooth_l1_loss(input: Value, target: Value, *, beta: float = 1.0, reduction: str = "mean") -> Value:
    """e²/(2·beta) where |e| < beta, else |e| − beta/2"""
    if not beta >= 0:
        raise DeclarationError(f"beta is {beta}; it must be 0 or more")
    error = input - target
    needs_float(error)
    size = abs(error)
    losses = P.where(size < beta, 0.5 / beta * (error * error), size - 0.5 * beta) if beta else size
    return reduce_loss(losses, reduction)


@smooth_l1_loss.gradient
def _(d_y, y, input, target, *, beta, reduction):
    error = input - target
    # An error of NaN is no smaller than any bound: it takes the branch that keeps it.
    slope = P.where(abs(error) >= beta, P.sign(error), error / beta) if beta else P.sign(error)
    d_error = spread(d_y, error, reduction) * slope
    return d_error, -d_error


@op(
    domain=_BOTH,
    note=Note(
        formula="e²/2 where |e| ≤ delta, else delta · (|e| − delta/2), with e = input − target, averaged",
        derivative="e limited to ±delta, over count",
        strengths="Squared error near the target, absolute error for outliers.",
        weaknesses="delta must fit the scale of the errors.",
        use="Regression with some outliers; temporal-difference errors.",
        source="torch.nn.functional.huber_loss; Huber, 1964",
    ),
)
def huber_loss(input: Value, target: Value, *, delta: float = 1.0, reduction: str = "mean") -> Value:
    """e²/2 where |e| ≤ delta, else delta · (|e| − delta/2)"""
    if not delta > 0:
        raise DeclarationError(f"delta is {delta}; it must be greater than 0")
    error = input - target
    needs_float(error)
    size = abs(error)
    losses = P.where(size <= delta, 0.5 * (error * error), delta * (size - 0.5 * delta))
    return reduce_loss(losses, reduction)


@huber_loss.gradient
def _(d_y, y, input, target, *, delta, reduction):
    error = input - target
    slope = P.where(abs(error) > delta, delta * P.sign(error), error)
    d_error = spread(d_y, error, reduction) * slope
    return d_error, -d_error


@op(
    domain=_BOTH,
    note=Note(
        formula="ln cosh(input − target), averaged",
        derivative="tanh(input − target) / count",
        strengths="Like the Huber loss, but infinitely differentiable and without a hyperparameter.",
        weaknesses="Its one scale, 1, fits only errors of that size; costs transcendental functions.",
        use="Regression with outliers where second derivatives matter, as in boosting.",
        source="no torch function; ln cosh as in Keras's LogCosh",
    ),
)
def log_cosh_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """ln cosh(input − target)"""
    size = abs(input - target)
    # cosh e = 1 + 2 sinh²(e/2) keeps the digits of small errors, |e| + ln(1 + e^(−2|e|)) − ln 2 those of large ones.
    sinh_half = 0.5 * (P.expm1(0.5 * size) - P.expm1(-0.5 * size))
    near = P.log1p(2 * (sinh_half * sinh_half))
    far = size + P.log1p(P.exp(-2 * size)) - math.log(2)
    return reduce_loss(P.where(size < 1, near, far), reduction)


@log_cosh_loss.gradient
def _(d_y, y, input, target, *, reduction):
    error = input - target
    d_error = spread(d_y, error, reduction) * P.tanh(error)
    return d_error, -d_error


@op(
    domain=_BOTH,
    note=Note(
        formula="q · e where e > 0, else (q − 1) · e, with e = target − input, averaged",
        derivative="−q where e > 0, 1 − q where e < 0, 0 where e = 0, over count",
        strengths="Its minimum is the q-quantile, so two of them make an interval.",
        weaknesses="Not smooth at 0; quantiles fitted apart may cross.",
        use="Forecasts with an interval; costs that differ between too much and too little.",
        source="no torch function; Koenker and Bassett, 1978",
    ),
)
def quantile_loss(input: Value, target: Value, *, q: float = 0.5, reduction: str = "mean") -> Value:
    """q · e where e > 0, else (q − 1) · e, with e = target − input"""
    if not 0 < q < 1:
        raise DeclarationError(f"q is {q}; a quantile lies strictly between 0 and 1")
    error = target - input
    needs_float(error)
    return reduce_loss(P.where(error < 0, (q - 1) * error, q * error), reduction)


@quantile_loss.gradient
def _(d_y, y, input, target, *, q, reduction):
    error = target - input
    d_each = spread(d_y, error, reduction)
    above = P.where(error <= 0, 0, q * d_each)
    below = P.where(error >= 0, 0, (1 - q) * d_each)
    d_error = above - below
    return -d_error, d_error


@op(
    domain={"input": (-5, 5), "target": (0, 20)},
    note=Note(
        formula="e^input − target · input, or input − target · ln(input + eps) without log_input, averaged",
        derivative="(e^input − target) / count, or (1 − target / (input + eps)) / count",
        strengths="The likelihood of counts: large counts may err more, as they do.",
        weaknesses="Assumes that variance equals mean; the exponential overflows for large inputs.",
        use="Counts per interval; keep log_input, which needs no positive output.",
        source="torch.nn.functional.poisson_nll_loss",
    ),
)
def poisson_nll_loss(
    input: Value,
    target: Value,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Value:
    """e^input − target · input"""
    losses = P.exp(input) - target * input if log_input else input - target * P.log(input + eps)
    if full:
        stirling = target * P.log(target) - target + 0.5 * P.log(2 * math.pi * target)
        losses = losses + P.where(target <= 1, 0, stirling)
    return reduce_loss(losses, reduction)


@op(
    domain={"input": (-5, 5), "target": (-5, 5), "var": (0.1, 4)},
    note=Note(
        formula="½ · (ln var + (input − target)² / var), averaged, var at least eps",
        derivative="(input − target) / var for input; ½ · (1/var − (input − target)²/var²) for var, over count",
        strengths="Learns the variance of each sample together with the mean.",
        weaknesses="Can explain bad fits by a large variance and stop learning the mean.",
        use="Regression whose noise varies; make var positive by softplus.",
        source="torch.nn.functional.gaussian_nll_loss; Nix and Weigend, 1994",
    ),
)
def gaussian_nll_loss(
    input: Value, target: Value, var: Value, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Value:
    """½ · (ln var + (input − target)² / var)"""
    error = input - target
    needs_float(error)
    needs_float(var)
    clamped = P.maximum(var, eps)
    losses = 0.5 * (P.log(clamped) + error * error / clamped)
    return reduce_loss(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


@gaussian_nll_loss.gradient
def _(d_y, y, input, target, var, *, full, eps, reduction):
    error = input - target
    clamped = P.maximum(var, eps)
    scaled = error / clamped
    d_each = spread(d_y, P.broadcast_to(scaled, broadcast([input.shape, target.shape, var.shape], "var")), reduction)
    d_error = d_each * scaled
    # As in torch, the clamp is invisible to the gradient: a variance below eps still learns to grow.
    return d_error, -d_error, d_each * (0.5 * (1 / clamped - scaled * scaled))


@gaussian_nll_loss.declares
def _(
    input: Value,
    target: Value,
    var: Value,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    *,
    name: str | None = None,
) -> Value:
    """Negative log-likelihood of `target` under normals of mean `input` and variance `var`: one for each element, one
    for each row (`var` without the last axis, or with 1 there). A variance below `eps` counts as `eps`."""
    if not eps > 0:
        raise DeclarationError(f"gaussian_nll_loss: eps is {eps}; it must be greater than 0")
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = P.reshape(var, (*var.shape, 1))
        elif var.shape != (*input.shape[:-1], 1):
            raise ShapeError(
                f"gaussian_nll_loss: var {var.name!r} of shape {show_shape(var.shape)} for {input.name!r} of shape "
                f"{show_shape(input.shape)}; give that shape, or leave out its last axis"
            )
    return gaussian_nll_loss.apply(input, target, var, full=full, eps=eps, reduction=reduction, name=name)


@op(
    domain=_BOTH,
    note=Note(
        formula="(input − target)², averaged",
        derivative="2 · (input − target) / count",
        strengths="Smooth; its minimum is the mean; the gradient decreases with the error.",
        weaknesses="A single outlier can dominate; saturating outputs make the gradient vanish.",
        use="Regression with Gaussian noise.",
        source="torch.nn.functional.mse_loss",
    ),
)
def mse_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """(input − target)²"""
    error = input - target
    return reduce_loss(error * error, reduction)


def _compares(made: Op) -> None:
    made.sample = lambda graph, shape, dtype: made(
        graph.input("input", shape, dtype), graph.input("target", shape, dtype)
    )


def _warns(made: Op) -> None:
    @made.declares
    def _(input: Value, target: Value, *, name: str | None = None, **attrs: object) -> Value:
        """The loss of `input` against `target` of the same shape; other shapes broadcast with a warning, as in
        torch.
        """
        warn_of_broadcast(made, input, target)
        return made.apply(input, target, name=name, **attrs)

    made.__signature__ = inspect.signature(made.formula)


for _made in (l1_loss, smooth_l1_loss, huber_loss, log_cosh_loss, quantile_loss, poisson_nll_loss, mse_loss):
    _compares(_made)
for _made in (l1_loss, smooth_l1_loss, huber_loss, log_cosh_loss, quantile_loss, mse_loss):
    _warns(_made)
gaussian_nll_loss.sample = lambda graph, shape, dtype: gaussian_nll_loss(
    *(graph.input(name, shape, dtype) for name in ("input", "target", "var"))
)
torch_order(poisson_nll_loss)
