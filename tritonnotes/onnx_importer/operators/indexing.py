"""Elements by their number, and where the largest lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import Shape, Size, int64, product_of
from ...ir.ops.embedding import embedding
from .rows import Array, Row, Table, ints, listed, number, refuse
from .torch_call import torch_call, torch_calls


def _gather(x: Value, indices: Array | Value, axis: int = 0) -> Value:
    """Rows of a table are our embedding, and one known element is a view; all others are a call of torch."""
    at = axis % len(x.shape)
    if not isinstance(indices, Value):
        return _gather_known(x, indices, at)
    index = _from_front(indices, x.shape[at])
    if at == 0 and len(x.shape) == 2 and x.dtype.is_float:
        return embedding(index, weight=x)
    taken = torch_call("aten.index_select.default", x, at, P.reshape(index, (product_of(index.shape),)))
    return P.reshape(taken, (*x.shape[:at], *index.shape, *x.shape[at + 1 :]))


def _gather_known(x: Value, indices: Array, at: int) -> Value:
    refuse(indices.dtype != object, "takes elements by the size of a tensor; fix it with sizes={}")
    size = x.shape[at]
    numbers = indices.astype(np.int64).reshape(-1)
    refuse(numbers.size, "takes no elements")
    if not isinstance(size, int):
        ends = [None if i == -1 else int(i) + 1 for i in numbers]
        parts = [torch_call("aten.slice_copy.Tensor", x, at, int(i), e) for i, e in zip(numbers, ends, strict=True)]
        return P.reshape(P.cat(parts, at), (*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))
    if (numbers < 0).any():
        numbers = np.where(numbers < 0, numbers + size, numbers)
    if (np.diff(numbers) == 1).all():
        taken = P.narrow(x, at, int(numbers[0]), len(numbers))
    else:
        taken = P.cat([P.narrow(x, at, int(i), 1) for i in numbers], at)
    return P.reshape(taken, (*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))


def _from_front(index: Value, size: Size) -> Value:
    """Numbers that count from the front, where negative ones count from the end."""
    if not isinstance(size, int):
        return index
    return P.where(P.lt(index, 0), index + size, index)


def _elements(index: Value, size: Size) -> Value:
    found = _from_front(index, size)
    return found if found.dtype is int64 else P.cast(found, int64)


def _gather_elements(x: Value, indices: Value, axis: int = 0) -> Value:
    return torch_call("aten.gather.default", x, axis, _elements(indices, x.shape[axis]))


def _places(indices: Value, shape: Shape) -> list[Value]:
    """Of indices (..., K) the K tensors of numbers along the first axes."""
    (count,) = ints(indices.shape[-1:], "the number of axes that indices are for")
    parts = (P.narrow(indices, -1, axis, 1) for axis in range(count))
    flat = (P.reshape(part, indices.shape[:-1]) for part in parts)
    return [_elements(part, size) for part, size in zip(flat, shape, strict=False)]


def _gather_nd(x: Value, indices: Value, batch_dims: int = 0) -> Value:
    rows = P.reshape(P.narrow(indices, -1, 0, 1), indices.shape[:-1])
    batches = [P.index_along(rows, axis) for axis in range(batch_dims)]
    return torch_call("aten.index.Tensor", x, [*batches, *_places(indices, x.shape[batch_dims:])])


def _scatter_nd(x: Value, indices: Value, updates: Value, reduction: str = "none") -> Value:
    refuse(reduction in ("none", "add"), f"reduction={reduction!r} is not supported; only 'none' and 'add'")
    places = _places(indices, x.shape)
    return torch_call("aten.index_put.default", x, places, updates, reduction == "add")


REDUCED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX's names of what is done with elements of one place, and torch's."""


def _scatter_elements(x: Value, indices: Value, updates: Value, axis: int = 0, reduction: str = "none") -> Value:
    index = _elements(indices, x.shape[axis])
    if reduction == "none":
        return torch_call("aten.scatter.src", x, axis, index, updates)
    return torch_call("aten.scatter_reduce.two", x, axis, index, updates, REDUCED[reduction])


def _one_hot(indices: Value, depth: Array, values: Value, axis: int = -1) -> Value:
    count = int(number(depth))
    at = axis % (len(indices.shape) + 1)
    index = indices if indices.dtype.kind == "int" else P.cast(indices, int64)
    shape = (*index.shape[:at], 1, *index.shape[at:])
    beside = P.reshape(_from_front(index, count), shape)
    like = P.broadcast_to(beside, (*index.shape[:at], count, *index.shape[at:]))
    hot = P.eq(beside, P.index_along(like, at))
    off, on = (P.reshape(P.narrow(values, 0, i, 1), ()) for i in (0, 1))
    return P.where(hot, on, off)


def _top_k_by_attribute(x: Value, k: int, axis: int = -1) -> Any:
    return _largest(x, k, axis, True)


def _largest(x: Value, count: Size, axis: int, largest: bool) -> tuple[Value, ...]:
    """Of equal numbers the first ones, which torch's topk does not promise: a stable sort does."""
    both = torch_calls("aten.sort.stable", x, stable=True, dim=axis, descending=largest, results=(0, 1))
    if isinstance(x.shape[axis], int) and isinstance(count, int):
        return tuple(P.narrow(part, axis, 0, count) for part in both)
    return tuple(torch_call("aten.slice_copy.Tensor", part, axis, 0, count, 1) for part in both)


def _top_k(x: Value, k: Array, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    (count,) = listed(k) or [0]
    return _largest(x, count, axis, bool(largest))


INDEXING: Table = {
    "Gather": (Row(_gather, numbers=(1,)),),
    "GatherElements": (Row(_gather_elements, 11),),
    "GatherND": (Row(_gather_nd, 11),),
    "ScatterND": (Row(_scatter_nd, 11),),
    "Scatter": (Row(_scatter_elements, 9),),
    "ScatterElements": (Row(_scatter_elements, 11),),
    "OneHot": (Row(_one_hot, 9, known=(1,)),),
    "TopK": (Row(_top_k_by_attribute), Row(_top_k, 10, known=(1,))),
}
