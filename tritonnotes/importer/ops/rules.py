"""Ops of torch that are written otherwise here: functions of the arguments that torch's schema names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir import primitives as P
from ...ir.core.errors import DeclarationError
from ...ir.core.graph import Value
from ...ir.core.types import DType, Shape, Size, bool_, broadcast, product_of, quotient
from ...ir.ops import shapes, statistics
from ...ir.ops.batch_statistics import batch_norm, instance_norm
from ...ir.ops.comparisons import clamp
from ...ir.ops.dropout import dropout
from ...ir.ops.elementary import reciprocal
from ...ir.ops.embedding import NO_PADDING, embedding
from ...ir.ops.normalization import layer_norm, rms_norm
from ...ir.ops.parts import chunk, split
from ...ir.ops.softmax import softmax


def same(x: Value) -> Value:
    """Copies and layouts: a graph has values, and no memory."""
    return x


# -- arithmetic --------------------------------------------------------------------------------------------------------


def add(x: Any, other: Any, alpha: Any) -> Value:
    return P.add(x, other if _is_one(alpha) else P.mul(other, alpha))


def sub(x: Any, other: Any, alpha: Any) -> Value:
    return P.sub(x, other if _is_one(alpha) else P.mul(other, alpha))


def rsub(x: Any, other: Any, alpha: Any) -> Value:
    return sub(other, x, alpha)


def _is_one(alpha: Any) -> bool:
    return isinstance(alpha, int | float) and alpha == 1


def div(x: Any, other: Any, rounding_mode: str | None) -> Value:
    quotient = P.div(x, other)
    if rounding_mode == "floor":
        return P.floor(quotient)
    if rounding_mode is not None:
        raise DeclarationError(f"rounding_mode={rounding_mode!r} is not supported; round the quotient of floats down")
    return quotient


def where_masked(x: Value, mask: Value, value: Any) -> Value:
    return P.where(mask, value, x)


def clamp_min(x: Value, least: Any) -> Value:
    return clamp(x, least, None)


def clamp_max(x: Value, most: Any) -> Value:
    return clamp(x, None, most)


def rpow(base: Any, exponent: Value) -> Value:
    return P.pow(base, exponent)


def power(x: Value, exponent: Any) -> Value:
    return reciprocal(x) if exponent == -1 and x.dtype.is_float else P.pow(x, exponent)


def matmul(a: Value, b: Value) -> Value:
    if len(b.shape) != 2 or len(a.shape) < 2:
        raise DeclarationError(
            f"{a.name!r} with {len(a.shape)} axes times {b.name!r} with {len(b.shape)}: the right one has to be a "
            "matrix, the same for all rows"
        )
    return P.matmul(a, b)


def addmm(bias: Value, a: Value, b: Value) -> Value:
    return P.add(bias, P.matmul(a, b))


def attention(
    query: Value, key: Value, value: Value, mask: Value | None, dropout_p: float, is_causal: bool, scale: float | None
) -> Value:
    """Attention with dropout, of which ours draws the same numbers forward and backward; without, torch's own."""
    if not dropout_p:
        raise DeclarationError("without dropout it is one call of torch")
    if query.shape[:-2] != key.shape[:-2] or key.shape[:-2] != value.shape[:-2] or not isinstance(query.shape[-1], int):
        raise DeclarationError("with dropout it takes query, key and value with the same leading axes")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = product(query, shapes.transpose(key, -2, -1)) * factor
    if is_causal:
        scores = P.where(P.index_along(scores, -2) >= P.index_along(scores, -1), scores, -math.inf)
    if mask is not None:
        scores = P.where(mask, scores, -math.inf) if mask.dtype is bool_ else scores + mask
    return product(dropout(softmax(scores, dim=-1), p=dropout_p), value)


def product(a: Value, b: Value) -> Value:
    """A product of matrices for each index of the leading axes, which is a call of torch."""
    shape = (*a.shape[:-1], b.shape[-1])
    return P.library(a.graph, (a, b), "aten.matmul.default", ("%0", "%1"), (), 0, shape, a.dtype)


# -- views -------------------------------------------------------------------------------------------------------------


def reshape(x: Value, shape: Shape) -> Value:
    return shapes.reshape(x, tuple(shape))


def reshape_as(x: Value, other: Value) -> Value:
    return shapes.reshape(x, other.shape)


def unflattened(x: Value, dim: int, sizes: Sequence[Size]) -> Value:
    at = dim % len(x.shape)
    known = [size for size in sizes if size != -1]
    rest = quotient(x.shape[at], product_of(known))
    if rest is None:
        raise DeclarationError(f"axis {at} of {x.name!r} has size {x.shape[at]}, which {tuple(sizes)} do not divide")
    return shapes.reshape(x, (*x.shape[:at], *(rest if size == -1 else size for size in sizes), *x.shape[at + 1 :]))


def expand(x: Value, shape: Shape) -> Value:
    return shapes.expand(x, tuple(shape))


def expand_as(x: Value, other: Value) -> Value:
    return shapes.expand(x, other.shape)


