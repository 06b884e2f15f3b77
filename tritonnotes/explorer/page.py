"""The page: what the panes show, put into the template, as one file that loads nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from pygments.formatters import HtmlFormatter

from ..codegen.program.program import Program
from ..codegen.report.explain import explain_plan
from ..codegen.support.sizes import NOMINAL, Sizes
from ..codegen.target.gpus import GPUS
from ..ir.core.errors import KernelError
from ..ir.version import VERSION
from .formula import mathml
from .graphs import levels
from .machine import machine_code
from .memory import timeline
from .numerics import Certificate, hottest, numerics
from .plan import PlanDrawing, drawn_plan, plans_beside
from .source import sections
from .things import Things

BATCHES = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""The batch sizes of the slider: every `Dim` has the size."""


STYLES = {"light": "friendly", "dark": "monokai"}
"""Pygments' styles."""


def explore_page(program: Program, title: str = "", arch: int = 90, certificate: Certificate | None = None) -> str:
    """The page of a program, as HTML: formulas, graphs, plan, source, machine code for sm_`arch` (80, 90 or 100),
    memory and, with a `certificate` of `tn.check`, errors. The same program gives the same bytes. Raises `KernelError`
    for another arch."""
    if arch not in GPUS:
        raise KernelError(f"explore: arch must be one of {', '.join(map(str, GPUS))}, not {arch!r}")
    things = Things(program)
    parts = sections(program, things)
    plan = drawn_plan(program, things)
    outputs = {name: value.name for name, value in program.declared.outputs.items()}
    checked = list(numerics(certificate, things, outputs))
    return _template().render(
        title=title or program.graph.name,
        version=VERSION,
        things=list(things),
        parts=parts,
        plan=plan,
        levels=levels(program, things),
        machine=machine_code(program, things, arch, Sizes(NOMINAL)),
        beside=plans_beside(program, BATCHES),
        memory=timeline(program, things, BATCHES),
        checked=checked,
        heat=hottest(checked),
        explained=explain_plan(program.plan),
        data=_data(program, plan),
        batches=BATCHES,
        nominal=BATCHES.index(NOMINAL),
        colours={name: HtmlFormatter(style=style).get_style_defs(f".{name} .code") for name, style in STYLES.items()},
    )


def write_page(
    path: str | os.PathLike[str],
    program: Program,
    title: str = "",
    arch: int = 90,
    certificate: Certificate | None = None,
) -> Path:
    """Write the page of a program to a file, which is all that a browser needs."""
    file = Path(path)
    file.write_text(explore_page(program, title, arch, certificate), encoding="utf-8")
    return file


def _data(program: Program, plan: PlanDrawing) -> str:
    """What the script needs: bytes at each batch size, and the verdicts of edges."""
    launches = {k.name: [k.bytes_moved(batch) for batch in BATCHES] for k in program.plan.launches}
    data = {"batches": BATCHES, "launches": launches, "edges": [edge.verdicts for edge in plan.edges]}
    return _embedded(data)


def _embedded(data: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\!--")


def _human(size: int) -> str:
    """Bytes in the unit that suits."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


@cache
def _template() -> jinja2.Template:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["mathml"] = mathml
    environment.filters["human"] = _human
    environment.filters["numbers"] = _listed
    environment.globals["style"] = (folder / "page.css").read_text(encoding="utf-8")
    environment.globals["script"] = (folder / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2")
