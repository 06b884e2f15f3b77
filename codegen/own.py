"""Sums that every program takes for itself, of small inputs: whoever needs one need not wait for the others.

A mean over the targets that count divides by their number, which no program knows before all have seen their rows. But
the targets are few bytes: each program reads all of them, and has the gradient of the mean while it computes the loss.
"""

from __future__ import annotations

from tritonnotes.ir.graph import Value

from .axes import is_view
from .traffic import nominal_bytes
from .units import PARTIAL, Units, cone_of

MOST_MEMBERS = 8
"""The most primitives behind such a sum."""

OWN_SHARE = 72
"""Reading an input in every program costs as much as moving it so often: each of the 132 multiprocessors of an H100
reads it from the cache, which gives 5.5 TB/s where memory gives 3.0. One program alone takes about as long, as it draws
a 66th of what memory gives. Where each program takes one long row alone, there are more of them, and each
reads it again: from the cache, which the price leaves out as the count of bytes does."""


def own_sums(units: Units) -> frozenset[Value]:
    """The sums to a single number which every program may take for itself, and which are needed for more numbers."""
    found = set()
    for unit in units.units:
        is_number = unit.value.op.kind == "reduction" and unit.part != PARTIAL and not units.axes.of(unit.value)
        if is_number and _is_small(units, unit.value) and _is_needed_everywhere(units, unit.value):
            found.add(unit.value)
    return frozenset(found)


def own_bytes(value: Value) -> int:
    """The price of taking such a sum in one kernel, in bytes."""
    return OWN_SHARE * sum(nominal_bytes(leaf) for leaf in cone_of(value)[1])


def _is_small(units: Units, total: Value) -> bool:
    members, leaves = cone_of(total)
    if not leaves or len(members) > MOST_MEMBERS or any(leaf.op.name != "input" for leaf in leaves):
        return False
    if any(leaf.name in units.graph.updates for leaf in leaves):
        return False  # a program that comes late would read what others left
    if any(m.op.kind not in ("elementwise", "cast") and not is_view(m) for m in members):
        return False
    walked = units.axes.of(total.inputs[0])
    return len(walked) == 1 and all(units.axes.of(leaf) == walked for leaf in leaves)


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
