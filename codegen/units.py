"""Units of planning: what goes into a kernel as a whole, and what must come before what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tritonnotes.ir.graph import Graph, Value

from .axes import Axes, base_of, is_alias, is_free, is_host, is_row_reduction, is_view, label_axes

PARTIAL = "partial"
COMBINE = "combine"


@dataclass(frozen=True, eq=False)
class Unit:
    """One primitive to be computed. A column reduction is two units: `part` 'partial' leaves one row for each program,
    'combine' adds those rows up. A contraction is a unit of its own launch."""

    value: Value
    part: str = ""

    @property
    def is_library(self) -> bool:
        return self.value.op.kind == "contraction"

    def __repr__(self) -> str:
        return f"{self.value.name}{':' + self.part if self.part else ''}"


@dataclass(frozen=True)
class Units:
    """All units of a graph in order, the dependencies between them, and the axes of the graph."""

    graph: Graph
    axes: Axes
    units: tuple[Unit, ...]
    producer: dict[Value, Unit]
    before: dict[Unit, tuple[Unit, ...]]
    after: dict[Unit, tuple[Unit, ...]]
    roots: frozenset[Value] = field(default_factory=frozenset)

    def sources(self, unit: Unit) -> list[Value]:
        """The values that a unit reads, views looked through: leaves, aliases and other units' results."""
        if unit.part == COMBINE:
            return []
        return [
            source_of(a) for a in unit.value.inputs if not is_free(a) and not is_host(a) and not is_free(base_of(a))
        ]


def source_of(value: Value) -> Value:
    """What has to be in memory, or in the same kernel, for `value` to be read: views looked through."""
    return base_of(value)


def memory_of(value: Value) -> Value:
    """The value whose memory `value` shows: views and reshapes looked through."""
    while is_view(value) or is_alias(value):
        (value,) = value.inputs
    return value


def needs_kernel(value: Value) -> bool:
    """Whether a launch has to compute the value."""
    return not (value.is_leaf or is_view(value) or is_alias(value) or is_host(value))


def make_units(graph: Graph) -> Units:
    """Cut a graph of primitives into units, with data dependencies and, for updates in place, order dependencies."""
    axes = label_axes(graph)
    units: list[Unit] = []
    producer: dict[Value, Unit] = {}
    before: dict[Unit, list[Unit]] = {}
    readers: dict[Value, list[Unit]] = {}
    for value in graph.values:
        if not needs_kernel(value):
            continue
        is_column = value.op.kind == "reduction" and not is_row_reduction(axes, value)
        first = Unit(value, PARTIAL if is_column else "")
        units.append(first)
        needed = before[first] = []
        for arg in value.inputs:
            memory = memory_of(arg)
            if memory in producer:
                needed.append(producer[memory])
            elif memory.is_leaf:
                readers.setdefault(memory, []).append(first)
        if is_column:
            last = Unit(value, COMBINE)
            units.append(last)
            before[last] = [first]
            producer[value] = last
        else:
            producer[value] = first
    for name, new in graph.updates.items():
        # The old value is overwritten in place, so whoever reads it comes first.
        writer = producer.get(memory_of(new))
        if writer is not None:
            before[writer] += [r for r in readers.get(graph[name], []) if r is not writer]
    after: dict[Unit, list[Unit]] = {u: [] for u in units}
    for unit, needed in before.items():
        for other in dict.fromkeys(needed):
            after[other].append(unit)
    roots = frozenset(memory_of(v) for v in graph.roots)
    return Units(
        graph,
        axes,
        tuple(units),
        producer,
        {u: tuple(dict.fromkeys(n)) for u, n in before.items()},
        {u: tuple(n) for u, n in after.items()},
        roots,
    )


def consumers(units: Units) -> dict[Value, list[Unit]]:
    """For each value in memory, the units that read it."""
    result: dict[Value, list[Unit]] = {}
    for unit in units.units:
        if unit.part == COMBINE:
            continue
        for arg in unit.value.inputs:
            if not is_host(arg):
                result.setdefault(memory_of(arg), []).append(unit)
    return result


def walk_back(value: Value) -> Iterator[Value]:
    """A view and all that it passes through, down to what it shows."""
    while is_view(value):
        yield value
        (value,) = value.inputs
    yield value
