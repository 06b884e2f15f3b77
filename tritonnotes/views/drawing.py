"""A drawing of boxes and arrows, as Mermaid and as DOT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Box:
    """One node: its lines of text, and its kind, which settles its shape."""

    lines: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Arrow:
    """From one box to another, by their places in the drawing, with what is said beside it."""

    source: int
    target: int
    label: str = ""


@dataclass(frozen=True)
class Drawing:
    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True)
class Shape:
    """How a kind of box is written in Mermaid (the brackets around its text) and in DOT (its attributes)."""

    mermaid: tuple[str, str]
    dot: str


PLAIN = Shape(("[", "]"), "shape=box")
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "input": Shape(("([", "])"), "shape=box, style=rounded"),
        "held": Shape(("[(", ")]"), "shape=cylinder"),
        "number": Shape(("(", ")"), "shape=plaintext"),
        "library": Shape(("[[", "]]"), "shape=box, peripheries=2"),
    }
)
"""Shapes of the kinds that are no plain box: what is fed, what is held, numbers, and library calls."""


def to_mermaid(drawing: Drawing) -> str:
    """A flowchart in Mermaid's language, as Markdown on GitHub and in JupyterLab draws it."""
    lines = ["flowchart TB"]
    for place, box in enumerate(drawing.boxes):
        opened, closed = SHAPES.get(box.kind, PLAIN).mermaid
        lines.append(f'    n{place}{opened}"{"<br/>".join(map(_mermaid, box.lines))}"{closed}')
    for arrow in drawing.arrows:
        label = f'|"{_mermaid(arrow.label)}"|' if arrow.label else ""
        lines.append(f"    n{arrow.source} -->{label} n{arrow.target}")
    return "\n".join(lines) + "\n"


def to_dot(drawing: Drawing) -> str:
    """A digraph in DOT, the language of Graphviz."""
    lines = [f"digraph {_dot(drawing.name)} {{", '    node [fontname="sans-serif"];']
    for place, box in enumerate(drawing.boxes):
        lines.append(f"    n{place} [label={_dot(*box.lines)}, {SHAPES.get(box.kind, PLAIN).dot}];")
    for arrow in drawing.arrows:
        label = f" [label={_dot(arrow.label)}]" if arrow.label else ""
        lines.append(f"    n{arrow.source} -> n{arrow.target}{label};")
    return "\n".join([*lines, "}"]) + "\n"


_ENTITIES = {character: f"#{ord(character)};" for character in '#"<>&`|\\'}


def _mermaid(text: str) -> str:
    return "".join(_ENTITIES.get(c, c) if c.isprintable() else " " for c in text)


def _dot(*lines: str) -> str:
    shown = ["".join(c if c.isprintable() else " " for c in line) for line in lines]
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in shown) + '"'
