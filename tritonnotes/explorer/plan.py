"""The plan as a drawing: launches as boxes of ops, edges with what the plan says of each, and other plans beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..codegen.fusion.constraints import Fusion
from ..codegen.pipeline import make_plan
from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.plan.launches import Launch
from ..codegen.plan.verdicts import HARD_RULES, Verdict
from ..codegen.program.program import Program
from ..codegen.report.plan_data import launch_memory
from ..ir.core.graph import Value
from .figures import Figure, Figures
from .layout import CHARACTER, GAP, HEIGHT, PADDING, Box
from .things import Things

OPPOSITES = 40_000
"""Edges of which the cost of the opposite is found, times values of the graph: each asks for plans of it anew. Those
that move most come first."""


WIDTH = 620
"""Pixels of a launch in the drawing."""


LANES = 12
"""Places beside the launches for edges that pass some by."""


NOT_DRAWN = ("number", "leaf")
"""Rules of edges that no plan decides: numbers need no memory, and leaves lie there."""


KINDS = {"recomputed": "again", "replicated": "again", **dict.fromkeys(HARD_RULES, "hard")}
"""How edges are drawn by their rule; others are `fused` or `apart`."""


@dataclass(frozen=True)
class Node:
    """An op in a launch: what the launch computes of it in one phase."""

    label: str
    phase: str
    ops: str
    values: str
    box: Box


@dataclass(frozen=True)
class LaunchBox:
    """A launch with its nodes, the bytes that it moves, and what it reads, computes and writes."""

    name: str
    number: str
    kind: str
    box: Box
    nodes: tuple[Node, ...]
    moved: Figure
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Edge:
    """What passes from one node to another: the path of its line, the values, and the verdicts on them, as data."""

    number: int
    kind: str
    path: str
    title: str
    values: str
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class PlanDrawing:
    """The boxes and lines of a plan, and how large the drawing is."""

    launches: tuple[LaunchBox, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float


@dataclass(frozen=True)
class Beside:
    """Another plan of the same graph: its launches by name, how many a run makes, and the bytes that it moves."""

    name: str
    about: str
    launches: tuple[str, ...]
    count: Figure
    moved: Figure


_Key = tuple[str, str, str]
"""A node: its launch, op and phase."""


def drawn_plan(program: Program, things: Things, figures: Figures) -> PlanDrawing:
    """The launches of a program's plan in order, those of chunks in the place of their loop."""
    plan = program.plan
    homes: dict[str, _Key] = {}
    boxes: list[LaunchBox] = []
    places: dict[_Key, Box] = {}
    y = float(GAP)
    for launch in plan.launches:
        members: dict[_Key, list[Value]] = {}
        for unit in launch.units:
            value = unit.value
            key = (launch.name, things.of_value(value).name, value.scope.phase)
            members.setdefault(key, []).append(value)
            homes.setdefault(value.name, key)
        placed, height = _flowed(members, y + 40)
        places |= placed
        nodes = tuple(
            Node(key[1], key[2], things.ops([key[1]]), things.values_of(v.name for v in members[key]), placed[key])
            for key in members
        )
        box = Box(GAP, y, WIDTH, height + 50)
        facts = tuple(_facts(launch))
        moved, number = figures.of(launch.bytes_moved), things.launch(launch.name)
        boxes.append(LaunchBox(launch.name, number, launch.kind, box, nodes, moved, facts))
        y += box.height + 2.4 * GAP
    edges = tuple(_edges(plan, things, figures, homes, places))
    return PlanDrawing(tuple(boxes), edges, WIDTH + 3 * GAP + 7 * LANES, y)


def _flowed(members: Mapping[_Key, Sequence[Value]], top: float) -> tuple[dict[_Key, Box], float]:
    """Nodes side by side, in as many rows as they need; and the height of these."""
    placed: dict[_Key, Box] = {}
    x, y = 2.0 * GAP, top
    for key in members:
        width = CHARACTER * len(key[1]) + PADDING
        if x + width > WIDTH and x > 2 * GAP:
            x, y = 2.0 * GAP, y + HEIGHT + GAP
        placed[key] = Box(round(x, 1), y, round(width, 1))
        x += width + GAP
    return placed, y + HEIGHT - top


