"""The path of each update rule over two functions of two numbers, as SVG that takes its colours from the page.

A ravine, ½ · (x² + 40 · y²), is forty times steeper across than along. Rosenbrock's valley, (1 − x)² + 100 · (y − x²)²,
is a bent one, its minimum at (1, 1). Steps are those of the rule's reference in float64, with which its kernels are
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import torch

from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer
from tritonnotes.judge.update_references import reference_step
from tritonnotes.optim.optimizers import ema

STEEPNESS = 40.0

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 250, 60, 24, 20
"""Pixels: a panel, and the space around its frame."""

Numbers = Mapping[str, float]

RATES: Mapping[str, tuple[Numbers, Numbers]] = {
    "adadelta": ({"lr": 30.0}, {"lr": 20.0}),
    "adagrad": ({"lr": 1.0}, {"lr": 0.5}),
    "adam": ({"lr": 0.2}, {"lr": 0.1}),
    "adamax": ({"lr": 0.3}, {"lr": 0.2}),
    "adamw": ({"lr": 0.2}, {"lr": 0.1}),
    "amsgrad": ({"lr": 0.2}, {"lr": 0.1}),
    "ema": ({"ema_decay": 0.9}, {"ema_decay": 0.9}),
    "lion": ({"lr": 0.05}, {"lr": 0.02}),
    "momentum": ({"lr": 0.01, "momentum": 0.8}, {"lr": 5e-4}),
    "nadam": ({"lr": 0.2}, {"lr": 0.1}),
    "nesterov": ({"lr": 0.01, "momentum": 0.8}, {"lr": 5e-4}),
    "radam": ({"lr": 0.05, "beta2": 0.9}, {"lr": 1e-3}),
    "rmsprop": ({"lr": 0.05}, {"lr": 0.02}),
    "sgd": ({"lr": 0.047}, {"lr": 1e-3}),
    "sgd_momentum": ({"lr": 0.01, "momentum": 0.8}, {"lr": 5e-4}),
}
"""The numbers of each rule on the ravine and in the valley where they are not its defaults, which suit networks."""


@dataclass(frozen=True)
class Surface:
    """A function of two numbers: its name, value and gradient, where paths begin, how many steps they have, the frame
    of its drawing, and lines of equal height."""

    name: str
    value: Callable[[float, float], float]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    minimum: tuple[float, float]
    steps: int
    frame: tuple[float, float, float, float]
    contours: Callable[[], Iterator[np.ndarray]]


def ellipses() -> Iterator[np.ndarray]:
    """Where the ravine has some heights: an ellipse each."""
    turn = np.linspace(0, 2 * np.pi, 97)
    for height in (0.3, 1.5, 4.0, 8.0, 14.0):
        radius = np.sqrt(2 * height)
        yield np.stack([radius * np.cos(turn), radius * np.sin(turn) / np.sqrt(STEEPNESS)], axis=1)


def bends() -> Iterator[np.ndarray]:
    """Where the valley has some heights: y = x² ± √(height − (1 − x)²) / 10."""
    turn = np.linspace(0, 2 * np.pi, 193)
    for height in (0.3, 1.5, 4.0, 8.0):
        x = 1 + np.sqrt(height) * np.cos(turn)
        yield np.stack([x, x * x + np.sqrt(height) * np.sin(turn) / 10], axis=1)


RAVINE = Surface(
    "a ravine, ½ (x² + 40 y²)",
    lambda x, y: (x * x + STEEPNESS * y * y) / 2,
    lambda x, y: (x, STEEPNESS * y),
    (-4.0, 0.7), (0.0, 0.0), 60, (-4.8, 2.0, -0.95, 0.95), ellipses,
)  # fmt: skip
VALLEY = Surface(
    "Rosenbrock's valley, (1 − x)² + 100 (y − x²)²",
    lambda x, y: (1 - x) ** 2 + 100 * (y - x * x) ** 2,
    lambda x, y: (-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)),
    (-1.2, 1.0), (1.0, 1.0), 300, (-1.9, 1.9, -0.6, 2.4), bends,
)  # fmt: skip


@dataclass(frozen=True)
class Path:
    """Where a rule went, float64 [steps + 1, 2]; the averages that `ema` kept of that, or None."""

    places: np.ndarray
    averages: np.ndarray | None


def optimizer_of(rule: str, surface: Surface) -> Optimizer:
    """A rule with the numbers that it has on a surface; `ema` follows plain SGD."""
    numbers = RATES[rule][0 if surface is RAVINE else 1]
    if rule == "ema":
        return ema(optimizer_of("sgd", surface), numbers["ema_decay"])
    return UPDATE_RULES[rule](**numbers)


def path(optimizer: Optimizer, surface: Surface) -> Path:
    """The steps of an optimizer from where paths begin on a surface."""
    place = torch.tensor(surface.start, dtype=torch.float64)
    state = {name: torch.full((2,), first, dtype=torch.float64) for name, first in optimizer.state.items()}
    numbers = dict(optimizer.numbers)
    places, averages = [place], []
    for step in range(1, surface.steps + 1):
        gradient = torch.tensor(surface.gradient(*place.tolist()), dtype=torch.float64)
        place, state, numbers = reference_step(optimizer, place, gradient, state, step, numbers)
        places.append(place)
        averages.append(state.get("ema", place))
    kept = np.array([a.tolist() for a in averages]) if "ema" in state else None
    return Path(np.array([p.tolist() for p in places]), kept)


def update_svg(rule: str) -> str:
    """The paths of a rule over both surfaces with plain SGD's beside them, and how far each got."""
    panels = [panel(rule, surface, HEIGHT * row) for row, surface in enumerate((RAVINE, VALLEY))]
    tall = HEIGHT * len(panels)
    return (
        f'<svg viewBox="0 0 {WIDTH} {tall}" width="100%" role="img" font-size="12" fill="currentColor">'
        f"<title>The path of {escape(rule)} over a ravine and Rosenbrock's valley</title>{''.join(panels)}</svg>"
    )


