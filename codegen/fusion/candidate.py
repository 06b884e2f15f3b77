"""A candidate: one way to cut the units of a graph into kernels, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, TypeVar

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Value

from ..analysis.axes import Space
from ..analysis.units import PARTIAL, Unit, Units, UnitSet, generating
from ..analysis.views import memory_of
from ..support.text import counted
from .constraints import Fusion
from .legality import Legality, Refusal
from .memory import Loads, MemoryPlan, loads_of_kernels, memory_plan, spaces_of_kernels, units_of
from .partition import Partition, in_order, waits

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Candidate:
    """A partition, with all that passes need to judge and to change it. Passes take one and return one.

    `legality` has the units and the rules among them. `options` are what the user asks for; `wanted` are the sets of
    units that must share a kernel, for it or as one loop gathers the moments that they follow from. `how` says how the
    partition was found. `finalized_by` names, for each kernel that the last program of another one runs, or its first
    where nothing is finalized, that other kernel.

    What is derived from these is computed when it is first asked for, and kept.
    """

    legality: Legality
    partition: Partition
    options: Fusion = Fusion()
    wanted: tuple[UnitSet, ...] = ()
    how: str = "greedy"
    finalized_by: Mapping[UnitSet, UnitSet] = field(default_factory=dict)
    kept: dict[object, Any] = field(default_factory=dict, init=False, repr=False)
    """What functions have found out about it, see `once`."""

    @property
    def units(self) -> Units:
        return self.legality.units

    @property
    def kernels(self) -> tuple[UnitSet, ...]:
        """The kernels of the partition, in an order in which they can run."""
        return self.partition.kernels

    # -- what is derived --

    @cached_property
    def waits(self) -> Mapping[UnitSet, set[UnitSet]]:
        """For each kernel those that run before it."""
        return waits(self.legality, self.partition)

    @cached_property
    def memory(self) -> MemoryPlan:
        """What the kernels load and store. The candidate must be legal."""
        return memory_plan(self.legality, self.partition, self._loads, self._spaces)

    @cached_property
    def refusal(self) -> Refusal | None:
        """Why some kernel is none, as constraints may have it; None where all are legal."""
        refused = next((s for s in self._spaces.values() if isinstance(s, Refusal)), None)
        return refused or self._parted_moments or self._parted_copies

    @property
    def _parted_moments(self) -> Refusal | None:
        """Why kernels are none that take only one of the sums that follow from the same moments."""
        for kernel in self.kernels if any(u.moments for u in self.units.units) else ():
            taken = {u.value for u in kernel if u.part == PARTIAL}
            for moments in {u.moments for u in kernel if u.part == PARTIAL and u.moments is not None}:
                if not {moments.total, moments.deviations, moments.squares} <= taken:
                    name = moments.deviations.name
                    return Refusal("moments", f"{name} follows from moments that one loop gathers together")
        return None

    @property
    def _parted_copies(self) -> Refusal | None:
        """Why kernels are none that compute again what a user forbids them."""
        changed = self.partition.recomputed if self.legality.apart else ()
        return next(filter(None, (self.legality.parted(self.computed(kernel)) for kernel in changed)), None)

    def raise_if_illegal(self) -> None:
        """Raise `PlanError` with the rule that some kernel breaks."""
        if self.refusal is not None:
            raise PlanError(f"fuse: this cannot be fused, by the rule {self.refusal.rule!r}: {self.refusal.reason}")

    def recomputed(self, kernel: UnitSet) -> tuple[Value, ...]:
        """What a kernel computes again instead of loading it."""
        return self.partition.recomputed.get(kernel, ())

    def computed(self, kernel: UnitSet) -> list[Unit]:
        """The units that a kernel computes, again or not."""
        return units_of(self.units, kernel, self.partition)

    def memories_read(self, kernel: UnitSet) -> frozenset[Value]:
        """The memories that a kernel reads."""
        return frozenset(map(memory_of, self._loads[kernel]))

    @cached_property
    def _loads(self) -> Loads:
        return loads_of_kernels(self.legality, self.partition)

    @cached_property
    def _spaces(self) -> Mapping[UnitSet, Space | Refusal]:
        return spaces_of_kernels(self.legality, self._loads)

    def __repr__(self) -> str:
        return f"Candidate({self.units.graph.name!r}: {counted(len(self.kernels), 'kernel')}, {self.how})"

    def __str__(self) -> str:
        place = {kernel: number for number, kernel in enumerate(self.kernels, 1)}
        count = f"{len(self.kernels)} kernel{'' if len(self.kernels) == 1 else 's'}"
        lines = [f"candidate for {self.units.graph.name}: {count}, {self.how}"]
        for kernel, number in place.items():
            line = f"  {number}. {', '.join(map(str, sorted(kernel, key=self.legality.place.__getitem__)))}"
            if self.recomputed(kernel):
                line += f"; recomputes {', '.join(v.name for v in self.recomputed(kernel))}"
            if kernel in self.finalized_by:
                line += f"; in the last block of {place[self.finalized_by[kernel]]}"
            lines.append(line)
        return "\n".join(lines)

    # -- what is changed --

    def with_partition(self, partition: Partition) -> Candidate | None:
        """The candidate with other kernels, put in an order in which they can run; None if they would wait for each
        other."""
        ordered = in_order(self.legality, partition)
        return None if ordered is None else replace(self, partition=ordered, finalized_by={})

    def with_apart(self, one: Unit, other: Unit) -> Candidate:
        """The same kernels where two units, which share none, may not share a launch either."""
        pairs = [*_pairs(self.legality, {}), (one, other)]
        return replace(self, legality=Legality(self.units, pairs, self.legality))

    def with_allowed(self, one: Unit, other: Unit) -> Candidate:
        """The same kernels where two units may share a kernel, or a launch, though a user forbade it."""
        pairs = (pair for pair in _pairs(self.legality, {}) if {*pair} != {one, other})
        return replace(self, legality=Legality(self.units, pairs, self.legality))

    def with_parts(self, parts: Mapping[Value, str]) -> Candidate:
        """The same kernels over units of which some are products, or operands of them."""
        units, became = generating(self.units, parts)
        legality = Legality(units, _pairs(self.legality, became), self.legality)
        wanted = tuple(_renamed(group, became) for group in self.wanted)
        return replace(self, legality=legality, wanted=wanted, partition=renamed(self.partition, became))


def once(find: Callable[[Candidate], T]) -> Callable[[Candidate], T]:
    """The same function, which is asked only once of each candidate: the candidate keeps what it finds."""

    @wraps(find)
    def found(candidate: Candidate) -> T:
        if find not in candidate.kept:
            candidate.kept[find] = find(candidate)
        result: T = candidate.kept[find]
        return result

    return found


def _pairs(legality: Legality, became: dict[Unit, Unit]) -> Iterator[tuple[Unit, Unit]]:
    for unit, others in legality.apart.items():
        yield from ((became.get(unit, unit), became.get(other, other)) for other in others)


def renamed(partition: Partition, became: dict[Unit, Unit]) -> Partition:
    """The partition with other units in the place of some."""
    names = {k: _renamed(k, became) for k in partition.kernels}
    return Partition(tuple(names.values()), {names[k]: values for k, values in partition.recomputed.items()})


def _renamed(some: UnitSet, became: dict[Unit, Unit]) -> UnitSet:
    return some if became.keys().isdisjoint(some) else frozenset(became.get(u, u) for u in some)
