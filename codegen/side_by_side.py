"""Products that share a launch: weight gradients with their updates, for which nothing waits, so all run at the end.

Each alone has few tiles; together they fill more of a GPU, in one launch. Done to the plan that was chosen, as joining
them moves the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tritonnotes.ir.types import Shape

from .absorb import shares_in
from .clusters import Partition, waits
from .cost import MemoryPlan, memory_plan
from .fusion import Legality
from .group_updates import Members
from .products import known_size, summed
from .units import OPERAND, PRODUCT, Units, is_elementwise

if TYPE_CHECKING:
    from .plan import KernelPlan

GROUPED_MATMUL = "products"

MOST_SIDES = 8
"""The most products of one launch: the kernel has a branch for each."""


def join_products(
    units: Units,
    legality: Legality,
    partition: Partition,
    launches: tuple[KernelPlan, ...],
    taken: frozenset[str] = frozenset(),
) -> tuple[KernelPlan, ...]:
    """The launches of a partition with products joined, in an order in which they can run; `taken` are other names."""
    known = {frozenset(k.units): k for k in launches}
    made, names = list(launches), {*taken, *(k.name for k in launches)}
    for group in product_groups(units, legality, partition, memory_plan(units, legality, partition)):
        members = [known[k] for k in group]
        rules = dict.fromkeys(u.value.scope.op for k in members for u in k.units if u.value.scope.phase == "update")
        name = "_".join([GROUPED_MATMUL, *(rule.removeprefix("custom.") for rule in rules)])
        while name in names:
            name += "_more"
        names.add(name)
        computed = {u.value for k in members for u in k.units}
        joined = replace(
            members[-1],
            name=name,
            kind=GROUPED_MATMUL,
            units=tuple(u for k in members for u in k.units),
            recomputed=tuple(dict.fromkeys(v for k in members for v in k.recomputed if v not in computed)),
            loads=tuple(dict.fromkeys(v for k in members for v in k.loads)),
            stores=tuple(v for k in members for v in k.stores),
            tile=(0, 0),
            shares=0,
            members=tuple(members),
        )
        # Nothing waits for any of them, and the last one waits for the others.
        made[max(made.index(k) for k in members)] = joined
        made = [k for k in made if k not in members]
    return tuple(made)


def product_groups(
    units: Units, legality: Legality, partition: Partition, memory: MemoryPlan
) -> Iterator[tuple[Members, ...]]:
    """The kernels of a partition that are joined, a tuple for each launch: one product each, summed over the same sizes
    by as many programs."""
    waited_for = set[Members]().union(*waits(legality, partition).values())
    alike: dict[tuple[Shape, bool], list[Members]] = {}
    for kernel in partition.kernels:
        products = [u.value for u in kernel if u.part == PRODUCT]
        if kernel in waited_for or len(products) != 1 or known_size(products[0].shape) is None:
            continue
        if all(is_elementwise(u) or u.part in (PRODUCT, OPERAND) for u in kernel):
            is_shared = shares_in(units, memory.spaces[kernel], kernel) > 0
            alike.setdefault((summed(products[0]), is_shared), []).append(kernel)
    for kernels in alike.values():
        groups: list[list[Members]] = []
        for kernel in kernels:
            apart = {other for unit in kernel for other in legality.apart.get(unit, ())}
            free = (g for g in groups if len(g) < MOST_SIDES and not any(apart & other for other in g))
            found = next(free, None)
            if found is None:
                groups.append([kernel])
            else:
                found.append(kernel)
        yield from (tuple(group) for group in groups if len(group) > 1)
