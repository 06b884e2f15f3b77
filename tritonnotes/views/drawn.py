"""Graphs and plans as drawings: bound to their classes as `to_mermaid`, `to_dot` and `_repr_svg_`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.plan.launches import Launch
from ..ir.core.graph import Graph, Value, bind
from ..ir.core.registry import in_a_line
from ..ir.core.types import show_shape
from .drawing import Arrow, Box, Drawing, to_dot, to_mermaid
from .svg import to_svg

Drawn = TypeVar("Drawn", Graph, FusionPlan)

KINDS = {"input": "input", "constant": "number", "scalar": "number"}
"""How leaves are drawn; others hold something: parameters, buffers and slots."""


def graph_drawing(graph: Graph) -> Drawing:
    """A box for each value, in order, and an arrow for each argument."""
    updates = {value: name for name, value in graph.updates.items()}
    outputs: dict[Value, list[str]] = {}
    for name, value in graph.outputs.items():
        outputs.setdefault(value, []).append(name)
    place = {value: index for index, value in enumerate(graph.values)}
    boxes = [_value_box(value, outputs.get(value, []), updates.get(value)) for value in graph.values]
    arrows = [Arrow(place[arg], place[value]) for value in graph.values for arg in dict.fromkeys(value.inputs)]
    return Drawing(graph.name, tuple(boxes), tuple(arrows))


def _value_box(value: Value, outputs: list[str], updates: str | None) -> Box:
    what = repr(value.attrs["value"]) if value.op.name == "constant" else value.op.name
    lines = [in_a_line(value.name), what, f"{value.dtype}{show_shape(value.shape)}"]
    lines += [f"output {', '.join(outputs)}"] if outputs else []
    lines += [f"updates {in_a_line(updates)}"] if updates else []
    return Box(tuple(lines), KINDS.get(value.op.name, "held") if value.is_leaf else "op")


def plan_drawing(plan: FusionPlan) -> Drawing:
    """A box for each launch, in order, and an arrow where one waits for another, with what goes through memory."""
    place = {launch.name: index for index, launch in enumerate(plan.launches)}
    launches = {launch.name: launch for launch in plan.launches}
    boxes = [_launch_box(launch) for launch in plan.launches]
    arrows = [
        Arrow(place[early], place[late], _passed(launches[early], launches[late]))
        for early, late in plan.to_networkx().edges
    ]
    return Drawing(f"plan of {plan.graph.name}", tuple(boxes), tuple(arrows))


def _launch_box(launch: Launch) -> Box:
    ops = in_a_line(", ".join(launch.ops), 48)
    lines = (launch.name, f"{launch.kind}, {launch.bytes_moved():,} bytes", ops)
    return Box(lines, "library" if launch.is_library else "kernel")


def _passed(early: Launch, late: Launch) -> str:
    written = {*early.stores, *early.partials}
    return in_a_line(", ".join(dict.fromkeys(v.name for v in (*late.loads, *late.finalizes) if v in written)), 48)


def _methods(drawing: Callable[[Drawn], Drawing]) -> dict[str, Callable[[Drawn], str | None]]:
    def mermaid(drawn: Drawn) -> str:
        """The flowchart in Mermaid's language, for Markdown."""
        return to_mermaid(drawing(drawn))

    def dot(drawn: Drawn) -> str:
        """The drawing in DOT, the language of Graphviz."""
        return to_dot(drawing(drawn))

    def svg(drawn: Drawn) -> str | None:
        """The drawing as notebooks show it; None where it has too many boxes."""
        return to_svg(drawing(drawn))

    return {"to_mermaid": mermaid, "to_dot": dot, "_repr_svg_": svg}


bind(Graph, **_methods(graph_drawing))
bind(FusionPlan, **_methods(plan_drawing))
