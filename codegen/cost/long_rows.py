"""Which kernels go along their rows in loops, as registers do not hold them, and how often loops read each load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, element_count

from ..analysis.axes import LONG_ROW, ROW_BYTES, Axes, Space, known_product, row_bytes
from ..analysis.idioms import (
    RUNNING_MAXIMUM,
    RowValues,
    fits_beside_row,
    keeps_column_numbers,
    match,
    moments_of,
    selected_of,
)
from ..analysis.row_loops import Row, schedule_row_loops
from ..analysis.units import PARTIAL, REPLICATED, Unit, Units
from ..analysis.views import base_of, memory_of
from ..support.sizes import NOMINAL_SIZES
from .traffic import Traffic

Storage = Mapping[Value, DType]


CACHED_PRICE = 0.55
"""What a byte that a loop reads again costs, of one from memory: an H100 has 5.5 TB/s from its cache, else 3.0."""


CACHED_ROW = 192 * 2**10
"""The longest row, in bytes, of which a second loop still finds what the first has read: those of the 264 programs of
an H100 fill the 50 MB of its cache."""


def loop_reads(
    units: Units, computed: Sequence[Unit], space: Space, loads: Collection[Value], stores: Collection[Value]
) -> Mapping[Value, int] | None:
    """How many loops along the row read each load of a kernel that computes some units; None where it holds rows."""
    if not space.reduces_rows:
        return None
    row = RowValues(units.axes, frozenset(space.cols))
    values = sorted({u.value for u in computed}, key=lambda v: v.index)
    partials = [u.value for u in computed if u.part == PARTIAL]
    if not _is_looped(row, loads, values, partials):
        return None
    reads = _reads(row, values, stores)
    if space.rows and max(reads.values(), default=1) > 1 and _fits_row_per_program(row, loads, values):
        return None
    for leaf in {s for u in computed if u.part == REPLICATED for s in units.sources(u)}:
        if any(leaf in set(units.sources(u)) for u in computed if u.part != REPLICATED):
            reads[leaf] = reads.get(leaf, 1) + 1
    # What all rows share, such as a weight, is read once, and stays in the cache from then on.
    rows = frozenset(space.rows)
    return {v: reads.get(v, 1) for v in loads if not rows or units.axes.of(v) & rows}


def reread_discount(space: Space, reads: Mapping[Value, int], axes: Axes, moved: Traffic, storage: Storage) -> int:
    """By how many bytes a launch costs less than it moves, where what loops read again comes from the cache."""
    again = [v for v, count in reads.items() if count > 1]
    sizes = (element_count(axes.shape(tuple(axes.of(v) & set(space.cols))), NOMINAL_SIZES) for v in again)
    row = sum(size * storage[memory_of(v)].itemsize for size, v in zip(sizes, again, strict=True))
    return moved.reread - int(moved.reread * CACHED_PRICE) if row <= CACHED_ROW else 0


def _is_looped(row: RowValues, loads: Collection[Value], values: Sequence[Value], partials: Sequence[Value]) -> bool:
    """Whether registers do not hold a row. A sum over all rows that is taken of whole rows keeps them on chip; the
    rules see to it that they fit."""
    if any(row.is_wide(v.inputs[0]) for v in partials):
        return False
    held = [v for v in loads if row.is_wide(v)]
    # Numbers take 4 bytes at least, and the column numbers count where a value is made of them.
    held += dict.fromkeys(a for v in values for a in v.inputs if a.op.name == "iota" and row.is_wide(a))
    return row_bytes(row.axes, row.wide, sum(max(4, v.dtype.itemsize) for v in held)) > ROW_BYTES


def _fits_row_per_program(row: RowValues, loads: Collection[Value], values: Sequence[Value]) -> bool:
    """Whether a program that would loop along its row can hold it after all, as it does little else. Making 32 bits of
    16 makes ptxas spill."""
    held = [v for v in loads if row.is_wide(v)]
    is_long = (known_product(row.axes, row.wide) or 0) > LONG_ROW
    if not is_long or any(v.dtype.itemsize != 4 for v in held):
        return False
    if row_bytes(row.axes, row.wide, 4 * len(held)) > ROW_BYTES or keeps_column_numbers(row, values):
        return False
    return all(fits_beside_row(row, v) for v in values if row.is_reduction(v))


def _reads(row: RowValues, values: Sequence[Value], stores: Collection[Value]) -> Counter[Value]:
    """How many loops read each value that has a number for each column and is computed elsewhere."""
    args = {v: tuple(map(base_of, v.inputs)) for v in values}
    selected = {v: element for v in values if (element := selected_of(row, v, args)) is not None}
    args |= {v: tuple(map(base_of, element.needs)) for v, element in selected.items()}
    reductions = {v for v in values if row.is_reduction(v) and v not in selected}
    found = {v: match(RUNNING_MAXIMUM, v, row) for v in reductions}
    beside = {v: names["largest"] for v, names in found.items() if names is not None and names["largest"] in reductions}
    deviating = {v: pair for v in reductions if v.dtype.is_float and (pair := moments_of(v, row))}
    moments = {v: (x, base_of(about)) for v, (x, about) in deviating.items()}
    stored = [v for v in stores if row.is_wide(v)]
    loops = schedule_row_loops(Row(args, row.is_wide, reductions, beside, moments, stored)).loops
    return Counter(v for loop in loops for v in loop.read)
