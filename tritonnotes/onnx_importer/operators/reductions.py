"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import bool_, int32
from ...ir.ops import statistics
from ...ir.ops.elementary import square
from .rows import Array, Row, Table, ints, listed, refuse
from .torch_call import torch_call

Reduction = Callable[[Value, tuple[int, ...], bool], Value]


def _total(x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    """A sum has the dtype of what it adds."""
    total = statistics.sum(x, axes, keepdim)
    return total if total.dtype is x.dtype else P.cast(total, x.dtype)


def _mean(x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    refuse(x.dtype.is_float, f"is a mean of {x.dtype}; cast it to a float first")
    return statistics.mean(x, axes, keepdim)


def _extreme(make: Callable[..., Value]) -> Reduction:
    """The largest or smallest number; of truth values by way of ints."""

    def over(x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
        if x.dtype is not bool_:
            return make(x, axes, keepdim)
        return P.ne(make(P.cast(x, int32), axes, keepdim), 0)

    return over


def _product(x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    for axis in sorted(axes, reverse=True):
        x = torch_call("aten.prod.dim_int", x, axis, keepdim, dtype=x.dtype)
    return x


def _after(
    make: Callable[[Value], Value], reduction: Reduction, then: Callable[[Value], Value] | None = None
) -> Reduction:
    """A reduction of what `make` gives, and `then` a function of its result."""

    def over(x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
        found = reduction(make(x), axes, keepdim)
        return found if then is None else then(found)

    return over


def _same(x: Value) -> Value:
    return x


def _root(x: Value) -> Value:
    return P.sqrt(x) if x.dtype.is_float else P.cast(P.sqrt(P.cast(x, "float64")), x.dtype)


def _log_sum_exp(x: Value, axes: tuple[int, ...], keepdim: bool) -> Value:
    return statistics.logsumexp(x, axes, keepdim)


def _squares(x: Value) -> Value:
    return square(x) if x.dtype.is_float else x * x


REDUCTIONS_OF: dict[str, Reduction] = {
    "ReduceSum": _total,
    "ReduceMean": _mean,
    "ReduceMax": _extreme(statistics.amax),
    "ReduceMin": _extreme(statistics.amin),
    "ReduceProd": _product,
    "ReduceL1": _after(P.abs, _total),
    "ReduceL2": _after(_squares, _total, _root),
    "ReduceSumSquare": _after(_squares, _total),
    "ReduceLogSum": _after(_same, _total, P.log),
    "ReduceLogSumExp": _log_sum_exp,
}


def _rows(op_type: str, reduction: Reduction) -> tuple[Row, ...]:
    """Axes are an attribute first, and an input later."""

    def reduced(x: Value, axes: list[Any], keepdims: int) -> Value:
        found = tuple(int(axis) % len(x.shape) for axis in axes) or tuple(range(len(x.shape)))
        return reduction(x, found, bool(keepdims))

    def by_attribute(x: Value, axes: list[int] | None = None, keepdims: int = 1) -> Value:
        return reduced(x, axes or [], keepdims)

    def by_input(x: Value, axes: Array | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        found = listed(axes) or []
        if not found and noop_with_empty_axes:
            return reduction(P.reshape(x, (*x.shape, 1)), (len(x.shape),), False)
        return reduced(x, found, keepdims)

    return Row(by_attribute), Row(by_input, 13 if op_type == "ReduceSum" else 18, known=(1,))


# -- where the extremes are --------------------------------------------------------------------------------------------


def _place(kind: str) -> Callable[..., Value]:
    def along(x: Value, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
        at = axis % len(x.shape)
        if not select_last_index:
            if kind == "argmax":
                return statistics.argmax(x, at, bool(keepdims))
            if x.dtype.is_float:
                return statistics.argmax(-x, at, bool(keepdims))
            return torch_call(f"aten.{kind}.default", x, at, bool(keepdims))
        (size,) = ints(x.shape[at : at + 1], "the axis that the last extreme is looked for along")
        turned = torch_call(f"aten.{kind}.default", torch_call("aten.flip.default", x, (at,)), at, bool(keepdims))
        return (size - 1) - turned

    return along


def _global(reduction: Reduction) -> Callable[[Value], Value]:
    """A pool over all positions of a channel."""
    return lambda x: reduction(x, tuple(range(2, len(x.shape))), True)


REDUCTIONS: Table = {
    **{op_type: _rows(op_type, reduction) for op_type, reduction in REDUCTIONS_OF.items()},
    "ArgMax": (Row(_place("argmax")),),
    "ArgMin": (Row(_place("argmin")),),
    "GlobalAveragePool": (Row(_global(_mean)),),
    "GlobalMaxPool": (Row(_global(_extreme(statistics.amax))),),
}
