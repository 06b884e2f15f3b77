"""The graph at each of its levels as a drawing: as declared, in primitives, and with gradients and updates."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from ..codegen.analysis.views import is_host
from ..codegen.program.program import Program
from ..ir.core.graph import Graph, Value
from ..ir.core.printer import value_line
from ..ir.core.rewrite import optimize
from ..ir.passes.decompose import decompose
from .layout import Box, layered
from .things import Things, shown_values

MOST_VALUES = 600
"""Values that are drawn one by one; a larger graph is drawn by its ops."""


@dataclass(frozen=True)
class GraphNode:
    """A value, or all of an op's where there are too many."""

    label: str
    title: str
    kind: str
    phase: str
    ops: str
    values: str
    box: Box


@dataclass(frozen=True)
class Path:
    """The line of an edge, what passes along it, and whether that is a number of the host."""

    line: str
    values: str
    is_number: bool


@dataclass(frozen=True)
class Level:
    """The graph at one level: its nodes, and the lines of its edges."""

    name: str
    about: str
    nodes: tuple[GraphNode, ...]
    paths: tuple[Path, ...]
    width: float
    height: float


def levels(program: Program, things: Things) -> list[Level]:
    """The levels from the declared graph to what is planned."""
    declared, planned = program.declared, program.graph
    made = []
    if declared.level == "declared":
        made.append(_drawn("declared", declared, things))
        made.append(_drawn("primitives", optimize(decompose(declared)), things))
    has_more = any(v.scope.phase != "forward" for v in planned.values)
    return [*made, _drawn("joint" if has_more else "planned", planned, things)]


def _drawn(name: str, graph: Graph, things: Things) -> Level:
    values = shown_values(graph)
    by_op = len(values) > MOST_VALUES
    groups: dict[Hashable, list[Value]] = {}
    node_of: dict[Value, Hashable] = {}
    for value in values:
        thing = things.by_name.get(value.scope.name or value.name)
        key: Hashable = (value.scope.name or value.name, value.scope.phase) if by_op and thing else value.name
        groups.setdefault(key, []).append(value)
        node_of[value] = key
    edges = dict.fromkeys(
        (node_of[arg], node_of[value])
        for value in values
        for arg in value.inputs
        if arg in node_of and node_of[arg] != node_of[value]
    )
    labels = {key: _label(key, some, by_op) for key, some in groups.items()}
    drawing = layered(labels, _forward(groups, edges) if by_op else edges)
    nodes = tuple(_node(labels[key], some, drawing.boxes[key], things) for key, some in groups.items())
    numbers = {key for key, some in groups.items() if all(map(is_host, some))}
    passed = {key: things.values_of(v.name for v in some) for key, some in groups.items()}
    paths = tuple(Path(_path(drawing.boxes[a], drawing.boxes[b]), passed[a], a in numbers) for a, b in edges)
    about = f"{len(values)} values" + (f" of {len(groups)} ops, drawn by op" if by_op else "")
    return Level(name, about, nodes, paths, drawing.width, drawing.height)


def _forward(
    groups: dict[Hashable, list[Value]], edges: dict[tuple[Hashable, Hashable], None]
) -> Iterator[tuple[Hashable, Hashable]]:
    """The edges between ops without those that go back: two ops may exchange values both ways."""
    place = {key: number for number, key in enumerate(groups)}
    return ((a, b) for a, b in edges if place[a] < place[b])


def _label(key: Hashable, values: list[Value], by_op: bool) -> str:
    first = values[0]
    name = str(key[0]) if by_op and isinstance(key, tuple) else first.name
    return name if first.is_leaf or first.op.name == name else f"{name} · {first.op.name}" if not by_op else name


def _node(label: str, values: list[Value], box: Box, things: Things) -> GraphNode:
    first = values[0]
    title = value_line(first) if len(values) == 1 else f"{len(values)} values, as {value_line(first)}"
    thing = things.by_name.get(first.scope.name or first.name)
    ops = things.ops([thing.name]) if thing else ""
    kind = "leaf" if first.is_leaf else "op"
    return GraphNode(label, title, kind, first.scope.phase, ops, things.values_of(v.name for v in values), box)


def _path(source: Box, target: Box) -> str:
    x, y = source.x + source.width / 2, source.y + source.height
    to_x, to_y = target.x + target.width / 2, target.y
    down = max(14.0, min(60.0, abs(to_y - y) / 2))
    return f"M{x:g},{y:g} C{x:g},{y + down:g} {to_x:g},{to_y - down:g} {to_x:g},{to_y:g}"
