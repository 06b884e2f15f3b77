"""The families that `python -m benchmarks` knows, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import kernel_peers, kernels, optimizers, steps
from .measure import Case


@dataclass(frozen=True)
class Wanted:
    """What of a family is wanted: tiny sizes or all, and which dtypes and directions (empty: all that it has)."""

    tiny: bool = False
    dtypes: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()


def _kernels(name: str, wanted: Wanted) -> list[Case]:
    return kernel_peers.cases(
        name, wanted.tiny, wanted.dtypes or kernels.DTYPES, wanted.directions or kernels.DIRECTIONS
    )


FAMILIES: dict[str, Callable[[Wanted], list[Case]]] = {
    **{name: partial(_kernels, name) for name in kernels.FAMILIES},
    optimizers.FAMILY: lambda wanted: optimizers.table_of_cases(wanted.tiny, wanted.dtypes or ("float32",)),
    steps.FAMILY: lambda wanted: steps.cases(wanted.tiny),
}


def cases(name: str, wanted: Wanted) -> list[Case]:
    """The cases of a family that are wanted."""
    made = FAMILIES[name](wanted)
    return [c for c in made if _is_one(c.dtype, wanted.dtypes) and _is_in_direction(c, wanted)]


def _is_in_direction(case: Case, wanted: Wanted) -> bool:
    return case.direction == "step" or _is_one(case.direction, wanted.directions)


def _is_one(value: str, some: tuple[str, ...]) -> bool:
    return not some or value in some
