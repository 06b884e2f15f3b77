"""A drawing as SVG: boxes in layers from top to bottom, each as near as may be to what it reads. Needs no library."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from .drawing import Arrow, Box, Drawing
from .html import Html, tag

MOST_BOXES = 400
"""Beyond these nobody can read a drawing that is not searched or folded."""

CHARACTER, LINE = 6.6, 15.0
"""The width and height of a character at 11 pixels, in a monospaced font."""

GAP, RISE, PADDING = 18.0, 34.0, 7.0
"""Between boxes of a layer, between layers, and between a box and its text."""

SWEEPS = 6

CORNERS = {"input": "12", "held": "6", "number": "12"}
FILLS = {"input": "#3b82f6", "held": "#a855f7", "library": "#f59e0b", "number": "#94a3b8"}
PLAIN = "#10b981"


def to_svg(drawing: Drawing) -> Html | None:
    """The drawing, in the colours of the page around it; None where it has too many boxes."""
    if not 0 < len(drawing.boxes) <= MOST_BOXES:
        return None
    sizes = [_size(box) for box in drawing.boxes]
    layers = _ordered(_layers(drawing), drawing.arrows, len(drawing.boxes))
    places, width, height = _places(layers, sizes)
    arrows = [_arrow(arrow, places, sizes) for arrow in drawing.arrows]
    boxes = [_box(box, *places[i], *sizes[i]) for i, box in enumerate(drawing.boxes)]
    tip = tag("path", d="M0,0 L6,3 L0,6 z", fill="currentColor")
    marker = tag("marker", tip, id="tip", markerWidth="6", markerHeight="6", refX="6", refY="3", orient="auto")
    return tag(
        "svg", tag("title", drawing.name), tag("defs", marker), *arrows, *boxes,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:.0f} {height:.0f}", width=f"{width:.0f}",
        height=f"{height:.0f}", font_family="monospace", font_size="11", role="img",
    )  # fmt: skip


def _size(box: Box) -> tuple[float, float]:
    longest = max(map(len, box.lines), default=1)
    return longest * CHARACTER + 2 * PADDING, len(box.lines) * LINE + 2 * PADDING


def _layers(drawing: Drawing) -> list[list[int]]:
    """Boxes by the longest way to them. A leaf stands right above the first that reads it. Arrows lead to later boxes;
    one that leads back counts for nothing here."""
    depth = [0] * len(drawing.boxes)
    forward = sorted((a.source, a.target) for a in drawing.arrows if a.source < a.target)
    for source, target in sorted(forward, key=lambda edge: edge[1]):
        depth[target] = max(depth[target], depth[source] + 1)
    targets = {target for _, target in forward}
    for place in range(len(depth)):
        below = [depth[target] for source, target in forward if source == place]
        if place not in targets and below:
            depth[place] = min(below) - 1
    layers: list[list[int]] = [[] for _ in range(max(depth) + 1)]
    for place, layer in enumerate(depth):
        layers[layer].append(place)
    return [layer for layer in layers if layer]


def _ordered(layers: list[list[int]], arrows: Sequence[Arrow], count: int) -> list[list[int]]:
    """Each layer in the order of its neighbours' middles, in sweeps down and up."""
    beside: list[list[int]] = [[] for _ in range(count)]
    for arrow in arrows:
        beside[arrow.source].append(arrow.target)
        beside[arrow.target].append(arrow.source)
    position = {place: index / len(layer) for layer in layers for index, place in enumerate(layer)}
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            middle = {p: fmean([position[n] for n in beside[p]] or [position[p]]) for p in layer}
            layer.sort(key=middle.__getitem__)
            position |= {place: (index + 0.5) / len(layer) for index, place in enumerate(layer)}
    return layers


def _places(
    layers: Sequence[Sequence[int]], sizes: Sequence[tuple[float, float]]
) -> tuple[dict[int, tuple[float, float]], float, float]:
    """The corner of each box at the top left, and the size of the whole."""
    widths = [sum(sizes[p][0] for p in layer) + GAP * (len(layer) - 1) for layer in layers]
    whole, y = max(widths) + 2 * GAP, GAP
    places: dict[int, tuple[float, float]] = {}
    for layer, width in zip(layers, widths, strict=True):
        x = (whole - width) / 2
        for place in layer:
            places[place] = x, y
            x += sizes[place][0] + GAP
        y += max(sizes[p][1] for p in layer) + RISE
    return places, whole, y - RISE + GAP


def _box(box: Box, x: float, y: float, width: float, height: float) -> Html:
    fill = FILLS.get(box.kind, PLAIN)
    frame = tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}",
                rx=CORNERS.get(box.kind, "2"), fill=fill, fill_opacity="0.14", stroke=fill)  # fmt: skip
    middle = f"{x + width / 2:.1f}"
    texts = [
        tag("text", line, x=middle, y=f"{y + PADDING + LINE * (row + 0.8):.1f}", text_anchor="middle",
            fill="currentColor", font_weight="bold" if row == 0 else "normal")
        for row, line in enumerate(box.lines)
    ]  # fmt: skip
    return tag("g", frame, *texts)


def _arrow(arrow: Arrow, places: dict[int, tuple[float, float]], sizes: Sequence[tuple[float, float]]) -> Html:
    (x1, y1), (w1, h1) = places[arrow.source], sizes[arrow.source]
    (x2, y2), (w2, _) = places[arrow.target], sizes[arrow.target]
    x1, y1, x2 = x1 + w1 / 2, y1 + h1, x2 + w2 / 2
    bend = max(RISE, abs(y2 - y1)) / 2
    line = tag("path", d=f"M{x1:.1f},{y1:.1f} C{x1:.1f},{y1 + bend:.1f} {x2:.1f},{y2 - bend:.1f} {x2:.1f},{y2:.1f}",
               fill="none", stroke="currentColor", stroke_opacity="0.55", marker_end="url(#tip)")  # fmt: skip
    return tag("g", tag("title", arrow.label), line) if arrow.label else line
