"""Rows of a table by their number, and rows added up by their number: each other's derivative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import DTypeError, ShapeError
from ..core.graph import Value
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, show_shape
from .derivative import Cotangents
from .elementwise import where
from .shapes import reshape


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


def _take_rows_vjp(d: Value, y: Value, table: Value, index: Value) -> Cotangents:
    rows = table.shape[0]
    if not isinstance(rows, int):
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


def _add_rows_vjp(d: Value, y: Value, x: Value, index: Value, rows: int) -> Cotangents:
    inside = (index >= 0) & (index < rows)
    across = reshape(inside, (*index.shape, *(1,) * (len(x.shape) - len(index.shape))))
    return where(across, take_rows(d, index), 0), None


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
