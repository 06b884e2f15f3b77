"""The plans of the gallery, made when the site is built.

A comment `<!-- plan of NAME -->` stands where the plan goes of the graph that a code block of the page declares by a
function of that name.
"""

from __future__ import annotations

import re
from typing import Any

from plan_drawing import figure, plan_svg, totals

import tritonnotes as tn
from tritonnotes.cli.show import is_trainable, joint_or_forward
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.explorer.page import explore_page
from tritonnotes.ir.core.graph import Graph

PAGE = "gallery.md"
EXPLORED = "digits"
EXPLORER = f"explorer/{EXPLORED}.html"

MARK = re.compile(r"^<!-- plan of (\w+) -->$", re.MULTILINE)
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The gallery with its plans."""
    return with_plans(markdown) if page.file.src_uri == PAGE else markdown


def with_plans(markdown: str) -> str:
    """Each mark replaced by the plan of its graph. Raises `KeyError` where no block declares it."""
    known = declared(markdown)
    return MARK.sub(lambda mark: drawn(mark[1], known[mark[1]]()), markdown)


def explored(markdown: str) -> str:
    """The page of the explorer for the graph that has one, as HTML."""
    graph = declared(markdown)[EXPLORED]()
    return explore_page(make_program(primitives(graph), Fusion(target="gpu"), declared=graph), EXPLORED)


def declared(markdown: str) -> dict[str, Any]:
    """What the code blocks of the page declare."""
    names: dict[str, Any] = {"tn": tn}
    for block in CODE.finditer(markdown):
        exec(compile(block[1], PAGE, "exec"), names)
    return names


def primitives(graph: Graph) -> Graph:
    """The training step with Adam where the graph has something to train, else the forward run."""
    return joint_or_forward(graph, "loss" if is_trainable(graph, "loss") else None, tn.adam(lr=1e-3))


def drawn(name: str, graph: Graph) -> str:
    """Totals with and without fusion, and the drawing."""
    made = primitives(graph)
    plan = make_plan(made, Fusion(target="gpu"))
    unfused = make_plan(made, Fusion(target="gpu", mode="off"))
    what = "Training step" if is_trainable(graph, "loss") else "Forward run"
    link = f" [Every stage of it, in the explorer]({EXPLORER})." if name == EXPLORED else ""
    said = f"Plan of {name}: {totals(plan)}. Launches: {', '.join(launch.name for launch in plan.launches)}."
    return (
        f"{what}: {totals(plan)}. Without fusion: {totals(unfused)}.{link}\n\n"
        f"{figure('The plan', plan_svg(plan, said))}"
    )
