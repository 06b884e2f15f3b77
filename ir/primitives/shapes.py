"""The same elements in the same order under another shape, or in another order of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import ShapeError
from ..core.graph import Value
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, Size, as_shape, product_of, show_shape


def _infer_reshape(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    shape = as_shape(attrs["shape"], "reshape")
    if product_of(x.shape) != product_of(shape):
        raise ShapeError(
            f"reshape: {x.name!r} of shape {show_shape(x.shape)} does not have as many elements as {show_shape(shape)}"
        )
    return shape, x.dtype


PRIMITIVES["reshape"] = Primitive(
    "reshape",
    "shape",
    _infer_reshape,
    lambda x, shape: np.reshape(x, shape),
    lambda d, y, x, shape: (reshape(d, x.shape),),
    1,
)


def reshape(x: Value, shape: Sequence[Size]) -> Value:
    """`x` with the same elements in the same order under another shape."""
    shape = tuple(shape)
    return x if x.shape == shape else x.graph.call("reshape", x, shape=shape)


def _infer_transpose(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    if set(attrs["axes"]) != set(range(len(x.shape))) or len(attrs["axes"]) != len(x.shape):
        raise ShapeError(f"transpose: {attrs['axes']} is no permutation of the {len(x.shape)} axes of {x.name!r}")
    return tuple(x.shape[a] for a in attrs["axes"]), x.dtype


PRIMITIVES["transpose"] = Primitive(
    "transpose",
    "shape",
    _infer_transpose,
    lambda x, axes: np.transpose(x, axes),
    lambda d, y, x, axes: (transpose(d, tuple(axes.index(a) for a in range(len(axes)))),),
    1,
)


def transpose(x: Value, axes: Sequence[int]) -> Value:
    """`x` with its axes in another order: axis i of the result is axis `axes[i]` of `x`, as in torch.permute."""
    return x.graph.call("transpose", x, axes=tuple(axes))
