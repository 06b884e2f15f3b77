"""A part of an axis, and tensors end to end: each other's derivative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DTypeError, ShapeError
from ..core.graph import Value
from ..core.op import graph_of
from ..core.registry import ANY_NUMBER, PRIMITIVES, Primitive
from ..core.types import DType, Shape, normalize_axes, show_shape
from .derivative import Cotangents
from .reductions import zeros_like


def _infer_narrow(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    axis, start, length = attrs["axis"], attrs["start"], attrs["length"]
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ShapeError(
            f"narrow: axis {axis} of {x.name!r}, {show_shape(x.shape)}, is the Dim {size}, whose size is known only "
            "when tensors are fed; take parts of axes that are ints"
        )
    if start + length > size:
        raise ShapeError(
            f"narrow: elements {start} to {start + length} of axis {axis} of {x.name!r}, {show_shape(x.shape)}, which "
            f"has {size}; keep start + length ≤ {size}"
        )
    return (*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype


def _narrow_vjp(d: Value, y: Value, x: Value, axis: int, start: int, length: int) -> Cotangents:
    size = x.shape[axis]
    assert isinstance(size, int)
    around = [(0, start), (start + length, size - start - length)]
    before, after = (zeros_like(narrow(x, axis, *part)) if part[1] else None for part in around)
    return (cat([part for part in (before, d, after) if part is not None], axis),)


PRIMITIVES["narrow"] = Primitive(
    "narrow",
    "shape",
    _infer_narrow,
    lambda x, axis, start, length: np.take(x, np.arange(start, start + length), axis),
    _narrow_vjp,
    1,
)


def narrow(x: Value, dim: int, start: int, length: int) -> Value:
    """Elements `start` to `start + length` of `x` along `dim`, an axis of known size; the rest unchanged, as in
    torch.narrow. A view: nothing is copied."""
    graph_of("narrow", (x,))
    (axis,) = normalize_axes(dim, len(x.shape), "narrow")
    size = x.shape[axis]
    if start < 0 and isinstance(size, int):
        start += size
    if start < 0 or length < 0:
        raise ShapeError(
            f"narrow: start {start} and length {length} along axis {axis} of {x.name!r}, {show_shape(x.shape)}; "
            "both count elements, from 0"
        )
    return x if (start, length) == (0, size) else x.graph.call("narrow", x, axis=axis, start=start, length=length)


def _infer_cat(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    axis, first = attrs["axis"], args[0]
    total = 0
    for x in args:
        if x.dtype is not first.dtype:
            raise DTypeError(
                f"cat: {first.name!r} is {first.dtype} and {x.name!r} is {x.dtype}; cast them to one dtype first"
            )
        around = [(*v.shape[:axis], *v.shape[axis + 1 :]) for v in (first, x)]
        if len(x.shape) != len(first.shape) or around[0] != around[1]:
            raise ShapeError(
                f"cat: {first.name!r} {show_shape(first.shape)} and {x.name!r} {show_shape(x.shape)} differ beside "
                f"axis {axis}; give them the same sizes in all other axes"
            )
        size = x.shape[axis]
        if not isinstance(size, int):
            raise ShapeError(
                f"cat: axis {axis} of {x.name!r}, {show_shape(x.shape)}, is the Dim {size}, and a sum of Dims is no "
                "size; join along axes that are ints"
            )
        total += size
    return (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype


def _cat_vjp(d: Value, y: Value, *parts: Value, axis: int) -> Cotangents:
    found, start = [], 0
    for part in parts:
        length = part.shape[axis]
        assert isinstance(length, int)
        found.append(narrow(d, axis, start, length))
        start += length
    return tuple(found)


PRIMITIVES["cat"] = Primitive(
    "cat", "shape", _infer_cat, lambda *parts, axis: np.concatenate(parts, axis), _cat_vjp, ANY_NUMBER
)


def cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    """`tensors` (one dtype, equal sizes but along `dim`) end to end along `dim`, as in torch.cat."""
    listed = list(tensors)
    graph = graph_of("cat", listed)
    rank = len(listed[0].shape)
    if not rank:
        raise ShapeError(f"cat: {listed[0].name!r} is 0-dim and has no axis to join along; reshape it to (1,) first")
    (axis,) = normalize_axes(dim, rank, "cat")
    return listed[0] if len(listed) == 1 else graph.call("cat", *listed, axis=axis)
