"""Which kernels may share a launch: updates and weight gradients, which nothing waits for, and products of the library
with the biases that it adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Shape, bool_, element_count

from ..analysis.axes import Axes, known_product
from ..analysis.matmul import summed
from ..analysis.units import OPERAND, PRODUCT, Unit, Units, UnitSet, is_elementwise
from ..analysis.views import base_of, is_free, is_host, memory_of
from ..cost.matmul import split_k_in
from ..support.sizes import NOMINAL_SIZES, known_size
from ..support.tables import Table
from .candidate import Candidate, once
from .constraints import Fusion, Unmet, computed_of, unmet
from .legality import Legality
from .memory import MemoryPlan

GROUPED_MATMUL = "grouped matmul"


MAX_GROUPED = 8
"""The most products of one launch: the kernel has a branch for each."""


@once
def matmul_groups(found: Candidate) -> tuple[tuple[UnitSet, ...], ...]:
    """The kernels of a candidate that are joined, a tuple for each launch: one product each, summed over the same sizes
    by as many programs."""
    waited_for = _waited_for(found)
    alike: dict[tuple[Shape, bool], list[UnitSet]] = {}
    for kernel in found.kernels:
        products = [u.value for u in kernel if u.part == PRODUCT]
        if kernel in waited_for or len(products) != 1 or known_size(products[0].shape) is None:
            continue
        if all(is_elementwise(u) or u.part in (PRODUCT, OPERAND) for u in kernel):
            is_shared = split_k_in(found.units, found.memory.spaces[kernel], kernel) > 0
            alike.setdefault((summed(products[0]), is_shared), []).append(kernel)
    return tuple(group for kernels in alike.values() for group in _grouped(found, kernels))


def _grouped(found: Candidate, kernels: list[UnitSet]) -> Iterator[tuple[UnitSet, ...]]:
    """Products that are alike, in as few launches as the limit and the user's constraints allow."""
    groups: list[list[UnitSet]] = []
    for kernel in kernels:
        apart = found.legality.apart_from(found.computed(kernel))
        free = (g for g in groups if len(g) < MAX_GROUPED and not any(apart & {*found.computed(k)} for k in g))
        group = next(free, None)
        if group is None:
            groups.append([kernel])
        else:
            group.append(kernel)
    return (tuple(group) for group in groups if len(group) > 1)


def _waited_for(found: Candidate) -> set[UnitSet]:
    """The kernels that some other kernel waits for."""
    return set[UnitSet]().union(*found.waits.values())


BIASED = ("float16", "bfloat16", "float32", "float64")
"""The dtypes of which cuBLASLt adds a bias to a product before it rounds and stores: `isInputCompliesAddmmCudaLt` in
PyTorch's aten/src/ATen/native/cuda/Blas.cpp, which also wants more than one row, column and number of each sum. Its
activations (`_addmm_activation` of torch) are not the same functions: ReLU makes a NaN 0, where torch.relu keeps it
(https://forums.developer.nvidia.com/t/329783), and GELU is by tanh, on the CPU by erf."""


def library_bias(found: Candidate, unit: Unit) -> Unit | None:
    """The product of the library to which a unit adds a bias, a leaf of one axis, as the library's call can too. None
    for other units. What a user forbids is not asked, nor whether fusion is off."""
    value, units = unit.value, found.units
    if value.op.name != "add" or value.dtype.name not in BIASED or value in units.destinations:
        return None
    for product, bias in (value.inputs, value.inputs[::-1]):
        if not bias.is_leaf or bias.dtype is not value.dtype or bias.shape != product.shape[-1:]:
            continue
        made = units.producer.get(product)
        if made is None or not made.is_library or product.op.name != "matmul" or product.shape != value.shape:
            continue
        sizes = (known_size(product.shape[:-1]), known_size(product.shape[-1:]), known_size(summed(product)))
        if product not in units.roots and found.legality.readers[product] == [unit] and 1 not in sizes:
            return made
    return None


@once
def biases_of_products(found: Candidate) -> Mapping[Unit, Unit]:
    """The units that add a bias to a product of the library, each with that product, where the library may add the bias
    in its call (`torch.addmm`) and nothing more moves for it: no other unit of their kernel reads the sum, or the sum
    is stored, or other kernels compute it again."""
    home = {u: k for k in found.kernels for u in k}
    elsewhere = _computed_again(found).union(*found.memory.stores.values())
    biases = {}
    for unit in found.units.units:
        product = library_bias(found, unit)
        if product is None or found.legality.is_parted(unit, product) or found.options.is_off:
            continue
        is_read_there = not home[unit].isdisjoint(found.legality.readers.get(unit.value, ()))
        if not is_read_there or unit.value in elsewhere:
            biases[unit] = product
    return biases


def _computed_again(found: Candidate) -> set[Value]:
    return {v for k in found.kernels for v in found.recomputed(k)}


