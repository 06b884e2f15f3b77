"""Operands that kernels which multiply compute themselves, block by block as they need them, so that they never reach
memory. A kernel that would only have prepared such operands, element by element, is done without.

Done to a candidate whose products have been placed (`matmul_epilogue.py`). The operand's values are computed again for
each tile beside the one that they belong to, which has its price.
"""

from __future__ import annotations

from collections.abc import Iterator

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import element_count

from ..analysis.matmul import operands
from ..analysis.units import OPERAND, PRODUCT, Unit, Units, UnitSet
from ..analysis.views import base_of, memory_of, operand_cone
from ..cost.matmul import tile_in
from ..cost.traffic import nominal_bytes, rematerialize_bytes
from ..support.sizes import NOMINAL_SIZES
from .candidate import Candidate, once
from .cost import scheduled_cost
from .partition import Partition

MOST_UNITS = 1_000
"""The largest graph, in primitives, that is looked through for such operands: each takes a look at all kernels."""


LEAST_SAVED = 0.01
"""Where no launch is saved, the part of a plan's cost that must be in question: trying takes time."""


def fuse_matmul_prologues(found: Candidate) -> Candidate:
    """The candidate without kernels that only prepare operands, and without operands that others leave in memory beside
    what they are made of, where that pays."""
    if len(found.units.units) > MOST_UNITS:
        return found
    for values in [{u.value for u in k} for k in found.kernels]:
        # Kernels change as they take operands over, but keep what they compute of whole tiles.
        kernel = next((k for k in found.kernels if any(u.value in values for u in _whole(k))), None)
        if kernel is None or not _is_worth_trying(found, kernel):
            continue
        other = operands_elsewhere(found, kernel)
        if other is not None and _cost(other) < _cost(found):
            found = other
    return found


def _is_worth_trying(candidate: Candidate, kernel: UnitSet) -> bool:
    """Whether leaving the operands of a kernel to others may save a launch, or bytes that count."""
    if all(_is_plain(candidate, u) for u in kernel):
        return True
    saved = sum((1 + len(readers)) * nominal_bytes(v) for v, readers in _operands_of(candidate, kernel).items())
    return saved > LEAST_SAVED * scheduled_cost(candidate).total


def _whole(kernel: UnitSet) -> Iterator[Unit]:
    return (u for u in kernel if u.part != OPERAND)


def operands_elsewhere(candidate: Candidate, kernel: UnitSet) -> Candidate | None:
    """The candidate with the operands that a kernel computes left to those that multiply them, and the kernel without
    what only they needed, or without a rest not there at all; None where there are no such operands."""
    wanted = _operands_of(candidate, kernel)
    if not wanted:
        return None
    partition = candidate.partition
    gone = _only_for(candidate, kernel, set(wanted))
    moved = gone.intersection(u.value for u in kernel)
    made = candidate.with_parts(dict.fromkeys(moved, OPERAND))
    held = _held(candidate, kernel, set(wanted))
    needed: dict[UnitSet, set[Value]] = {}
    for value, readers in wanted.items():
        for reader in readers:
            needed.setdefault(reader, set()).update(operand_cone(value, held))
    kernels, recomputed = [], dict(partition.recomputed)
    missing = set(moved)
    for old in partition.kernels:
        copied = recomputed.pop(old, ())
        mine = needed.get(old, set())
        if old == kernel:
            new = frozenset(u for u in kernel if u.value not in moved)
            copied = tuple(v for v in copied if v not in gone)
        else:
            new = old.union(made.units.producer[v] for v in mine & missing)
            missing -= mine
        copies = {*copied, *mine} - {u.value for u in new}
        if new:
            kernels.append(new)
        if new and copies:
            recomputed[new] = tuple(sorted(copies, key=lambda v: v.index))
    other = made.with_partition(Partition(tuple(kernels), recomputed))
    if missing or other is None or other.refusal is not None:
        return None
    return other if all(reads_memory(other, k) for k in other.kernels) else None


def made_for(candidate: Candidate, kernel: UnitSet) -> set[Value]:
    """What a kernel computes for operands that it leaves to others, themselves included."""
    wanted = _operands_of(candidate, kernel)
    held = _held(candidate, kernel, set(wanted))
    return {v for operand in wanted for v in operand_cone(operand, held)}


