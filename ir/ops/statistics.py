"""Sums, means, extrema and their kin over any axes, with torch's names for the arguments."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError, ShapeError
from ..core.graph import Value
from ..core.op import Op, describe, op
from ..core.registry import Note
from ..core.types import int64, normalize_axes, show_shape
from .moments import wide

FAMILY = "reductions"

Axes = int | Sequence[int] | None


def axes_of(x: Value, dim: Axes, axis: Axes, what: str) -> tuple[int, ...]:
    """The axes that `dim`, or its other name `axis`, means as torch reads it: None and () are all of them, and along a
    0-dim value 0 and −1 are none."""
    if not isinstance(x, Value):
        raise DeclarationError(f"{what}: takes a Value of a graph, got {x!r}; start from g.input(...)")
    if isinstance(dim, Value):
        raise DeclarationError(f"{what}: dim is the value {dim.name!r}; of two values take tn.maximum or tn.minimum")
    if axis is not None and dim is not None:
        raise DeclarationError(f"{what}: dim is {dim!r} and axis {axis!r}; they are one argument, give one")
    given = axis if dim is None else dim
    if given is None or given == () or given == []:
        return tuple(range(len(x.shape)))
    listed = (given,) if isinstance(given, int) else tuple(given)
    if not x.shape and all(each in (0, -1) and not isinstance(each, bool) for each in listed):
        return ()
    return normalize_axes(listed, len(x.shape), what)


def _needs_float(x: Value, what: str) -> None:
    if not x.dtype.is_float:
        raise DTypeError(
            f"{what}: needs a float dtype, got {x.dtype} for {x.name!r}; cast it first, as in tn.cast(x, 'float32')"
        )


def _cast(x: Value, dtype: object) -> Value:
    return x if dtype is None or not isinstance(x, Value) else P.cast(x, dtype)


def _kept(d_y: Value, x: Value, dim: tuple[int, ...]) -> Value:
    """A cotangent of the reduction with the reduced axes of `x` back, at size 1."""
    gone = normalize_axes(dim, len(x.shape), "reduction")
    return P.reshape(d_y, tuple(1 if axis in gone else size for axis, size in enumerate(x.shape)))


# -- primitives --------------------------------------------------------------------------------------------------------


def sum(x: Value, dim: Axes = None, keepdim: bool = False, *, dtype: object = None, axis: Axes = None) -> Value:
    """The sum over `dim` (None: all axes), of `x` cast to `dtype` first if that is given.

    Integers and bools are summed as int64, as in torch.
    """
    axes = axes_of(x, dim, axis, "sum")
    return P.sum(_cast(x, dtype if dtype is not None or x.dtype.is_float else int64), axes, keepdim)


def max(x: Value, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Value:
    """The largest over `dim` (None: all axes), as torch.amax: no indices, which `argmax` gives, and ties share the
    gradient."""
    return P.max(x, axes_of(x, dim, axis, "max"), keepdim)


def min(x: Value, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Value:
    """The smallest over `dim` (None: all axes), as torch.amin: no indices, and ties share the gradient."""
    return P.min(x, axes_of(x, dim, axis, "min"), keepdim)


amax, amin = max, min


def _along_last(build: Callable[..., Value]) -> Callable[..., Value]:
    return lambda graph, shape, dtype: build(graph.input("x", shape, dtype), -1)


describe(
    sum,
    domain=(-10, 10),
    note=Note(
        formula="Σ x over dim",
        derivative="1 for every element",
        strengths="Linear; all elements have equal weight.",
        weaknesses="Grows with the number of elements; 16-bit results overflow soon.",
        use="Losses with reduction='sum', totals, and contractions by hand.",
        source="torch.sum",
    ),
    sample=_along_last(sum),
)
describe(
    max,
    domain=(-10, 10),
    note=Note(
        formula="max x over dim; NaN if any is",
        derivative="1 for the largest, shared among ties, else 0",
        strengths="Finds the largest value at any position.",
        weaknesses="Only one element gets a gradient; sensitive to outliers.",
        use="Pooling over time or space, and the shift that keeps exponentials from overflowing.",
        source="torch.amax",
    ),
    sample=_along_last(max),
)
describe(
    min,
    domain=(-10, 10),
    note=Note(
        formula="min x over dim; NaN if any is",
        derivative="1 for the smallest, shared among ties, else 0",
        strengths="Large only if all elements are large.",
        weaknesses="Only one element gets a gradient; sensitive to outliers.",
        use="Distances to the nearest, and bounds.",
        source="torch.amin",
    ),
    sample=_along_last(min),
)


# -- mean, variance ----------------------------------------------------------------------------------------------------


@op(
    domain=(-10, 10),
    note=Note(
        formula="Σ x / n over dim",
        derivative="1 / n for every element",
        strengths="Independent of the number of elements, so rates and scales apply to other sizes.",
        weaknesses="Sensitive to outliers; NaN if there are no elements.",
        use="Losses, pooling, and the first moment of every normalization.",
        source="torch.mean",
    ),
)
def mean(x: Value, *, dim: tuple[int, ...], keepdim: bool) -> Value:
    """Σ x / n over dim"""
    _needs_float(x, "mean")
    return P.mean(x, dim, keepdim)


@mean.declares
def _(
    x: Value,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: object = None,
    axis: Axes = None,
    name: str | None = None,
) -> Value:
    """The mean over `dim` (None: all axes), of `x` cast to `dtype` first if that is given."""
    return mean.apply(_cast(x, dtype), dim=axes_of(x, dim, axis, "mean"), keepdim=bool(keepdim), name=name)


def _deviations(x: Value, dim: tuple[int, ...]) -> tuple[Value, Value]:
    """`x` less its mean over `dim`, and about the largest of that by size, which stays with size 1: never 0. In float32
    at least.

    What the first mean rounds away comes back with the second, so that numbers which all but agree keep what they
    differ by. Parts of the mean are summed, which do not overflow where numbers do not.
    """
    x = wide(x)
    count = P.count_along(x, dim)
    if isinstance(count, int) and count == 0:
        return x, P.sum(x, dim, keepdim=True) + 1  # nothing deviates
    part = 1 / count
    estimate = P.sum(x * part, dim, keepdim=True)
    off = x - estimate
    mean = estimate + P.sum(off * part, dim, keepdim=True)
    largest = P.max(abs(off), dim, keepdim=True)
    return x - mean, P.where(largest == 0, 1, largest)


def _variance(x: Value, dim: tuple[int, ...], correction: float) -> tuple[Value, Value]:
    """The variance of deviations in units of the largest, whose squares neither overflow nor vanish; and that unit."""
    centered, unit = _deviations(x, dim)
    scaled = centered / unit
    # The rounded mean leaves a little of itself in every deviation: its square is taken off again.
    leftover = P.sum(scaled, dim, keepdim=True)
    squares = P.sum(scaled * scaled, dim, keepdim=True) - leftover * leftover / P.count_along(x, dim)
    freedom = P.count_along(x, dim) - correction
    freedom = P.maximum(freedom, 0) if isinstance(freedom, Value) else builtins.max(freedom, 0.0)
    return P.maximum(squares, 0) / freedom, unit


def _reduced(kept: Value, x: Value, dim: tuple[int, ...], keepdim: bool) -> Value:
    """A reduction of `x` in its dtype, without the reduced axes unless they are kept."""
    gone = normalize_axes(dim, len(x.shape), "reduction")
    kept = P.cast(kept, x.dtype)
    return kept if keepdim else P.reshape(kept, tuple(size for axis, size in enumerate(x.shape) if axis not in gone))


@op(
    domain=(-10, 10),
    note=Note(
        formula="Σ (x − mean)² / (n − correction) over dim",
        derivative="2 · (x − mean) / (n − correction)",
        strengths="From centred values, so it keeps its digits at any mean.",
        weaknesses="Squares outliers; NaN where n is no more than the correction.",
        use="Spread of activations; correction=0 is what normalizations use.",
        source="torch.var",
    ),
)
def var(x: Value, *, dim: tuple[int, ...], correction: float, keepdim: bool) -> Value:
    """Σ (x − mean)² / (n − correction) over dim"""
    _needs_float(x, "var")
    if x.shape and 0 in (x.shape[axis] for axis in dim):
        return P.sum(x, dim, keepdim) / 0
    in_units, unit = _variance(x, dim, correction)
    variance = in_units * unit * unit
    return _reduced(variance, x, dim, keepdim)


@var.gradient
def _(d_y, y, x, *, dim, correction, keepdim):
    centered, _ = _deviations(x, dim)
    return (2 * _kept(wide(d_y), x, dim) * centered / (P.count_along(x, dim) - correction),)


@op(
    domain=(-10, 10),
    note=Note(
        formula="√(Σ (x − mean)² / (n − correction)) over dim",
        derivative="(x − mean) / (std · (n − correction)); 0 where std is 0",
        strengths="In the units of x.",
        weaknesses="The slope is unbounded at a constant row; use √(var + ε) there.",
        use="Reporting spread; z-scores of data.",
        source="torch.std",
    ),
)
def std(x: Value, *, dim: tuple[int, ...], correction: float, keepdim: bool) -> Value:
    """√(Σ (x − mean)² / (n − correction)) over dim"""
    _needs_float(x, "std")
    if x.shape and 0 in (x.shape[axis] for axis in dim):
        return P.sum(x, dim, keepdim) / 0
    in_units, unit = _variance(x, dim, correction)
    deviation = P.sqrt(in_units) * unit
    return _reduced(deviation, x, dim, keepdim)


@std.gradient
def _(d_y, y, x, *, dim, correction, keepdim):
    centered, _ = _deviations(x, dim)
    std = _kept(wide(y), x, dim)
    direction = P.where(std == 0, 0, centered / std)
    return (_kept(wide(d_y), x, dim) * direction / (P.count_along(x, dim) - correction),)


def _declare_spread(made: Op) -> None:
    @made.declares
    def _(
        x: Value,
        dim: Axes = None,
        *,
        correction: float = 1,
        keepdim: bool = False,
        axis: Axes = None,
        name: str | None = None,
    ) -> Value:
        """Over `dim` (None: all axes), with torch's `correction`: 1 estimates a population's from a sample."""
        axes = axes_of(x, dim, axis, made.name)
        if isinstance(correction, bool) or not isinstance(correction, int | float):
            raise DeclarationError(f"{made.name}: correction is {correction!r}; give a number, as in correction=0")
        return made.apply(x, dim=axes, correction=float(correction), keepdim=bool(keepdim), name=name)


for _made in (var, std):
    _declare_spread(_made)


def var_mean(
    x: Value, dim: Axes = None, *, correction: float = 1, keepdim: bool = False, axis: Axes = None
) -> tuple[Value, Value]:
    """`var` and `mean` over `dim`, in this order, as torch.var_mean gives them; one kernel computes both."""
    return var(x, dim, correction=correction, keepdim=keepdim, axis=axis), mean(x, dim, keepdim, axis=axis)


# -- logsumexp, argmax -------------------------------------------------------------------------------------------------


@op(
    domain=(-30, 30),
    note=Note(
        formula="ln Σ eˣ over dim",
        derivative="softmax(x)",
        strengths="A smooth maximum; shifted by the largest, so nothing overflows.",
        weaknesses="At least the maximum, by up to ln n.",
        use="Normalizing log-probabilities, mixtures, and contrastive losses.",
        source="torch.logsumexp",
    ),
)
def logsumexp(x: Value, *, dim: tuple[int, ...], keepdim: bool) -> Value:
    """ln Σ eˣ over dim"""
    _needs_float(x, "logsumexp")
    dim = normalize_axes(dim, len(x.shape), "logsumexp")
    if any(x.shape[axis] == 0 for axis in dim):
        return P.log(P.sum(P.exp(x), dim, keepdim))
    largest = P.max(x, dim, keepdim=True)
    shift = P.where(P.abs(largest) == math.inf, 0, largest)  # ∞ − ∞ is no number
    sum_exp = P.sum(P.exp(x - shift), dim, keepdim=True)
    total = P.log(sum_exp) + shift
    return total if keepdim else P.reshape(total, tuple(s for axis, s in enumerate(x.shape) if axis not in dim))


@logsumexp.gradient
def _(d_y, y, x, *, dim, keepdim):
    return (_kept(d_y, x, dim) * P.exp(x - _kept(y, x, dim)),)


@logsumexp.declares
def _(x: Value, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None, name: str | None = None) -> Value:
    """ln Σ eˣ over `dim`: −∞ of nothing, and infinities where they belong."""
    return logsumexp.apply(x, dim=axes_of(x, dim, axis, "logsumexp"), keepdim=bool(keepdim), name=name)


@op(
    domain=(-10, 10),
    note=Note(
        formula="index of the largest along dim",
        derivative="none: an index does not change under small changes",
        strengths="The predicted class of logits.",
        weaknesses="No gradient; ties go to the lowest index, and NaN counts as largest.",
        use="Predictions and metrics.",
        source="torch.argmax",
    ),
)
def argmax(x: Value, *, dim: tuple[int, ...], keepdim: bool) -> Value:
    """index of the largest along dim"""
    dim = normalize_axes(dim, len(x.shape), "argmax")
    if len(dim) == 1:
        return P.argmax(x, dim[0], keepdim)
    if len(dim) < len(x.shape):
        raise ShapeError(f"dim {dim} are some axes of {x.name!r}; take the index along one of them, or over all")
    index = _flat_index(x)
    largest = P.max(x, dim, keepdim=True)
    return P.min(P.where((x == largest) | (x != x), index, P.LARGEST_INDEX), dim, keepdim)


def _flat_index(x: Value) -> Value:
    """The place of each element of `x` in its own order."""
    index: Value = x.graph.constant(0)
    stride = 1
    for axis in reversed(range(len(x.shape))):
        index = index + stride * P.index_along(x, axis)
        size = x.shape[axis]
        if not isinstance(size, int) and axis:
            raise ShapeError(
                f"argmax: over all axes of {x.name!r} of shape {show_shape(x.shape)} an index needs sizes that are "
                "known, but for the first; give dim"
            )
        stride *= size if isinstance(size, int) else 1
    return index


@argmax.declares
def _(
    x: Value, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None, name: str | None = None
) -> Value:
    """The int64 index of the largest along `dim` (None: in `x` read as one row), the first of ties."""
    axes = axes_of(x, dim, axis, "argmax")
    if (dim is not None or axis is not None) and len(axes) > 1:
        raise DeclarationError(f"argmax: dim is {dim if axis is None else axis!r}; give one axis, or None for all")
    return argmax.apply(x, dim=axes, keepdim=bool(keepdim), name=name)


for _made in (mean, var, std, logsumexp, argmax):
    _made.sample = _along_last(_made)