@once
def biased_products(found: Candidate) -> Mapping[UnitSet, UnitSet]:
    """The kernels of the library whose products have a bias added by a kernel that does nothing else, each with that
    kernel: one call does both."""
    biases, again = biases_of_products(found), _computed_again(found)
    alone = {u: k for k in found.kernels if len(k) == 1 for u in k if u in biases and u.value not in again}
    return {frozenset([biases[u]]): k for u, k in alone.items() if found.memory.storage[u.value] is u.value.dtype}


def missed_wish(found: Candidate, options: Fusion) -> Unmet | None:
    """What the first names of `fuse` in `options` ask for that kernels here compute apart, and calls of the library
    with the biases that they add; None without any. The candidate must be legal."""
    calls = (product | adding for product, adding in biased_products(found).items())
    computed = (computed_of(found.computed(k)) for k in found.kernels)
    return unmet(found.units, options, (*computed, *map(computed_of, calls)))


FOREACH = "foreach"


MOST_SEGMENTS = 1024
"""The most updates of one launch: each program looks its own up among the sizes of all."""


MAX_VARIANTS = 4
"""The most different variants of update in one launch: the kernel has a branch for each."""


SEGMENTS = Table(("size", "aligned"))
"""The table of the tensors of updates."""


@dataclass(frozen=True)
class Variant:
    """What a kernel does, equal for kernels that do the same to different tensors: its `steps`, with each tensor of its
    own by its place among them, and what is `left` where. `common` are memories of one number that all of them read."""

    common: frozenset[Value]
    steps: tuple[object, ...]
    left: tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Alike:
    """Kernels that do the same, each to `own` tensors: their memories, in one order for all kernels. `common` are
    memories of one number that all of them read."""

    kernels: tuple[UnitSet, ...]
    tensors: tuple[tuple[Value, ...], ...]
    common: tuple[Value, ...]

    @property
    def rows(self) -> tuple[tuple[Value, ...], ...]:
        """The tensors of each kernel that has anything to do."""
        return tuple(tensors for tensors in self.tensors if _elements(tensors))

    @property
    def largest(self) -> int:
        """Elements of the largest tensor; 0 where none has more than one: then there is nothing to iterate over."""
        return max((n for n in map(_elements, self.tensors) if n > 1), default=0)

    @property
    def shown(self) -> UnitSet:
        """The kernel whose tile program stands for all: the first one that iterates over something."""
        return next(k for k, tensors in zip(self.kernels, self.tensors, strict=True) if _elements(tensors) > 1)


def _elements(tensors: tuple[Value, ...]) -> int:
    return element_count(tensors[0].shape, NOMINAL_SIZES)


def table_width(group: Iterable[Alike]) -> int:
    """Columns of the table of a launch."""
    return SEGMENTS.width(max(len(tensors) for alike in group for tensors in alike.tensors))


def table_bytes(group: Iterable[Alike]) -> int:
    """Bytes of the table that a launch reads: of each row its own cells."""
    return sum(SEGMENTS.row_bytes(len(tensors)) for alike in group for tensors in alike.rows)


@once
def foreach_groups(found: Candidate) -> tuple[tuple[Alike, ...], ...]:
    """The kernels of a candidate that are joined, a tuple for each launch."""
    graph = found.units.graph
    if not graph.updates:
        return ()
    updated = {memory_of(new): graph[name] for name, new in graph.updates.items()}
    waited_for = _waited_for(found)
    by_variant: dict[Variant, list[_Update]] = {}
    single = []
    for kernel in found.kernels:
        update = _Update(found.units, found.memory, kernel, found.recomputed(kernel), updated)
        if kernel in waited_for or not _is_update(update):
            continue
        if update.axes:
            by_variant.setdefault(update.variant(update.numbers), []).append(update)
        else:
            single.append(update)
    shared = {variant.common for variant in by_variant}
    for update in single:
        # Of a tensor of one number every operand is one: which of them all updates share, only its like can tell.
        variant = next((f for f in map(update.variant, shared) if f in by_variant), None)
        if variant is not None:
            by_variant[variant].append(update)
    return tuple(_launches(found.legality, by_variant))


