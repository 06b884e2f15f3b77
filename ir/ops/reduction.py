"""What losses share: the reductions, and the shapes that they compare."""

from __future__ import annotations

import warnings

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import Op
from ..core.types import show_shape

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(reduction: str) -> None:
    """Raise `DeclarationError` unless `reduction` is one of torch's."""
    if reduction not in REDUCTIONS:
        raise DeclarationError(f"reduction is {reduction!r}; use 'mean', 'sum' or 'none'")


def reduce_loss(losses: Value, reduction: str) -> Value:
    """The mean, the sum, or the losses themselves."""
    check_reduction(reduction)
    return {"mean": P.mean, "sum": P.sum, "none": lambda each: each}[reduction](losses)


def spread(d_y: Value, losses: Value, reduction: str) -> Value:
    """The cotangent of each of `losses`, given that of their reduction."""
    return d_y / P.count_along(losses) if reduction == "mean" else d_y


def check_same_shape(input: Value, target: Value) -> None:
    """Raise `ShapeError` where torch would not broadcast."""
    if input.shape != target.shape:
        raise ShapeError(
            f"input has shape {show_shape(input.shape)}, target {show_shape(target.shape)}; give them one shape"
        )


def warn_of_broadcast(made: Op, input: Value, target: Value) -> None:
    """Warn of shapes that differ, as torch does; the warning points at the caller of the declaring function."""
    if input.shape != target.shape:
        warnings.warn(
            f"{made.name}: {input.name!r} of shape {show_shape(input.shape)} and {target.name!r} of shape "
            f"{show_shape(target.shape)} broadcast, which is rarely meant; give them one shape",
            stacklevel=4,
        )
