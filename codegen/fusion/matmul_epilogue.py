"""Which matrix products are computed inside generated kernels: those whose reader so saves a launch and a tensor's way
to memory and back, for more than a library call would be faster by; and to which the library adds their bias.

Done to the plan that was chosen, product by product, in their order: what a product joins is a kernel that reads it,
whose tile then is the product's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import chain

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import Space
from ..analysis.matmul import is_generable
from ..analysis.units import PARTIAL, PRODUCT, Unit, UnitSet
from ..cost.matmul import (
    generated_bytes,
    generated_bytes_on,
    library_bytes,
    library_bytes_on,
    split_k_in,
    tile_in,
)
from ..cost.traffic import nominal_bytes
from ..support.contraction import Node, contract, dissolve, nodes_between
from .candidate import Candidate, renamed
from .cost import scheduled_cost
from .horizontal import biased_products, biases_of_products, foreach_groups, missed_wish
from .legality import Rule
from .partition import Partition

MOST_PRODUCTS = 2
"""Products that one kernel computes: each keeps a tile in registers, and its operands in shared memory."""


def fuse_matmul_epilogues(found: Candidate) -> Candidate:
    """The candidate with products computed by kernels that read them, where that pays. Where all are to be generated,
    the others are kernels of their own."""
    candidates = [u.value for u in found.units.units if u.is_library and is_generable(found.units.axes, u.value)]
    if not candidates:
        return found
    every = found.with_parts(dict.fromkeys(candidates, PRODUCT))
    kernels = _Kernels(every, {p.value: u for u, p in biases_of_products(found).items()})
    fused = []
    for value in candidates if not found.options.is_off else ():
        product = every.units.producer[value]
        gains = {k: gain for k in kernels.readers(value) if (gain := kernels.gain(product, k)) > 0}
        # The largest gain first; of equal ones the kernel that was first.
        for kernel in sorted(gains, key=lambda k: -gains[k]):
            if kernels.join(product, kernel):
                fused.append(value)
                break
    joined = every.with_partition(kernels.partition())
    dissolve(kernels.nodes.values())
    if joined is None or joined.refusal is not None:
        return every if found.options.all_generated else found
    if found.options.all_generated:
        return joined
    made = found.with_parts(dict.fromkeys(fused, PRODUCT))
    back = {u: made.units.producer.get(u.value, u) for u in every.units.units if u.part == PRODUCT}
    return replace(made, partition=renamed(joined.partition, back))


def leave_biases_to_library(found: Candidate) -> Candidate:
    """The candidate with each bias that the library can add to its product in a kernel by itself, where that pays: all
    of them or, where they may not all be, one after the other."""
    done = {u for kernel in biased_products(found).values() for u in kernel}
    biases = [u for u in biases_of_products(found) if u not in done]
    made = _if_cheaper(found, biases)
    if made is found and len(biases) > 1:
        for unit in biases:
            made = _if_cheaper(made, [unit])
    return made


def _if_cheaper(found: Candidate, biases: Collection[Unit]) -> Candidate:
    other = with_biases_alone(found, biases) if biases else None
    if other is None or missed_wish(other, found.options) is not None:
        return found
    return other if scheduled_cost(other).total < scheduled_cost(found).total else found


def with_biases_alone(found: Candidate, biases: Collection[Unit]) -> Candidate | None:
    """The candidate with each of some units in a kernel by itself, whose results no kernel computes again. None where
    that is illegal."""
    alone, values = frozenset(biases), {u.value for u in biases}
    kernels: list[UnitSet] = []
    recomputed: dict[UnitSet, tuple[Value, ...]] = {}
    for kernel in found.kernels:
        kernels += [frozenset([u]) for u in kernel & alone]
        rest = kernel - alone
        if rest:
            kernels.append(rest)
            recomputed[rest] = tuple(v for v in found.recomputed(kernel) if v not in values)
    other = found.with_partition(Partition(tuple(kernels), {k: copies for k, copies in recomputed.items() if copies}))
    return None if other is None or other.refusal is not None else other


class _Kernels:
    """The kernels of a candidate, as products join them: what each reads and waits for."""

    def __init__(self, candidate: Candidate, biases: Mapping[Value, Unit]) -> None:
        self.biases = biases
        self.units, self.legality = candidate.units, candidate.legality
        self.target = candidate.options.planned_for
        self.recomputed = dict(candidate.partition.recomputed)
        self.nodes = {kernel: Node() for kernel in candidate.waits}
        for kernel, needed in candidate.waits.items():
            here = self.nodes[kernel]
            for other in map(self.nodes.__getitem__, needed):
                here.before.add(other)
                other.after.add(here)
        for position, kernel in enumerate(candidate.kernels):
            self.nodes[kernel].position = position
        self.loads = {k: candidate.memories_read(k) for k in candidate.kernels}
        self.shared = _shared_launches(candidate)
        self.loaders: dict[Value, dict[UnitSet, None]] = {}
        for kernel, memories in self.loads.items():
            for memory in memories:
                self.loaders.setdefault(memory, {})[kernel] = None

    def readers(self, value: Value) -> list[UnitSet]:
        """The kernels that read a value from memory."""
        return list(self.loaders.get(value, ()))

    def gain(self, product: Unit, kernel: UnitSet) -> int:
        """What computing a product in a kernel that reads it saves, in bytes; 0 where that kernel may not have it."""
        if sum(u.part == PRODUCT for u in kernel) >= MOST_PRODUCTS:
            return 0
        value, axes, both = product.value, self.units.axes, kernel | {product}
        facts = self.legality.add(self.legality.facts_of(kernel), self.legality.facts[product])
        again = map(self.units.producer.__getitem__, self.recomputed.get(kernel, ()))
        if isinstance(self.legality.shape(facts), Rule) or self.legality.parted(chain(both, again)) is not None:
            return 0
        apart = (kernel, frozenset([product]))
        stored = [u for u in both if u.part != PARTIAL and self._is_read_elsewhere(u.value, apart)]
        space = self.legality.space(both, stored)
        if not isinstance(space, Space):
            return 0
        saved = self._saved(value, kernel, value in {u.value for u in stored})
        if self.target.cpu is not None:
            return saved + library_bytes_on(self.target.cpu, value) - generated_bytes_on(self.target.cpu, value)
        tile, split_k = tile_in(self.units, space, both), split_k_in(self.units, space, both)
        called = max(library_bytes(value), self.target.call_bytes)
        return saved + called - generated_bytes(value, tile, frozenset(space.cols), axes, split_k)

    def _saved(self, value: Value, kernel: UnitSet, is_stored: bool) -> int:
        """The price, in bytes, of the launch and of the way through memory that a product saves in a kernel. Where the
        library could add its bias, the product does not go through memory there either, a kernel of such biases has no
        launch, and a kernel that does more with the sum reads it."""
        launch, adding = self.target.launch_bytes, self.biases.get(value)
        if adding is None or adding not in kernel:
            return launch // self.shared.get(kernel, 1) + nominal_bytes(value) * (1 if is_stored else 2)
        if kernel <= set(self.biases.values()):
            return launch - launch // len(kernel)
        is_read_there = not kernel.isdisjoint(self.legality.readers.get(adding.value, ()))
        return launch + (nominal_bytes(adding.value) if is_read_there else 0)

    def _is_read_elsewhere(self, value: Value, kernels: tuple[UnitSet, ...]) -> bool:
        return value in self.units.roots or any(k not in kernels for k in self.loaders.get(value, ()))

    def join(self, product: Unit, kernel: UnitSet) -> bool:
        """Compute a product in a kernel, if nothing has to run between the two."""
        alone = frozenset([product])
        first, last = self.nodes[alone], self.nodes[kernel]
        between = nodes_between(first, last)
        if between is None:
            return False
        contract(first, last, between)
        both, gone = kernel | alone, {alone, kernel}
        del self.nodes[alone], self.nodes[kernel]
        self.nodes[both] = first
        if kernel in self.recomputed:
            self.recomputed[both] = self.recomputed.pop(kernel)
        read = self.loads.pop(alone) | self.loads.pop(kernel)
        for memory in read:
            for old in gone:
                self.loaders[memory].pop(old, None)
        self.loads[both] = read - {product.value}
        for memory in self.loads[both]:
            self.loaders.setdefault(memory, {})[both] = None
        return True

    def partition(self) -> Partition:
        """The kernels as they are now, in no order."""
        return Partition(tuple(self.loads), self.recomputed)


def _shared_launches(candidate: Candidate) -> dict[UnitSet, int]:
    """For each update that shares a launch, how many do: leaving saves the launch only if all leave."""
    kernels = ([k for alike in group for k in alike.kernels] for group in foreach_groups(candidate))
    return {k: len(group) for group in kernels for k in group}
