"""What a partition costs as it is launched: with updates joined, and sums finished by last programs."""

from __future__ import annotations

from .clusters import Partition
from .cost import Cost, MemoryPlan, cost_of, memory_plan
from .finishing import finish_inside
from .fusion import Legality
from .group_updates import Members, table_bytes, update_groups
from .side_by_side import product_groups
from .traffic import LAUNCH_BYTES, NOMINAL_SIZES, launch_traffic
from .units import Units


def launched_cost(units: Units, legality: Legality, partition: Partition) -> Cost:
    """The cost of a partition whose kernels are legal, with updates joined and sums finished by last programs."""
    partition, inside = finish_inside(units, legality, partition)
    cost = cost_of(units, legality, partition)
    memory = memory_plan(units, legality, partition)
    launches: dict[Members, list[Members]] = {}
    for kernel, host in inside.items():
        launches.setdefault(host, [host]).append(kernel)
    together = [(kernels, 0) for kernels in launches.values()]
    if units.graph.updates:
        for group in update_groups(units, legality, partition, memory):
            together.append(([k for alike in group for k in alike.kernels], table_bytes(group)))
    together += [(list(group), 0) for group in product_groups(units, legality, partition, memory)]
    for kernels, table in together:
        # What is read again on a walk along a row is read again for the last program too.
        is_walked = memory.walks[kernels[0]] is not None
        apart = sum(_bytes(memory, [k]) for k in kernels)
        gained, more = len(kernels) - 1, 0 if is_walked else _bytes(memory, kernels) + table - apart
        cost = Cost(cost.total - gained * LAUNCH_BYTES + more, cost.launches - gained, cost.bytes + more)
    return cost


def _bytes(memory: MemoryPlan, kernels: list[Members]) -> int:
    """What one launch of these kernels moves."""
    units = [u for k in kernels for u in k]
    loads = dict.fromkeys(v for k in kernels for v in memory.loads[k])
    stores = [v for k in kernels for v in memory.stores[k]]
    return launch_traffic(units, loads, stores, memory.storage, NOMINAL_SIZES, 0, {}).total
