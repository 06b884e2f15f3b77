"""Pictures of the notes: an op's function and derivative over one number, as its formula and its gradient have them.

Both are computed in numpy float64 (`ir/core/evaluate.py`), so a picture shows what the op means and needs no kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import MissingExtraError
from ..ir.core.errors import TritonNotesError
from ..ir.core.evaluate import evaluate
from ..ir.core.graph import Graph, Value
from ..ir.core.op import Described, Op, catalogue
from ..ir.core.types import float64
from ..ir.passes.decompose import decompose
from ..ir.passes.joint import cotangent_names, gradient_graph
from ..notes import find
from ..tensors.initial import initial_state

REACH = 8.0
"""How far from zero a picture goes, whatever the op's domain is: the bends lie here."""
POINTS = 321
SPREAD = 3.0
"""How far apart the numbers lie that are held while one varies."""
MOST_CURVES = 6
SHAPES: tuple[tuple[int, ...], ...] = ((1,), (3, 3))
"""One number where that says something; else three rows of three, for ops that look along an axis."""


class PlotError(TritonNotesError, ValueError):
    """Of this op nothing can be drawn; the message holds the reason."""


@dataclass(frozen=True)
class Curve:
    """`y` and its derivative `slope` over a picture's `x`; no slope where no gradient flows."""

    label: str
    y: np.ndarray
    slope: np.ndarray | None


@dataclass(frozen=True)
class Picture:
    """What is drawn of an op: curves over the values `x` of one number, with what the other arguments hold."""

    name: str
    over: str
    fixed: str
    x: np.ndarray
    curves: tuple[Curve, ...]


def plot_note(name: str, path: str | Path) -> Picture:
    """Draw the picture of the op `name` to `path`, a file whose suffix names a format that matplotlib writes.

    Raises `UnknownNameError` for no such op, `PlotError` where there is nothing to draw or the format is unknown,
    `MissingExtraError` without matplotlib, `OSError` where the file cannot be written.
    """
    made = picture(name)
    _draw(made, Path(path))
    return made


def picture(name: str) -> Picture:
    """Function and derivative of the op `name` over one of its numbers; errors as for `plot_note`."""
    entry = find(name)
    if entry.kind == "update rule":
        raise PlotError(f"{name}: an update rule is a step of training, no function of one number to draw")
    thing = catalogue()[name]
    reason = "it takes no input of one number or of three rows of three"
    for shape in SHAPES:
        try:
            graph = _example(thing, shape)
        except TritonNotesError:
            continue
        reason = _why_not(graph) or ""
        if reason:
            continue
        found = _picture(name, thing, graph)
        if found.curves:
            return found
        reason = "its result does not change with one number of its input"
    raise PlotError(f"{name}: nothing to draw, {reason}")


def _example(thing: Op | Described, shape: tuple[int, ...]) -> Graph:
    graph = Graph("example")
    assert thing.sample is not None
    graph.output(y=thing.sample(graph, shape, float64))
    return graph


def _why_not(graph: Graph) -> str | None:
    if not _float_inputs(graph):
        return "it takes whole numbers, between which there is nothing"
    if graph.leaves("scalar"):
        return "it draws numbers anew at each call"
    kinds = {value.op.kind for value in decompose(graph).values if not value.is_leaf}
    if "contraction" in kinds:
        return "its result is made of products with a matrix: straight lines, as steep as the weights are"
    if kinds <= {"shape", "gather"}:
        return "it moves numbers and computes none"
    return None


def _float_inputs(graph: Graph) -> list[Value]:
    return [value for value in graph.inputs if value.dtype.is_float]


# -- the numbers -------------------------------------------------------------------------------------------------------


def _picture(name: str, thing: Op | Described, graph: Graph) -> Picture:
    varied = _float_inputs(graph)[0]
    ranges = _ranges(thing, graph)
    feeds = {value.name: _held(value, ranges.get(value)) for value in graph.inputs}
    feeds |= {n: t.numpy() for n, t in initial_state(graph).items()}
    low, high = ranges.get(varied, (-REACH, REACH))
    x = np.linspace(max(low, -REACH), min(high, REACH), POINTS)
    size = feeds[varied.name].size
    # Of two numbers that make one, as in a gated unit, each has its curve.
    places = range(size if size == 2 else 1)
    curves = [curve for place in places for curve in _curves(graph, varied, place, feeds, x, several=size == 2)]
    others = {value.name: feeds[value.name] for value in graph.inputs if value is not varied}
    fixed = [f"{n} = {np.ravel(held)[0]:g}" for n, held in others.items()]
    if size > 1:
        least, most = feeds[varied.name].min(), feeds[varied.name].max()
        held = f"= {least:g}" if least == most else f"between {least:g} and {most:g}"
        fixed.append(f"the rest of {varied.name} {held}")
    over = varied.name if size == 1 else f"one number of {varied.name}"
    return Picture(name, over, ", ".join(fixed), x, tuple(curves[:MOST_CURVES]))


