"""What a plan says of each edge of the joint graph: fused or not, the rule, and what the opposite would cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph, Value

from ..analysis.axes import Space
from ..analysis.units import FINALIZE, PARTIAL, REPLICATED, Unit, is_elementwise
from ..analysis.views import is_alias, is_free, is_host, is_join, memory_of
from ..cost.traffic import nominal_bytes, tensor_bytes
from ..fusion.candidate import Candidate
from ..fusion.constraints import Fusion, Names
from ..fusion.cost import Cost, bytes_at, cost_of, scheduled_bytes_at, scheduled_cost
from ..fusion.legality import Refusal
from ..fusion.merge import Clusters
from ..fusion.partition import Partition
from ..fusion.search.greedy import greedy
from .fusion_plan import FusionPlan

Replan = Callable[[Graph, Fusion], Candidate]
"""Partitions a graph anew under other constraints."""


HARD_RULES = ("number", "leaf", "join", "library", "memory first", "matmul")
"""Rules that no other plan could get round, as they speak of the two values alone."""


@dataclass(frozen=True)
class Opposite:
    """What forcing the opposite of a verdict would add to the plan, in launches and bytes at the nominal batch of 256;
    `reason` says why it cannot be had, and is empty where it can."""

    launches: int = 0
    bytes: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"cannot be had: {self.reason}"
        return f"{self.launches:+d} launch{'' if abs(self.launches) == 1 else 'es'}, {self.bytes:+,} bytes"


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
    plan: FusionPlan = field(kw_only=True, repr=False, compare=False)
    replan: Replan = field(kw_only=True, repr=False, compare=False)

    def bytes_at(self, sizes: Mapping[str, int]) -> int:
        """The `bytes` at other sizes of the `Dim`s."""
        value = self.plan.graph[self.source]
        times = self.bytes // nominal_bytes(value) if self.bytes else 0
        return times * tensor_bytes(value.shape, value.dtype, sizes)

    @cached_property
    def opposite(self) -> Opposite:
        """What forcing the opposite would cost, as far as a few kernels are changed for it; where that is not enough,
        as a greedy plan made anew under that constraint."""
        found = self._forced
        if isinstance(found, str):
            return Opposite(reason=found)
        mine, other = _cost(self.plan, self.plan.candidate), _cost(self.plan, found)
        return Opposite(other.launches - mine.launches, other.bytes - mine.bytes)

    def opposite_bytes_at(self, sizes: Mapping[str, int]) -> int:
        """The bytes of `opposite` at other sizes of the `Dim`s. The plan and what stands against it were found for the
        nominal batch, and stay the same."""
        found = self._forced
        if isinstance(found, str):
            return 0
        return _bytes_at(self.plan, found, sizes) - _bytes_at(self.plan, self.plan.candidate, sizes)

    @cached_property
    def _forced(self) -> Candidate | str:
        """What is found under the opposite constraint, or why there is nothing."""
        if self.rule == "replicated":
            return greedy(self.plan.graph, _greedily(self.plan))  # every sum taken once
        if self.ends is None or (not self.fused and self.rule in HARD_RULES):
            return self.reason
        change = _apart if self.fused else _together
        return change(self.plan, self.replan, *self.ends)

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
        for arg in dict.fromkeys(unit.value.inputs):
            ends = arg.name, unit.value.name
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
                if home[producer] is here and not is_alias(arg):
                    yield judge(*ends, True, "same kernel", f"both in {here.name}", saved, pair)
                elif memory in set(here.recomputed):
                    reason = f"recomputed in {here.name}, which costs less than loading it"
                    yield judge(*ends, True, "recomputed", reason, saved, pair)
                else:
                    why = clusters.why_not(clusters.of[producer], clusters.of[unit])
                    if producer.part == FINALIZE and why is not None:
                        why = Refusal("finalize", f"{memory.name} is whole only once every program is done")
                    why = why or Refusal("not selected", "legal, but other fusions save more")
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


# -- the opposite --


def _apart(plan: FusionPlan, replan: Replan, producer: Unit, reader: Unit) -> Candidate | str:
    """A fused pair in two kernels: its kernel cut before the reader, or behind the producer; or not recomputed."""
    partition = plan.partition
    kernel = next(k for k in partition.kernels if reader in k)
    recomputed = partition.recomputed.get(kernel, ())
    trials = []
    if producer in kernel:
        for late in (
            _closure(kernel, reader, plan.units.after),
            kernel - _closure(kernel, producer, plan.units.before),
        ):
            if late and late != kernel:
                trials.append(_changed(partition, {kernel: (kernel - late, late)}))
    else:
        trials.append(
            replace(
                partition,
                recomputed={**partition.recomputed, kernel: tuple(v for v in recomputed if v is not producer.value)},
            )
        )
    return _cheapest(plan, trials) or _planned_anew(plan, replan, _greedily(plan, forbid=(_names(producer, reader),)))


def _together(plan: FusionPlan, replan: Replan, producer: Unit, reader: Unit) -> Candidate | str:
    """A pair in one kernel: both kernels as one, either end moved to the other's, or the value computed again."""
    partition, between = plan.partition, _between(plan, producer, reader)
    early = next(k for k in partition.kernels if producer in k)
    late = next(k for k in partition.kernels if reader in k)
    trials = []
    if is_elementwise(producer):
        values = sorted({*partition.recomputed.get(late, ()), producer.value}, key=lambda v: v.index)
        trials.append(replace(partition, recomputed={**partition.recomputed, late: tuple(values)}))
    refusal = plan.legality.space(between, ())
    if isinstance(refusal, Space):
        trials += [
            _changed(partition, {early: (early | late,), late: ()}),
            _changed(partition, {early: (early - between,), late: (late | (between & early),)}),
            _changed(partition, {early: (early | (between & late),), late: (late - between,)}),
        ]
    found = _cheapest(plan, trials)
    if found is None and isinstance(refusal, Refusal):
        return refusal.reason
    return found or _planned_anew(plan, replan, _greedily(plan, fuse=(_names(producer, reader),)))


