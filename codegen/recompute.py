"""Computing a value again in the kernel that needs it, where that moves fewer bytes than storing and loading it."""

from __future__ import annotations

from dataclasses import dataclass

from tritonnotes.ir.graph import Value

from .axes import is_alias, is_free, is_host
from .fusion import Clusters, Legality, Space
from .traffic import nominal_bytes
from .units import Unit, Units, memory_of, walked_inputs


@dataclass(frozen=True)
class Recomputation:
    """What a kernel computes again (`values`, in order), and the bytes that this saves at nominal sizes."""

    values: tuple[Value, ...] = ()
    bytes_saved: int = 0


def choose_recomputation(units: Units, legality: Legality, clusters: Clusters) -> dict[frozenset[Unit], Recomputation]:
    """For each kernel the elementwise values that it computes again instead of loading them."""
    result: dict[frozenset[Unit], Recomputation] = {}
    for cluster in clusters.all():
        if not any(u.is_library for u in cluster):
            found = _for_kernel(units, legality, cluster)
            if found.values:
                result[cluster] = found
    return result


def _for_kernel(units: Units, legality: Legality, cluster: frozenset[Unit]) -> Recomputation:
    axes = units.axes
    every: set[int] = set()
    loads: dict[Value, None] = {}
    for unit in sorted(cluster, key=lambda u: u.value.index):
        every |= axes.of(unit.value) | set().union(*(axes.of(a) for a in walked_inputs(unit.value)))
        for source in units.sources(unit):
            if is_alias(source) or units.producer.get(source) not in cluster:
                loads.setdefault(source)
    candidates: dict[Value, tuple[list[Value], list[Value]]] = {}
    for value in loads:
        trail = _trail(units, legality, value, cluster, every)
        if trail is not None:
            candidates[value] = trail
    if not candidates:
        return Recomputation()

    def cost(chosen: set[Value]) -> int:
        """Bytes loaded here, and bytes stored elsewhere for this kernel alone."""
        needed = {v for v in loads if v not in chosen}
        needed |= {f for c in chosen for f in candidates[c][1]}
        stored = sum(
            nominal_bytes(v) for v in candidates if v not in chosen and _only_reader(units, legality, v, cluster)
        )
        return sum(map(nominal_bytes, needed)) + stored

    best: set[Value] = set()
    for trial in ({*candidates}, *({c} for c in candidates)):
        if cost(trial) < cost(best):
            best = trial
    again = sorted({v for c in best for v in candidates[c][0]}, key=lambda v: v.index)
    return Recomputation(tuple(again), cost(set()) - cost(best))


def _trail(
    units: Units, legality: Legality, value: Value, cluster: frozenset[Unit], every: set[int]
) -> tuple[list[Value], list[Value]] | None:
    """The elementwise values behind `value`, itself included, and what they read from memory; None if there are
    none.
    """
    again: dict[Value, None] = {}
    frontier: dict[Value, None] = {}
    todo = [value]
    while todo:
        current = todo.pop()
        if current in again or current in frontier:
            continue
        unit = units.producer.get(current)
        if not units.axes.of(current) <= every:
            return None
        # A statistic of a row (mean, rstd) is small: it is read as its author wrote it, not made again from a sum.
        is_statistic = units.axes.of(current) != every and _holds_reduction(units, current)
        if unit is not None and _is_elementwise(unit) and unit not in cluster and not is_statistic:
            again[current] = None
            todo += [s for s in units.sources(unit) if not is_host(s) and not is_free(s)]
        elif unit in cluster:
            continue
        else:
            if not _may_read(units, memory_of(current), cluster) or not _may_store(units, legality, memory_of(current)):
                return None
            frontier[current] = None
    return (list(again), list(frontier)) if again else None


def _is_elementwise(unit: Unit) -> bool:
    return not unit.part and unit.value.op.kind in ("elementwise", "cast")


def _holds_reduction(units: Units, value: Value) -> bool:
    """Whether a reduction lies behind the value, through elementwise values alone."""
    unit = units.producer.get(value)
    if unit is None or unit.is_library:
        return False
    return not _is_elementwise(unit) or any(_holds_reduction(units, s) for s in units.sources(unit))


def _may_read(units: Units, memory: Value, cluster: frozenset[Unit]) -> bool:
    """A leaf that is updated in place may be read again only where the update waits for this kernel anyway."""
    new = units.graph.updates.get(memory.name) if memory.is_leaf else None
    writer = units.producer.get(memory_of(new)) if new is not None else None
    if writer is None:
        return True
    if writer in cluster:
        return False
    seen: set[Unit] = set()
    todo = list(cluster)
    while todo:
        unit = todo.pop()
        if unit is writer:
            return True
        if unit not in seen:
            seen.add(unit)
            todo += units.after[unit]
    return False


def _may_store(units: Units, legality: Legality, memory: Value) -> bool:
    """Whether the kernel that computes a value can leave it in memory, where it may not have had to so far."""
    unit = units.producer.get(memory)
    if unit is None or unit.is_library or legality.kernel_of is None:
        return True
    home = legality.kernel_of[unit]
    return isinstance(legality.space(home, {*legality.stored(home), unit}), Space)


def _only_reader(units: Units, legality: Legality, value: Value, cluster: frozenset[Unit]) -> bool:
    if value in units.roots:
        return False
    home = units.producer[value]
    return all(
        r in cluster or r is home for r in legality.readers.get(value, ()) if not _same_kernel(r, home, legality)
    )


def _same_kernel(reader: Unit, home: Unit, legality: Legality) -> bool:
    return legality.kernel_of is not None and legality.kernel_of[reader] is legality.kernel_of[home]
