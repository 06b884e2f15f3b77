"""Maxima that may skip NaN, as `tl.max` does: wherever a row has a NaN, all that is made of its maximum is NaN anyway.

That is so in a softmax. Its maximum is only taken off the row, and the sum of the exponentials is NaN if the row has
one. Whether there is a NaN takes a second reduction, which such a maximum saves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tritonnotes.ir.core.types import DType

from ..support.facets import FACETS

KEEPS_NAN = frozenset(
    {"add", "sub", "mul", "div", "neg", "abs", "exp", "log", "sqrt", "rsqrt", "copy", "cast", "round_to"}
)
"""Primitives of which a float is NaN wherever an argument is."""


class Formula(Protocol):
    """A step of a tile program: its reductions run along the row, all of it."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def args(self) -> tuple[str, ...]: ...
    @property
    def dtype(self) -> DType: ...


def covered_maxima(steps: Sequence[Formula], returned: Collection[str]) -> frozenset[str]:
    """The maxima of floats, by name, of which nothing can be told from outside if they skip NaN. `returned` are the
    steps that leave the program without a store."""
    places = (i for i, step in enumerate(steps) if step.op == "max" and step.dtype.is_float)
    return frozenset(steps[i].name for i in places if _is_covered(steps[i], steps[i + 1 :], returned))


def _is_covered(largest: Formula, later: Sequence[Formula], returned: Collection[str]) -> bool:
    in_part, in_whole = {*largest.args}, set[str]()
    """What is NaN in one column of a row that has a NaN there, and in all of them."""
    uncertain = {largest.name}
    """What is made of the maximum, and may be another number if that skips NaN."""
    for step in later:
        args = {*step.args}
        keeps_nan = step.op in KEEPS_NAN and step.dtype.is_float
        if (keeps_nan and args & in_whole) or (step.op == "sum" and args <= in_part | in_whole):
            in_whole.add(step.name)
            continue
        if keeps_nan and args & in_part:
            in_part.add(step.name)
        if args & uncertain:
            if step.op not in FACETS:  # it leaves the program, or says where something lies
                return False
            uncertain.add(step.name)
    return uncertain.isdisjoint(returned)
