"""Products of matrices, and what is summed over indices."""

from __future__ import annotations

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import bool_, product_of
from ...ir.ops import shapes
from ...ir.ops.linear import linear
from .rows import Node, Row, Table, ints, refuse
from .torch_call import torch_call


def _gemm(
    a: Value, b: Value, c: Value | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Value:
    """A linear layer where it is one."""
    left = shapes.transpose(a, 0, 1) if transA else a
    if not a.dtype.is_float:
        product = torch_call("aten.mm.default", left, shapes.transpose(b, 0, 1) if transB else b)
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


# -- attention ---------------------------------------------------------------------------------------------------------


def _attention(
    node: Node, q: Value, k: Value, v: Value, mask: Value | None = None, past_key: Value | None = None,
    past_value: Value | None = None, nonpad_kv_seqlen: Value | None = None, is_causal: int = 0,
    q_num_heads: int | None = None, kv_num_heads: int | None = None, scale: float | None = None, softcap: float = 0.0,
    qk_matmul_output_mode: int = 0, softmax_precision: int | None = None, left_window_size: int = -1,
    right_window_size: int = -1,
) -> Value:  # fmt: skip
    """Attention that torch has as one call; all other attention is written out."""
    plain = past_key is None and past_value is None and nonpad_kv_seqlen is None and not softcap
    refuse(plain and not any(map(node.reads, (1, 2, 3))), "has a past, lengths, a cap, or more results")
    refuse(left_window_size == right_window_size == -1, "has a window")
    refuse(not (is_causal and mask is not None), "is causal and has a mask")
    heads = [_heads(x, count) for x, count in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads))]
    query, key, value = heads
    rows, columns = query.shape[-2], key.shape[-2]
    refuse(not is_causal or rows == columns, "is causal, of other queries than keys")
    fits = mask is None or (len(mask.shape) >= 2 and mask.shape[-2:] in ((rows, columns), (1, columns)))
    refuse(fits and (mask is None or mask.dtype in (bool_, q.dtype)), "has a mask of another shape or dtype")
    call = "aten.scaled_dot_product_attention.default"
    grouped = query.shape[1] != key.shape[1]
    y = torch_call(call, *heads, mask, 0.0, bool(is_causal), scale=scale, enable_gqa=grouped)
    if len(q.shape) == 4:
        return y
    merged = shapes.permute(y, (0, 2, 1, 3))
    return P.reshape(merged, (*merged.shape[:2], product_of(merged.shape[2:])))


def _heads(x: Value, count: int | None) -> Value:
    """Heads before positions: they are the second axis, or within the last one."""
    if len(x.shape) == 4:
        return x
    refuse(count, "has no count of heads")
    width = ints(x.shape[-1:], "the width of all heads")[0] // (count or 1)
    return shapes.permute(P.reshape(x, (*x.shape[:2], count or 1, width)), (0, 2, 1, 3))


PRODUCTS: Table = {
    "Gemm": (Row(_gemm),),
    "MatMul": (Row(matmul),),
    "Einsum": (Row(_einsum),),
    "Attention": (Row(_attention, 23, takes_node=True),),
}