def _facts(launch: Launch) -> Iterator[tuple[str, str]]:
    for word, names in launch_memory(launch).items():
        if names:
            yield word, ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _edges(
    plan: FusionPlan, things: Things, figures: Figures, homes: Mapping[str, _Key], places: Mapping[_Key, Box]
) -> Iterator[Edge]:
    found: dict[tuple[_Key, _Key], list[Verdict]] = {}
    for verdict in plan.verdicts:
        if verdict.rule in NOT_DRAWN or verdict.source not in homes or verdict.target not in homes:
            continue
        ends = homes[verdict.source], homes[verdict.target]
        if ends[0] != ends[1]:
            found.setdefault(ends, []).append(verdict)
    drawn = sorted((v for some in found.values() for v in some), key=lambda v: -v.bytes)
    asked = set(map(id, drawn[: max(8, OPPOSITES // max(1, len(plan.graph.values)))]))
    order = {launch.name: number for number, launch in enumerate(plan.launches)}
    for number, ((source, target), verdicts) in enumerate(found.items()):
        kinds = {_kind(v) for v in verdicts}
        kind = next(k for k in ("apart", "hard", "again", "fused") if k in kinds)
        title = f"{source[1]} to {target[1]}: {', '.join(dict.fromkeys(v.rule for v in verdicts))}"
        data = tuple(_data(v, figures, id(v) in asked) for v in verdicts)
        far = order[target[0]] - order[source[0]]
        lane = GAP + WIDTH + 8 + 7 * (number % LANES) if far > 1 else 0
        values = things.values_of(v.source for v in verdicts)
        yield Edge(number, kind, _path(places[source], places[target], lane), title, values, data)


def _kind(verdict: Verdict) -> str:
    return KINDS.get(verdict.rule, "fused" if verdict.fused else "apart")


def _path(source: Box, target: Box, lane: float) -> str:
    """A line from one box down to the other, along a row, or by a lane beside the launches between them."""
    x, y = source.x + source.width / 2, source.y + source.height
    to_x, to_y = target.x + target.width / 2, target.y
    if source.y == target.y:
        (x, to_x) = (source.x + source.width, target.x) if source.x < target.x else (source.x, target.x + target.width)
        y = to_y = source.y + source.height / 2
        bend = 0 if abs(x - to_x) <= 2 * GAP else source.height
        return f"M{x:g},{y:g} C{x:g},{y - bend:g} {to_x:g},{y - bend:g} {to_x:g},{to_y:g}"
    if lane:
        return (
            f"M{x:g},{y:g} C{x:g},{y + 22:g} {lane:g},{y - 4:g} {lane:g},{y + 34:g} L{lane:g},{to_y - 34:g} "
            f"C{lane:g},{to_y + 4:g} {to_x:g},{to_y - 22:g} {to_x:g},{to_y:g}"
        )
    down = max(18.0, min(90.0, abs(to_y - y) / 2))
    return f"M{x:g},{y:g} C{x:g},{y + down:g} {to_x:g},{to_y - down:g} {to_x:g},{to_y:g}"


def _data(verdict: Verdict, figures: Figures, asked: bool) -> dict[str, Any]:
    """A verdict as the script reads it: its bytes by the places of their formulas."""
    said: dict[str, Any] = {
        "source": verdict.source, "target": verdict.target, "fused": verdict.fused,
        "rule": verdict.rule, "reason": verdict.reason, "bytes": figures.of(verdict.bytes_at).number,
    }  # fmt: skip
    if asked:
        opposite = verdict.opposite
        moved = figures.of(verdict.opposite_bytes_at).number
        said["opposite"] = {"launches": opposite.launches, "bytes": moved, "impossible": opposite.reason}
    return said


def plans_beside(program: Program, figures: Figures) -> list[Beside]:
    """The program's plan, and what fusion finds without a search and leaves without fusing."""
    options = program.fusion
    plain = replace(options, fuse=(), forbid=(), memory_budget=None)
    others: dict[str, tuple[str, Fusion]] = {}
    if options != plain or options.mode != "optimal":
        others["searched"] = "the cheapest that a search finds", replace(plain, mode="optimal")
    if options.mode != "greedy":
        others["greedy"] = "merged greedily, without a search", replace(plain, mode="greedy")
    if options.mode != "off":
        others["not fused"] = "every primitive its own launch", replace(plain, mode="off")
    forced = options.fuse or options.forbid
    made = [_beside("this plan", "with what was forced" if forced else program.plan.fusion, program.plan, figures)]
    for name, (about, asked) in others.items():
        made.append(_beside(name, about, make_plan(program.graph, asked), figures))
    return made


def _beside(name: str, about: str, plan: FusionPlan, figures: Figures) -> Beside:
    count, moved = figures.of(plan.launch_count), figures.of(plan.bytes_moved)
    return Beside(name, about, tuple(k.name for k in plan.launches), count, moved)
