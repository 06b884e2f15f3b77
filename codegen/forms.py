"""How each reduction is carried out: along rows inside one program, or down columns by programs that share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tritonnotes.ir.graph import Value

from .axes import MAX_ROW, MAX_WHOLE, known_product, reduced_axes
from .traffic import nominal_bytes
from .units import OWN, Units

Forms = Mapping[Value, bool]
"""For reductions whether they are row reductions; those that are missing are what is usual for their axes."""


def other_forms(units: Units) -> list[dict[Value, bool]]:
    """For each set of axes that reductions run over, these reductions in the form that they do not have now, where both
    make sense. Those that reduce most bytes come first."""
    rows = {u.value: not u.part for u in units.units if u.value.op.kind == "reduction" and u.part != OWN}
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


def combinations(choices: list[dict[Value, bool]]) -> Iterator[Forms]:
    """Every combination of some choices, none of them first."""
    for chosen in range(1 << len(choices)):
        yield {v: f for i, choice in enumerate(choices) if chosen >> i & 1 for v, f in choice.items()}