def panel(rule: str, surface: Surface, top: int) -> str:
    left, right, upper, lower = LEFT, WIDTH - 10, top + TOP, top + HEIGHT - BOTTOM
    x0, x1, y0, y1 = surface.frame

    def points(places: np.ndarray) -> str:
        x = left + (places[:, 0] - x0) / (x1 - x0) * (right - left)
        y = lower - (places[:, 1] - y0) / (y1 - y0) * (lower - upper)
        # What leaves the frame is cut off there; browsers need not draw numbers without end.
        near = np.clip(np.stack([x, y], axis=1), -9999, 9999)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in near)

    made = path(optimizer_of(rule, surface), surface)
    label = f"{surface.name}: {surface.steps} steps, {settings(rule, surface)}"
    clip = f"{rule}-{top}"
    frame = f'<rect x="{left}" y="{upper}" width="{right - left}" height="{lower - upper}"'
    lines = [
        f'<text x="{left}" y="{top + 16}">{escape(label)}</text>',
        f'<clipPath id="{clip}">{frame}/></clipPath>',
        f'{frame} fill="none" stroke="currentColor" stroke-opacity="0.3"/>',
        f'<g clip-path="url(#{clip})" fill="none" stroke="currentColor">',
    ]
    lines += [f'<polyline points="{points(c)}" stroke-opacity="0.2"/>' for c in surface.contours()]
    beside = path(optimizer_of("sgd", surface), surface).places if made.averages is None and rule != "sgd" else None
    if made.averages is not None:
        beside, made = made.places, Path(np.concatenate([made.places[:1], made.averages]), None)
    if beside is not None:
        lines.append(f'<polyline points="{points(beside)}" stroke-opacity="0.55" stroke-dasharray="3 3"/>')
    lines.append(f'<polyline points="{points(made.places)}" class="path" stroke-width="1.6"/></g>')
    lines += dots(points(made.places), points(np.array([surface.start, surface.minimum])), clip)
    return "".join(lines)


def dots(steps: str, ends: str, clip: str) -> Iterator[str]:
    """A dot for each step, a ring where paths begin, a cross at the minimum."""
    yield f'<g clip-path="url(#{clip})" class="path">'
    yield from (f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in (pair.split(",") for pair in steps.split()))
    yield "</g>"
    (x, y), (a, b) = (pair.split(",") for pair in ends.split())
    yield f'<circle cx="{x}" cy="{y}" r="5" fill="none" stroke="currentColor"/>'
    yield f'<path d="M{a} {b}m-5 -5l10 10m0 -10l-10 10" stroke="currentColor" stroke-width="1.5"/>'


def settings(rule: str, surface: Surface) -> str:
    """The numbers of a rule that say how it was run."""
    given = RATES[rule][0 if surface is RAVINE else 1]
    return ", ".join(f"{name} = {number:g}" for name, number in given.items())


def caption(rule: str) -> str:
    """What the drawing shows, as Markdown."""
    dashed = {"ema": " The steps of SGD that are averaged are dashed.", "sgd": ""}
    return (
        "Each dot is a step. The ring is the start, the cross the minimum."
        f"{dashed.get(rule, ' SGD without momentum is dashed, for comparison.')} "
        "The hyperparameters are chosen for these two functions; others are the defaults."
    )
