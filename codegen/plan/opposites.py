"""A candidate with one pair of units in one kernel, or in two, and all other kernels as they are; why two are apart."""

from __future__ import annotations

from dataclasses import replace

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import Space
from ..analysis.units import FINALIZE, PARTIAL, Unit, UnitSet, is_elementwise
from ..fusion.candidate import Candidate
from ..fusion.cost import scheduled_cost
from ..fusion.horizontal import biased_products, library_bias
from ..fusion.legality import Refusal, forbidden
from ..fusion.matmul_epilogue import with_biases_alone
from ..fusion.merge import Clusters
from ..fusion.partition import Partition

NOT_SELECTED = Refusal("not selected", "legal, but other fusions save at least as much")
"""Said of a pair that is legal and apart all the same."""


def why_apart(found: Candidate, clusters: Clusters, producer: Unit, reader: Unit) -> Refusal:
    """The rule that keeps the kernels of two units apart. `clusters` are the kernels of `found`."""
    if found.legality.is_parted(producer, reader):
        return forbidden(producer, reader)
    if library_bias(found, reader) is producer:
        off = "with fusion='off' a call of the library multiplies and does nothing else"
        return Refusal("library", off) if found.options.is_off else NOT_SELECTED
    why = clusters.why_not(clusters.of[producer], clusters.of[reader])
    if producer.part == FINALIZE and why is not None:
        return Refusal("finalize", f"{producer.value.name} is whole only once every program is done")
    return why or NOT_SELECTED


def apart(found: Candidate, producer: Unit, reader: Unit) -> Candidate | None:
    """A fused pair in two kernels: its kernel cut before the reader, or behind the producer; or not recomputed; or not
    in one call of the library. None where that is illegal."""
    if producer.is_library:
        return found.with_apart(producer, reader)
    partition = found.partition
    kernel = next(k for k in partition.kernels if reader in k)
    trials = []
    if producer in kernel:
        for late in (
            _closure(kernel, reader, found.units.after),
            kernel - _closure(kernel, producer, found.units.before),
        ):
            if late and late != kernel:
                trials.append(_changed(partition, {kernel: (kernel - late, late)}))
    else:
        kept = tuple(v for v in found.recomputed(kernel) if v is not producer.value)
        trials.append(replace(partition, recomputed={**partition.recomputed, kernel: kept}))
    return _cheapest(found, trials)


def together(found: Candidate, producer: Unit, reader: Unit) -> Candidate | None:
    """A pair in one kernel: both kernels as one, either end moved to the other's, or the value computed again; a bias
    in the library's call. None where that is illegal."""
    if library_bias(found, reader) is producer:
        added = with_biases_alone(found, [reader])
        return None if added is None or frozenset([producer]) not in biased_products(added) else added
    partition, between = found.partition, _between(found, producer, reader) or frozenset((producer, reader))
    early = next(k for k in partition.kernels if producer in k)
    late = next(k for k in partition.kernels if reader in k)
    trials = []
    if is_elementwise(producer) and not any(unit.is_library for unit in late):
        values = sorted({*found.recomputed(late), producer.value}, key=lambda v: v.index)
        trials.append(replace(partition, recomputed={**partition.recomputed, late: tuple(values)}))
    if isinstance(found.legality.space(between, ()), Space):
        trials += [
            _changed(partition, {early: (early | late,), late: ()}),
            _changed(partition, {early: (early - between,), late: (late | (between & early),)}),
            _changed(partition, {early: (early | (between & late),), late: (late - between,)}),
        ]
    return _cheapest(found, trials)


def _closure(kernel: UnitSet, unit: Unit, steps: dict[Unit, tuple[Unit, ...]]) -> UnitSet:
    """A unit and what follows it, step by step, inside a kernel."""
    seen = {unit}
    todo = [unit]
    while todo:
        for other in steps[todo.pop()]:
            if other in kernel and other not in seen:
                seen.add(other)
                todo.append(other)
    return frozenset(seen)


def _between(found: Candidate, producer: Unit, reader: Unit) -> UnitSet:
    every = frozenset(found.units.units)
    return _closure(every, producer, found.units.after) & _closure(every, reader, found.units.before)


def _changed(partition: Partition, parts: dict[UnitSet, tuple[UnitSet, ...]]) -> Partition:
    """The partition with other kernels in the place of some; what those computed again their last part does."""
    kernels: list[UnitSet] = []
    recomputed: dict[UnitSet, tuple[Value, ...]] = {}
    for kernel in partition.kernels:
        made = [k for k in parts.get(kernel, (kernel,)) if k]
        kernels += made
        copies = partition.recomputed.get(kernel, ())
        for target in made or [k for some in parts.values() for k in some][:1]:
            held = {u.value for u in target if u.part != PARTIAL}
            values = {*recomputed.get(target, ()), *(v for v in copies if v not in held)}
            recomputed[target] = tuple(sorted(values, key=lambda v: v.index))
    return Partition(tuple(kernels), {k: v for k, v in recomputed.items() if v})


def _cheapest(found: Candidate, trials: list[Partition]) -> Candidate | None:
    made = [found.with_partition(trial) for trial in trials]
    legal = [candidate for candidate in made if candidate is not None and candidate.refusal is None]
    return min(legal, key=scheduled_cost) if legal else None
