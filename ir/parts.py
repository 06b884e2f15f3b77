"""Primitives that take tensors apart and join them: a part of an axis, tensors end to end, rows by their index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import primitives as P
from .apply import graph_of
from .errors import DTypeError, ShapeError
from .graph import Value
from .registry import ANY_NUMBER, PRIMITIVES, Primitive
from .types import Dim, DType, Shape, normalize_axes, show_shape

# -- a part of an axis --


def _infer_narrow(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    axis, start, length = attrs["axis"], attrs["start"], attrs["length"]
    size = x.shape[axis]
    if isinstance(size, Dim):
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


def _narrow_vjp(d: Value, y: Value, x: Value, axis: int, start: int, length: int) -> P.Cotangents:
    size = x.shape[axis]
    assert isinstance(size, int)
    around = [(0, start), (start + length, size - start - length)]
    before, after = (P.zeros_like(narrow(x, axis, *part)) if part[1] else None for part in around)
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


# -- end to end --


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
        if isinstance(size, Dim):
            raise ShapeError(
                f"cat: axis {axis} of {x.name!r}, {show_shape(x.shape)}, is the Dim {size}, and a sum of Dims is no "
                "size; join along axes that are ints"
            )
        total += size
    return (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype


def _cat_vjp(d: Value, y: Value, *parts: Value, axis: int) -> P.Cotangents:
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


# -- rows by their index --


def _infer_take_rows(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    table, index = args
    _check_index("take_rows", index)
    if not table.shape:
        raise ShapeError(f"take_rows: {table.name!r} is 0-dim; a table has rows along its first axis")
    return (*index.shape, *table.shape[1:]), table.dtype


def _check_index(what: str, index: Value) -> None:
    if index.dtype.kind != "int":
        raise DTypeError(f"{what}: index {index.name!r} is {index.dtype}; row numbers are int64 (or int32)")


def _take_rows(table: Any, index: Any) -> Any:
    inside = (index >= 0) & (index < len(table))
    rows = np.asarray(table)[np.where(inside, index, 0)] if len(table) else np.zeros((*index.shape, *table.shape[1:]))
    outside = np.nan if rows.dtype.kind == "f" else 0
    return np.where(inside.reshape(index.shape + (1,) * (rows.ndim - index.ndim)), rows, outside)


def _take_rows_vjp(d: Value, y: Value, table: Value, index: Value) -> P.Cotangents:
    rows = table.shape[0]
    if isinstance(rows, Dim):
        raise ShapeError(
            f"take_rows: the gradient of {table.name!r}, {show_shape(table.shape)}, needs a table of known length, not "
            f"the Dim {rows}"
        )
    return add_rows(d, index, rows), None


PRIMITIVES["take_rows"] = Primitive(
    "take_rows",
    "gather",
    _infer_take_rows,
    _take_rows,
    _take_rows_vjp,
    2,
)


def take_rows(table: Value, index: Value) -> Value:
    """Rows of `table` (rows, ...) by their number: `index.shape + table.shape[1:]`, as table[index] in torch; NaN for
    an index outside the table (0 for integers)."""
    return table.graph.call("take_rows", table, index)


def _infer_add_rows(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    x, index = args
    _check_index("add_rows", index)
    if not x.dtype.is_float or x.shape[: len(index.shape)] != index.shape:
        raise ShapeError(
            f"add_rows: {x.name!r} {x.dtype}{show_shape(x.shape)} does not begin with the shape of index "
            f"{index.name!r} {show_shape(index.shape)}; give one row of floats for each number"
        )
    return (attrs["rows"], *x.shape[len(index.shape) :]), x.dtype


def _add_rows(x: Any, index: Any, rows: int) -> Any:
    flat = np.reshape(index, -1)
    result = np.zeros((rows, *x.shape[np.ndim(index) :]))
    inside = (flat >= 0) & (flat < rows)
    np.add.at(result, flat[inside], np.reshape(x, (flat.size, *result.shape[1:]))[inside])
    return result


def _add_rows_vjp(d: Value, y: Value, x: Value, index: Value, rows: int) -> P.Cotangents:
    inside = (index >= 0) & (index < rows)
    across = P.reshape(inside, (*index.shape, *(1,) * (len(x.shape) - len(index.shape))))
    return P.where(across, take_rows(d, index), 0), None


PRIMITIVES["add_rows"] = Primitive(
    "add_rows",
    "contraction",
    _infer_add_rows,
    _add_rows,
    _add_rows_vjp,
    2,
)


def add_rows(x: Value, index: Value, rows: int) -> Value:
    """`x` (index.shape + rest) added up by row number into (rows, *rest), always in one order: the gradient of a
    table of which `take_rows` took rows."""
    return x.graph.call("add_rows", x, index, rows=rows)
