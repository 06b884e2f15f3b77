"""The families that `python -m benchmarks` knows, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import kernels, optimizers, steps
from .measure import Case


@dataclass(frozen=True)
class Candidate:
    """What of a family is wanted: tiny sizes or all, and which dtypes and directions (empty: all that it has)."""

    tiny: bool = False
    dtypes: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()


def _kernels(name: str, choice: Candidate) -> list[Case]:
    return kernels.cases(name, choice.tiny, choice.dtypes or kernels.DTYPES, choice.directions or kernels.DIRECTIONS)


FAMILIES: dict[str, Callable[[Candidate], list[Case]]] = {
    **{name: partial(_kernels, name) for name in kernels.FAMILIES},
    optimizers.FAMILY: lambda choice: optimizers.table_of_cases(choice.tiny, choice.dtypes or ("float32",)),
    steps.FAMILY: lambda choice: steps.cases(choice.tiny),
}


def cases(name: str, choice: Candidate) -> list[Case]:
    """The cases of a family that are wanted."""
    made = FAMILIES[name](choice)
    return [c for c in made if _is_one(c.dtype, choice.dtypes) and _is_in_direction(c, choice)]


def _is_in_direction(case: Case, choice: Candidate) -> bool:
    return case.direction == "step" or _is_one(case.direction, choice.directions)


def _is_one(value: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted
