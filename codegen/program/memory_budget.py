"""Plans that hold less memory, for a user who states how much a run may hold: the candidate that costs least is changed
step by step, and each step kept that lowers what is held at the peak, until that is within the budget.

First launches run in an order in which memory is free again early, with weight gradients apart, so that each runs once
it can. Then operands are computed again by those that multiply them, and updates that keep something waiting run apart:
of the kernels for which that may be done the one that lowers the peak most, or, where several bring it within the
budget, the one whose plan costs least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tritonnotes.ir.core.graph import Value

from ..analysis.units import PRODUCT, Unit, UnitSet
from ..fusion.candidate import Candidate
from ..fusion.matmul_prologue import MOST_UNITS, made_for, operands_elsewhere
from ..fusion.partition import Partition
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import Launch
from ..support.sizes import NOMINAL, Sizes
from .program import Program


def fit_memory(
    found: Candidate,
    program: Program,
    budget: int,
    schedule: Callable[[Candidate], FusionPlan],
    finish: Callable[..., Program],
) -> Program:
    """The program of a candidate, or one that holds less where that holds more beside its leaves than `budget` bytes,
    with every `Dim` at its nominal size: the first that is within, or the least that was found. `schedule` plans a
    candidate with weight gradients apart, `finish` makes the program of a plan (and of what is lowered already)."""

    def tight(candidate: Candidate) -> Program:
        return _in_order_of_memory(finish(schedule(candidate)), finish)

    best = program
    if best.peak_bytes() > budget:
        best = min(best, tight(found), key=Program.peak_bytes)
    while best.peak_bytes() > budget and len(found.units.units) <= MOST_UNITS:
        tried = [(candidate, tight(candidate)) for candidate in _spared(found)]
        fitting = [made for _, made in tried if made.peak_bytes() <= budget]
        if fitting:
            return min(fitting, key=lambda made: _cost(made.plan))
        found, made = min(tried, key=lambda one: one[1].peak_bytes(), default=(found, best))
        if made.peak_bytes() >= best.peak_bytes():
            break
        best = made
    return best


def _cost(plan: FusionPlan) -> int:
    return len(plan.launches) * plan.candidate.options.planned_for.launch_bytes + plan.bytes_moved()


def _spared(candidate: Candidate) -> Iterator[Candidate]:
    """Candidates that may hold less: with the operands of one kernel computed elsewhere, if need be with updates of
    what they are made of in kernels of their own; or with the update apart that a weight gradient runs, which
    then need not wait until the weight is read."""
    for kernel in candidate.kernels:
        made = made_for(candidate, kernel)
        if made:
            units = [candidate.units.producer[v] for v in made]
            leaves = {v.name for u in units for v in candidate.legality.sources[u] if v.is_leaf}
            for some in (candidate, _updates_apart(candidate, leaves)):
                other = None if some is None else operands_elsewhere(some, kernel)
                if other is not None:
                    yield other
                    break
        if any(u.part == PRODUCT for u in kernel):
            updated = {u.value.scope.name for u in kernel if u.value.scope.phase == "update"}
            other = _updates_apart(candidate, updated)
            if other is not None:
                yield other


def _updates_apart(candidate: Candidate, read: set[str]) -> Candidate | None:
    """The candidate with the updates of some parameters in kernels of their own, where other kernels run them
    beside something else."""
    kernels: list[UnitSet] = []
    recomputed = dict(candidate.partition.recomputed)
    for old in candidate.kernels:
        copies = recomputed.pop(old, ())
        parts: dict[str, set[Unit]] = {}
        for unit in old:
            scope = unit.value.scope
            parts.setdefault(scope.name if scope.phase == "update" and scope.name in read else "", set()).add(unit)
        for some in parts.values():
            kernels.append(new := frozenset(some))
            if mine := _needed_copies(candidate, new, copies):
                recomputed[new] = mine
    made = candidate.with_partition(Partition(tuple(kernels), recomputed))
    is_changed = len(kernels) > len(candidate.kernels)
    return made if is_changed and made is not None and made.refusal is None else None


def _needed_copies(candidate: Candidate, kernel: UnitSet, copies: tuple[Value, ...]) -> tuple[Value, ...]:
    """Of the values that a larger kernel computed again those that this part of it needs."""
    producer, sources = candidate.units.producer, candidate.legality.sources
    recomputed, found = set(copies), set[Value]()
    todo = list(kernel)
    while todo:
        for source in sources[todo.pop()]:
            if source in recomputed and source not in found and producer[source] not in kernel:
                found.add(source)
                todo.append(producer[source])
    return tuple(v for v in copies if v in found)


def _in_order_of_memory(program: Program, finish: Callable[..., Program]) -> Program:
    """The program with its launches in an order that holds less, if the one that is found does: of all that are ready
    the one after which, its own temporaries included, least is held."""
    plan = program.plan
    waiting = {k: set(plan.to_networkx().predecessors(k.name)) for k in plan.launches}
    touched = _touched(program)
    bound = Sizes(NOMINAL, {})
    shared = program.programs(bound)
    sizes = {life.buffer.name: life.buffer.bytes(bound, shared) for life in program.arena.lives}
    left = {n: {k for k, names in touched.items() if n in names} for n in sizes}
    order: list[Launch] = []
    live: set[str] = set()

    def held(launch: Launch) -> tuple[int, int]:
        here = live | touched[launch] & sizes.keys()
        stays = [n for n in here if left[n] - {launch}]
        return sum(map(sizes.__getitem__, here)), sum(map(sizes.__getitem__, stays))

    while waiting:
        done = {k.name for k in order}
        ready = [k for k, before in waiting.items() if before <= done]
        best = min(ready, key=held)
        order.append(best)
        del waiting[best]
        live |= touched[best] & sizes.keys()
        for name in list(live):
            left[name].discard(best)
            if not left[name]:
                live.discard(name)
    ordered = finish(replace(plan, launches=tuple(order)), same=program)
    return min(program, ordered, key=Program.peak_bytes)


def _touched(program: Program) -> dict[Launch, frozenset[str]]:
    """The buffers that each launch uses, a loop over chunks those of all its launches."""
    launches = program.plan.launches
    starts = [program.places[k.name] for k in launches]
    made = {}
    for launch, start, stop in zip(launches, starts, [*starts[1:], len(program.uses)], strict=True):
        used = program.uses[start:stop]
        made[launch] = frozenset[str]().union(*(u.reads | u.writes | u.holds for u in used))
    return made
