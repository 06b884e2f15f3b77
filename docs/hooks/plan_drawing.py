"""A fusion plan as SVG: a box for each launch, from top to bottom, and an arrow for what passes through memory.

Colours come from the page (`currentColor`), so that a drawing fits its light and its dark form.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tritonnotes.codegen.analysis.views import memory_of
from tritonnotes.codegen.cost.traffic import nominal_bytes
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.launches import Launch
from tritonnotes.codegen.support.text import counted
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.registry import in_a_line

WIDTH, SIDE, RIGHT, LINE, PADDING, RISE = 360, 4, 330, 16, 10, 44
"""Pixels: a drawing, left and right end of its boxes, a line of text, around the lines of a box, between boxes."""

CHARACTERS = 42
"""As many fit into a line of a box."""

GENERATED, LIBRARY = "#10b981", "#f59e0b"
"""The colours of generated kernels and library calls, as in the drawings of notebooks."""


@dataclass(frozen=True)
class Box:
    """A launch as it is drawn: its lines, the first of them its name, and where it begins."""

    launch: Launch
    lines: tuple[str, ...]
    top: int

    @property
    def bottom(self) -> int:
        return self.top + LINE * len(self.lines) + 2 * PADDING


def plan_svg(plan: FusionPlan, said: str, values: Collection[str] = ()) -> str:
    """The launches of a plan, or those alone that compute or read one of the named values.

    `said` is what a screen reader says of the drawing. Raises `LookupError` where the plan has none of the values.
    """
    launches = [launch for launch in plan.launches if not values or concerns(launch, values)]
    if not launches:
        raise LookupError(f"plan of {plan.graph.name}: no launch has {', '.join(values)}")
    boxes = list(stacked(launches))
    drawn = "".join(box_svg(box) for box in boxes)
    arrows = "".join(arrow_svg(early, late, values) for early, late in pairs(boxes))
    tall = boxes[-1].bottom + SIDE
    return (
        f'<svg viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" role="img" font-size="11" font-family="monospace" '
        f'fill="currentColor"><title>{escape(said)}</title>{arrows}{drawn}</svg>'
    )


def concerns(launch: Launch, values: Collection[str]) -> bool:
    """Whether a launch computes or reads one of the values."""
    held = (*(unit.value for unit in launch.units), *launch.recomputed, *launch.loads)
    return any(value.name in values for value in held)


def stacked(launches: Sequence[Launch]) -> Iterator[Box]:
    top = SIDE
    for launch in launches:
        ops = textwrap.wrap(in_a_line(", ".join(launch.ops), 4 * CHARACTERS), CHARACTERS)
        kind = "library call" if launch.is_library else launch.kind
        box = Box(launch, (launch.name, *ops, f"{kind}: {launch.bytes_moved():,} bytes"), top)
        yield box
        top = box.bottom + RISE


def box_svg(box: Box) -> str:
    colour = LIBRARY if box.launch.is_library else GENERATED
    frame = (
        f'<rect x="{SIDE}" y="{box.top}" width="{RIGHT - SIDE}" height="{box.bottom - box.top}" rx="4" '
        f'fill="{colour}" fill-opacity="0.14" stroke="{colour}"/>'
    )
    texts = "".join(
        f'<text x="{(SIDE + RIGHT) // 2}" y="{box.top + PADDING + LINE * row + 11}" text-anchor="middle"'
        f"{weight(row)}>{escape(line)}</text>"
        for row, line in enumerate(box.lines)
    )
    return frame + texts


def weight(row: int) -> str:
    return ' font-weight="bold"' if row == 0 else ""


def pairs(boxes: Sequence[Box]) -> Iterator[tuple[Box, Box]]:
    for place, late in enumerate(boxes):
        yield from ((early, late) for early in boxes[:place] if passed(early.launch, late.launch))


def passed(early: Launch, late: Launch) -> list[Value]:
    """What one launch writes and another reads."""
    written = {*early.stores, *early.partials}
    read = (*map(memory_of, late.loads), *late.finalizes)
    return list(dict.fromkeys(value for value in read if value in written))


def arrow_svg(early: Box, late: Box, values: Collection[str]) -> str:
    """From one box to another, with the names of what passes where they are neighbours, and at a touch where not."""
    through = passed(early.launch, late.launch)
    wanted = [value for value in through if value.name in values] or through
    size = sum(nominal_bytes(value) for value in wanted)
    label = f"{in_a_line(', '.join(value.name for value in wanted), 30)}: {size:,} bytes"
    are_neighbours = late.top - early.bottom == RISE
    if are_neighbours:
        middle = SIDE + 20
        line = f"M{middle} {early.bottom}V{late.top - 5}"
        text = f'<text x="{middle + 12}" y="{early.bottom + RISE // 2 + 4}">{escape(label)}</text>'
        tip = f"M{middle - 4} {late.top - 7}h8l-4 7z"
    else:
        right, y1, y2 = RIGHT, early.bottom - 8, late.top + 8
        line, text = f"M{right} {y1}C{right + 30} {y1} {right + 30} {y2} {right + 6} {y2}", ""
        tip = f"M{right + 7} {y2 - 4}v8l-7 -4z"
    return (
        f'<g><title>{escape(label)}</title><path d="{line}" fill="none" stroke="currentColor" stroke-opacity="0.6"/>'
        f'<path d="{tip}" fill-opacity="0.6"/>{text}</g>'
    )


def totals(plan: FusionPlan) -> str:
    return f"{counted(plan.launch_count(), 'launch')}, {plan.bytes_moved():,} bytes"


def figure(caption: str, svg: str, kind: str = "drawn") -> str:
    return f'<figure class="{kind}"><figcaption>{escape(caption)}</figcaption>{svg}</figure>'
