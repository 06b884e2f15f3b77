"""Operands that kernels which multiply compute themselves, block by block as they need them: the kernel that would have
prepared such an operand, element by element, is done without, and the operand never reaches memory.

Done to a plan whose products have been placed (`absorb.py`). The operand's values are computed again for each tile
beside the one that they belong to, which has its price.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tritonnotes.ir.graph import Value
from tritonnotes.ir.types import element_count

from .absorb import Kernel, loaded_by, tile_in, with_parts
from .axes import base_of
from .clusters import Partition, in_order
from .cost import memory_plan, refusal_of
from .products import operands
from .traffic import NOMINAL_SIZES, recompute_bytes
from .units import OPERAND, PRODUCT, Unit, Units, is_elementwise, memory_of

if TYPE_CHECKING:
    from .choose import Choice

MOST_UNITS = 1_000
"""The largest graph, in primitives, that is looked through for such kernels: each takes a look at all others."""


def prepare_operands(found: Choice) -> Choice:
    """The choice without kernels that only prepare operands, where that pays."""
    if len(found.units.units) > MOST_UNITS:
        return found
    for kernel in found.partition.kernels:
        other = _without(found, kernel)
        if other is not None and other.launched_cost + _repeated(other) < found.launched_cost + _repeated(found):
            found = other
    return found


def operand_cone(value: Value, held: Collection[Value]) -> list[Value]:
    """What a kernel that multiplies `value` computes of it, in order: all that is elementwise of what it has `held`."""
    found: set[Value] = set()
    todo = [value]
    while todo:
        source = base_of(todo.pop())
        if source in held and source not in found and source.op.kind in ("elementwise", "cast"):
            found.add(source)
            todo += source.inputs
    return sorted(found, key=lambda v: v.index)


def _without(choice: Choice, kernel: Kernel) -> Choice | None:
    """The choice with what a kernel computes left to those that multiply it; None where it is needed otherwise."""
    if not _may_be_operand(choice, kernel):
        return None
    partition = choice.partition
    made = with_parts(choice, dict.fromkeys((u.value for u in kernel), OPERAND))
    values = {u.value for u in kernel}
    held = values.union(partition.again.get(kernel, ()))
    needed: dict[Kernel, set[Value]] = {}
    for value, home in _loads(choice, kernel):
        needed.setdefault(home, set()).update(operand_cone(value, held))
    kernels, again = [], {k: some for k, some in partition.again.items() if k != kernel}
    missing = set(values)
    for old in partition.kernels:
        if old == kernel:
            continue
        mine = needed.get(old, set())
        new = old.union(made.units.producer[v] for v in mine & missing)
        copies = {*again.pop(old, ()), *(mine - missing)} - {u.value for u in new}
        missing -= mine
        kernels.append(new)
        if copies:
            again[new] = tuple(sorted(copies, key=lambda v: v.index))
    ordered = in_order(made.legality, Partition(tuple(kernels), again))
    if ordered is None or missing:
        return None
    if refusal_of(made.legality, ordered) is not None or not all(
        _reads_memory(made, ordered, k) for k in ordered.kernels
    ):
        return None
    return replace(made, partition=ordered)


def _reads_memory(choice: Choice, partition: Partition, kernel: Kernel) -> bool:
    """Whether all that operands of a kernel are made of lies in memory before it, and is not overwritten there: other
    programs read it too, copied values included."""
    units, held = choice.units, {u.value for u in kernel if u.part != PRODUCT}.union(partition.again.get(kernel, ()))
    products = [u.value for u in kernel if u.part == PRODUCT]
    cone = {v for p in products for a in p.inputs for v in operand_cone(a, held)}
    sources = {memory_of(a) for v in cone for a in v.inputs if base_of(a) not in cone}
    written = choice.legality.facts_of(kernel).written
    return not any(m in written or units.producer.get(m) in kernel for m in sources)


def _may_be_operand(choice: Choice, kernel: Kernel) -> bool:
    """Whether a kernel computes nothing but operands of products, element by element and for nobody else."""
    units, legality, partition = choice.units, choice.legality, choice.partition
    copied = partition.again.get(kernel, ())
    if any(u.value in units.roots for u in kernel) or not all(is_elementwise(units.producer[v]) for v in copied):
        return False
    if any(u.part or u.value.op.kind not in ("elementwise", "cast") or legality.facts[u].written for u in kernel):
        return False
    left = list(_loads(choice, kernel))
    readers = [(v, r) for v, home in left for r in legality.readers[v] if r in home]
    return bool(left) and all(_is_operand(units, value, reader) for value, reader in readers)


def _loads(choice: Choice, kernel: Kernel) -> Iterator[tuple[Value, Kernel]]:
    """What other kernels read from memory that this one leaves there, and which do."""
    values = {u.value for u in kernel}
    for other in choice.partition.kernels:
        if other != kernel:
            for value in loaded_by(choice.legality, choice.partition, other) & values:
                yield value, other


def _is_operand(units: Units, value: Value, reader: Unit) -> bool:
    """Whether a reader multiplies a value as it is, a matrix of rows and columns."""
    labels = units.axes.labels[value]
    is_matrix = len(labels) == 2 and None not in labels and units.axes.is_distinct(value)
    return is_matrix and reader.part == PRODUCT and any(a is value for a in reader.value.inputs)


def _repeated(choice: Choice) -> int:
    """The price of computing operands again for each tile beside their own, in bytes."""
    memory = memory_plan(choice.units, choice.legality, choice.partition)
    price = 0
    for kernel in choice.partition.kernels:
        space = memory.spaces[kernel]
        held = {u.value for u in kernel if u.part == OPERAND}.union(choice.partition.again.get(kernel, ()))
        for product in (u.value for u in kernel if u.part == PRODUCT):
            rows, columns = tile_in(choice.units, space, kernel)
            sizes = {True: columns, False: rows}
            for operand in operands(choice.units.axes, product):
                has_rows = operand.dims[0][0] in space.rows
                across = space.cols if has_rows else space.rows
                count = -(-element_count(choice.units.axes.shape(across), NOMINAL_SIZES) // sizes[has_rows])
                price += (count - 1) * sum(map(recompute_bytes, operand_cone(operand.value, held)))
    return price
