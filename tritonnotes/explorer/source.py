"""The generated module, line by line: coloured by Pygments, each with what it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ..codegen.program.program import Program
from ..codegen.support.provenance import LineOrigin
from .things import Things

TITLES = {
    "header": "header and imports", "import": "header and imports", "helper": "helpers", "memory": "memory of a run",
    "run": "run: the launches in order", "main": "main",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A line of source as HTML, with the attributes that link it."""

    number: int
    html: str
    role: str
    phase: str
    title: str
    ops: str
    values: str
    launch: str


@dataclass(frozen=True)
class Section:
    """Lines that belong together: a kernel with its launcher and the functions that it calls, or a part around them."""

    title: str
    launch: str
    is_kernel: bool
    lines: tuple[Line, ...]


def sections(program: Program, things: Things) -> list[Section]:
    """The source in its order, in parts that open and close."""
    coloured = highlight(program.source, PythonLexer(), HtmlFormatter(nowrap=True)).splitlines()
    coloured += [""] * (len(program.line_map) - len(coloured))
    made: list[tuple[str, str, list[Line]]] = []
    for number, (html, origin) in enumerate(zip(coloured, program.line_map, strict=True), 1):
        title, launch = _title(origin)
        line = _line(number, html, origin, things)
        if origin.role == "blank" and made or made and made[-1][:2] == (title, launch):
            made[-1][2].append(line)
        else:
            made.append((title, launch, [line]))
    return [Section(title, things.launch(launch), bool(launch), tuple(lines)) for title, launch, lines in made]


def _title(origin: LineOrigin) -> tuple[str, str]:
    if origin.launch and origin.role in ("signature", "setup", "step", "comment", "launcher"):
        return origin.launch, origin.launch
    if origin.role in ("signature", "setup", "step", "comment"):
        return "shared functions", ""
    return TITLES.get(origin.role, "helpers"), ""


def _line(number: int, html: str, origin: LineOrigin, things: Things) -> Line:
    own = origin.origins[0] if origin.origins and origin.role == "step" else None
    told = list(_told(origin))
    return Line(
        number,
        html,
        origin.role,
        own.phase if own else "",
        "; ".join(told[:6]) + ("; …" if len(told) > 6 else ""),
        "" if origin.role == "signature" and len(origin.origins) > 1 else things.ops(o.name for o in origin.origins),
        things.values_of(o.value for o in origin.origins) if origin.role == "step" else "",
        things.launch(origin.launch),
    )


def _told(origin: LineOrigin) -> Iterator[str]:
    """What a line is of, in words."""
    if origin.role == "setup" and origin.origins:
        yield "needed for " + ", ".join(dict.fromkeys(o.name or o.value for o in origin.origins[:4]))
    elif origin.role == "step":
        for o in origin.origins:
            of = f"{o.name} ({o.op})" if o.name and o.name != o.op else o.name
            yield f"{o.primitive} {o.value}" + (f" of {of}" if of and of != o.value else "") + f", {o.phase}"
