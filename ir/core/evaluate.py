"""What a graph of primitives means: its values in numpy float64, primitive by primitive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .errors import FeedError
from .graph import Graph, Value, needed_for
from .registry import Primitive
from .types import Dim, DimProduct, Shape, bind_dims, dims_in, size_at, unbound

Sizes = Mapping[str, int]

SIZED = ("shape", "size", "arguments", "options")
"""The attributes that may hold `Dim`s."""


def evaluate(
    graph: Graph, feeds: Mapping[str, Any], sizes: Sizes | None = None, wanted: Iterable[Value] | None = None
) -> dict[Value, Any]:
    """Every value of `graph` (or `wanted` and what they need) from numpy arrays or numbers for its leaves.

    Floating-point feeds are computed in float64. Sizes of `Dim`s are read off the feeds unless given.
    """
    known = dict(sizes or {})
    result: dict[Value, Any] = {}
    needed = needed_for(graph.values if wanted is None else wanted)
    bind_dims([(v.shape, np.shape(feeds[v.name])) for v in graph.values if v in needed and v.name in feeds], known)
    for value in graph.values:
        if value not in needed:
            continue
        name = value.op.name
        if name == "dim_size":
            result[value] = known[value.attrs["dim"]]
        elif value.is_leaf and name not in ("constant", "iota", "uniform"):
            result[value] = _fed(value, feeds, known)
        else:
            attrs = {k: concrete(v, known) if k in SIZED else v for k, v in value.attrs.items()}
            with np.errstate(all="ignore"):
                assert isinstance(value.op, Primitive)
                result[value] = value.op.evaluate(*(result[a] for a in value.inputs), **attrs)
    return result


def concrete(size: Any, sizes: Sizes) -> Any:
    """A size or shape with the `Dim`s replaced by their sizes."""
    if isinstance(size, tuple):
        return tuple(concrete(s, sizes) for s in size)
    return size_at(size, sizes) if isinstance(size, Dim | DimProduct) else size


def bind_sizes(declared: Shape, given: tuple[int, ...], what: str, sizes: dict[str, int]) -> None:
    """Check a fed shape against the declared one and note the sizes of its `Dim`s. Where others are fed, too,
    `bind_dims` of all of them comes first."""
    bind_dims([(declared, given)], sizes)
    untold = next(filter(None, (unbound(size, sizes) for size in declared)), "")
    if untold and len(declared) == len(given):
        raise FeedError(f"{what}: {untold}")
    if untold or concrete(declared, sizes) != given:
        bound = ", ".join(f"{d.name}={sizes[d.name]}" for d in dict.fromkeys(dims_in(declared)) if d.name in sizes)
        raise FeedError(
            f"{what}: declared with shape ({', '.join(map(str, declared))}), got {tuple(given)}"
            + (f" while {bound}" if bound else "")
            + "; feed a tensor of the declared shape"
        )


def _fed(value: Value, feeds: Mapping[str, Any], sizes: dict[str, int]) -> Any:
    if value.name not in feeds:
        raise FeedError(f"{value.op.name} {value.name!r} is not fed; pass it among the feeds")
    array = np.asarray(feeds[value.name])
    bind_sizes(value.shape, array.shape, f"{value.op.name} {value.name!r}", sizes)
    return array.astype(np.float64) if value.dtype.is_float else array
