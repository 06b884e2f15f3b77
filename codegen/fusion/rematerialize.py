"""Save or rematerialize: computing a value again in the kernel that needs it, where that costs less than loading it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

from tritonnotes.ir.core.graph import Value

from ..analysis.units import PARTIAL, REPLICATED, Unit, UnitSet, is_elementwise
from ..analysis.views import memory_of
from ..cost.traffic import nominal_bytes, rematerialize_bytes
from .candidate import Candidate
from .facts import AxisSet
from .legality import MAX_UNITS, Shape
from .partition import Partition


def rematerialize(found: Candidate) -> Candidate:
    """The same kernels, each computing again what that makes cheaper. A value that then neither its own kernel needs
    nor any other from memory moves to a kernel that computes it again, unless the user wants it where it is."""
    units, state = found.units, _State(found)
    for kernel in found.kernels:
        state.improve(kernel)
    for value in sorted(state.loaders, key=lambda v: v.index):
        state.improve_everywhere(value)
    for unit in units.units:
        if unit.part == REPLICATED:
            for kernel in sorted(state.loaders.get(unit.value, ()), key=state.first.__getitem__):
                state.take(kernel, unit.value)
    recomputed = {k: tuple(sorted(values, key=lambda v: v.index)) for k, values in state.recomputed.items() if values}
    return replace(found, partition=_settled(found, recomputed))


class _State:
    """What is computed again so far. `loaders` are the kernels that load each value from memory; `reduced` are row
    reductions and what is elementwise made of them."""

    def __init__(self, found: Candidate) -> None:
        units = self.units = found.units
        legality = self.legality = found.legality
        partition = found.partition
        self.home = {u: k for k in partition.kernels for u in k}
        self.order = {k: i for i, k in enumerate(partition.kernels)}
        self.first = {k: min((u.value.index, u.part != PARTIAL) for u in k) for k in partition.kernels}
        self.recomputed: dict[UnitSet, set[Value]] = {k: set() for k in partition.kernels}
        self.libraries = {k for k in partition.kernels if any(u.is_library for u in k)}
        self.axes: dict[UnitSet, AxisSet] = {}
        self.may_store: dict[UnitSet, frozenset[AxisSet]] = {}
        self.loads: dict[UnitSet, set[Value]] = {}
        self.loaders: dict[Value, set[UnitSet]] = {}
        for kernel in partition.kernels:
            shape = legality.shape(facts := legality.facts_of(kernel))
            assert isinstance(shape, Shape), shape
            self.axes[kernel], self.may_store[kernel] = facts.axes, shape.may_store
            self.loads[kernel] = self._loads(kernel, ())
            for memory in self.loads[kernel]:
                self.loaders.setdefault(memory, set()).add(kernel)
        self.reduced: set[Unit] = set()
        for unit in units.units:
            before = (units.producer.get(s) for s in legality.sources[unit])
            is_reduction = unit.value.op.kind == "reduction" and unit.part != REPLICATED
            if is_reduction or (is_elementwise(unit) and any(b in self.reduced for b in before)):
                self.reduced.add(unit)

    def improve(self, kernel: UnitSet) -> None:
        """Compute more again in one kernel, what saves most first, as long as something saves."""
        while True:
            trails = [t for v in self.legality.loads(kernel, self.recomputed[kernel]) if (t := self._trail(kernel, v))]
            trials = [{kernel: t} for t in trails]
            if len(trails) > 1 and self._may_have(kernel, whole := set().union(*trails)):
                trials.append({kernel: whole})
            changes = list(map(self._change, trials))
            if min(changes, default=0) >= 0:
                return
            self._apply(trials[changes.index(min(changes))])

    def take(self, kernel: UnitSet, value: Value) -> None:
        """Compute a value again in a kernel, whatever that moves."""
        self._apply({kernel: {value}})

    def improve_everywhere(self, value: Value) -> None:
        """Compute one value again in all kernels that load it, if only that saves its store."""
        loaders = self.loaders.get(value, ())
        if len(loaders) < 2:
            return
        kernels = sorted(loaders, key=self.first.__getitem__)
        trial = {k: t for k in kernels if (t := self._trail(k, value))}
        if len(trial) > 1 and self._change(trial) < 0:
            self._apply(trial)

    def _room(self, kernel: UnitSet) -> int:
        """How many more values a kernel may compute."""
        return MAX_UNITS - len(kernel) - len(self.recomputed[kernel])

    def _trail(self, kernel: UnitSet, value: Value) -> set[Value] | None:
        """The elementwise values behind `value`, itself included, that are not yet in the kernel; None if it cannot
        be computed again there, or if they are too many for one kernel."""
        recomputed: set[Value] = set()
        todo, room = [value], self._room(kernel)
        while todo:
            if len(recomputed) > room:
                return None
            current = todo.pop()
            unit = self.units.producer.get(current)
            if current in recomputed or current in self.recomputed[kernel] or unit in kernel:
                continue
            if unit is None or not is_elementwise(unit) or self._is_cheaper_to_read(kernel, unit, value):
                if not self._may_load(kernel, current):
                    return None
                continue
            if not self.legality.axes_of[unit] <= self.axes[kernel] or kernel in self.libraries:
                return None
            recomputed.add(current)
            todo += self.legality.sources[unit]
        return recomputed if recomputed and self._may_have(kernel, recomputed) else None

    def _may_have(self, kernel: UnitSet, values: Iterable[Value]) -> bool:
        """Whether a kernel may compute these values too: they are not too many, and no user forbids it."""
        more = {*self.recomputed[kernel], *values}
        if len(kernel) + len(more) > MAX_UNITS:
            return False
        return self.legality.parted(chain(kernel, map(self.units.producer.__getitem__, more))) is None

    def _is_cheaper_to_read(self, kernel: UnitSet, unit: Unit, wanted: Value) -> bool:
        """Whether what is behind a `wanted` value is no use computing: a row's mean or the like, which is small, and
        what lies in memory anyway where computing it would have the kernel load more than it does."""
        if unit in self.reduced and self.legality.axes_of[unit] != self.axes[kernel]:
            return True
        if unit.value is wanted or not (unit.value in self.loaders or unit.value in self.units.roots):
            return False
        return any(
            memory_of(s) not in self.loads[kernel]
            for s in self.legality.sources[unit]
            if s not in self.recomputed[kernel] and self.units.producer.get(s) not in kernel
        )

    def _may_load(self, kernel: UnitSet, value: Value) -> bool:
        """Whether a kernel may read what it has not read so far: it must be in memory, and not yet overwritten."""
        memory = memory_of(value)
        unit = self.units.producer.get(memory)
        if unit is None:
            return self._is_read_in_time(kernel, memory, value)
        return memory in self.loaders or self.legality.axes_of[unit] in self.may_store[self.home[unit]]

    def _is_read_in_time(self, kernel: UnitSet, leaf: Value, value: Value) -> bool:
        """Whether a leaf, read as `value`, still has its old value when the kernel runs: what overwrites it runs later,
        or is the kernel itself, where each program reads no more of it than it overwrites."""
        new = self.units.graph.updates.get(leaf.name)
        writer = self.units.producer.get(memory_of(new)) if new is not None else None
        if writer is not None and writer in kernel:
            return value is leaf and self.legality.is_read_as_written(leaf)
        return writer is None or self.order[kernel] < self.order[self.home[writer]]

    def _loads(self, kernel: UnitSet, more: Iterable[Value]) -> set[Value]:
        return {memory_of(v) for v in self.legality.loads(kernel, {*self.recomputed[kernel], *more})}

    def _change(self, trial: Mapping[UnitSet, set[Value]]) -> int:
        """What computing these values again would add to the cost."""
        change = sum(rematerialize_bytes(v) for values in trial.values() for v in values)
        gained: dict[Value, int] = {}
        for kernel, values in trial.items():
            before, after = self.loads[kernel], self._loads(kernel, values)
            for memory in after - before:
                gained[memory] = gained.get(memory, 0) + 1
            for memory in before - after:
                gained[memory] = gained.get(memory, 0) - 1
        for memory, count in gained.items():
            had = len(self.loaders.get(memory, ()))
            change += count * nominal_bytes(memory)
            if memory in self.units.producer and memory not in self.units.roots:
                change += (bool(had + count) - bool(had)) * nominal_bytes(memory)
        return change

    def _apply(self, trial: Mapping[UnitSet, set[Value]]) -> None:
        for kernel, values in trial.items():
            before, after = self.loads[kernel], self._loads(kernel, values)
            self.recomputed[kernel] |= values
            self.loads[kernel] = after
            for memory in before - after:
                self.loaders[memory].discard(kernel)
                if not self.loaders[memory]:
                    del self.loaders[memory]
            for memory in after - before:
                self.loaders.setdefault(memory, set()).add(kernel)


def _settled(found: Candidate, chosen: Mapping[UnitSet, tuple[Value, ...]]) -> Partition:
    """The kernels with what each was chosen to compute again. Values that their own kernel has no use for any more move
    to the first kernel that does."""
    units, legality = found.units, found.legality
    kernels = {k: set(k) for k in found.kernels}
    recomputed = {k: dict.fromkeys(chosen.get(k, ())) for k in found.kernels}
    held = frozenset[Unit]().union(*found.wanted)
    copies = {v for values in recomputed.values() for v in values if units.producer[v] not in held}
    home = {u: k for k in found.kernels for u in k}

    def loads(kernel: UnitSet) -> list[Value]:
        return [memory_of(v) for v in legality.loads(frozenset(kernels[kernel]), recomputed[kernel])]

    loaded = Counter(v for k in found.kernels for v in loads(k)) if copies else Counter[Value]()
    for value in sorted(copies, key=lambda v: -v.index):
        unit = units.producer[value]
        mine = home[unit]
        needed = {
            s for u in (*kernels[mine], *(units.producer[v] for v in recomputed[mine])) for s in legality.sources[u]
        }
        if loaded[value] or value in units.roots or value in needed:
            continue
        taker = next(k for k in found.kernels if value in recomputed[k])
        if len(kernels[taker]) >= MAX_UNITS:
            continue
        loaded.subtract(loads(mine))
        kernels[mine].discard(unit)
        loaded.update(loads(mine))
        kernels[taker].add(unit)
        del recomputed[taker][value]
    made = {k: frozenset(members) for k, members in kernels.items() if members}
    return Partition(tuple(made.values()), {made[k]: tuple(recomputed[k]) for k in made if recomputed[k]})