def _greedily(plan: FusionPlan, fuse: tuple[Names, ...] = (), forbid: tuple[Names, ...] = ()) -> Fusion:
    """What asks for a greedy plan for the same target."""
    return Fusion("greedy", fuse, forbid, target=plan.candidate.options.target)


def _names(producer: Unit, reader: Unit) -> tuple[str, str]:
    return producer.value.name, reader.value.name


def _closure(kernel: frozenset[Unit], unit: Unit, steps: dict[Unit, tuple[Unit, ...]]) -> frozenset[Unit]:
    """A unit and what follows it, step by step, inside a kernel."""
    seen = {unit}
    todo = [unit]
    while todo:
        for other in steps[todo.pop()]:
            if other in kernel and other not in seen:
                seen.add(other)
                todo.append(other)
    return frozenset(seen)


def _between(plan: FusionPlan, producer: Unit, reader: Unit) -> frozenset[Unit]:
    every = frozenset(plan.units.units)
    return _closure(every, producer, plan.units.after) & _closure(every, reader, plan.units.before)


def _changed(partition: Partition, parts: dict[frozenset[Unit], tuple[frozenset[Unit], ...]]) -> Partition:
    """The partition with other kernels in the place of some; what those computed again their last part does."""
    kernels: list[frozenset[Unit]] = []
    recomputed: dict[frozenset[Unit], tuple[Value, ...]] = {}
    for kernel in partition.kernels:
        made = [k for k in parts.get(kernel, (kernel,)) if k]
        kernels += made
        copies = partition.recomputed.get(kernel, ())
        for target in made or [k for some in parts.values() for k in some][:1]:
            held = {u.value for u in target if u.part != PARTIAL}
            values = {*recomputed.get(target, ()), *(v for v in copies if v not in held)}
            recomputed[target] = tuple(sorted(values, key=lambda v: v.index))
    return Partition(tuple(kernels), {k: v for k, v in recomputed.items() if v})


def _cheapest(plan: FusionPlan, trials: list[Partition]) -> Candidate | None:
    made = [plan.candidate.with_partition(trial) for trial in trials]
    legal = [candidate for candidate in made if candidate is not None and candidate.refusal is None]
    return min(legal, key=lambda candidate: _cost(plan, candidate)) if legal else None


def _planned_anew(plan: FusionPlan, replan: Replan, fusion: Fusion) -> Candidate | str:
    try:
        return replan(plan.graph, fusion)
    except PlanError as error:
        return str(error)


def _cost(plan: FusionPlan, candidate: Candidate) -> Cost:
    """What a candidate costs once last programs finish what they can and updates are joined, where the plan does."""
    return scheduled_cost(candidate) if plan.joins else cost_of(candidate)


def _bytes_at(plan: FusionPlan, candidate: Candidate, sizes: Mapping[str, int]) -> int:
    """The bytes of `_cost` at other sizes."""
    return scheduled_bytes_at(candidate, sizes) if plan.joins else bytes_at(candidate, sizes)
