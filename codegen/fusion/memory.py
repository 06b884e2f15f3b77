"""What the kernels of a partition load and store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, float32

from ..analysis.axes import Space
from ..analysis.units import PARTIAL, REPLICATED, Unit, Units
from ..analysis.views import memory_of
from ..cost.long_rows import fits_row_per_program, is_looped, loop_reads
from .legality import Legality, Refusal
from .partition import Partition


@dataclass(frozen=True)
class MemoryPlan:
    """What each kernel of a partition reads (views looked through) and writes, how many walks along a long row read
    each of its loads (none where rows are held), and the dtype that each memory has."""

    loads: Mapping[frozenset[Unit], tuple[Value, ...]]
    stores: Mapping[frozenset[Unit], tuple[Value, ...]]
    spaces: Mapping[frozenset[Unit], Space]
    loop_reads: Mapping[frozenset[Unit], Mapping[Value, int] | None]
    storage: Mapping[Value, DType]


def memory_plan(units: Units, legality: Legality, partition: Partition) -> MemoryPlan:
    """Loads and stores of each kernel of a legal partition."""
    loads, stored = _loaded_and_stored(legality, partition)
    storage = {memory_of(v): memory_of(v).dtype for values in loads.values() for v in values}
    stores: dict[frozenset[Unit], tuple[Value, ...]] = {}
    spaces: dict[frozenset[Unit], Space] = {}
    looped: dict[frozenset[Unit], Mapping[Value, int] | None] = {}
    for kernel in partition.kernels:
        space = legality.space(kernel, stored[kernel])
        assert isinstance(space, Space), space
        spaces[kernel] = space
        stores[kernel] = tuple(sorted((u.value for u in stored[kernel]), key=lambda v: v.index))
        storage.update((v, storage_dtype(units, legality, v, space)) for v in stores[kernel])
        looped[kernel] = _loop_reads(units, kernel, partition, space, loads[kernel], stores[kernel])
    return MemoryPlan(loads, stores, spaces, looped, storage)


def _loop_reads(
    units: Units,
    kernel: frozenset[Unit],
    partition: Partition,
    space: Space,
    loads: tuple[Value, ...],
    stores: tuple[Value, ...],
) -> Mapping[Value, int] | None:
    if not space.reduces_rows:
        return None
    values = sorted({u.value for u in units_of(units, kernel, partition)}, key=lambda v: v.index)
    partials = [u.value for u in kernel if u.part == PARTIAL]
    if not is_looped(units.axes, space.cols, loads, values, partials):
        return None
    found = loop_reads(units.axes, space.cols, values, stores)
    if (
        space.rows
        and max(found.values(), default=1) > 1
        and fits_row_per_program(units.axes, space.cols, loads, values)
    ):
        return None
    rows = frozenset(space.rows)
    held = units_of(units, kernel, partition)
    for leaf in {s for u in held if u.part == REPLICATED for s in units.sources(u)}:
        if any(leaf in set(units.sources(u)) for u in held if u.part != REPLICATED):
            found[leaf] = found.get(leaf, 1) + 1
    # What all rows share, such as a weight, is read once, and stays in the cache from then on.
    return {v: found.get(v, 1) for v in loads if not rows or units.axes.of(v) & rows}


def refusal_of(legality: Legality, partition: Partition) -> Refusal | None:
    """Why some kernel of a partition is none, or None."""
    _, stored = _loaded_and_stored(legality, partition)
    spaces = (legality.space(k, stored[k]) for k in partition.kernels)
    return next((s for s in spaces if isinstance(s, Refusal)), None)


def _loaded_and_stored(
    legality: Legality, partition: Partition
) -> tuple[dict[frozenset[Unit], tuple[Value, ...]], dict[frozenset[Unit], list[Unit]]]:
    """What each kernel reads from memory, and the units whose results it writes: those that some kernel reads from
    memory, or a user does."""
    loads = {k: loads_of(legality, k, partition.recomputed.get(k, ())) for k in partition.kernels}
    wanted = {memory_of(v) for values in loads.values() for v in values} | legality.units.roots
    return loads, {k: [u for u in k if u.part != PARTIAL and u.value in wanted] for k in partition.kernels}


def loads_of(legality: Legality, kernel: Collection[Unit], recomputed: Iterable[Value] = ()) -> tuple[Value, ...]:
    """The values that a kernel reads from memory, in the order in which it first needs them."""
    members = [*kernel, *(legality.units.producer[v] for v in recomputed)]
    inside = {u.value for u in members if u.part != PARTIAL}
    found: dict[Value, None] = {}
    for unit in sorted(members, key=lambda u: u.value.index):
        for source in legality.sources[unit]:
            if source not in inside:
                found.setdefault(source)
    return tuple(found)


def units_of(units: Units, kernel: frozenset[Unit], partition: Partition) -> list[Unit]:
    """The units that a kernel computes, again or not."""
    return [*kernel, *(units.producer[v] for v in partition.recomputed.get(kernel, ()))]


def storage_dtype(units: Units, legality: Legality, value: Value, space: Space) -> DType:
    """Statistics between kernels stay float32: only what users see, or a library call reads, is rounded to 16 bits."""
    if value.op.kind == "contraction" or value.dtype.itemsize != 2:
        return value.dtype
    if value in units.roots or any(r.value.op.kind == "contraction" for r in legality.readers.get(value, ())):
        return value.dtype
    is_whole = units.axes.of(value) == frozenset((*space.rows, *space.cols))
    return value.dtype if is_whole and not space.finalizes else float32
