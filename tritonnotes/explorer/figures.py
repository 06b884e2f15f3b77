"""The numbers of a page that follow the sizes of `Dim`s: each formula once, for the script to work out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..codegen.support.formulas import Formula, formula_of
from ..codegen.support.sizes import NOMINAL_SIZES
from ..ir.core.types import Dim

LONGEST = 160
"""Letters of a formula that is shown."""


@dataclass(frozen=True)
class Figure:
    """A number that follows sizes: its place among the formulas of the page, its formula in words where that depends
    on sizes, and what it is at the nominal batch of 256."""

    number: int
    formula: str
    nominal: int


@dataclass
class Figures:
    """The formulas of a page in these `Dim`s, equal ones once, in the order in which they are asked for."""

    dims: Sequence[Dim]
    known: dict[Formula, Figure] = field(default_factory=dict)

    def of(self, figure: Callable[[Mapping[str, int]], int]) -> Figure:
        """What a function of sizes computes."""
        formula = formula_of(figure, self.dims)
        if formula not in self.known:
            shown = str(formula) if formula.known is None else ""
            shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
            self.known[formula] = Figure(len(self.known), shown, formula.at(NOMINAL_SIZES))
        return self.known[formula]

    def data(self) -> list[Any]:
        """The formulas as JSON, as `Formula.data` has them."""
        names = [dim.name for dim in self.dims]
        return [formula.data(names) for formula in self.known]
