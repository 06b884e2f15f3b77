"""Rows that registers do not hold: which kernels walk along them, and what they read again on each walk."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import LONG_ROW, ROW_BYTES, Axes, known_product, row_bytes
from ..analysis.idioms import holds_numbers, largest_of, running_maximum
from ..analysis.views import base_of


def is_looped(
    axes: Axes, cols: Iterable[int], loads: Iterable[Value], values: Iterable[Value], partials: Iterable[Value]
) -> bool:
    """Whether a kernel that reduces rows over `cols` walks along them block by block. A sum over all rows that is taken
    of whole rows keeps them on chip; the rules see to it that they fit."""
    wide = frozenset(cols)
    if any(axes.of(v.inputs[0]) & wide for v in partials):
        return False
    held = [v for v in loads if axes.of(v) & wide]
    # Numbers take 4 bytes at least, and the column numbers count where a value is made of them.
    held += dict.fromkeys(a for v in values for a in v.inputs if a.op.name == "iota" and axes.of(a) & wide)
    return row_bytes(axes, wide, sum(max(4, v.dtype.itemsize) for v in held)) > ROW_BYTES


def fits_row_per_program(axes: Axes, cols: Iterable[int], loads: Iterable[Value], values: Iterable[Value]) -> bool:
    """Whether a program that would walk along its row can hold it after all, if it does little else: takes the maximum
    and the sum of exponentials beside it, the place of the maximum and the element at a number. More reductions make
    ptxas spill, and so does making 32 bits of 16."""
    wide, known = frozenset(cols), list(values)
    held = [v for v in loads if axes.of(v) & wide]
    is_long = (known_product(axes, wide) or 0) > LONG_ROW
    if not is_long or any(v.dtype.itemsize != 4 for v in held) or row_bytes(axes, wide, 4 * len(held)) > ROW_BYTES:
        return False
    taken = [v for v in known if v.op.kind == "reduction" and axes.of(v.inputs[0]) & wide]
    return not holds_numbers(axes, wide, known) and all(
        v.op.name == "max" or running_maximum(v) is not None or largest_of(axes, wide, v) is not None for v in taken
    )


def loop_reads(axes: Axes, cols: Iterable[int], values: Iterable[Value], stores: Iterable[Value]) -> dict[Value, int]:
    """How many walks along the row read each value that has a number for each column and is computed elsewhere.

    `values` are computed here, in order, row by row. A walk takes all reductions whose arguments can be had by then,
    and computes again what earlier walks computed.
    """
    wide = frozenset(cols)
    computed = list(values)
    inside = set(computed)
    ready: dict[Value, int] = {}
    taken: dict[Value, int] = {}
    for value in computed:
        replicated = max((ready.get(base_of(a), 0) for a in value.inputs), default=0)
        if value.op.kind == "reduction" and axes.of(value.inputs[0]) & wide:
            largest = running_maximum(value)
            # A sum beside a running maximum is taken on the walk that takes that.
            taken[value] = replicated = replicated if largest is None else taken.get(largest, replicated)
            replicated += 1
        ready[value] = replicated
    wanted: dict[int, list[Value]] = {}
    for value, walk in taken.items():
        largest = running_maximum(value)
        wanted.setdefault(walk, []).append((value if largest is None or largest not in taken else largest).inputs[0])
    for value in stores:
        if axes.of(value) & wide:
            wanted.setdefault(ready[value], []).append(value)
    reads: dict[Value, int] = {}
    for roots in wanted.values():
        for value in _read_for(roots, inside, axes, wide):
            reads[value] = reads.get(value, 0) + 1
    return reads


def _read_for(roots: Iterable[Value], inside: set[Value], axes: Axes, wide: frozenset[int]) -> set[Value]:
    found: set[Value] = set()
    seen: set[Value] = set()
    todo = [base_of(v) for v in roots]
    while todo:
        value = todo.pop()
        if value in seen or not axes.of(value) & wide:
            continue
        seen.add(value)
        if value in inside:
            todo += map(base_of, value.inputs)
        else:
            found.add(value)
    return found
