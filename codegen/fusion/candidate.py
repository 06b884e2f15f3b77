"""A candidate: a partition with the units and rules that it is one of."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tritonnotes.ir.core.graph import Value

from ..analysis.units import Unit, Units, generating
from ..analysis.views import memory_of
from .cost import cost_of, scheduled_cost
from .legality import Legality
from .memory import loads_of, refusal_of
from .partition import Partition
from .search.atoms import Group


@dataclass(frozen=True)
class Candidate:
    """A partition with the units and rules that it is one of, the sets of units that were `wanted` together, and how it
    was come by."""

    units: Units
    legality: Legality
    wanted: list[Group]
    partition: Partition
    how: str = "greedy"

    @cached_property
    def cost(self) -> int:
        """In bytes; beyond measure where the partition is illegal, as a wish may make it."""
        if refusal_of(self.legality, self.partition) is not None:
            return sys.maxsize
        return cost_of(self.units, self.legality, self.partition).total

    @cached_property
    def scheduled_cost(self) -> int:
        """The cost once last programs finish what they can and updates are joined."""
        if self.cost == sys.maxsize:
            return self.cost
        return scheduled_cost(self.units, self.legality, self.partition).total


Kernel = frozenset[Unit]


def loaded_by(legality: Legality, partition: Partition, kernel: Kernel) -> frozenset[Value]:
    """The memories that a kernel reads."""
    return frozenset(memory_of(v) for v in loads_of(legality, kernel, partition.recomputed.get(kernel, ())))


def with_parts(candidate: Candidate, parts: Mapping[Value, str]) -> Candidate:
    """The same choice over units of which some are products, or operands of them."""
    units, became = generating(candidate.units, parts)
    legality = Legality(units, _pairs(candidate.legality, became), candidate.legality)
    wanted = [frozenset(became[u] for u in group) for group in candidate.wanted]
    return replace(
        candidate, units=units, legality=legality, wanted=wanted, partition=renamed(candidate.partition, became)
    )


def _pairs(legality: Legality, became: dict[Unit, Unit]) -> Iterator[tuple[Unit, Unit]]:
    for unit, others in legality.apart.items():
        yield from ((became[unit], became[other]) for other in others)


def renamed(partition: Partition, became: dict[Unit, Unit]) -> Partition:
    """The partition with other units in the place of some."""
    names = {k: frozenset(became.get(u, u) for u in k) for k in partition.kernels}
    return Partition(tuple(names.values()), {names[k]: values for k, values in partition.recomputed.items()})