def broadcast_tensors(tensors: Sequence[Value]) -> list[Value]:
    shape = broadcast([x.shape for x in tensors], "broadcast_tensors")
    return [x if x.shape == shape else P.broadcast_to(x, shape) for x in tensors]


def permute(x: Value, dims: Sequence[int]) -> Value:
    return shapes.permute(x, tuple(dims))


def turned(x: Value) -> Value:
    return x if len(x.shape) < 2 else shapes.transpose(x, 0, 1)


def sliced(x: Value, dim: int, start: int | None, end: int | None, step: int) -> Value:
    size = x.shape[dim]
    if start in (None, 0) and (end is None or end == size or (isinstance(end, int) and end >= 2**62)) and step == 1:
        return x
    key: list[slice] = [slice(None)] * len(x.shape)
    key[dim] = slice(start, end, step)
    return x[tuple(key)]


def selected(x: Value, dim: int, index: int) -> Value:
    key: list[slice | int] = [slice(None)] * len(x.shape)
    key[dim] = index
    return x[tuple(key)]


def unbound(x: Value, dim: int) -> list[Value]:
    count = x.shape[dim]
    if not isinstance(count, int):
        raise DeclarationError(f"{x.name!r} is taken apart along axis {dim}, whose size is {count}; use a known size")
    return [selected(x, dim, index) for index in range(count)]


def chunks(x: Value, count: int, dim: int) -> tuple[Value, ...]:
    return chunk(x, count, dim)


def parts(x: Value, sizes: int | Sequence[int], dim: int) -> tuple[Value, ...]:
    return split(x, sizes, dim)


def stack(tensors: Sequence[Value], dim: int) -> Value:
    at = dim % (len(tensors[0].shape) + 1)
    return P.cat([shapes.unsqueeze(x, at) for x in tensors], at)


def cat(tensors: Sequence[Value], dim: int) -> Value:
    return P.cat(list(tensors), dim)


def cast(x: Value, dtype: DType | None) -> Value:
    return x if dtype is None or x.dtype is dtype else P.cast(x, dtype)


def cast_as(x: Value, other: Value) -> Value:
    return cast(x, other.dtype)


# -- reductions --------------------------------------------------------------------------------------------------------


def _axes(dim: Any) -> Any:
    """torch's empty list of axes means all of them."""
    return None if dim is None or (isinstance(dim, list | tuple) and not dim) else dim


def total(x: Value, dim: Any, keepdim: bool, dtype: DType | None) -> Value:
    return statistics.sum(x, _axes(dim), keepdim, dtype=dtype)


def total_of_all(x: Value, dtype: DType | None) -> Value:
    return statistics.sum(x, dtype=dtype)


def mean(x: Value, dim: Any, keepdim: bool, dtype: DType | None) -> Value:
    return statistics.mean(x, _axes(dim), keepdim, dtype=dtype)


def mean_of_all(x: Value, dtype: DType | None) -> Value:
    return statistics.mean(x, dtype=dtype)


def largest(x: Value, dim: Any, keepdim: bool) -> Value:
    return statistics.amax(x, _axes(dim), keepdim)


def smallest(x: Value, dim: Any, keepdim: bool) -> Value:
    return statistics.amin(x, _axes(dim), keepdim)


def largest_and_where(x: Value, dim: int, keepdim: bool) -> tuple[Value, Value]:
    return statistics.max(x, dim, keepdim), statistics.argmax(x, dim, keepdim)


def spread(kind: str) -> Any:
    """`var` or `std` with a correction; torch's default is 1."""

    def of(x: Value, dim: Any, correction: Any, keepdim: bool) -> Value:
        counted = 1 if correction is None else correction
        return getattr(statistics, kind)(x, _axes(dim), correction=counted, keepdim=keepdim)

    return of


# -- layers ------------------------------------------------------------------------------------------------------------


def embedded(weight: Value, indices: Value, padding_idx: int, *, name: str | None) -> Value:
    return embedding(indices, weight=weight, padding_idx=None if padding_idx == NO_PADDING else padding_idx, name=name)


def layer_normed(x: Value, shape: Sequence[int], *rest: Any, name: str | None) -> Value:
    return layer_norm(x, tuple(shape), *rest, name=name)


def rms_normed(x: Value, shape: Sequence[int], *rest: Any, name: str | None) -> Value:
    return rms_norm(x, tuple(shape), *rest, name=name)


def batch_normed(x: Value, *statistics_and_weights: Any, training: bool, name: str | None, **rest: Any) -> Value:
    mean, var, weight, bias = statistics_and_weights
    uses_batch = training or mean is None
    return batch_norm(x, mean, var, weight, bias, training=uses_batch, name=name, **rest)


def instance_normed(x: Value, *statistics_and_weights: Any, name: str | None, **rest: Any) -> Value:
    return instance_norm(x, *statistics_and_weights, name=name, **rest)


def in_dtype(made: Any) -> Any:
    """A softmax whose argument is cast first where a dtype is asked for."""

    def of(x: Value, dim: int, dtype: DType | None) -> Value:
        return made(x, dim) if dtype is None else made(x, dim, dtype=dtype)

    return of
