"""Flowcharts of the pages as SVG, drawn when the site is built: no page loads a script from elsewhere to draw them.

GitHub draws the same blocks from their Mermaid source. A small part of that language is read: `flowchart LR` or `TB`,
chains of `name["text"]` by `-->` or `<-. "text" .->`, and `subgraph` to `end`. A subgraph becomes one box, which lists
the chains inside it. The build stops at any other line.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import Any

from tritonnotes.views.drawing import Arrow, Box, Drawing
from tritonnotes.views.svg import to_svg

BLOCK = re.compile(r"^```mermaid\nflowchart (?:LR|TB)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TERM = r'(\w+)(?:\["([^"]*)"\])?'
ARROW = r'-->|<-\. "([^"]*)" \.->'
STATEMENT = re.compile(rf"{TERM}(?: (?:{ARROW}) {TERM})*")
CHARACTERS = 64
"""As many stand on a line of a box that holds a subgraph."""


class FlowchartError(ValueError):
    """A line that is not read; the message holds it."""


@dataclass
class Chart:
    """What was read: the text of each name, the subgraph that it lies in, the chains inside each subgraph, and the
    edges with their texts."""

    texts: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[list[str]]] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)

    def top(self, name: str) -> str:
        """The box that a name is drawn in."""
        return self.parents.get(name, name)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its flowcharts drawn."""
    return BLOCK.sub(lambda block: f'<div class="drawn">{to_svg(drawing(chart(block[1])))}</div>', markdown)


def chart(source: str) -> Chart:
    """The flowchart of a source. Raises `FlowchartError` for a line that is not read."""
    made, inside = Chart(), ""
    for line in map(str.strip, source.splitlines()):
        if line == "end":
            inside = ""
        elif opened := re.fullmatch(rf"subgraph {TERM}", line):
            inside = opened[1]
            made.texts[inside] = opened[2] or inside
            made.chains[inside] = []
        elif STATEMENT.fullmatch(line):
            read_chain(made, line, inside)
        else:
            raise FlowchartError(f"flowchart: {line!r} is not read; see docs/hooks/flowcharts.py")
    return made


def read_chain(made: Chart, line: str, inside: str) -> None:
    names = []
    for name, text in re.findall(TERM, re.sub(ARROW, " ", line)):
        names.append(name)
        if text or name not in made.texts:
            made.texts[name] = text or name
        if inside:
            made.parents[name] = inside
    if inside:
        made.chains[inside].append(names)
    labels = re.findall(ARROW, line)
    made.edges += [(a, b, label) for a, b, label in zip(names, names[1:], labels, strict=False)]


def drawing(made: Chart) -> Drawing:
    """Boxes and arrows. What is said of an edge stands in a box of its own on the edge."""
    boxes = {name: Box(tuple(lines(made, name, text)), "op") for name, text in made.texts.items() if is_top(made, name)}
    order, arrows = list(boxes), dict[tuple[str, str], None]()
    for source, target, label in made.edges:
        ends = [made.top(source), made.top(target)]
        if label:
            between = f"{source} {target}"
            boxes[between] = Box((label,), "number")
            order.insert(max(map(order.index, ends)), between)
            ends.insert(1, between)
        arrows |= {pair: None for pair in zip(ends, ends[1:], strict=False) if pair[0] != pair[1]}
    placed = [Arrow(order.index(a), order.index(b)) for a, b in arrows]
    shown = tuple(arrow for arrow in placed if not is_implied(arrow, placed))
    return Drawing("flowchart", tuple(boxes[name] for name in order), shown)


def is_top(made: Chart, name: str) -> bool:
    """Whether a name has a box of its own."""
    return made.top(name) == name


def is_implied(arrow: Arrow, arrows: list[Arrow]) -> bool:
    """Whether other arrows lead the same way, over another box."""
    after = {each.target for each in arrows if each.source == arrow.source} - {arrow.target}
    while more := {each.target for each in arrows if each.source in after} - after:
        after |= more
    return arrow.target in after


def lines(made: Chart, name: str, text: str) -> list[str]:
    found = text.split("<br>")
    for chain in made.chains.get(name, ()):
        found += textwrap.wrap(" → ".join(made.texts[each] for each in chain), CHARACTERS)
    return found
