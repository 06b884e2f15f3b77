"""The drawing of a function and its derivative as SVG, which takes its colours from the page."""

from __future__ import annotations

from html import escape

import numpy as np

from tritonnotes.cli.plots import Picture

WIDTH, HEIGHT, EDGE, LINE = 640, 240, 40, 18


def svg(made: Picture) -> str:
    """One panel with the curves of the function, one with those of the derivative where there is one."""
    panels = [("function", [c.y for c in made.curves])]
    slopes = [c.slope for c in made.curves if c.slope is not None]
    panels += [("derivative", slopes)] if slopes else []
    drawn = "".join(panel(made.x, *each, top=HEIGHT * place) for place, each in enumerate(panels))
    over = f"over {made.over}" + (f" ({made.fixed})" if made.fixed else "")
    named = legend([c.label for c in made.curves], HEIGHT * len(panels) + 20) if len(made.curves) > 1 else []
    tall = HEIGHT * len(panels) + 20 + LINE * len(named)
    return (
        f'<svg viewBox="0 0 {WIDTH} {tall}" width="100%" role="img" font-size="12" fill="currentColor">'
        f"<title>{escape(made.name)}, function and derivative</title>{drawn}"
        f'<text x="{WIDTH / 2}" y="{HEIGHT * len(panels) + 16}" text-anchor="middle">{escape(over)}</text>'
        f"{''.join(named)}</svg>"
    )


def legend(labels: list[str], top: int) -> list[str]:
    """A line for each curve: how it is dashed, and what it is."""
    return [
        f'<path d="M{EDGE + 20} {top + LINE * row + 8}h40" stroke="currentColor" stroke-width="2"{dashes(row)}/>'
        f'<text x="{EDGE + 68}" y="{top + LINE * row + 12}">{escape(label)}</text>'
        for row, label in enumerate(labels)
    ]


def dashes(row: int) -> str:
    """The dashes of the curve at a place: none of the first, longer ones further on."""
    return f' stroke-dasharray="{4 * row} 3"' if row else ""


def panel(x: np.ndarray, title: str, curves: list[np.ndarray], top: int) -> str:
    """Curves in a frame, with the least and the most of either axis."""
    low, high = min(c.min() for c in curves), max(c.max() for c in curves)
    high = high if high > low else low + 1
    left, right, upper, lower = EDGE + 20, WIDTH - 10, top + 24, top + HEIGHT - 20

    def across(value: np.ndarray | float) -> np.ndarray | float:
        return left + (value - x[0]) / (x[-1] - x[0]) * (right - left)

    def down(value: np.ndarray | float) -> np.ndarray | float:
        return lower - (value - low) / (high - low) * (lower - upper)

    lines = [f'<text x="{left}" y="{top + 16}">{title}</text>']
    lines.append(
        f'<rect x="{left}" y="{upper}" width="{right - left}" height="{lower - upper}" fill="none" '
        'stroke="currentColor" stroke-opacity="0.3"/>'
    )
    for value, place in ((low, lower), (high, upper + 10)):
        lines.append(f'<text x="{left - 4}" y="{place:.1f}" text-anchor="end">{value:.3g}</text>')
    for value, anchor in ((x[0], "start"), (x[-1], "end")):
        lines.append(f'<text x="{across(value):.1f}" y="{lower + 14}" text-anchor="{anchor}">{value:.3g}</text>')
    if low < 0 < high:
        lines.append(f'<path d="M{left} {down(0.0):.1f}H{right}" stroke="currentColor" stroke-opacity="0.3"/>')
    for number, curve in enumerate(curves):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(x), down(curve), strict=True))
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="2"{dashes(number)}/>'
        )
    return "".join(lines)
