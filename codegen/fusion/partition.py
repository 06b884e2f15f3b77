"""A partition of units into kernels, in an order in which they can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeVar

from tritonnotes.ir.core.graph import Value

from ..analysis.units import UnitSet
from .legality import Legality, Refusal

CYCLE = Refusal(
    "cycle", "another kernel computes a value between the two, and one kernel cannot run before and after it"
)


@dataclass(frozen=True)
class Partition:
    """Which units share a kernel, kernels in an order in which they can run, and what each kernel has `recomputed`,
    instead of loading it."""

    kernels: tuple[UnitSet, ...]
    recomputed: Mapping[UnitSet, tuple[Value, ...]] = field(default_factory=dict)


def waits(legality: Legality, partition: Partition) -> dict[UnitSet, set[UnitSet]]:
    """For each kernel those that run before it: they write what it reads, or read what it overwrites."""
    units = legality.units
    home = {u: k for k in partition.kernels for u in k}
    before: dict[UnitSet, set[UnitSet]] = {k: set() for k in partition.kernels}
    for kernel in partition.kernels:
        recomputed = {units.producer[v] for v in partition.recomputed.get(kernel, ())}
        for unit in (*kernel, *recomputed):
            for other in units.before[unit]:
                if other not in recomputed or legality.overwrites(unit, other):
                    before[kernel].add(home[other])
        for unit in recomputed:
            # A unit that overwrites a leaf comes after all that read it, also those that do so once more.
            for other in units.after[unit]:
                if legality.overwrites(other, unit):
                    before[home[other]].add(kernel)
    return {k: b - {k} for k, b in before.items()}


def in_order(legality: Legality, partition: Partition) -> Partition | None:
    """The partition with its kernels in an order in which they can run, else in that of their first units; None if they
    would wait for each other."""
    first = {k: min(legality.place[u] for u in k) for k in partition.kernels}
    ordered = topological_order(waits(legality, partition), first)
    return None if ordered is None else Partition(tuple(ordered), partition.recomputed)


K = TypeVar("K")


def topological_order(before: Mapping[K, set[K]], first: Mapping[K, int]) -> list[K] | None:
    """Kernels so that each comes after those before it, of several ready ones the `first`; None for circles."""
    missing = {k: len(b) for k, b in before.items()}
    after: dict[K, list[K]] = {k: [] for k in before}
    for kernel, earlier in before.items():
        for other in earlier:
            after[other].append(kernel)
    ready = [(first[k], i, k) for i, k in enumerate(before) if not missing[k]]
    heapify(ready)
    done: list[K] = []
    while ready:
        _, i, kernel = heappop(ready)
        done.append(kernel)
        for other in after[kernel]:
            missing[other] -= 1
            if not missing[other]:
                heappush(ready, (first[other], len(before) + len(done), other))
    return done if len(done) == len(before) else None
