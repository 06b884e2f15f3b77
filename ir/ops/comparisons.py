"""What compares, decides and limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import Graph, Value
from ..core.numbers import Number, plain_number
from ..core.op import describe, op
from ..core.registry import Note
from ..core.types import float32

FAMILY = "arithmetic"


def _pair(build: Callable[..., Value], dtype_of_both: str | None = None) -> Callable[..., Value]:
    def sample(graph: Graph, shape: tuple[Any, ...], dtype: Any) -> Value:
        given = dtype_of_both or dtype
        return build(graph.input("a", shape, given), graph.input("b", shape[-1:], given))

    return sample


_COMPARISONS: tuple[tuple[Callable[..., Value], str, str, str, str], ...] = (
    (P.eq, "a = b", "Exact on integers and bools.", "Seldom true of floats that were computed.", "Class indices."),
    (P.ne, "a ≠ b", "x ≠ x is the test for NaN.", "Nearly always true of floats that were computed.", "Padding."),
    (
        P.lt,
        "a < b",
        "Selects elements by their value.",
        "False where either is NaN, as ≥ is.",
        "Bounds, and pieces of a curve.",
    ),
    (
        P.le,
        "a ≤ b",
        "Includes the bound.",
        "False where either is NaN, as > is.",
        "Pieces of a function that include their bound.",
    ),
    (P.gt, "a > b", "Selects elements by their value.", "False where either is NaN, as ≤ is.", "Thresholds on scores."),
    (
        P.ge,
        "a ≥ b",
        "Includes the bound.",
        "False where either is NaN, as < is.",
        "Pieces of a function that include their bound.",
    ),
)
for _build, _formula, _strengths, _weaknesses, _use in _COMPARISONS:
    describe(
        _build,
        domain={"a": (-3, 3), "b": (-3, 3)},
        note=Note(
            formula=f"{_formula}: bool",
            derivative="none: a truth does not change under small changes",
            strengths=_strengths,
            weaknesses=_weaknesses,
            use=_use,
            source=f"torch.{_build.__name__}",
        ),
        sample=_pair(_build),
    )

_LOGIC: tuple[tuple[Callable[..., Value], str, str], ...] = (
    (P.logical_and, "a and b", "Both conditions; written a & b."),
    (P.logical_or, "a or b", "Either condition; written a | b."),
)
for _build, _formula, _use in _LOGIC:
    describe(
        _build,
        domain={"a": (0, 1), "b": (0, 1)},
        note=Note(
            formula=f"{_formula}: bool",
            derivative="none: a truth does not change under small changes",
            strengths="Joins masks without a product of numbers.",
            weaknesses="Accepts only bools: compare numbers first, as in x > 0.",
            use=_use,
            source=f"torch.{_build.__name__}",
        ),
        sample=_pair(_build, "bool"),
    )
describe(
    P.logical_not,
    domain={"x": (0, 1)},
    note=Note(
        formula="not x: bool",
        derivative="none: a truth does not change under small changes",
        strengths="Inverts a mask, also where it comes from NaN, which the opposite comparison does not.",
        weaknesses="Accepts only bools: compare numbers first, as in x > 0.",
        use="The other branch of a condition; written ~x.",
        source="torch.logical_not",
    ),
    sample=lambda graph, shape, dtype: P.logical_not(graph.input("x", shape, "bool")),
)
describe(
    P.where,
    domain={"condition": (0, 1), "a": (-10, 10), "b": (-10, 10)},
    note=Note(
        formula="a where the condition holds, else b",
        derivative="1 for the side that is taken, 0 for the other",
        strengths="Combines two formulas without branching; the side that is not selected may be NaN.",
        weaknesses="Both sides are computed; an infinite slope on the side not selected gives NaN gradients.",
        use="Piecewise functions, masks and safe divisors.",
        source="torch.where",
    ),
    sample=lambda graph, shape, dtype: P.where(
        graph.input("condition", shape, "bool"), graph.input("a", shape, dtype), graph.input("b", shape[-1:], dtype)
    ),
)


@op(
    domain={"x": (-3, 3), "min": (-3, 3), "max": (-3, 3)},
    note=Note(
        formula="x limited to [min, max]",
        derivative="1 where min ≤ x ≤ max, else 0; for a bound: 1 where it is taken instead of x",
        strengths="Keeps values in the domain of the next function; the gradient is 1 at the bounds themselves.",
        weaknesses="No gradient outside the bounds, so values there do not change.",
        use="Guarding logarithms and exponentials, and limited actions.",
        source="torch.clamp",
    ),
)
def clamp(x: Value, min: Value | None = None, max: Value | None = None) -> Value:
    """x limited to [min, max]"""
    raised = x if min is None else P.maximum(x, min)
    return raised if max is None else P.minimum(raised, max)


clamp.sample = lambda graph, shape, dtype: clamp(graph.input("x", shape, dtype), -1.0, 1.0)


@clamp.gradient
def _(d_y, y, x, min, max):
    below = None if min is None else x < min
    above = None if max is None else x > max
    if min is None:
        return P.where(x <= max, d_y, 0), None, P.where(above, d_y, 0)
    if max is None:
        return P.where(x >= min, d_y, 0), P.where(below, d_y, 0), None
    # Where the bounds cross, the upper one is taken.
    inside = (x >= min) & (x <= max)
    crossed = max < min
    return P.where(inside, d_y, 0), P.where(below & (min < max), d_y, 0), P.where(above | crossed, d_y, 0)


@clamp.declares
def _(
    x: Value, min: Value | Number | None = None, max: Value | Number | None = None, *, name: str | None = None
) -> Value:
    """`x` limited to [`min`, `max`], each a number, a value that broadcasts with `x`, or None for no bound. Where
    `min` > `max` the result is `max`; NaN stays NaN."""
    if not isinstance(x, Value):
        raise DeclarationError(f"clamp: takes a Value of a graph, got {x!r}; start from g.input(...)")
    if min is None and max is None:
        raise DeclarationError("clamp: neither min nor max is given; give one of them")
    return clamp.apply(x, _bound(x, min, "min"), _bound(x, max, "max"), name=name)


def _bound(x: Value, given: Value | Number | None, which: str) -> Value | None:
    """A bound as a value: a number takes the dtype of `x`, or float32 where that holds integers alone."""
    if given is None or isinstance(given, Value):
        return given
    number = plain_number(given, f"clamp: {which}")
    return x.graph.constant(number, float32 if isinstance(number, float) and not x.dtype.is_float else x.dtype)
