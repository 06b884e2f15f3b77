"""The loops in which a tile program goes along rows that registers do not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..analysis.idioms import RUNNING_MAXIMUM, Kind, match, may_count, moments_of
from ..analysis.row_loops import Row, RowLoops, schedule_row_loops
from ..support.sizes import known_size
from .tile_ir import COL, TILE, Kernel, Step

REDUCTIONS = ("sum", "max", "min")


def is_wide(step: Step) -> bool:
    """Whether a step has a number for each column."""
    return step.extent in (TILE, COL)


def running_maximum(kernel: Kernel) -> dict[str, str]:
    """For each sum that is taken beside a running maximum, that maximum."""
    nodes = _Steps({s.name: s for s in kernel.steps}, known_size(kernel.layout.col_shape))
    found = {s.name: match(RUNNING_MAXIMUM, s, nodes) for s in kernel.steps if s.op == "sum"}
    return {total: names["largest"].name for total, names in found.items() if names is not None}


def deviations(kernel: Kernel) -> dict[str, tuple[str, str]]:
    """For each sum of deviations, or of their squares, what deviates, and from what. Integers have no exact mean."""
    nodes = _Steps({s.name: s for s in kernel.steps}, known_size(kernel.layout.col_shape))
    found = {s.name: moments_of(s, nodes) for s in kernel.steps if s.op == "sum" and s.dtype.is_float}
    return {total: (pair[0].name, pair[1].name) for total, pair in found.items() if pair is not None}


@dataclass(frozen=True)
class _Steps:
    """Steps as idioms are looked for among them. Of the kinds of arguments they know numbers of a row, and how many
    columns it has."""

    steps: Mapping[str, Step]
    columns: int | None

    def seen(self, node: Step) -> Step:
        return node

    def op(self, node: Step) -> str:
        return node.op

    def args(self, node: Step) -> Sequence[Step]:
        return [self.steps[name] for name in node.args]

    def is_kind(self, node: Step, kind: Kind) -> bool:
        if kind is Kind.COUNT:
            return may_count(node.attrs.get("value"), self.columns, node.op == "argument")
        return kind is Kind.OF_ROW and not is_wide(node)


def row_loops(kernel: Kernel) -> RowLoops[str]:
    """The loops of a tile program, by the names of its steps. Wide steps are computed again in each loop that needs
    them: their loads are meant to come from the cache."""
    steps = {s.name: s for s in kernel.steps if s.op != "store"}
    return schedule_row_loops(
        Row(
            {name: step.args for name, step in steps.items()},
            lambda name: is_wide(steps[name]),
            {name for name, step in steps.items() if step.op in REDUCTIONS},
            running_maximum(kernel),
            deviations(kernel),
            {s.args[0] for s in kernel.steps if s.op == "store" and is_wide(s)},
        )
    )
