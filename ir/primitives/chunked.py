"""Results of a region, a graph over some of the rows, for all rows: made by the pass `passes/chunks.py`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..core.errors import DeclarationError, ShapeError
from ..core.evaluate import evaluate
from ..core.graph import Graph, Value
from ..core.registry import ANY_NUMBER, PRIMITIVES, Primitive
from ..core.types import ROWS_OF_A_CHUNK, Dim, DType, Shape, Size, show_shape
from .derivative import Cotangents

CHUNK_ROWS = Dim(ROWS_OF_A_CHUNK)
"""The rows of a chunk, in the graph of a region."""


_NOT_IN_REGIONS = ("parameter", "buffer", "slot", "uniform", "dim_size", "chunked")


# Many values are results of one region; that it has grown since is seen by its count of values.
@lru_cache(maxsize=64)
def _interface(region: Graph, count: int) -> tuple[list[Value], list[Value]]:
    """The leaves and outputs of a region of so many values. Raises `DeclarationError` for what is no region."""
    odd = [v for v in region.values if v.op.name in _NOT_IN_REGIONS]
    if region.level != "primitive" or odd or region.updates or not region.outputs:
        raise DeclarationError("chunked: region is no graph of primitives with inputs, scalars and outputs alone")
    return region.leaves("input", "scalar"), [*region.outputs.values()]


def _infer_chunked(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    region = attrs["region"]
    if not isinstance(region, Graph):
        raise DeclarationError(f"chunked: region is {region!r}; it must be a graph")
    leaves, outputs = _interface(region, len(region.values))
    sizes: dict[str, Size] = {}
    if len(leaves) != len(args):
        raise ShapeError(f"chunked: the region takes {len(leaves)} arguments, got {len(args)}")
    for leaf, arg in zip(leaves, args, strict=True):
        fits = leaf.dtype is arg.dtype and len(leaf.shape) == len(arg.shape)
        for want, got in zip(leaf.shape, arg.shape, strict=False):
            fits = fits and got == (sizes.setdefault(want.name, got) if want == CHUNK_ROWS else want)
        if not fits:
            raise ShapeError(
                f"chunked: {arg.name!r} is {arg.dtype}{show_shape(arg.shape)}, and {leaf.name!r} of the region "
                f"{leaf.dtype}{show_shape(leaf.shape)}"
            )
    if not 0 <= attrs["which"] < len(outputs) or attrs["rows"] < 1 or CHUNK_ROWS.name not in sizes:
        raise ShapeError(
            f"chunked: result {attrs['which']} of {len(outputs)}, {attrs['rows']} rows a chunk; there is none"
        )
    out = outputs[attrs["which"]]
    return tuple(sizes[CHUNK_ROWS.name] if s == CHUNK_ROWS else s for s in out.shape), out.dtype


def _evaluate_chunked(*arrays: Any, region: Graph, which: int, rows: int) -> Any:
    # Rows do not know of each other, so that all of them at once mean the same as chunk after chunk.
    out = list(region.outputs.values())[which]
    feeds = {leaf.name: a for leaf, a in zip(region.leaves("input", "scalar"), arrays, strict=True)}
    return evaluate(region, feeds, wanted=[*region.leaves("input"), out])[out]


def _chunked_vjp(d: Value, y: Value, *args: Value, **attrs: Any) -> Cotangents:
    raise DeclarationError(f"{y.name!r} is computed in chunks of rows; take its gradient before it is chunked")


PRIMITIVES["chunked"] = Primitive("chunked", "contraction", _infer_chunked, _evaluate_chunked, _chunked_vjp, ANY_NUMBER)
