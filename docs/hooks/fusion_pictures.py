"""The drawings of the page on fusion: its own graph, planned as each section says, when the site is built.

A comment `<!-- picture: NAME -->` on the page stands where a drawing goes. The graph is the one that the first code
block of the page declares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plan_drawing import figure, plan_svg, totals

import tritonnotes as tn
from tritonnotes.cli.show import joint_or_forward
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.graph import Graph
from tritonnotes.views.drawing import Arrow, Box, Drawing
from tritonnotes.views.svg import to_svg

PAGE = "how_fusion_works.md"

MARK = re.compile(r"^<!-- picture: ([a-z ]+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """A plan to draw: what stands over it, how it is fused, and the values whose launches are drawn (none: all)."""

    title: str
    fusion: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    is_step: bool = False
    features: int = 128


def apart(one: str, other: str, title: str, **more: Any) -> Plan:
    return Plan(title, {"forbid": ((one, other),)}, **more)


PICTURES: Mapping[str, tuple[Plan, ...]] = {
    "fused": (Plan("The plan"),),
    "elementwise": (apart("fc1", "ln1.centered", "fc1 and ln1.centered in two kernels"), Plan("In one kernel")),
    "row": (apart("ln1.mul", "ln1.sum_2", "ln1 in two kernels"), Plan("In one kernel")),
    "epilogue": (apart("fc1.product", "ln1", "The matmul and the norm in two kernels"), Plan("In one kernel")),
    "axes": (Plan("The plan"), apart("ln1", "h", "With h in the second kernel")),
    "step": (Plan("The plan of the training step", is_step=True),),
    "rematerialize": (Plan("Both launches compute ln1.normalized", values=("ln1.normalized",), is_step=True),),
    "columns": (Plan("ln1.d_x goes through memory", values=("ln1.d_x",), is_step=True),),
    "matmul": (Plan("h goes through memory", values=("h",), is_step=True),),
    "cycle": (Plan("ln1.rstd goes through memory", values=("ln1.rstd",), is_step=True),),
    "library": (Plan("With 1,024 features", features=1024),),
    "forbid": (apart("fc1", "ln1.centered", "With forbid"),),
}

OTHERS = ("graph", "nothing fused", "last block")
"""Pictures of something else than a plan's launches in a column."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its drawings."""
    return with_pictures(markdown) if page.file.src_uri == PAGE else markdown


def with_pictures(markdown: str) -> str:
    """Each mark replaced by what it names. Raises `KeyError` for a mark that names no picture."""
    declared: dict[str, Any] = {}
    block = re.search(r"^```python\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    assert block is not None
    exec(compile(block[1], PAGE, "exec"), declared)
    return MARK.sub(lambda mark: drawn(mark[1], declared["classifier"]), markdown)


def drawn(name: str, declare: Callable[[int], Graph]) -> str:
    """One mark: its plans side by side, or the graph itself."""
    if name == "graph":
        svg = declare(128)._repr_svg_()
        return figure("The graph as it is declared", str(svg))
    if name == "nothing fused":
        plan = planned(Plan("", {"mode": "off"}), declare)
        return figure(f"Every primitive a launch: {totals(plan)}", str(plan._repr_svg_()), "scrolled")
    if name == "last block":
        plan = planned(Plan(""), declare)
        return figure("Partial sums, and the program that finishes last", str(to_svg(last_block(plan))))
    return f'<div class="plans">{"".join(map(lambda p: one(p, declare), PICTURES[name]))}</div>'


def last_block(plan: FusionPlan) -> Drawing:
    """The programs of the launch that leaves partial sums, what they leave, and the one that adds them up."""
    (launch,) = (launch for launch in plan.launches if launch.finalizes)
    programs = [Box((name, "some of the rows"), "op") for name in ("program 0", "program 1", "…", "program n − 1")]
    left = [Box((value.name, "one number per program"), "held") for value in launch.finalizes]
    last = Box(("the program that finishes last", "adds them in order"), "op")
    results = [Box((value.name, "output"), "input") for value in launch.stores if value in plan.graph.outputs.values()]
    boxes = (*programs, *left, last, *results)
    place = {box: index for index, box in enumerate(boxes)}
    arrows = [Arrow(place[a], place[b]) for a in programs for b in left]
    arrows += [Arrow(place[a], place[last]) for a in left] + [Arrow(place[last], place[b]) for b in results]
    return Drawing(f"partial sums of {launch.name}", boxes, tuple(arrows))


def one(wanted: Plan, declare: Callable[[int], Graph]) -> str:
    plan = planned(wanted, declare)
    names = ", ".join(launch.name for launch in plan.launches)
    said = wanted.title if wanted.values else f"{wanted.title}: {totals(plan)}"
    return figure(said, plan_svg(plan, f"{said}. Launches: {names}.", wanted.values))


def planned(wanted: Plan, declare: Callable[[int], Graph]) -> FusionPlan:
    graph = declare(wanted.features)
    primitives = joint_or_forward(graph, "loss" if wanted.is_step else None, tn.adam(lr=1e-3))
    return make_plan(primitives, Fusion(target="gpu", **wanted.fusion))
