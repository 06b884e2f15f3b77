"""Figures as formulas in `Dim`s: polynomials, with quotients and the least or largest of some where they occur.

The functions that count bytes and launches work on numbers. `formula_of` asks them once, of sizes that stand for
themselves, and gets the formula that they compute: there is no second account of bytes that could differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from tritonnotes.ir.core.types import Dim


@dataclass(frozen=True)
class Quotient:
    """`value` divided by `by` and rounded down."""

    value: Formula
    by: int


@dataclass(frozen=True)
class Extreme:
    """The least ('min') or the largest ('max') of some formulas."""

    which: str
    values: tuple[Formula, ...]


Factor = str | Quotient | Extreme
"""What a term is a product of: a `Dim` by its name, or what is no polynomial. None is negative."""


class Formula:
    """An integer that depends on the sizes of `Dim`s, each at least 1. Equal polynomials are equal.

    Comparisons are answered where they hold for all sizes or for none; others raise `TypeError`, since a path that is
    taken for some sizes alone is no formula: use `smallest` and `largest`.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[tuple[Factor, ...], int]) -> None:
        self.terms = {factors: count for factors, count in terms.items() if count}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | Formula):
            return NotImplemented
        return self.terms == as_formula(other).terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items())) if self.known is None else hash(self.known)

    @property
    def known(self) -> int | None:
        """The number that it is, None where it depends on sizes."""
        return self.terms.get((), 0) if self.terms.keys() <= {()} else None

    def __add__(self, other: int | Formula) -> Formula:
        made = dict(self.terms)
        for factors, count in as_formula(other).terms.items():
            made[factors] = made.get(factors, 0) + count
        return Formula(made)

    __radd__ = __add__

    def __neg__(self) -> Formula:
        return self * -1

    def __sub__(self, other: int | Formula) -> Formula:
        return self + as_formula(other) * -1

    def __rsub__(self, other: int) -> Formula:
        return as_formula(other) - self

    def __mul__(self, other: int | Formula) -> Formula:
        if isinstance(other, int):
            return Formula({factors: count * other for factors, count in self.terms.items()})
        made: dict[tuple[Factor, ...], int] = {}
        for left, count in self.terms.items():
            for right, times in other.terms.items():
                factors = tuple(sorted((*left, *right), key=_order))
                made[factors] = made.get(factors, 0) + count * times
        return Formula(made)

    __rmul__ = __mul__

    def __floordiv__(self, by: int) -> Formula:
        if by <= 0:
            raise TypeError(f"({self}) // {by}: a formula is divided by a positive number")
        if self.terms and all(count < 0 for count in self.terms.values()):
            return -((-self + (by - 1)) // by)  # what is rounded up, without negative numbers
        whole = {factors: count // by for factors, count in self.terms.items()}
        rest = Formula({factors: count % by for factors, count in self.terms.items()})
        if rest.known is not None:
            return Formula(whole) + rest.known // by
        return Formula(whole) + Formula({(Quotient(rest, by),): 1})

    def __mod__(self, by: int) -> Formula:
        return self - (self // by) * by

    def __divmod__(self, by: int) -> tuple[Formula, Formula]:
        return self // by, self % by

    def __lt__(self, other: int | Formula) -> bool:
        return _decided(self, "<", other, _is_positive(as_formula(other) - self), _is_positive(self - other + 1))

    def __gt__(self, other: int | Formula) -> bool:
        return as_formula(other) < self

    def __le__(self, other: int | Formula) -> bool:
        return not as_formula(other) < self

    def __ge__(self, other: int | Formula) -> bool:
        return not self < other

    def __bool__(self) -> bool:
        return _decided(self, "!=", 0, _is_positive(self) or _is_positive(-self), self.known == 0)

    def at(self, sizes: Mapping[str, int]) -> int:
        """The number at these sizes of `Dim`s by name."""
        return sum(count * prod(_factor_at(f, sizes) for f in factors) for factors, count in self.terms.items())

    def data(self, dims: Iterable[str]) -> list[Any]:
        """The terms as JSON: each is a list of its number and its factors. A factor is the place of a `Dim` in `dims`,
        or `["//", terms, number]`, `["min", terms, …]` or `["max", terms, …]`."""
        places = {name: place for place, name in enumerate(dims)}
        return _terms_data(self, places)

    def __str__(self) -> str:
        shown = " + ".join(_shown_term(factors, count) for factors, count in sorted(self.terms.items(), key=_by_degree))
        return shown.replace("+ -", "− ").replace("-", "−") or "0"

    def __repr__(self) -> str:
        return f"Formula({self})"


def as_formula(value: int | Formula) -> Formula:
    """A number as a formula; a formula as it is."""
    return value if isinstance(value, Formula) else Formula({(): value})


def formula_of(figure: Callable[[Mapping[str, int]], int], dims: Iterable[Dim]) -> Formula:
    """What a function of sizes computes, as a formula in these `Dim`s. All that depend on sizes must be among them."""
    sizes = {dim.name: Formula({(dim.name,): 1}) for dim in dims}
    # To the function they are integers: it adds, multiplies, divides and compares them.
    return as_formula(cast("int | Formula", figure(cast("Mapping[str, int]", sizes))))


def smallest(*values: int) -> int:
    """`min`, of formulas too."""
    return _extreme("min", values)


def largest(*values: int) -> int:
    """`max`, of formulas too."""
    return _extreme("max", values)


def _extreme(which: str, values: tuple[int, ...]) -> int:
    if all(isinstance(value, int) for value in values):
        return min(values) if which == "min" else max(values)
    kept: list[Formula] = []
    for value in dict.fromkeys(map(as_formula, values)):
        if any(_is_beyond(which, other, value) for other in kept):
            continue
        kept = [other for other in kept if not _is_beyond(which, value, other)] + [value]
    made = kept[0] if len(kept) == 1 else Formula({(Extreme(which, tuple(kept)),): 1})
    return cast("int", made)


def _is_beyond(which: str, one: Formula, other: Formula) -> bool:
    """Whether the first is the extreme of both for all sizes."""
    return _is_positive((other - one if which == "min" else one - other) + 1)


def _is_positive(formula: Formula) -> bool:
    """Whether it is positive for all sizes, as far as its terms tell: each `Dim` is at least 1, other factors 0."""
    least = 0
    for factors, count in formula.terms.items():
        if count < 0 and factors:
            return False
        least += count if all(isinstance(f, str) for f in factors) else 0
    return least > 0


def _decided(left: Formula, sign: str, right: int | Formula, always: bool, never: bool) -> bool:
    if always == never:
        raise TypeError(f"whether {left} {sign} {right} depends on sizes: use smallest() or largest()")
    return always


def _factor_at(factor: Factor, sizes: Mapping[str, int]) -> int:
    match factor:
        case Quotient(value, by):
            return value.at(sizes) // by
        case Extreme(which, values):
            found = [value.at(sizes) for value in values]
            return min(found) if which == "min" else max(found)
        case name:
            return sizes[name]


def _terms_data(formula: Formula, places: Mapping[str, int]) -> list[Any]:
    return [[count, *(_factor_data(f, places) for f in factors)] for factors, count in formula.terms.items()]


def _factor_data(factor: Factor, places: Mapping[str, int]) -> Any:
    match factor:
        case Quotient(value, by):
            return ["//", _terms_data(value, places), by]
        case Extreme(which, values):
            return [which, *(_terms_data(value, places) for value in values)]
        case name:
            return places[name]


def _shown_term(factors: tuple[Factor, ...], count: int) -> str:
    shown = "·".join(map(_shown_factor, factors))
    number = {1: "", -1: "-"}.get(count, f"{count:,}·") if shown else f"{count:,}"
    return f"{number}{shown}"


def _shown_factor(factor: Factor) -> str:
    match factor:
        case Quotient(value, by):
            return f"⌊({value}) / {by:,}⌋"
        case Extreme(which, values):
            return f"{which}({', '.join(map(str, values))})"
        case name:
            return name


def _order(factor: Factor) -> tuple[bool, str]:
    return not isinstance(factor, str), factor if isinstance(factor, str) else repr(factor)


def _by_degree(term: tuple[tuple[Factor, ...], int]) -> tuple[int, list[tuple[bool, str]]]:
    return -len(term[0]), [_order(factor) for factor in term[0]]
