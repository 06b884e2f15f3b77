"""Reductions, which keep the reduced axes with size 1, and `broadcast_to`: it and `sum` are each other's derivative."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DTypeError, ShapeError
from ..core.graph import Value
from ..core.op import graph_of
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, as_shape, bool_, broadcast, float32, host, normalize_axes, show_shape
from .derivative import Cotangents
from .elementwise import cast, same, where
from .leaves import count_along, index_along
from .shapes import reshape


def _reduction(
    name: str, meaning: Callable[..., Any], vjp: Callable[..., Cotangents], *, empty: bool
) -> Callable[..., Value]:
    def infer(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
        (x,) = args
        axes = attrs["axes"]
        if x.dtype is bool_:
            raise DTypeError(
                f"{name}: does not work on bool, got {x.name!r}; cast it first, as in tn.cast(x, 'float32')"
            )
        if not empty and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(
                f"{name}: {x.name!r} of shape {show_shape(x.shape)} is empty along {axes}; it has no {name}"
            )
        return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), x.dtype

    PRIMITIVES[name] = Primitive(name, "reduction", infer, lambda x, axes: meaning(x, axis=axes, keepdims=True), vjp, 1)

    def build(x: Value, axis: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        axes = normalize_axes(axis, len(x.shape), name)
        kept = x.graph.call(name, x, axes=axes) if axes else x
        shape = tuple(size for a, size in enumerate(x.shape) if a not in axes)
        return kept if keepdim else reshape(kept, shape)

    build.__name__ = build.__qualname__ = name
    return build


def _extremum_vjp(d: Value, y: Value, x: Value, axes: tuple[int, ...]) -> Cotangents:
    reached = cast(same(x, y), x.dtype)
    return (d * reached / sum(reached, axes, keepdim=True),)


sum = _reduction("sum", np.sum, lambda d, y, x, axes: (broadcast_to(d, x.shape),), empty=True)


sum.__doc__ = "The sum over `axis` (None: all axes)."


max = _reduction("max", np.max, _extremum_vjp, empty=False)


max.__doc__ = "The largest over `axis`; NaN if any is; tied elements share the gradient, as in torch.amax."


min = _reduction("min", np.min, _extremum_vjp, empty=False)


min.__doc__ = "The smallest over `axis`; NaN if any is; tied elements share the gradient, as in torch.amin."


def _infer_broadcast_to(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    shape = as_shape(attrs["shape"], "broadcast_to")
    if broadcast([x.shape, shape], "broadcast_to") != shape:
        raise ShapeError(
            f"broadcast_to: {x.name!r} of shape {show_shape(x.shape)} does not expand to {show_shape(shape)}"
        )
    return shape, x.dtype


PRIMITIVES["broadcast_to"] = Primitive(
    "broadcast_to",
    "shape",
    _infer_broadcast_to,
    lambda x, shape: np.broadcast_to(x, shape),
    lambda d, y, x, shape: (sum_to(d, x.shape),),
    1,
)


def broadcast_to(x: Value, shape: Shape) -> Value:
    """`x` repeated along new axes and axes of size 1, as in torch.Tensor.expand."""
    graph = graph_of("broadcast_to", (x,))
    return x if x.shape == shape else graph.call("broadcast_to", x, shape=shape)


def sum_to(x: Value, shape: Shape) -> Value:
    """`x` summed over the axes along which `shape` broadcasts to its shape: the adjoint of `broadcast_to`."""
    if x.shape == shape:
        return x
    extra = len(x.shape) - len(shape)
    axes = [a for a, size in enumerate(x.shape) if a < extra or (shape[a - extra] == 1 and size != 1)]
    return reshape(sum(x, axes, keepdim=True), shape)


def mean(x: Value, axis: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
    """The mean over `axis` (None: all axes)."""
    return sum(x, axis, keepdim) / count_along(x, axis)


LARGEST_INDEX = 2**31 - 1
"""No index along an axis is larger: kernels count along axes in int32."""


def argmax(x: Value, axis: int = -1, keepdim: bool = False) -> Value:
    """The index of the largest along `axis`: NaN counts as largest, a tie goes to the lowest index, as in torch."""
    largest = max(x, axis, keepdim=True)
    index = index_along(x, axis)
    is_largest = (x == largest) | (x != x)
    size = x.shape[axis]
    beyond = size if isinstance(size, int) else LARGEST_INDEX
    return min(where(is_largest, index, beyond), axis, keepdim)


def zeros_like(x: Value) -> Value:
    """Zeros of the shape and dtype of `x`."""
    return broadcast_to(x.graph.constant(0, x.dtype if x.dtype is not host else float32), x.shape)
