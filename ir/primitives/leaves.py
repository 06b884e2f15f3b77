"""Leaves: values that no primitive computes, the index along an axis, and how many elements it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.graph import Value
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, dims_in, host, int64, known_factor, normalize_axes
from .derivative import no_gradient


def _leaf(name: str, evaluate: Callable[..., Any] | None = None) -> Primitive:
    def known(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
        raise AssertionError(f"{name} is appended with its shape and dtype")

    def fed(**attrs: Any) -> Any:
        raise AssertionError(f"{name} is fed")

    PRIMITIVES[name] = primitive = Primitive(name, "leaf", known, evaluate or fed, no_gradient)
    return primitive


for _name in ("input", "parameter", "buffer", "slot", "scalar", "dim_size"):
    _leaf(_name)


_leaf("constant", lambda value: np.asarray(value))


def _infer_iota(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    return tuple(attrs["size"] if axis == 0 else 1 for axis in range(-attrs["before"], attrs["after"] + 1)), int64


PRIMITIVES["iota"] = Primitive(
    "iota",
    "leaf",
    _infer_iota,
    lambda size, before, after: np.arange(size).reshape((1,) * before + (size,) + (1,) * after),
    no_gradient,
)


def index_along(x: Value, axis: int = -1) -> Value:
    """The index of each element of `x` along `axis`: int64, size 1 in all other dims."""
    (axis,) = normalize_axes(axis, len(x.shape), "index_along")
    attrs = {"size": x.shape[axis], "before": axis, "after": len(x.shape) - axis - 1}
    return x.graph.append("iota", (), attrs, *_infer_iota((), attrs))


def count_along(x: Value, axis: int | Sequence[int] | None = None) -> Value | int:
    """How many elements `x` has along `axis`: an int, or a host number where a `Dim` is among the sizes."""
    sizes = [x.shape[a] for a in normalize_axes(axis, len(x.shape), "count_along")]
    known = known_factor(sizes)
    count: Any = known
    for size in dims_in(sizes):
        dim = x.graph.append("dim_size", (), {"dim": size.name}, (), host)
        count = dim if count is known and known == 1 else dim * count
    if isinstance(count, Value) and not count.is_leaf:
        count.hint = "count"
    return count
