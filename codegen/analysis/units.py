"""Units of planning: what goes into a kernel as a whole, and what must come before what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from tritonnotes.ir.core.graph import Graph, Value

from .axes import Axes, is_row_reduction, label_axes
from .moments import Moments, column_moments
from .views import Place, cone_of, is_free, is_host, is_join, memory_of, needs_kernel, source_of

PARTIAL = "partial"


FINALIZE = "finalize"


REPLICATED = "replicated"


PRODUCT = "product"


OPERAND = "operand"


@dataclass(frozen=True, eq=False)
class Unit:
    """One primitive to be computed. A column reduction is two units: `part` 'partial' leaves one row for each program,
    'finalize' adds those rows up; or one, 'replicated', that every program computes. A contraction is a library
    call, a launch of its own, unless its part is 'product': then a generated kernel computes it, tile by tile. An
    'operand' is computed by kernels that multiply, of each block that they need, and reaches no memory.

    `moments` are those that a column reduction follows from: then its partials are taken of what deviates itself, and
    only the last step reads the mean."""

    value: Value
    part: str = ""
    moments: Moments | None = None

    @cached_property
    def args(self) -> tuple[Value, ...]:
        """The values that it reads, views of others among them; of a replicated sum those that the sum itself does."""
        if self.part == FINALIZE:
            return () if self.moments is None else (self.moments.about,)
        return self.value.inputs if self.moments is None else (self.moments.x,)

    @cached_property
    def is_library(self) -> bool:
        return self.is_collective or (self.value.op.kind == "contraction" and self.part != PRODUCT)

    @property
    def is_collective(self) -> bool:
        """Whether processes exchange something: a call between launches, as one of the library is."""
        return self.value.op.kind == "collective"

    def __repr__(self) -> str:
        return f"{self.value.name}{':' + self.part if self.part else ''}"


UnitSet = frozenset[Unit]
"""Units that share a kernel, or that a user wants to share one."""


@dataclass(frozen=True)
class Units:
    """All units of a graph in order, the dependencies between them, and the axes of the graph.

    `roots` are the values that must reach memory: outputs, updates and parts of what is joined.
    """

    graph: Graph
    axes: Axes
    units: tuple[Unit, ...]
    producer: dict[Value, Unit]
    before: dict[Unit, tuple[Unit, ...]]
    after: dict[Unit, tuple[Unit, ...]]
    roots: frozenset[Value] = field(default_factory=frozenset)
    joined: Mapping[Value, tuple[Value, Place]] = field(default_factory=dict)
    """For each part of a `cat` what it is joined into, and where in that it lies."""
    gathers: bool = False
    """Whether sums down columns follow from moments, where they can."""

    @cached_property
    def replicated(self) -> frozenset[Value]:
        """The sums that every program computes."""
        return frozenset(u.value for u in self.units if u.part == REPLICATED)

    @property
    def joins(self) -> tuple[Value, ...]:
        """The values that are made by joining, in order."""
        return tuple(v for v in self.graph.values if is_join(v))

    @cached_property
    def destinations(self) -> Mapping[Value, Value]:
        """For each value that is written into another one's memory, that one: a leaf updated in place, or what it is
        joined into."""
        updated = {memory_of(new): self.graph[name] for name, new in self.graph.updates.items()}
        return updated | {value: joined for value, (joined, _) in self.joined.items()}

    def inside(self, unit: Unit) -> tuple[Value, ...]:
        """What is computed only inside a replicated sum, or not at all where a sum follows from moments."""
        if unit.part == PARTIAL and unit.moments is not None:
            return tuple(m for m in unit.value.inputs if m not in self.producer)
        if unit.part != REPLICATED:
            return ()
        return tuple(m for m in cone_of(unit.value)[0] if needs_kernel(m) and m not in self.producer)

    def writers(self, memory: Value) -> tuple[Unit, ...]:
        """The units whose results are in a value's memory: its own, or those of the parts that are joined there."""
        parts = memory.inputs if is_join(memory) else (memory,)
        return tuple(self.producer[p] for p in parts if p in self.producer)

    def sources(self, unit: Unit) -> list[Value]:
        """The values that a unit reads, views looked through: leaves, aliases and other units' results."""
        if unit.part == REPLICATED:
            return list(cone_of(unit.value)[1])
        return [s for a in unit.args if not is_host(a) and not is_free(s := source_of(a))]


def is_elementwise(unit: Unit) -> bool:
    """Whether a unit can be computed wherever its arguments are."""
    return unit.part == REPLICATED or (not unit.part and unit.value.op.kind in ("elementwise", "cast"))


