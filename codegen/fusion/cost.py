"""What a partition costs: bytes, launches, rematerialization and idle programs; and what it costs as it is launched."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import element_count

from ..analysis.axes import Space
from ..analysis.units import FINALIZE, PARTIAL, REPLICATED, Units, UnitSet
from ..cost.long_rows import reread_discount
from ..cost.traffic import (
    PROGRAM_ELEMENTS,
    SECTOR_ELEMENTS,
    Traffic,
    launch_traffic,
    nominal_bytes,
    rematerialize_bytes,
    tensor_bytes,
)
from ..support.sizes import NOMINAL_SIZES
from ..target.gpus import H100, PROGRAMS_PER_SM
from .candidate import Candidate, once
from .horizontal import biased_products, foreach_groups, matmul_groups, table_bytes
from .last_block import GROUP, finalize_in_last_block
from .memory import MemoryPlan
from .reduction_strategy import replicated_bytes


@dataclass(frozen=True, order=True)
class Cost:
    """`total` is in bytes, with every `Dim` at its nominal size: `bytes` are moved, some of them cheaper as they come
    from the cache; the rest are prices of launches, of computing again, and of leaving most of a GPU idle."""

    total: int
    launches: int
    bytes: int


BEYOND_MEASURE = Cost(sys.maxsize, 0, 0)
"""The cost of what is illegal, as constraints may make it."""


@once
def cost_of(candidate: Candidate) -> Cost:
    """The cost of a candidate, each kernel a launch."""
    if candidate.refusal is not None:
        return BEYOND_MEASURE
    memory, target = candidate.memory, candidate.options.planned_for
    moved = cached = slowly = recomputed = 0
    for kernel in candidate.kernels:
        held = candidate.computed(kernel)
        traffic = _kernel_traffic(candidate, kernel, NOMINAL_SIZES)
        here, looped = traffic.total, memory.loop_reads[kernel] or {}
        moved += here
        cached += reread_discount(memory.spaces[kernel], looped, candidate.units.axes, traffic, memory.storage)
        slowly += _slowness(candidate.units, memory, kernel, here, target.busy_programs)
        recomputed += sum(map(rematerialize_bytes, candidate.recomputed(kernel)))
        recomputed += sum(replicated_bytes(u.value) for u in held if u.part == REPLICATED)
    launches = len(candidate.kernels)
    return Cost(launches * target.launch_bytes + moved - cached + slowly + recomputed, launches, moved)


def _slowness(units: Units, memory: MemoryPlan, kernel: UnitSet, moved: int, busy: int) -> int:
    """The price of holding whole rows, in bytes: rows may be too few for as many programs as their elements could feed,
    of which `busy` draw all that memory gives, and a program with few rows uses little of each sector where neighbours
    in memory belong to other rows."""
    space = memory.spaces[kernel]
    if not space.reduces_rows:
        return 0
    rows, cols = (element_count(units.axes.shape(some), NOMINAL_SIZES) for some in (space.rows, space.cols))
    wanted = min(busy, rows * cols // PROGRAM_ELEMENTS)
    idle = moved * max(0, wanted - rows) // max(1, rows)
    held = max(1, PROGRAM_ELEMENTS // max(1, cols))
    crossed = [v for v in (*memory.loads[kernel], *memory.stores[kernel]) if _crosses(units, v, space)]
    return idle + sum(map(nominal_bytes, crossed)) * max(0, SECTOR_ELEMENTS // held - 1)


def _crosses(units: Units, value: Value, space: Space) -> bool:
    """Whether neighbours in the memory of a value lie in different rows of a kernel."""
    axes = [a for a in units.axes.labels[value] if a is not None]
    return bool(axes) and axes[-1] in space.rows and not set(axes).isdisjoint(space.cols)


@once
def scheduled_cost(candidate: Candidate) -> Cost:
    """The cost of a candidate as it is launched: unless fusion is off with updates joined, biases added by the library,
    and sums finalized by last programs, which has its price."""
    if candidate.refusal is not None:
        return BEYOND_MEASURE
    if candidate.options.is_off:
        alone = cost_of(candidate)
        return replace(alone, total=alone.total + _finishing(candidate))
    candidate = finalize_in_last_block(candidate)
    cost = cost_of(candidate)
    launch = candidate.options.planned_for.launch_bytes
    for kernels, table in _together(candidate):
        gained, more = len(kernels) - 1, _more_bytes(candidate, kernels, table, NOMINAL_SIZES)
        cost = Cost(cost.total - gained * launch + more, cost.launches - gained, cost.bytes + more)
    added, through = len(biased_products(candidate)), _through_memory(candidate, NOMINAL_SIZES)
    cost = Cost(cost.total - added * launch - through, cost.launches - added, cost.bytes - through)
    return replace(cost, total=cost.total + _finishing(candidate))


def _finishing(candidate: Candidate) -> int:
    """The price of adding up partial sums, in bytes, beside that of launches: of counts of arrivals where last programs
    do it, else of the loads of what was left, which few programs take one after the other.

    Last programs do it wherever they can, so counts are charged no more than the launches that they save: a launch
    outside of a CUDA graph takes several times its price here."""
    target, spaces = candidate.options.planned_for, candidate.memory.spaces
    home = {u.value: k for k in candidate.kernels for u in k if u.part == PARTIAL}
    counts, saved = dict[UnitSet, int](), Counter[UnitSet]()
    rounds = 0
    for kernel in (k for k in candidate.kernels if spaces[k].finalizes):
        host = candidate.finalized_by.get(kernel)
        if host is not None:
            # Of columns groups of programs add up first, and count themselves as well.
            counts[host] = max(counts.get(host, 1), 2 if spaces[kernel].rows else 1)
            saved[host] += 1
        elif spaces[kernel].rows:
            shared = (_programs(candidate, home[u.value]) for u in kernel if u.part == FINALIZE)
            rounds += -(-max(shared) // GROUP) - 1
    counted = sum(min(counts[host] * target.arrival_bytes, saved[host] * target.launch_bytes) for host in counts)
    return counted + rounds * target.load_bytes


def _programs(candidate: Candidate, kernel: UnitSet) -> int:
    """How many programs share the sums over rows that a kernel takes."""
    space, axes = candidate.memory.spaces[kernel], candidate.units.axes
    elements = element_count(axes.shape((*space.rows, *space.cols)), NOMINAL_SIZES)
    return max(1, min(-(-elements // PROGRAM_ELEMENTS), PROGRAMS_PER_SM * H100.multiprocessors))


def bytes_at(candidate: Candidate, sizes: Mapping[str, int]) -> int:
    """The bytes of `cost_of` at other sizes of the `Dim`s. The candidate must be legal."""
    return sum(_kernel_traffic(candidate, kernel, sizes).total for kernel in candidate.kernels)


def scheduled_bytes_at(candidate: Candidate, sizes: Mapping[str, int]) -> int:
    """The bytes of `scheduled_cost` at other sizes of the `Dim`s. The candidate must be legal."""
    if candidate.options.is_off:
        return bytes_at(candidate, sizes)
    candidate = finalize_in_last_block(candidate)
    together = (_more_bytes(candidate, kernels, table, sizes) for kernels, table in _together(candidate))
    return bytes_at(candidate, sizes) + sum(together) - _through_memory(candidate, sizes)


def _kernel_traffic(candidate: Candidate, kernel: UnitSet, sizes: Mapping[str, int]) -> Traffic:
    """What a kernel of a partition moves as a launch of its own."""
    memory = candidate.memory
    held, looped = candidate.computed(kernel), memory.loop_reads[kernel] or {}
    return launch_traffic(held, memory.loads[kernel], memory.stores[kernel], memory.storage, sizes, 0, looped)


def _together(candidate: Candidate) -> list[tuple[list[UnitSet], int]]:
    """The kernels that share a launch, and the bytes of the table that it reads."""
    launches: dict[UnitSet, list[UnitSet]] = {}
    for kernel, host in candidate.finalized_by.items():
        launches.setdefault(host, [host]).append(kernel)
    together = [(kernels, 0) for kernels in launches.values()]
    for foreach in foreach_groups(candidate):
        together.append(([k for alike in foreach for k in alike.kernels], table_bytes(foreach)))
    return [*together, *((list(group), 0) for group in matmul_groups(candidate))]


def _through_memory(candidate: Candidate, sizes: Mapping[str, int]) -> int:
    """The bytes of the products that would be written and read again, were biases not added in the library's calls."""
    products = (u.value for kernel in biased_products(candidate) for u in kernel)
    return sum(2 * tensor_bytes(v.shape, candidate.memory.storage[v], sizes) for v in products)


def _more_bytes(candidate: Candidate, kernels: list[UnitSet], table: int, sizes: Mapping[str, int]) -> int:
    """The bytes that kernels move in one launch, beside what they move each in its own."""
    memory = candidate.memory
    if memory.loop_reads[kernels[0]] is not None:
        return 0  # what loops along a row read again is read again for the last program too
    return _bytes(memory, kernels, sizes) + table - sum(_bytes(memory, [k], sizes) for k in kernels)


def _bytes(memory: MemoryPlan, kernels: list[UnitSet], sizes: Mapping[str, int]) -> int:
    """What one launch of these kernels moves."""
    units = [u for k in kernels for u in k]
    loads = dict.fromkeys(v for k in kernels for v in memory.loads[k])
    stores = [v for k in kernels for v in memory.stores[k]]
    return launch_traffic(units, loads, stores, memory.storage, sizes, 0, {}).total
