"""Sums down columns of deviations from a mean, and of their squares, which one pass over the rows gathers together with
that mean: each program keeps the count, the mean and Σ (x − mean)² of the rows that it takes (Welford), and what they
leave is put together once the mean of all is known (Chan, Golub and LeVeque, 1979). Means are kept as a sum, over its
count, and what the rounding of both has lost, which that mean needs where it dwarfs the deviations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value

from .axes import Axes, reduced_axes
from .idioms import RowValues, moments_of
from .views import base_of


@dataclass(frozen=True, eq=False)
class Moments:
    """What sums follow from: the rows of `x`, and the mean `about` which it deviates. `total` is the sum of x that the
    mean is made of, `deviations` the sum of x − about, `squares` that of (x − about)²."""

    x: Value
    about: Value
    total: Value
    deviations: Value
    squares: Value


def column_moments(axes: Axes, columns: Iterable[Value]) -> dict[Value, Moments]:
    """Of sums down `columns` those of deviations from a mean, and of their squares, that are taken of the same."""
    sums: dict[tuple[Value, Value], dict[str, Value]] = {}
    known = dict.fromkeys(columns)
    for value in known:
        if value.op.name != "sum" or not value.dtype.is_float or not axes.of(value):
            continue
        (summed,) = value.inputs
        found = moments_of(value, RowValues(axes, reduced_axes(axes, value)))
        if found is not None and axes.of(found[0]) == axes.of(summed) and axes.of(found[1]) == axes.of(value):
            sums.setdefault((found[0], base_of(found[1])), {})[base_of(summed).op.name] = value
    made: dict[Value, Moments] = {}
    for (x, about), taken in sums.items():
        total = base_of(about.inputs[0]) if about.op.name == "div" else None
        if {"sub", "mul"} <= taken.keys() and total in known:
            moments = Moments(x, about, total, taken["sub"], taken["mul"])
            made |= dict.fromkeys((moments.deviations, moments.squares), moments)
    return made