def make_units(
    graph: Graph,
    strategies: Mapping[Value, bool] = MappingProxyType({}),
    replicated: frozenset[Value] = frozenset(),
    known: Units | None = None,
    gathers: bool = False,
) -> Units:
    """Cut a graph of primitives into units, with data dependencies and, for updates in place, order dependencies.

    `strategies` says of some reductions whether they are row reductions; of others `is_row_reduction` does. Every
    program computes the `replicated` sums, with all that only they need. Where it `gathers` moments, one pass over the
    rows serves a mean down columns and what deviates from it. Of the same graph cut in another way, which is
    `known`, axes and units are the same, but for those that are computed in another way here.
    """
    axes = label_axes(graph) if known is None else known.axes
    old = {} if known is None else {(u.value, u.part, u.moments is None): u for u in known.units}

    def unit_of(value: Value, part: str = "", of: Moments | None = None) -> Unit:
        return old.get((value, part, of is None)) or Unit(value, part, of)

    columns = {
        v
        for v in graph.values
        if v.op.kind == "reduction" and v not in replicated and not strategies.get(v, is_row_reduction(axes, v))
    }
    moments = column_moments(axes, (v for v in graph.values if v in columns)) if gathers else {}

    units: list[Unit] = []
    producer: dict[Value, Unit] = {}
    before: dict[Unit, list[Unit]] = {}
    readers: dict[Value, list[Unit]] = {}
    needed_at_all = _needed(graph, replicated, moments) if replicated or moments else frozenset(graph.values)
    for value in graph.values:
        if not needs_kernel(value) or value not in needed_at_all:
            continue
        if value in replicated:
            unit = unit_of(value, REPLICATED)
            units.append(unit)
            before[unit], producer[value] = [], unit
            continue
        is_column, of = value in columns, moments.get(value)
        first = unit_of(value, PARTIAL if is_column else "", of)
        units.append(first)
        needed = before[first] = []
        for arg in first.args:
            memory = memory_of(arg)
            if is_join(memory):
                needed += [producer[part] for part in memory.inputs]
            elif memory in producer:
                needed.append(producer[memory])
            elif memory.is_leaf:
                readers.setdefault(memory, []).append(first)
        if is_column:
            last = unit_of(value, FINALIZE, of)
            units.append(last)
            before[last] = [first, *(producer[m] for m in map(memory_of, last.args) if m in producer)]
            producer[value] = last
        else:
            producer[value] = first
    for name, new in graph.updates.items():
        # The old value is overwritten in place, so its readers come first.
        writer = producer.get(memory_of(new))
        if writer is not None:
            before[writer] += [r for r in readers.get(graph[name], []) if r is not writer]
    after: dict[Unit, list[Unit]] = {u: [] for u in units}
    for unit, needed in before.items():
        for other in dict.fromkeys(needed):
            after[other].append(unit)
    joined = {part: (v, place) for v in graph.values if is_join(v) for part, place in _parts_of(v)}
    roots = frozenset({*(memory_of(v) for v in graph.roots), *joined})
    return Units(
        graph,
        axes,
        tuple(units),
        producer,
        {u: tuple(dict.fromkeys(n)) for u, n in before.items()},
        {u: tuple(n) for u, n in after.items()},
        roots,
        joined,
        gathers,
    )


def generating(units: Units, parts: Mapping[Value, str]) -> tuple[Units, dict[Unit, Unit]]:
    """The units of which some are computed by kernels that multiply, as products or operands of them, and what these
    units became."""
    became = {u: Unit(u.value, parts[u.value]) for u in units.units if u.value in parts}

    def all_of(some: tuple[Unit, ...]) -> tuple[Unit, ...]:
        return some if became.keys().isdisjoint(some) else tuple(became.get(u, u) for u in some)

    made = replace(
        units,
        units=all_of(units.units),
        producer={v: became.get(u, u) for v, u in units.producer.items()},
        before={became.get(u, u): all_of(some) for u, some in units.before.items()},
        after={became.get(u, u): all_of(some) for u, some in units.after.items()},
    )
    return made, became


def _needed(graph: Graph, replicated: frozenset[Value], moments: Mapping[Value, Moments]) -> frozenset[Value]:
    """The values that are computed where others read them, and not only inside sums of `replicated`, or for sums that
    follow from `moments`."""
    found: set[Value] = set()
    todo = list(graph.roots)
    while todo:
        value = todo.pop()
        if value not in found:
            found.add(value)
            of = moments.get(value)
            todo += () if value in replicated else value.inputs if of is None else (of.x, of.about)
    return frozenset(found)


def _parts_of(joined: Value) -> Iterator[tuple[Value, Place]]:
    """The parts of a `cat` (copies made for it alone), each with its place."""
    axis, start = joined.attrs["axis"], 0
    for part in joined.inputs:
        starts = [0] * len(joined.shape)
        starts[axis] = start
        yield part, Place(joined.shape, tuple(starts))
        start += part.shape[axis]  # type: ignore[operator]


def consumers(units: Units) -> dict[Value, list[Unit]]:
    """For each value in memory, the units that read it."""
    result: dict[Value, list[Unit]] = {}
    for unit in units.units:
        for arg in cone_of(unit.value)[1] if unit.part == REPLICATED else unit.args:
            if not is_host(arg):
                result.setdefault(memory_of(arg), []).append(unit)
    return result


def iterated_inputs(value: Value) -> tuple[Value, ...]:
    """The arguments whose axes a kernel iterates: of a gather not the table, whose rows are named by the index."""
    return value.inputs[1:] if value.op.kind == "gather" else value.inputs
