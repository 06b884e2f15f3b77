"""Row idioms: formulas over whole rows that a kernel computes in another way than they say, as patterns in a table.

Formulas ask for one column of a row as a maximum over one class, and for the place of the largest as a minimum of
column numbers. A kernel that holds one long row has no registers to spare for either, and one that loops along its rows
would go along them once more: it loads the element. The place is taken together with the largest, and a sum of
exponentials beside the maximum of its row, so that one loop along the row gives both. Sums of deviations from a mean
follow from moments, which one loop gathers together with that mean.

Patterns are read of values, or of the steps of a tile program: `Nodes` says what their ops and arguments are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, TypeVar

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import host

from .axes import Axes, known_product
from .views import base_of, is_free

N = TypeVar("N")


class Kind(Enum):
    """What is asked of an argument that a pattern does not look into."""

    COLUMN_NUMBERS = "the numbers of all columns"
    OF_ROW = "one number for each row"
    CONSTANT = "a number"
    MINUS_INFINITY = "−∞"
    COUNT = "how many columns there are"


@dataclass(frozen=True)
class Leaf:
    """An argument of a kind, under a name."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Call:
    """An op on arguments that match, under a name if it has one. A string as an argument is a name for any node; one
    name stands for one node throughout."""

    op: str
    args: tuple[Pattern, ...]
    name: str = ""


Pattern = Call | Leaf | str


def _op(op: str, *args: Pattern, name: str = "") -> Call:
    return Call(op, args, name)


COLUMNS = Leaf("columns", Kind.COLUMN_NUMBERS)


IS_COLUMN = _op("eq", COLUMNS, Leaf("number", Kind.OF_ROW))
"""Where the number of a column is that of the row."""


SELECTED = _op("max", _op("where", IS_COLUMN, "x", Leaf("otherwise", Kind.MINUS_INFINITY)))
"""The element of x at a number: a maximum over a single column. Where no column has the number, it is −∞."""


PLACE_OF_MAXIMUM = _op(
    "min",
    _op(
        "where",
        _op("logical_or", _op("eq", "x", _op("max", "x", name="largest")), _op("ne", "x", "x")),
        COLUMNS,
        Leaf("otherwise", Kind.CONSTANT),
        name="candidates",
    ),
)
"""The first column in which x is its maximum, or NaN."""


RUNNING_MAXIMUM = _op("sum", _op("exp", _op("sub", "x", _op("max", "x", name="largest"))))
"""A sum of eˣ⁻ᵐ, m the maximum of x over the same row: both are taken in one loop, the sum rescaled whenever the
maximum grows (Milakov and Gimelshein, 2018)."""


COUNT = Leaf("count", Kind.COUNT)


ESTIMATE = _op("div", _op("sum", "x"), COUNT)


MEANS = (
    replace(ESTIMATE, name="about"),
    _op(
        "add",
        replace(ESTIMATE, name="estimate"),
        _op("div", _op("sum", _op("sub", "x", "estimate")), COUNT),
        name="about",
    ),
)
"""The mean of x, and that mean with what its rounding lost."""


OF_MOMENTS = (
    *(_op("sum", _op("sub", "x", mean)) for mean in MEANS),
    *(_op("sum", _op("mul", _op("sub", "x", mean, name="off"), "off")) for mean in MEANS),
)
"""Sums of x − c and of (x − c)², c the mean of x. Both follow from count, mean and Σ (x − mean)² of the parts of a row
(Chan, Golub and LeVeque, 1979), which are had before c is known. About another number, such as the largest x, moments
are not as exact, and where an x is infinite they are NaN, which the sums are about a mean alone."""


SOFTMAX = _op("div", _op("exp", "exponent", name="exponential"), _op("sum", "exponential", name="total"))
"""eˣ / Σ eˣ, which is eˣ⁻ˡ where l = ln Σ eˣ is known."""


BESIDE_ONE_ROW: tuple[Pattern, ...] = (_op("max", "x"), RUNNING_MAXIMUM, PLACE_OF_MAXIMUM)
"""The reductions for which registers suffice beside one long row. More make ptxas spill."""


WITHOUT_COLUMN_NUMBERS: tuple[tuple[Pattern, str], ...] = ((IS_COLUMN, ""), (PLACE_OF_MAXIMUM, "candidates"))
"""Idioms for which no column numbers are kept beside a row, and the node that reads them: itself, or one by name."""


# -- finding them --


class Nodes(Protocol[N]):
    """A graph in which patterns are looked for. A node is one object wherever it is read."""

    def seen(self, node: N) -> N:
        """The node behind views."""

    def op(self, node: N) -> str: ...

    def args(self, node: N) -> Sequence[N]: ...

    def is_kind(self, node: N, kind: Kind) -> bool: ...


def match(pattern: Pattern, node: N, nodes: Nodes[N]) -> Mapping[str, N] | None:
    """The nodes that a pattern names, where a node matches it; None where it does not."""
    found: dict[str, N] = {}
    return found if _matches(pattern, node, nodes, found) else None