def _ranges(thing: Op | Described, graph: Graph) -> dict[Value, tuple[float, float]]:
    """The domain of each input, found by its place among the op's arguments."""
    names = thing.arg_names if isinstance(thing, Op) else list(thing.domain)
    calls = [value for value in graph.values if value.op.name == thing.name]
    found = {}
    for call in calls:
        for arg, arg_name in zip(call.args, names, strict=False):
            domain = thing.domain.get(arg_name)
            if arg is not None and isinstance(domain, tuple):
                found[arg] = domain
    return found


def _held(value: Value, domain: tuple[float, float] | None) -> np.ndarray:
    """What an input holds where it does not vary: 1 if its domain has it, else the middle; of many numbers no two are
    the same."""
    shape = tuple(size for size in value.shape if isinstance(size, int))
    if not value.dtype.is_float:
        return np.zeros(shape, np.int64)
    low, high = domain or (-REACH, REACH)
    count, middle = int(np.prod(shape)), (low + high) / 2
    if count <= 2:
        return np.full(shape, 1.0 if low <= 1 <= high else middle)
    reach = min(SPREAD, high - middle)
    return np.linspace(middle - reach, middle + reach, count).reshape(shape)


def _curves(
    graph: Graph, varied: Value, place: int, feeds: dict[str, Any], x: np.ndarray, several: bool
) -> Iterator[Curve]:
    """A curve for each number of the result that moves with the number at `place` of `varied`."""
    primitives = decompose(graph)
    result = primitives.outputs["y"]
    runs = []
    for at in x:
        array = feeds[varied.name].astype(np.float64)
        array.flat[place] = at
        runs.append(feeds | {varied.name: array})
    y = np.array([np.ravel(evaluate(primitives, fed)[result]) for fed in runs], dtype=np.float64)
    if not np.isfinite(y).all():
        return
    shape = tuple(size for size in result.shape if isinstance(size, int))
    moving = [index for index in range(y.shape[1]) if np.ptp(y[:, index]) > 0]
    for index in moving:
        slope = _slope(graph, varied, place, runs, shape, index) if result.dtype.is_float else None
        where = f"[{', '.join(map(str, np.unravel_index(index, shape)))}]" if len(moving) > 1 else ""
        over = f", {varied.name}[{place}] varied" if several else ""
        yield Curve(f"{graph.outputs['y'].op.name}{where}{over}", y[:, index], slope)


def _slope(
    graph: Graph, varied: Value, place: int, runs: list[dict[str, Any]], shape: tuple[int, ...], index: int
) -> np.ndarray | None:
    derived = gradient_graph(graph, [varied.name])
    named = cotangent_names(graph, ["y", varied.name])
    out = derived.outputs.get(named[varied.name])
    if out is None:
        return None
    d_y = np.zeros(int(np.prod(shape)))
    d_y[index] = 1
    upstream = {named["y"]: d_y.reshape(shape)}
    return np.array([np.ravel(evaluate(derived, fed | upstream)[out])[place] for fed in runs])


# -- the drawing -------------------------------------------------------------------------------------------------------


def _draw(made: Picture, path: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "and it draws the notes") from None
    # A figure of its own, without pyplot: whatever backend the caller uses stays as it is.
    figure = Figure(figsize=(7, 6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    formats = canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise PlotError(f"{path.name!r}: no picture can be written with this suffix; use one of {', '.join(formats)}")
    note = find(made.name).note
    panels = [(f"{made.name}: {note.formula}", [(c.label, c.y) for c in made.curves])]
    slopes = [(c.label, c.slope) for c in made.curves if c.slope is not None]
    panels += [(f"derivative: {note.derivative}", slopes)] if slopes else []
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves) in zip(drawn, panels, strict=True):
        axes.set_title(title, fontsize="medium", wrap=True)
        axes.axhline(0, color="lightgrey", linewidth=0.8)
        for label, values in curves:
            axes.plot(made.x, values, label=label)
        if len(curves) > 1:
            axes.legend(fontsize="small")
    drawn[-1].set_xlabel(made.over + (f" ({made.fixed})" if made.fixed else ""))
    figure.savefig(path, dpi=120)
