"""What a row's reductions ask of one column alone: the element at a number, and where the largest lies.

Formulas say both over whole rows, as a maximum over one class or a minimum of column numbers. A kernel that holds one
long row has no registers to spare for either: it loads the element, and takes the place together with the largest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tritonnotes.ir.core.graph import Value

from .axes import Axes
from .views import base_of


def is_numbers(axes: Axes, wide: frozenset[int], value: Value) -> bool:
    """Whether a value is the column numbers."""
    return value.op.name == "iota" and bool(axes.of(value) & wide)


def is_column(axes: Axes, wide: frozenset[int], value: Value) -> bool:
    """Whether a value says where a column's number is that of the row: column number = one number for each row."""
    if value.op.name != "eq":
        return False
    numbers, number = value.inputs
    return is_numbers(axes, wide, base_of(numbers)) and not axes.of(number) & wide


def selected_of(axes: Axes, wide: frozenset[int], value: Value) -> tuple[Value, Value] | None:
    """What is taken of each row, and the number of the column, where a maximum over a single column is that element.
    Where no column has the number, that is −∞."""
    if value.op.name != "max":
        return None
    chosen = base_of(value.inputs[0])
    if chosen.op.name != "where":
        return None
    condition, x, other = map(base_of, chosen.inputs)
    if not is_column(axes, wide, condition) or other.op.name != "constant" or other.attrs["value"] != -math.inf:
        return None
    return x, condition.inputs[1]


def largest_of(axes: Axes, wide: frozenset[int], value: Value) -> Value | None:
    """The maximum m of x, where a value is the first column in which x is m or NaN."""
    if value.op.name != "min":
        return None
    chosen = base_of(value.inputs[0])
    if chosen.op.name != "where":
        return None
    condition, numbers, other = map(base_of, chosen.inputs)
    if condition.op.name != "logical_or" or not is_numbers(axes, wide, numbers) or other.op.name != "constant":
        return None
    same, nan = map(base_of, condition.inputs)
    if same.op.name != "eq" or nan.op.name != "ne":
        return None
    x, largest = map(base_of, same.inputs)
    if largest.op.name != "max" or {base_of(v) for v in (*nan.inputs, largest.inputs[0])} != {x}:
        return None
    return largest


def holds_numbers(axes: Axes, wide: frozenset[int], values: Iterable[Value]) -> bool:
    """Whether column numbers are kept beside a row: whether they are read by more than comparisons with one number of
    each row, and searches for the place of the largest."""
    known = list(values)
    free = {base_of(v.inputs[0]) for v in known if largest_of(axes, wide, v) is not None}
    free |= {v for v in known if is_column(axes, wide, v)}
    return any(is_numbers(axes, wide, base_of(a)) for v in known if v not in free for a in v.inputs)


def running_maximum(total: Value) -> Value | None:
    """The maximum m of x beside a sum of eˣ⁻ᵐ: both are taken on one walk, the sum rescaled when m grows."""
    if total.op.name != "sum":
        return None
    exponential = base_of(total.inputs[0])
    shifted = base_of(exponential.inputs[0]) if exponential.op.name == "exp" else exponential
    if exponential.op.name != "exp" or shifted.op.name != "sub":
        return None
    x, largest = map(base_of, shifted.inputs)
    return largest if largest.op.name == "max" and base_of(largest.inputs[0]) is x else None
