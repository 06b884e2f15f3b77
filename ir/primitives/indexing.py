"""`x[...]` on values: ints, slices, `...` and None, as views."""

from __future__ import annotations

from types import EllipsisType

from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value, bind
from ..core.types import Size, show_shape
from .shapes import reshape
from .slices import narrow


def index(x: Value, key: object) -> Value:
    """`x[key]` as torch's basic indexing has it: an int drops an axis, a slice (step 1) narrows it, None adds one.

    Raises `DeclarationError` for other keys, `ShapeError` for indices that the shape does not have.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    for each in keys:
        if isinstance(each, bool) or not (each is None or isinstance(each, int | slice | EllipsisType)):
            raise DeclarationError(
                f"{x.name!r} is indexed by {type(each).__name__}; use ints, slices, ... and None (rows by a Value of "
                "numbers are tn.embedding's, a choice by a condition is tn.where)"
            )
    if sum(each is ... for each in keys) > 1:
        raise DeclarationError(f"{x.name!r} is indexed by two ...; one stands for all axes that are not named")
    named = sum(isinstance(each, int | slice) for each in keys)
    if named > len(x.shape):
        raise ShapeError(f"{x.name!r}, {show_shape(x.shape)}, is indexed along {named} axes; it has {len(x.shape)}")
    at = next((i for i, each in enumerate(keys) if each is ...), len(keys))
    keys[at : at + 1] = [slice(None)] * (len(x.shape) - named)
    shape: list[Size] = []
    axis = 0
    for each in keys:
        if each is None:
            shape.append(1)
            continue
        if isinstance(each, int):
            x = narrow(x, axis, _element(x, axis, each), 1)
        else:
            assert isinstance(each, slice)
            x = _narrowed(x, axis, each)
            shape.append(x.shape[axis])
        axis += 1
    return reshape(x, shape)


def _element(x: Value, axis: int, number: int) -> int:
    size = x.shape[axis]
    if not isinstance(size, int) or not -size <= number < size:
        raise ShapeError(f"{x.name!r}, {show_shape(x.shape)}, has no element {number} along axis {axis} ({size})")
    return number % size


def _narrowed(x: Value, axis: int, part: slice) -> Value:
    if part.step not in (None, 1):
        raise DeclarationError(
            f"{x.name!r} is sliced with step {part.step}; only steps of 1 are views that kernels read"
        )
    if part.start is None and part.stop is None:
        return x
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ShapeError(
            f"{x.name!r}, {show_shape(x.shape)}, is sliced along axis {axis}, the Dim {size}, whose size is known only "
            "when tensors are fed; slice axes that are ints"
        )
    start, stop, _ = part.indices(size)
    return narrow(x, axis, start, max(stop - start, 0))


bind(Value, __getitem__=index)
