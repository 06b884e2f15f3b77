"""Matrix products: closed under differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import DTypeError, ShapeError
from ..core.graph import Value
from ..core.op import graph_of
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, show_shape
from .derivative import Cotangents


def _float_pair(name: str, a: Value, b: Value) -> DType:
    if a.dtype is not b.dtype or not a.dtype.is_float:
        raise DTypeError(
            f"{name}: {a.name!r} is {a.dtype} and {b.name!r} is {b.dtype}; both must have one float dtype, cast "
            "one of them"
        )
    return a.dtype


def _infer_matmul(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    a, b = args
    dtype = _float_pair("matmul", a, b)
    inner, outer = (b.shape[::-1] if attrs["transpose_b"] else b.shape) if len(b.shape) == 2 else (None, 0)
    if not a.shape or a.shape[-1] != inner:
        order = "(columns, K)" if attrs["transpose_b"] else "(K, columns)"
        raise ShapeError(
            f"matmul: {a.name!r} of shape {show_shape(a.shape)} and {b.name!r} of shape {show_shape(b.shape)} do "
            "not fit; "
            f"(..., K) meets {order} with the same K"
        )
    return (*a.shape[:-1], outer), dtype


def _matmul_vjp(d: Value, y: Value, a: Value, b: Value, transpose_b: bool) -> Cotangents:
    return matmul(d, b, not transpose_b), matmul_over_rows(d, a) if transpose_b else matmul_over_rows(a, d)


PRIMITIVES["matmul"] = Primitive(
    "matmul",
    "contraction",
    _infer_matmul,
    lambda a, b, transpose_b: a @ (b.T if transpose_b else b),
    _matmul_vjp,
    2,
)


def matmul(a: Value, b: Value, transpose_b: bool = False) -> Value:
    """(..., K) times (K, N), or times the transpose of (N, K): (..., N)."""
    return graph_of("matmul", (a, b)).call("matmul", a, b, transpose_b=transpose_b)


def _infer_matmul_over_rows(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    a, b = args
    dtype = _float_pair("matmul_over_rows", a, b)
    if not a.shape or a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(
            f"matmul_over_rows: {a.name!r} of shape {show_shape(a.shape)} and {b.name!r} of shape "
            f"{show_shape(b.shape)} "
            "differ before their last axis; give both the same leading axes"
        )
    return (a.shape[-1], b.shape[-1]), dtype


PRIMITIVES["matmul_over_rows"] = Primitive(
    "matmul_over_rows",
    "contraction",
    _infer_matmul_over_rows,
    lambda a, b: np.einsum("...m,...n->mn", a, b, optimize=True),
    lambda d, y, a, b: (matmul(b, d, True), matmul(a, d)),
    2,
)


def matmul_over_rows(a: Value, b: Value) -> Value:
    """(..., M) and (..., N), contracted over all leading axes: (M, N). The gradient of a weight."""
    return a.graph.call("matmul_over_rows", a, b)
