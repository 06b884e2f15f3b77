"""The page: what the panes show, put into the template, as one file that loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from pygments.formatters import HtmlFormatter

from ..codegen.program.program import Program
from ..codegen.report.explain import explain_plan
from ..codegen.support.sizes import NOMINAL, NOMINAL_SIZES
from ..codegen.target.gpus import GPUS
from ..codegen.target.targets import CPU
from ..ir.core.errors import KernelError
from ..ir.version import VERSION
from .figures import Figures
from .formula import mathml
from .graphs import levels
from .machine import Listing, MachineCode, disassembled, listed
from .memory import Timeline, timeline
from .numerics import Certificate, hottest, numerics
from .plan import PlanDrawing, drawn_plan, plans_beside
from .progress import shown
from .source import sections
from .things import Things

STYLES = {"light": "friendly", "dark": "monokai"}
"""Pygments' styles."""


def explore_page(
    program: Program,
    title: str = "",
    arch: int | str = 90,
    certificate: Certificate | None = None,
    machine_code: bool = True,
    progress: bool = False,
    listings: Sequence[Listing] = (),
) -> str:
    """The page of a program, as HTML: formulas, graphs, plan, source, machine code for sm_`arch` (80, 90 or 100)
    or of "cpu", memory and, with a `certificate` of `tn.check`, errors. The same program gives the same bytes.
    Disassembling takes up to two seconds a kernel: `machine_code=False` leaves it out, `progress` shows on stderr how
    far it is. `listings` are the kernels as machine code of a CPU. Raises `KernelError` for another arch."""
    if arch not in (*GPUS, CPU):
        raise KernelError(f"explore: arch must be one of {', '.join(map(str, GPUS))} and {CPU!r}, not {arch!r}")
    things = Things(program)
    parts = sections(program, things)
    figures = Figures(program.dims)
    plan = drawn_plan(program, things, figures)
    beside, memory = plans_beside(program, figures), timeline(program, things, figures)
    outputs = {name: value.name for name, value in program.declared.outputs.items()}
    checked = list(numerics(certificate, things, outputs))
    return _template().render(
        title=title or program.graph.name,
        version=VERSION,
        things=list(things),
        parts=parts,
        plan=plan,
        levels=levels(program, things),
        machine=_machine(program, things, arch, machine_code, progress, listings),
        beside=beside,
        memory=memory,
        checked=checked,
        heat=hottest(checked),
        explained=explain_plan(program.plan),
        data=_data(figures, plan, memory),
        dims=program.dims,
        nominal=NOMINAL,
        colours={name: HtmlFormatter(style=style).get_style_defs(f".{name} .code") for name, style in STYLES.items()},
    )


def _machine(
    program: Program,
    things: Things,
    arch: int | str,
    wanted: bool,
    progress: bool,
    listings: Sequence[Listing],
) -> MachineCode:
    if not wanted:
        why_not = "Machine code is left out: the page was made with --no-machine-code, or machine_code=False."
        return MachineCode("CPU" if isinstance(arch, str) else GPUS[arch].name, why_not=why_not)
    if isinstance(arch, str):
        return listed(program, things, listings)
    if not progress or not program.kernels:
        return disassembled(program, things, arch, NOMINAL_SIZES)
    with shown(len(program.kernels), arch) as told:
        return disassembled(program, things, arch, NOMINAL_SIZES, told)


def _data(figures: Figures, plan: PlanDrawing, memory: Timeline) -> str:
    """What the script needs: formulas, the lives of buffers, and the verdicts of edges."""
    data = {
        "nominal": NOMINAL,
        "dims": [dim.name for dim in figures.dims],
        "formulas": figures.data(),
        "lives": [[held.size.number, held.first, held.last] for held in memory.held],
        "edges": [edge.verdicts for edge in plan.edges],
    }
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


@cache
def _template() -> jinja2.Template:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["mathml"] = mathml
    environment.filters["human"] = _human
    environment.globals["style"] = (folder / "page.css").read_text(encoding="utf-8")
    scripts = ("formulas.js", "page.js")
    environment.globals["script"] = "".join((folder / name).read_text(encoding="utf-8") for name in scripts)
    return environment.get_template("page.html.j2")