@dataclass(frozen=True, eq=False)
class _Update:
    """A kernel that could be joined to others, with the leaf that each of its values is left in."""

    units: Units
    memory: MemoryPlan
    kernel: UnitSet
    recomputed: tuple[Value, ...]
    updated: Mapping[Value, Value]

    @property
    def axes(self) -> tuple[int, ...]:
        space = self.memory.spaces[self.kernel]
        return (*space.rows, *space.cols)

    @property
    def numbers(self) -> frozenset[Value]:
        """Memories of one number beside tensors of many."""
        return frozenset(memory_of(v) for v in self.memory.loads[self.kernel] if not self.units.axes.of(v))

    @cached_property
    def computed(self) -> tuple[Unit, ...]:
        """The units that it computes, again or not."""
        return (*self.kernel, *map(self.units.producer.__getitem__, self.recomputed))

    @cached_property
    def values(self) -> frozenset[Value]:
        """Their values."""
        return frozenset(u.value for u in self.computed)

    def variant(self, common: frozenset[Value]) -> Variant:
        """What it does, where `common` are no tensors of its own."""
        return self._read_off(common)[0]

    def tensors(self, common: frozenset[Value]) -> tuple[Value, ...]:
        """The memories that it alone reads or writes, in the order of their first use."""
        return self._read_off(common)[1]

    def _read_off(self, common: frozenset[Value]) -> tuple[Variant, tuple[Value, ...]]:
        tensors: dict[Value, int] = {}
        steps: list[object] = []
        computed: dict[Value, int] = {}

        def operand(value: Value) -> object:
            value = base_of(value)
            if value in self.values:
                if value not in computed:
                    args = tuple(map(operand, value.inputs))
                    computed[value] = len(steps)
                    steps.append((value.op.name, value.dtype, repr(sorted(value.attrs.items())), args))
                return "computed", computed[value]
            if value.op.name == "constant":
                return "number", repr(value.attrs["value"]), value.dtype
            if is_host(value):
                return value
            memory = memory_of(value)
            place = memory if memory in common else tensors.setdefault(memory, len(tensors))
            return place, value.dtype, self.memory.storage[memory]

        left = [
            (operand(v), tensors.setdefault(leaf, len(tensors)), leaf.dtype)
            for v in self.memory.stores[self.kernel]
            for leaf in [self.updated[v]]
        ]
        return Variant(common, tuple(steps), tuple(left)), tuple(tensors)


def _is_update(update: _Update) -> bool:
    """Whether a kernel updates leaves by a rule, element by element, and does nothing else."""
    axes, kernel = update.units.axes, update.kernel
    stores, loads = update.memory.stores[kernel], update.memory.loads[kernel]
    if not all(map(is_elementwise, kernel)) or all(u.value.scope.phase != "update" for u in kernel) or not stores:
        return False
    order = axes.iterated(axes.labels[stores[0]])
    if set(order) != set(update.axes) or known_product(axes, order) is None:
        return False
    if any(v not in update.updated or axes.iterated(axes.labels[v]) != order for v in stores):
        return False
    if any(memory_of(v) in update.updated for v in loads):
        return False  # what another kernel has left in a leaf: a limit has cut this update in two
    operands = {base_of(a) for v in update.values for a in v.inputs}
    if any((is_free(a) and a.op.name != "constant") or a.op.name == "dim_size" for a in operands):
        return False
    return all(_is_whole_or_number(axes, v, order) for v in loads)


def _is_whole_or_number(axes: Axes, value: Value, order: tuple[int, ...]) -> bool:
    """Whether a kernel reads a memory from end to end in this order, or reads one number that it holds."""
    held = memory_of(value)
    iterated = axes.iterated(axes.labels[value])
    if held.op.name == "cat" or not (held.dtype.is_float or (held.dtype is bool_ and not iterated)):
        return False
    is_all = element_count(held.shape, NOMINAL_SIZES) == element_count(value.shape, NOMINAL_SIZES)
    return is_all and iterated in (order, ())


def _launches(legality: Legality, by_variant: Mapping[Variant, list[_Update]]) -> Iterator[tuple[Alike, ...]]:
    """Updates of several variants in as few launches as the limits and the user's constraints allow."""
    groups: list[dict[Variant, list[_Update]]] = []
    for variant, updates in by_variant.items():
        for update in updates:
            for group in groups:
                if (variant in group or len(group) < MAX_VARIANTS) and _may_join(legality, group, update):
                    group.setdefault(variant, []).append(update)
                    break
            else:
                groups.append({variant: [update]})
    for group in groups:
        alike = [_alike(variant, updates) for variant, updates in group.items()]
        made = tuple(some for some in alike if some.largest)
        if sum(len(some.kernels) for some in made) > 1:
            yield made


def _alike(variant: Variant, updates: list[_Update]) -> Alike:
    loads = updates[0].memory.loads[updates[0].kernel]
    common = dict.fromkeys(m for m in map(memory_of, loads) if m in variant.common)
    tensors = tuple(u.tensors(variant.common) for u in updates)
    return Alike(tuple(u.kernel for u in updates), tensors, tuple(common))


def _may_join(legality: Legality, group: Mapping[Variant, list[_Update]], update: _Update) -> bool:
    """Whether there is room for one more, and no user forbids it."""
    if sum(map(len, group.values())) >= MOST_SEGMENTS:
        return False
    apart = legality.apart_from(update.computed)
    return not (apart and any(apart & {*other.computed} for some in group.values() for other in some))
