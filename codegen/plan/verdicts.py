"""What a plan says of each edge of the joint graph: fused or not, the rule, and what the opposite would cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph, Value

from ..analysis.units import FINALIZE, REPLICATED, Unit, Units
from ..analysis.views import is_alias, is_free, is_host, is_join, memory_of, source_of
from ..cost.traffic import nominal_bytes, tensor_bytes
from ..fusion.candidate import Candidate
from ..fusion.constraints import Fusion, Names, forbidden
from ..fusion.cost import scheduled_bytes_at, scheduled_cost
from ..fusion.merge import Clusters
from ..fusion.search.greedy import greedy
from .fusion_plan import FusionPlan
from .opposites import apart, together, why_apart

Replan = Callable[[Graph, Fusion], Candidate]
"""Partitions a graph anew under other constraints."""


HARD_RULES = ("number", "leaf", "join", "library", "memory first")
"""Rules that no other plan could get round, as they speak of the two values alone."""


@dataclass(frozen=True)
class Opposite:
    """What forcing the opposite of a verdict would add to the plan, with all other kernels as they are, in launches and
    bytes at the nominal batch of 256. `reason` says why that is not possible, and is empty where it is."""

    launches: int = 0
    bytes: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"not possible: {self.reason}"
        told = f"{self.launches:+d} launch{'' if abs(self.launches) == 1 else 'es'}, {self.bytes:+,} bytes"
        return told if self.launches or self.bytes else f"{told}: nothing is gained"


@dataclass(frozen=True)
class Verdict:
    """What the plan says of one edge of the joint graph: value `source` read by value `target`.

    `bytes`, at the nominal batch of 256, is what the plan saves for the edge (fused) or moves for it (apart): the value
    read once, and written once where no other reader needs it in memory.
    """

    source: str
    target: str
    fused: bool
    rule: str
    reason: str
    bytes: int
    ends: tuple[Unit, Unit] | None = field(default=None, repr=False, compare=False)
    two_passes: Names = field(default=(), kw_only=True, repr=False, compare=False)
    """Where a sum follows from moments, the mean and what deviates from it: what is forbidden for the opposite."""
    plan: FusionPlan = field(kw_only=True, repr=False, compare=False)
    replan: Replan = field(kw_only=True, repr=False, compare=False)

    def bytes_at(self, sizes: Mapping[str, int]) -> int:
        """The `bytes` at other sizes of the `Dim`s."""
        value = self.plan.graph[self.source]
        times = self.bytes // nominal_bytes(value) if self.bytes else 0
        return times * tensor_bytes(value.shape, value.dtype, sizes)

    @property
    def is_forbidden(self) -> bool:
        """Whether a user keeps the two apart by `forbid=`."""
        return self.ends is not None and self.plan.candidate.legality.is_parted(*self.ends)

    @cached_property
    def opposite(self) -> Opposite:
        """What forcing the opposite would cost, as far as a few kernels are changed for it; where that is not enough,
        as a greedy plan made anew under that constraint. Of what a user forbids, what the plan would cost without
        that."""
        found = self._forced
        if found is None:
            return Opposite(reason=self.reason)
        mine, other = scheduled_cost(self.plan.candidate), scheduled_cost(found)
        return Opposite(other.launches - mine.launches, other.bytes - mine.bytes)

    def opposite_bytes_at(self, sizes: Mapping[str, int]) -> int:
        """The bytes of `opposite` at other sizes of the `Dim`s. The plan and what stands against it were found for the
        nominal batch, and stay the same."""
        found = self._forced
        if found is None:
            return 0
        return scheduled_bytes_at(found, sizes) - scheduled_bytes_at(self.plan.candidate, sizes)

    @cached_property
    def _forced(self) -> Candidate | None:
        """What is found under the opposite constraint; None where nothing is."""
        found, asked = self.plan.candidate, replace(self.plan.candidate.options, mode="greedy")
        if self.rule == "replicated":
            return _planned(greedy, self.plan.graph, asked)  # every sum taken once
        if self.two_passes:
            return self._parted_anew(asked, self.two_passes)
        if self.ends is None or (not self.fused and self.rule in HARD_RULES):
            return None
        names = tuple(unit.value.name for unit in self.ends)
        if self.fused:
            return apart(found, *self.ends) or self._parted_anew(asked, names)
        if self.is_forbidden:
            found, asked = found.with_allowed(*self.ends), _allowing(asked, self.plan.units, self.ends)
        joined = replace(asked, fuse=(*asked.fuse, names))
        return together(found, *self.ends) or _planned(self.replan, self.plan.graph, joined)

    def _parted_anew(self, asked: Fusion, names: Names) -> Candidate | None:
        """A plan made anew that keeps two values apart; without what a user wants together, if that is against it."""
        parted = replace(asked, forbid=(*asked.forbid, names))
        found = _planned(self.replan, self.plan.graph, parted)
        return found or _planned(self.replan, self.plan.graph, replace(parted, fuse=()))

    def __copy__(self) -> Verdict:
        return self

    def __deepcopy__(self, memo: object) -> Verdict:
        return self

    def __reduce__(self) -> Any:
        # It is what a plan says, so a pickle holds the plan.
        return _verdict_of, (self.plan, next(n for n, verdict in enumerate(self.plan.verdicts) if verdict is self))

    def __str__(self) -> str:
        word = "fused" if self.fused else "not fused"
        return f"{self.source} → {self.target}: {word}, {self.rule}: {self.reason} ({self.bytes:,} bytes)"


def _verdict_of(plan: FusionPlan, number: int) -> Verdict:
    verdict: Verdict = plan.verdicts[number]
    return verdict


def verdicts(plan: FusionPlan, replan: Replan) -> Iterator[Verdict]:
    """One for each edge of the graph, in order."""
    judge = partial(Verdict, plan=plan, replan=replan)
    units = plan.units
    clusters = Clusters(plan.legality, plan.partition.kernels)
    home = {u: k for k in plan.launches for u in k.units}
    loaders: dict[Value, int] = {}
    for kernel in plan.launches:
        for memory in {memory_of(v) for v in kernel.loads}:
            loaders[memory] = loaders.get(memory, 0) + 1
    for unit in units.units:
        if unit.part == FINALIZE:
            continue
        if unit.part == REPLICATED:
            yield from _behind_replicated(plan, judge, unit)
            continue
        if unit.moments is not None:
            yield from _behind_moments(units, judge, unit)
        for arg, target in _read_by(units, unit):
            ends = arg.name, target.name
            size = nominal_bytes(arg)
            memory = memory_of(arg)
            producer = units.producer.get(memory)
            if is_free(arg) or is_host(arg):
                yield judge(*ends, True, "number", "numbers and indices need no memory", 0)
            elif is_join(memory):
                yield judge(*ends, False, "join", f"{memory.name} is joined of parts in memory", size)
            elif producer is None:
                yield judge(*ends, False, "leaf", f"{memory.op.name} {memory.name} lies in memory", size)
            else:
                here = home[unit]
                is_kept = memory in units.roots or loaders.get(memory, 0) > 0
                saved = size if is_kept else 2 * size
                moved = size if memory in units.roots or loaders.get(memory, 0) > 1 else 2 * size
                pair = producer, unit
                if producer.is_library and home[producer] is here:
                    reason = f"the library adds the bias in {here.name}, before it stores"
                    yield judge(*ends, True, "library bias", reason, saved, pair)
                elif home[producer] is here and not is_alias(arg):
                    yield judge(*ends, True, "same kernel", f"both in {here.name}", saved, pair)
                elif memory in set(here.recomputed):
                    reason = f"recomputed in {here.name}, which costs less than loading it"
                    yield judge(*ends, True, "recomputed", reason, saved, pair)
                else:
                    why = why_apart(plan.candidate, clusters, producer, unit)
                    yield judge(*ends, False, why.rule, why.reason, moved, pair)


def _behind_replicated(plan: FusionPlan, judge: Callable[..., Verdict], unit: Unit) -> Iterator[Verdict]:
    """The edges behind a replicated sum."""
    for value in (*plan.units.inside(unit), unit.value):
        for arg in dict.fromkeys(value.inputs):
            memory = memory_of(arg)
            if is_free(arg) or is_host(arg):
                yield judge(arg.name, value.name, True, "number", "numbers and indices need no memory", 0)
            elif memory.is_leaf:
                reason = f"{memory.op.name} {memory.name} lies in memory"
                yield judge(arg.name, value.name, False, "leaf", reason, nominal_bytes(arg))
            else:
                reason = (
                    f"{unit.value.name} is replicated: every program computes it, so that none waits for the others"
                )
                yield judge(arg.name, value.name, True, "replicated", reason, nominal_bytes(arg))


def _behind_moments(units: Units, judge: Callable[..., Verdict], unit: Unit) -> Iterator[Verdict]:
    """The edges between what deviates and the mean that it deviates from, to a sum that follows from moments."""
    reason = f"{unit.value.name} follows from how many rows each program had, their mean and Σ (x − mean)²"
    assert unit.moments is not None
    instead = (unit.moments.about.name, unit.moments.deviations.inputs[0].name)
    read = {(id(arg), id(value)) for arg, value in _read_by(units, unit)}
    for value in (*units.inside(unit), unit.value):
        for arg in dict.fromkeys(value.inputs):
            if (id(arg), id(value)) not in read:
                yield judge(arg.name, value.name, True, "moments", reason, nominal_bytes(arg), two_passes=instead)


def _read_by(units: Units, unit: Unit) -> Iterator[tuple[Value, Value]]:
    """What a unit reads, each with the value of the graph that it is read for."""
    readers = (unit.value,) if unit.moments is None else units.inside(unit)
    sources = set(map(source_of, unit.args))
    for reader in readers:
        yield from ((arg, reader) for arg in dict.fromkeys(reader.inputs) if source_of(arg) in sources)


def _planned(make: Replan, graph: Graph, asked: Fusion) -> Candidate | None:
    try:
        return make(graph, asked)
    except PlanError:
        return None


def _allowing(asked: Fusion, units: Units, ends: tuple[Unit, Unit]) -> Fusion:
    """The same without the pairs of names that forbid two units to share a kernel."""

    def parts_them(names: Names) -> bool:
        return any({*pair} == {*ends} for pair in forbidden(units, replace(asked, forbid=(names,))))

    wishes = (pair for names in asked.forbid for pair in (combinations(names, 2) if len(names) > 2 else (names,)))
    return replace(asked, forbid=tuple(names for names in wishes if not parts_them(names)))