def _held(candidate: Candidate, kernel: UnitSet, wanted: set[Value]) -> set[Value]:
    """What of a kernel can be computed elsewhere, element by element, and is not in memory but for its `wanted` values
    alone."""
    in_memory = {v for v, _ in _loads(candidate, kernel)} - wanted
    return {u.value for u in kernel if _is_plain(candidate, u)}.union(candidate.recomputed(kernel)) - in_memory


def _operands_of(candidate: Candidate, kernel: UnitSet) -> dict[Value, list[UnitSet]]:
    """The values that a kernel computes, element by element, and leaves in memory only to be multiplied; and the
    kernels that do."""
    units, legality = candidate.units, candidate.legality
    found: dict[Value, list[UnitSet]] = {}
    others: set[Value] = set()
    for value, reader in _loads(candidate, kernel):
        found.setdefault(value, []).append(reader)
        members = candidate.computed(reader)
        if not all(_is_operand(units, value, r) for r in legality.readers[value] if r in members):
            others.add(value)
    return {v: k for v, k in found.items() if v not in others and _is_plain(candidate, units.producer[v])}


def _is_plain(candidate: Candidate, unit: Unit) -> bool:
    """Whether a unit computes something element by element that nobody needs in memory for its own sake."""
    is_elementwise_here = not unit.part and unit.value.op.kind in ("elementwise", "cast")
    return (
        is_elementwise_here and unit.value not in candidate.units.roots and not candidate.legality.facts[unit].written
    )


def _only_for(candidate: Candidate, kernel: UnitSet, wanted: set[Value]) -> set[Value]:
    """What a kernel computes, again or not, for `wanted` values alone; themselves included where it has no other use
    for them."""
    copied = set(candidate.recomputed(kernel))
    elsewhere = {v for v, _ in _loads(candidate, kernel)} - wanted
    members = candidate.computed(kernel)
    readers: dict[Value, set[Value]] = {}
    for member in members:
        for source in candidate.legality.sources[member]:
            readers.setdefault(source, set()).add(member.value)
    found: set[Value] = set()
    for unit in sorted(members, key=lambda u: -u.value.index):
        value = unit.value
        if value not in copied and (value in elsewhere or not _is_plain(candidate, unit)):
            continue
        if found.issuperset(readers.get(value, ())) and (value in readers or value in wanted):
            found.add(value)
    return found


def reads_memory(candidate: Candidate, kernel: UnitSet) -> bool:
    """Whether all that operands of a kernel are made of lies in memory before it, and is not overwritten there: other
    programs read it too, copied values included."""
    units = candidate.units
    held = {u.value for u in kernel if u.part != PRODUCT}.union(candidate.recomputed(kernel))
    products = [u.value for u in kernel if u.part == PRODUCT]
    cone = {v for p in products for a in p.inputs for v in operand_cone(a, held)}
    sources = {memory_of(a) for v in cone for a in v.inputs if base_of(a) not in cone}
    written = candidate.legality.facts_of(kernel).written
    return not any(m in written or units.producer.get(m) in kernel for m in sources)


def _loads(candidate: Candidate, kernel: UnitSet) -> Iterator[tuple[Value, UnitSet]]:
    """What other kernels read from memory that this one leaves there, and which do."""
    values = {u.value for u in kernel}
    for other in candidate.kernels:
        if other != kernel:
            for value in candidate.memories_read(other) & values:
                yield value, other


def _is_operand(units: Units, value: Value, reader: Unit) -> bool:
    """Whether a reader multiplies a value as it is, a matrix of rows and columns."""
    labels = units.axes.labels[value]
    is_matrix = len(labels) == 2 and None not in labels and units.axes.is_distinct(value)
    return is_matrix and reader.part == PRODUCT and any(a is value for a in reader.value.inputs)


@once
def _cost(candidate: Candidate) -> int:
    """The cost as launched, with the price of computing operands again for each tile beside their own, in bytes."""
    price = scheduled_cost(candidate).total
    for kernel in candidate.kernels:
        space = candidate.memory.spaces[kernel]
        held = {u.value for u in kernel if u.part == OPERAND}.union(candidate.recomputed(kernel))
        for product in (u.value for u in kernel if u.part == PRODUCT):
            rows, columns = tile_in(candidate.units, space, kernel)
            sizes = {True: columns, False: rows}
            for operand in operands(candidate.units.axes, product):
                has_rows = operand.dims[0][0] in space.rows
                across = space.cols if has_rows else space.rows
                count = -(-element_count(candidate.units.axes.shape(across), NOMINAL_SIZES) // sizes[has_rows])
                price += (count - 1) * sum(map(rematerialize_bytes, operand_cone(operand.value, held)))
    return price
