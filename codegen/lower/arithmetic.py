"""Elementwise primitives, and the dtypes that kernels compute in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, bool_, int32, int64

from ..cost.traffic import compute_dtype
from .builder import Builder
from .loads import resolve
from .tile.tile_ir import COL, ROW, SCALAR, TILE, Step

KEEPS_INT32 = ("where", "min", "max", "add", "sub", "mul", "maximum", "minimum", "copy")
"""What gives int32 of int32, as indices are in a kernel, where the graph has int64."""


def compute(builder: Builder, value: Value) -> None:
    """An elementwise primitive, on as much of the tile as its arguments have."""
    args = [resolve(builder, a) for a in value.inputs]
    dtype = dtype_of(value, args)
    attrs: dict[str, Any] = {"dtype": dtype} if value.op.name == "cast" else {}
    extent = _join(a.extent for a in args)
    builder.assign(value, Step("", value.op.name, tuple(a.name for a in args), extent, dtype, attrs))


def dtype_of(value: Value, args: Sequence[Step]) -> DType:
    """What a primitive of these steps is computed in."""
    dtype = compute_dtype(value.dtype)
    if dtype is not int64 or value.op.name not in KEEPS_INT32:
        return dtype
    strong = [a.dtype for a in args if (a.op != "number" or a.dtype is int32) and a.dtype is not bool_]
    # Indices are int32 in a kernel, and so is what is chosen among them.
    return int32 if strong and all(d is int32 for d in strong) else int64


def _join(extents: Iterable[str]) -> str:
    known = set(extents)
    if TILE in known or {ROW, COL} <= known:
        return TILE
    return ROW if ROW in known else COL if COL in known else SCALAR
