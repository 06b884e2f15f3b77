"""What a partition costs, as one number: the bytes that it moves, and the price of its launches and recomputation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tritonnotes.ir.graph import Value
from tritonnotes.ir.types import DType, element_count, float32

from .clusters import Partition
from .fusion import Legality, Refusal, Space
from .own import own_bytes
from .traffic import (
    ENOUGH_PROGRAMS,
    LAUNCH_BYTES,
    NOMINAL_SIZES,
    PROGRAM_ELEMENTS,
    SECTOR_ELEMENTS,
    launch_traffic,
    nominal_bytes,
    recompute_bytes,
)
from .units import OWN, PARTIAL, Unit, Units, memory_of
from .walks import fits_alone, is_walked, walks


@dataclass(frozen=True, order=True)
class Cost:
    """`total` is in bytes, with every `Dim` at its nominal size: `bytes` are moved, the rest are prices of launches, of
    computing again, and of leaving most of a GPU idle."""

    total: int
    launches: int
    bytes: int


def cost_of(units: Units, legality: Legality, partition: Partition) -> Cost:
    """The cost of a partition whose kernels are legal."""
    memory = memory_plan(units, legality, partition)
    moved = slowly = 0
    for kernel in partition.kernels:
        held = units_of(units, kernel, partition)
        loads, stores, walked = memory.loads[kernel], memory.stores[kernel], memory.walks[kernel] or {}
        here = launch_traffic(held, loads, stores, memory.storage, NOMINAL_SIZES, 0, walked).total
        moved += here
        slowly += _slowness(units, memory, kernel, here)
    again = sum(recompute_bytes(v) for values in partition.again.values() for v in values)
    again += sum(own_bytes(u.value) for k in partition.kernels for u in units_of(units, k, partition) if u.part == OWN)
    launches = len(partition.kernels)
    return Cost(launches * LAUNCH_BYTES + moved + slowly + again, launches, moved)


def _slowness(units: Units, memory: MemoryPlan, kernel: frozenset[Unit], moved: int) -> int:
    """The price of holding whole rows, in bytes: rows may be too few for as many programs as their elements could feed,
    and a program with few rows uses little of each sector where neighbours in memory belong to other rows."""
    space = memory.spaces[kernel]
    if not space.reduces_rows:
        return 0
    rows, cols = (element_count(units.axes.shape(some), NOMINAL_SIZES) for some in (space.rows, space.cols))
    wanted = min(ENOUGH_PROGRAMS, rows * cols // PROGRAM_ELEMENTS)
    idle = moved * max(0, wanted - rows) // max(1, rows)
    held = max(1, PROGRAM_ELEMENTS // max(1, cols))
    crossed = [v for v in (*memory.loads[kernel], *memory.stores[kernel]) if _crosses(units, v, space)]
    return idle + sum(map(nominal_bytes, crossed)) * max(0, SECTOR_ELEMENTS // held - 1)


def _crosses(units: Units, value: Value, space: Space) -> bool:
    """Whether neighbours in the memory of a value lie in different rows of a kernel."""
    axes = [a for a in units.axes.labels[value] if a is not None]
    return bool(axes) and axes[-1] in space.rows and not set(axes).isdisjoint(space.cols)


@dataclass(frozen=True)
class MemoryPlan:
    """What each kernel of a partition reads (views looked through) and writes, how many walks along a long row read
    each of its loads (none where rows are held), and the dtype that each memory has."""

    loads: Mapping[frozenset[Unit], tuple[Value, ...]]
    stores: Mapping[frozenset[Unit], tuple[Value, ...]]
    spaces: Mapping[frozenset[Unit], Space]
    walks: Mapping[frozenset[Unit], Mapping[Value, int] | None]
    storage: Mapping[Value, DType]


def memory_plan(units: Units, legality: Legality, partition: Partition) -> MemoryPlan:
    """Loads and stores of each kernel of a legal partition."""
    loads, stored = _loaded_and_stored(legality, partition)
    storage = {memory_of(v): memory_of(v).dtype for values in loads.values() for v in values}
    stores: dict[frozenset[Unit], tuple[Value, ...]] = {}
    spaces: dict[frozenset[Unit], Space] = {}
    walked: dict[frozenset[Unit], Mapping[Value, int] | None] = {}
    for kernel in partition.kernels:
        space = legality.space(kernel, stored[kernel])
        assert isinstance(space, Space), space
        spaces[kernel] = space
        stores[kernel] = tuple(sorted((u.value for u in stored[kernel]), key=lambda v: v.index))
        storage.update((v, storage_dtype(units, legality, v, space)) for v in stores[kernel])
        walked[kernel] = _walks(units, kernel, partition, space, loads[kernel], stores[kernel])
    return MemoryPlan(loads, stores, spaces, walked, storage)


def _walks(
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
    if not is_walked(units.axes, space.cols, loads, values, partials):
        return None
    found = walks(units.axes, space.cols, values, stores)
    if space.rows and max(found.values(), default=1) > 1 and fits_alone(units.axes, space.cols, loads, values):
        return None
    rows = frozenset(space.rows)
    held = units_of(units, kernel, partition)
    for leaf in {s for u in held if u.part == OWN for s in units.sources(u)}:
        if any(leaf in set(units.sources(u)) for u in held if u.part != OWN):
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
    loads = {k: loads_of(legality, k, partition.again.get(k, ())) for k in partition.kernels}
    wanted = {memory_of(v) for values in loads.values() for v in values} | legality.units.roots
    return loads, {k: [u for u in k if u.part != PARTIAL and u.value in wanted] for k in partition.kernels}


def loads_of(legality: Legality, kernel: Collection[Unit], again: Iterable[Value] = ()) -> tuple[Value, ...]:
    """The values that a kernel reads from memory, in the order in which it first needs them."""
    members = [*kernel, *(legality.units.producer[v] for v in again)]
    inside = {u.value for u in members if u.part != PARTIAL}
    found: dict[Value, None] = {}
    for unit in sorted(members, key=lambda u: u.value.index):
        for source in legality.sources[unit]:
            if source not in inside:
                found.setdefault(source)
    return tuple(found)


def units_of(units: Units, kernel: frozenset[Unit], partition: Partition) -> list[Unit]:
    """The units that a kernel computes, again or not."""
    return [*kernel, *(units.producer[v] for v in partition.again.get(kernel, ()))]


def storage_dtype(units: Units, legality: Legality, value: Value, space: Space) -> DType:
    """Statistics between kernels stay float32: only what users see, or a library call reads, is rounded to 16 bits."""
    if value.op.kind == "contraction" or value.dtype.itemsize != 2:
        return value.dtype
    if value in units.roots or any(r.value.op.kind == "contraction" for r in legality.readers.get(value, ())):
        return value.dtype
    is_whole = units.axes.of(value) == frozenset((*space.rows, *space.cols))
    return value.dtype if is_whole and not space.combines else float32
