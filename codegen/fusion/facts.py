"""What the rules of fusion need to know of units: of one, by what it reads and computes; of many, by adding up."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value

from ..analysis.axes import Axes, Labels, reduced_axes
from ..analysis.matmul import sides
from ..analysis.units import FINALIZE, OPERAND, PARTIAL, PRODUCT, REPLICATED, Unit, iterated_inputs
from ..analysis.views import base_of, is_free, is_host, is_join, memory_of

AxisSet = frozenset[int]


_WHOLE: Labels = (-1,)
"""The order in which a product reads a leaf: no kernel's own, as a program reads what lies in other programs' tiles."""


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of a set of units. Facts of two sets add up, and many sets have the same.

    `axes` are all that a kernel would iterate over. `sums` are (axes summed over, axes of what is summed) of each
    partial sum, `reductions` (columns, axes of what is reduced) of each row reduction, `finalizes` the axes of each
    finalized sum, `products` (axes of its rows, axes of its columns) of each product that a generated kernel computes.
    `whole` are memories that must be complete before the kernel starts. `written` are leaves that are updated in
    place, `read` such leaves with the order in which they are read. `itemsize` is that of the widest number computed,
    4 at least.
    """

    axes: AxisSet = frozenset()
    generated: bool = True
    libraries: int = 0
    twice: frozenset[Value] = frozenset()
    finalizes: frozenset[AxisSet] = frozenset()
    sums: frozenset[tuple[AxisSet, AxisSet]] = frozenset()
    reductions: frozenset[tuple[AxisSet, AxisSet]] = frozenset()
    products: frozenset[tuple[AxisSet, AxisSet]] = frozenset()
    whole: frozenset[Value] = frozenset()
    read: frozenset[tuple[Value, Labels]] = frozenset()
    written: frozenset[Value] = frozenset()
    itemsize: int = 4

    def __add__(self, other: Facts) -> Facts:
        return Facts(
            self.axes | other.axes,
            self.generated or other.generated,
            self.libraries + other.libraries,
            self.twice | other.twice,
            self.finalizes | other.finalizes,
            self.sums | other.sums,
            self.reductions | other.reductions,
            self.products | other.products,
            self.whole | other.whole,
            self.read | other.read,
            self.written | other.written,
            max(self.itemsize, other.itemsize),
        )


class FactsOfUnits:
    """Finds the facts of single units of a graph with these axes. `updated` are leaves by what overwrites them in
    place, `written_as` the order in which each is written. Units that are alike have the same facts, found once."""

    def __init__(self, axes: Axes, updated: Mapping[Value, Value], written_as: Mapping[Value, tuple[int, ...]]) -> None:
        self.axes, self.updated, self.written_as = axes, updated, written_as
        self._alike: dict[Hashable, Facts] = {}
        self._labels: dict[Unit, tuple[Labels, ...]] = {}

    def of(self, unit: Unit, sources: tuple[Value, ...]) -> Facts:
        """The facts of a unit that reads these `sources`."""
        axes, value = self.axes, unit.value
        written = frozenset([self.updated[value]]) if value in self.updated and unit.part != PARTIAL else frozenset()
        if unit.part == FINALIZE:
            return Facts(axes.of(value), finalizes=frozenset([axes.of(value)]), written=written)
        if unit.is_library:
            return Facts(axes.of(value), generated=False, libraries=1)
        if unit.part == REPLICATED:
            return Facts()
        if unit.part == OPERAND:
            # What it reads is read by other programs as well, in whichever tile it lies.
            memories = frozenset(map(memory_of, sources))
            return Facts(whole=memories, read=frozenset((m, _WHOLE) for m in memories if m in self.written_as))
        whole, read = self._reads(unit)
        if whole or read or written:
            return self._of_tile(unit, whole, read, written)
        # Of the values of such a unit only their axes count.
        taken = axes.labels[value.inputs[0]] if value.op.kind == "reduction" else None
        key = unit.part, taken, axes.labels[value], self.labels(unit), value.dtype.itemsize
        found = self._alike.get(key)
        if found is None or found.twice:
            found = self._alike[key] = self._of_tile(unit, whole, read, written)
        return found

    def labels(self, unit: Unit) -> tuple[Labels, ...]:
        """The labels of the arguments and of the result of a unit, as far as it iterates over them, each once."""
        found = self._labels.get(unit)
        if found is None:
            found = tuple(dict.fromkeys(self.axes.labels[v] for v in _touched_by(unit)))
            self._labels[unit] = found
        return found

    def _of_tile(
        self, unit: Unit, whole: frozenset[Value], read: frozenset[tuple[Value, Labels]], written: frozenset[Value]
    ) -> Facts:
        axes, value, touched = self.axes, unit.value, list(_touched_by(unit))
        sums = reductions = products = frozenset[tuple[AxisSet, AxisSet]]()
        if unit.part == PRODUCT:
            products = frozenset([sides(axes, value)])
        if value.op.kind == "reduction":
            pair = frozenset([(reduced_axes(axes, value), axes.of(value.inputs[0]))])
            sums, reductions = (pair, reductions) if unit.part == PARTIAL else (sums, pair)
        return Facts(
            frozenset().union(*(axes.of(v) for v in touched)),
            twice=frozenset(v for v in touched if not axes.is_distinct(v)),
            sums=sums,
            reductions=reductions,
            products=products,
            whole=whole,
            read=read,
            written=written,
            itemsize=max(4, value.dtype.itemsize),
        )

    def _reads(self, unit: Unit) -> tuple[frozenset[Value], frozenset[tuple[Value, Labels]]]:
        """The memories that a unit reads in an order of their own (tables, what is joined, reshaped or taken apart),
        and the leaves that are updated in place, with the order in which it reads them."""
        value, is_product = unit.value, unit.part == PRODUCT
        table = value.inputs[0] if value.op.kind == "gather" else None
        whole: set[Value] = set()
        read: set[tuple[Value, Labels]] = set()
        for arg in unit.args:
            source = base_of(arg)
            memory = memory_of(source)
            if is_product or arg is table or memory is not source or is_join(memory):
                whole.add(memory)
            if memory in self.written_as:
                read.add((memory, _WHOLE if is_product else self.axes.labels[source]))
        return frozenset(whole), frozenset(read)


def _touched_by(unit: Unit) -> Iterator[Value]:
    """The arguments and the result of a unit, as far as it iterates over them."""
    if unit.part == OPERAND:
        return
    if unit.part not in (FINALIZE, REPLICATED, PRODUCT):
        for arg in iterated_inputs(unit.value) if unit.moments is None else unit.args:
            source = base_of(arg)
            if source is not arg and not is_host(arg) and not is_free(source):
                yield source
            yield arg
    if unit.part != PARTIAL:
        yield unit.value
