"""How each reduction runs: along rows inside one program, down columns by programs that share it, or
replicated in every program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import MAX_ROW, MAX_WHOLE, known_product, reduced_axes
from ..analysis.units import PARTIAL, REPLICATED, Units
from ..analysis.views import cone_of, is_view, source_of
from ..cost.traffic import nominal_bytes

MOST_MEMBERS = 8
"""The most primitives behind such a sum."""


REPLICATED_PRICE = 72
"""Reading an input in every program costs as much as moving it so often: each of the 132 multiprocessors of an H100
reads it from the cache, which gives 5.5 TB/s where memory gives 3.0. One program alone takes about as long, as it draws
a 66th of what memory gives. Where each program takes one long row alone, there are more of them, and each
reads it again: from the cache, which the price leaves out as the count of bytes does."""


def replicable_sums(units: Units) -> frozenset[Value]:
    """The sums to a single number that every program may compute for itself, and that more than one number needs."""
    found = set()
    # A library call reads memory, where what every program computes for itself never lies.
    read_by_libraries = {source_of(arg) for unit in units.units if unit.is_library for arg in unit.value.inputs}
    for unit in units.units:
        is_number = unit.value.op.kind == "reduction" and unit.part != PARTIAL and not units.axes.of(unit.value)
        is_number = is_number and unit.value not in read_by_libraries
        if is_number and _is_small(units, unit.value) and _is_needed_everywhere(units, unit.value):
            found.add(unit.value)
    return frozenset(found)


def replicated_bytes(value: Value) -> int:
    """The price of taking such a sum in one kernel, in bytes."""
    return REPLICATED_PRICE * sum(nominal_bytes(leaf) for leaf in cone_of(value)[1])


def _is_small(units: Units, total: Value) -> bool:
    members, leaves = cone_of(total)
    if not leaves or len(members) > MOST_MEMBERS or any(leaf.op.name != "input" for leaf in leaves):
        return False
    if any(leaf.name in units.graph.updates for leaf in leaves):
        return False  # a program that comes late would read what others left
    if any(m.op.kind not in ("elementwise", "cast") and not is_view(m) for m in members):
        return False
    axes = units.axes.of(total.inputs[0])
    return len(axes) == 1 and all(units.axes.of(leaf) == axes for leaf in leaves)


def _is_needed_everywhere(units: Units, value: Value) -> bool:
    """Whether something that has axes is computed from a single number, through no other reduction."""
    todo: list[Value] = [value]
    seen: set[Value] = set()
    readers: dict[Value, list[Value]] = {}
    for other in units.graph.values:
        for arg in other.inputs:
            readers.setdefault(arg, []).append(other)
    while todo:
        for reader in readers.get(todo.pop(), ()):
            if reader in seen or reader.op.kind == "reduction":
                continue
            if units.axes.of(reader):
                return True
            seen.add(reader)
            todo.append(reader)
    return False


Strategies = Mapping[Value, bool]
"""For reductions whether they are row reductions; those that are missing are what is usual for their axes."""


def other_strategies(units: Units) -> list[Strategies]:
    """For each set of axes that reductions run over, the strategy that these reductions do not have now,
    where both make sense. Those that reduce most bytes come first."""
    rows = {u.value: not u.part for u in units.units if u.value.op.kind == "reduction" and u.part != REPLICATED}
    alike: dict[tuple[frozenset[int], bool], list[Value]] = {}
    for value, is_row in rows.items():
        alike.setdefault((reduced_axes(units.axes, value), is_row), []).append(value)
    groups = sorted(alike.items(), key=lambda item: -sum(nominal_bytes(v.inputs[0]) for v in item[1]))
    may_be_other = {True: may_be_column, False: may_be_row}
    return [
        dict.fromkeys(values, not is_row)
        for (_, is_row), values in groups
        if all(may_be_other[is_row](units, v) for v in values)
    ]


def may_be_column(units: Units, value: Value) -> bool:
    """Whether programs may share a reduction: of rows as they lie in memory each is better reduced by one."""
    known = [a for a in units.axes.labels[value.inputs[0]] if a is not None]
    gone = reduced_axes(units.axes, value)
    return len(gone) == len(known) or set(known[len(known) - len(gone) :]) != gone


def may_be_row(units: Units, value: Value) -> bool:
    """Whether one program can reduce a whole row: its length is known, and where nothing else is left, it is short."""
    length = known_product(units.axes, reduced_axes(units.axes, value))
    return length is not None and length <= (MAX_ROW if units.axes.of(value) else MAX_WHOLE)


def combinations(alternatives: Sequence[Strategies]) -> Iterator[Strategies]:
    """Every combination of alternatives, beginning with none of them."""
    for chosen in range(1 << len(alternatives)):
        yield {v: f for i, some in enumerate(alternatives) if chosen >> i & 1 for v, f in some.items()}