def _matches(pattern: Pattern, node: N, nodes: Nodes[N], found: dict[str, N]) -> bool:
    if isinstance(pattern, Leaf):
        found[pattern.name] = node
        return nodes.is_kind(node, pattern.kind)
    node = nodes.seen(node)
    if isinstance(pattern, str):
        return found.setdefault(pattern, node) is node
    args = nodes.args(node) if nodes.op(node) == pattern.op else ()
    if len(args) != len(pattern.args):
        return False
    if pattern.name:
        found[pattern.name] = node
    return all(_matches(part, arg, nodes, found) for part, arg in zip(pattern.args, args, strict=True))


def may_count(given: float | None, columns: int | None, is_host: bool) -> bool:
    """Whether a number is how many columns there are: the `given` one, or the host's where a `Dim` says it."""
    return is_host if columns is None else given == columns


@dataclass(frozen=True)
class RowValues:
    """Values as a kernel has them that goes along the axes of `wide` in each row."""

    axes: Axes
    wide: frozenset[int]

    def seen(self, node: Value) -> Value:
        return base_of(node)

    def op(self, node: Value) -> str:
        return node.op.name

    def args(self, node: Value) -> Sequence[Value]:
        return node.inputs

    def is_kind(self, node: Value, kind: Kind) -> bool:
        if kind is Kind.OF_ROW:
            return not self.is_wide(node)
        node = base_of(node)
        if kind is Kind.COLUMN_NUMBERS:
            return node.op.name == "iota" and self.is_wide(node)
        if kind is Kind.COUNT:
            given = node.attrs["value"] if node.op.name == "constant" else None
            return may_count(given, known_product(self.axes, self.wide), node.dtype is host)
        return node.op.name == "constant" and (kind is Kind.CONSTANT or node.attrs["value"] == -math.inf)

    def is_wide(self, value: Value) -> bool:
        """Whether a value has a number for each column."""
        return bool(self.axes.of(value) & self.wide)

    def has_columns_last(self, value: Value) -> bool:
        """Whether a value has rows, of which the columns lie beside each other in memory."""
        return set(self.axes.labels[value][-1:]) == self.wide < self.axes.of(value)

    def is_reduction(self, value: Value) -> bool:
        """Whether a value takes one number of all columns."""
        return value.op.kind == "reduction" and self.is_wide(value.inputs[0])


# -- what is asked of them --


@dataclass(frozen=True)
class Selected:
    """One element of each row of `x`, which lies in memory, at the column of a `number` of the row. From it is taken
    `less`, a number of the row, if there is one."""

    x: Value
    number: Value
    less: Value | None

    @property
    def needs(self) -> tuple[Value, ...]:
        """What has to be known of the row before it is loaded, or taken."""
        return (self.number,) if self.less is None else (self.number, self.less)


def selected_of(row: RowValues, value: Value, computed: Collection[Value]) -> Selected | None:
    """The element that a maximum over a single column is, where a kernel that has `computed` some values loads it."""
    found = match(SELECTED, value, row)
    if found is None:
        return None
    x, less = found["x"], None
    if x in computed and x.op.name == "sub" and not row.is_wide(x.inputs[1]):
        x, less = base_of(x.inputs[0]), x.inputs[1]
    if x in computed or is_free(x) or not row.has_columns_last(x):
        return None
    return Selected(x, found["number"], less)


def largest_of(row: RowValues, value: Value) -> Value | None:
    """The maximum of which a value is the place."""
    found = match(PLACE_OF_MAXIMUM, value, row)
    return None if found is None else found["largest"]


def keeps_column_numbers(row: RowValues, values: Iterable[Value]) -> bool:
    """Whether column numbers are kept beside a row: whether something reads them for which no idiom does without."""
    known = list(values)
    free: set[Value] = set()
    for pattern, reader in WITHOUT_COLUMN_NUMBERS:
        matches = ((v, match(pattern, v, row)) for v in known)
        free.update(found[reader] if reader else v for v, found in matches if found is not None)
    return any(row.is_kind(arg, Kind.COLUMN_NUMBERS) for v in known if v not in free for arg in v.inputs)


def moments_of(node: N, nodes: Nodes[N]) -> tuple[N, N] | None:
    """What a sum of deviations, or of their squares, is taken of, and about what."""
    found = (match(pattern, node, nodes) for pattern in OF_MOMENTS)
    pairs = ((names["x"], names["about"]) for names in found if names is not None)
    return next((pair for pair in pairs if nodes.is_kind(pair[1], Kind.OF_ROW)), None)


def fits_beside_row(row: RowValues, value: Value) -> bool:
    """Whether registers suffice for a reduction beside one long row."""
    return any(match(pattern, value, row) is not None for pattern in BESIDE_ONE_ROW)
