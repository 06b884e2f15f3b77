"""Products of matrices, and what is summed over indices."""

from __future__ import annotations

from ..ir import primitives as P
from ..ir.core.graph import Value
from ..ir.ops.linear import linear
from ..ir.ops.shapes import transpose
from .rows import Row, Table
from .torch_call import torch_call


def _gemm(
    a: Value, b: Value, c: Value | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Value:
    """A linear layer where it is one."""
    left = transpose(a, 0, 1) if transA else a
    if not a.dtype.is_float:
        product = torch_call("aten.mm.default", left, transpose(b, 0, 1) if transB else b)
    elif transB and alpha == 1 and beta == 1 and (c is None or c.shape == b.shape[:1]):
        return linear(left, weight=b, bias=c)
    else:
        product = P.matmul(left, b, bool(transB))
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def matmul(a: Value, b: Value) -> Value:
    """A product whose right side is one matrix has kernels; all others are calls of torch."""
    fits = len(b.shape) == 2 and len(a.shape) >= 2 and a.dtype is b.dtype and a.dtype.is_float
    return P.matmul(a, b) if fits else torch_call("aten.matmul.default", a, b)


def _einsum(*inputs: Value, equation: str) -> Value:
    return torch_call("aten.einsum.default", equation.replace(" ", ""), list(inputs))


PRODUCTS: Table = {
    "Gemm": (Row(_gemm),),
    "MatMul": (Row(matmul),),
    "Einsum": (Row(_einsum),),
}
