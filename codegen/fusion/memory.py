"""What the kernels of a partition load and store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import DType, float32, product_of

from ..analysis.axes import Space
from ..analysis.units import Unit, Units, UnitSet
from ..analysis.views import memory_of
from ..cost.long_rows import loop_reads
from .legality import Legality, Refusal
from .partition import Partition


@dataclass(frozen=True)
class MemoryPlan:
    """What each kernel of a partition reads (views looked through) and writes, how many loops along a long row read
    each of its loads (None where rows are held), and the dtype that each memory has. What is in `rounded` lies in
    memory with 16 bits: whoever computes it has these numbers, as who reads them has."""

    loads: Mapping[UnitSet, tuple[Value, ...]]
    stores: Mapping[UnitSet, tuple[Value, ...]]
    spaces: Mapping[UnitSet, Space]
    loop_reads: Mapping[UnitSet, Mapping[Value, int] | None]
    storage: Mapping[Value, DType]
    rounded: frozenset[Value]


Loads = Mapping[UnitSet, tuple[Value, ...]]
"""For each kernel the values that it reads from memory."""


def loads_of_kernels(legality: Legality, partition: Partition) -> Loads:
    """What each kernel of a partition reads from memory."""
    return {k: legality.loads(k, partition.recomputed.get(k, ())) for k in partition.kernels}


def spaces_of_kernels(legality: Legality, loads: Loads) -> dict[UnitSet, Space | Refusal]:
    """The space of each kernel, or why it is none."""
    return {kernel: legality.space(kernel, stored) for kernel, stored in _stored(legality, loads).items()}


def memory_plan(
    legality: Legality, partition: Partition, loads: Loads, spaces: Mapping[UnitSet, Space | Refusal]
) -> MemoryPlan:
    """Loads and stores of each kernel of a legal partition."""
    units = legality.units
    storage = {memory_of(v): memory_of(v).dtype for values in loads.values() for v in values}
    stores: dict[UnitSet, tuple[Value, ...]] = {}
    legal: dict[UnitSet, Space] = {}
    looped: dict[UnitSet, Mapping[Value, int] | None] = {}
    for kernel, stored in _stored(legality, loads).items():
        space = spaces[kernel]
        assert isinstance(space, Space), space
        legal[kernel] = space
        stores[kernel] = tuple(sorted((u.value for u in stored), key=lambda v: v.index))
        storage.update((v, _storage_dtype(legality, v, space)) for v in stores[kernel])
        looped[kernel] = loop_reads(units, units_of(units, kernel, partition), space, loads[kernel], stores[kernel])
    storage.update(_of_statistics(legality, storage))
    return MemoryPlan(loads, stores, legal, looped, storage, _rounded(stores, storage, _only_updated(units.graph)))


def _only_updated(graph: Graph) -> set[Value]:
    """New values of parameters and of an update's state, which no user reads as outputs. Formulas of updates go on with
    float32, where eager PyTorch rounds: a variance of rounded moments would be negative."""
    return set(graph.updates.values()) - set(graph.outputs.values())


def _rounded(
    stores: Mapping[UnitSet, tuple[Value, ...]], storage: Mapping[Value, DType], updated: Collection[Value]
) -> frozenset[Value]:
    """What is stored with 16 bits, and that of which it is a copy, the largest or the smallest: the largest of rounded
    numbers is the largest rounded, so that it is still found among them."""
    narrow = (v for values in stores.values() for v in values if storage[v].is_float and storage[v].itemsize == 2)
    found = {v for v in narrow if v not in updated}
    todo = list(found)
    while todo:
        value = todo.pop()
        if value.op.name in ("copy", "max", "min") and (source := memory_of(value.inputs[0])) not in found:
            found.add(source)
            todo.append(source)
    return frozenset(found)


def _stored(legality: Legality, loads: Loads) -> dict[UnitSet, UnitSet]:
    """The units whose results each kernel writes: those that some kernel reads from memory, or a user does."""
    producer = legality.units.producer
    wanted = {memory_of(v) for values in loads.values() for v in values} | legality.units.roots
    written = {producer[v] for v in wanted if v in producer}
    return {k: k & written for k in loads}


def units_of(units: Units, kernel: UnitSet, partition: Partition) -> list[Unit]:
    """The units that a kernel computes, again or not."""
    return [*kernel, *(units.producer[v] for v in partition.recomputed.get(kernel, ()))]


def _of_statistics(legality: Legality, storage: Mapping[Value, DType]) -> dict[Value, DType]:
    """What is worked out of statistics and is no larger than they are stays float32, as they do. Along an axis of size
    1, a projection in 16 bits would not cancel the gradient in float32 that it is taken of."""
    wide: set[Value] = set()
    if not any(v.dtype.itemsize == 2 for v in storage):
        return {}
    for value in legality.units.graph.values:
        if storage.get(value, value.dtype) is not value.dtype:
            wide.add(value)
        elif value.dtype.itemsize == 2 and not _is_rounded_for_readers(legality, value):
            sources = (memory_of(a) for a in value.inputs)
            if any(s in wide and product_of(s.shape) == product_of(value.shape) for s in sources):
                wide.add(value)
    return {v: float32 for v in wide if v in storage}


def _is_rounded_for_readers(legality: Legality, value: Value) -> bool:
    """Whether a value is rounded to its dtype in memory: an output, the result of a library call or what one reads."""
    if value.op.kind == "contraction" or value in legality.units.roots:
        return True
    return any(r.value.op.kind == "contraction" for r in legality.readers.get(value, ()))


def _storage_dtype(legality: Legality, value: Value, space: Space) -> DType:
    """Statistics and single numbers stay float32 between kernels. Only what users see, or a library call reads, is
    rounded to 16 bits."""
    if value.dtype.itemsize != 2 or _is_rounded_for_readers(legality, value):
        return value.dtype
    if product_of(value.shape) == 1:
        return float32  # one number costs nothing
    is_whole = legality.units.axes.of(value) == frozenset((*space.rows, *space.cols))
    return value.dtype if is_whole and not space.finalizes else float32
