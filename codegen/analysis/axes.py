"""Iteration axes: which dimensions of which values are iterated together.

Every dimension larger than 1 gets a label; elementwise primitives give the dimensions that meet in them one label. What
shares a kernel iterates over labels, so a row vector, a column vector and a matrix know how they lie to each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import Shape, Size

from .views import is_squeeze

Labels = tuple[int | None, ...]
"""One entry for each dimension of a value: its axis, or None where the size is 1."""


MAX_ROW = 2**18
"""The longest row, in elements, that one program reduces where rows are few: longer ones are split over programs. A
program loops along what registers do not hold, block by block."""


FEW_ROWS = 128
"""Rows that leave most of a GPU idle with a program for each."""


ROW_BYTES = 192 * 2**10
"""What one program keeps of a row on chip: three quarters of a multiprocessor's registers, so that nothing spills."""


LONG_ROW = 16_384
"""From a row longer than this on registers hold one row with little beside it: each program takes one and is done."""


MAX_WHOLE = 8192
"""The largest tensor that one program reduces to one number."""


@dataclass(frozen=True)
class Axes:
    """The labels of every value of a graph of primitives, and the size of every axis.

    `clashes` names, for a value, the arguments (by index) in which an axis would have to be two axes of one value, as
    in x + xᵀ. There are none once `materialize` is done.
    """

    labels: dict[Value, Labels]
    sizes: dict[int, Size]
    clashes: dict[Value, list[int]]
    _sets: dict[Value, frozenset[int]] = field(default_factory=dict, repr=False)

    def of(self, value: Value) -> frozenset[int]:
        """The axes that a value has."""
        found = self._sets.get(value)
        if found is None:
            found = self._sets[value] = frozenset(a for a in self.labels[value] if a is not None)
        return found

    def is_distinct(self, value: Value) -> bool:
        """Whether no axis occurs twice in a value, as it would in x + xᵀ."""
        known = self.iterated(self.labels[value])
        return len(set(known)) == len(known)

    @staticmethod
    def iterated(labels: Labels) -> tuple[int, ...]:
        """The axes among labels, in order: dimensions of size 1 move nothing."""
        return tuple(a for a in labels if a is not None)

    def shape(self, axes: tuple[int, ...]) -> Shape:
        return tuple(self.sizes[a] for a in axes)


def label_axes(graph: Graph) -> Axes:
    """Label the dimensions of every value of a graph of primitives."""
    parent: list[int] = []
    sizes: list[Size] = []

    def fresh(size: Size) -> int:
        parent.append(len(parent))
        sizes.append(size)
        return len(parent) - 1

    def find(axis: int) -> int:
        while parent[axis] != axis:
            parent[axis] = parent[parent[axis]]
            axis = parent[axis]
        return axis

    labels: dict[Value, Labels] = {}
    clashes: dict[Value, list[int]] = {}
    beside: dict[int, set[int]] = {}
    """For each axis those that occur beside it in some value; all of them are axes that `find` returns."""

    def become_one(axis: int, other: int) -> None:
        parent[axis] = other
        neighbours = beside.pop(axis, set())
        for neighbour in neighbours:
            beside[neighbour].discard(axis)
            beside[neighbour].add(other)
        beside.setdefault(other, set()).update(neighbours)

    met: set[Labels] = set()
    """Labels whose axes are known to occur beside each other, and never become one from then on."""
    apart: set[Labels] = set()
    """Those of them that have each axis once."""

    def shared(value: Value) -> Labels | None:
        """The labels of all that a value is made of, element by element, if they are also its own."""
        several = {known for arg in value.inputs if (known := labels[arg]).count(None) < len(known)}
        found = several.pop() if len(several) == 1 else ()
        if len(found) != len(value.shape) or not found:
            return None
        if found not in apart:
            roots = [find(a) for a in found if a is not None]
            if len(set(roots)) < len(roots):
                return None
            apart.add(found)
        return found if all(a is not None or s == 1 for a, s in zip(found, value.shape, strict=True)) else None

    for value in graph.values:
        name, shape = value.op.name, value.shape
        if value.op.kind == "reduction":
            source = labels[value.inputs[0]]
            labels[value] = tuple(None if s == 1 else a for a, s in zip(source, shape, strict=True))
        elif name == "transpose":
            labels[value] = tuple(labels[value.inputs[0]][a] for a in value.attrs["axes"])
        elif name == "narrow":
            source = labels[value.inputs[0]]
            part = value.attrs["axis"]
            kept = [fresh(s) if i == part else a for i, (a, s) in enumerate(zip(source, shape, strict=True))]
            labels[value] = tuple(None if s == 1 else a for a, s in zip(kept, shape, strict=True))
        elif name == "take_rows":
            _, index = value.inputs
            labels[value] = (*labels[index], *(None if s == 1 else fresh(s) for s in shape[len(index.shape) :]))
        elif name == "reshape" and is_squeeze(value):
            known = iter([a for a in labels[value.inputs[0]] if a is not None])
            labels[value] = tuple(None if s == 1 else next(known) for s in shape)
        elif value.op.kind in ("elementwise", "cast") and (alike := shared(value)) is not None:
            labels[value] = alike
        elif value.op.kind in ("elementwise", "cast") or name == "broadcast_to":
            made: list[int | None] = [None] * len(shape)
            for place, arg in enumerate(value.inputs):
                offset = len(shape) - len(arg.shape)
                for i, axis in enumerate(labels[arg], offset):
                    if axis is None:
                        continue
                    have = made[i]
                    mine = find(axis)
                    theirs = mine if have is None else find(have)
                    others = {find(m) for j, m in enumerate(made) if m is not None and j != i}
                    if mine in others or theirs in beside.get(mine, ()):
                        clashes.setdefault(value, [])
                        clashes[value] += [place] if place not in clashes[value] else []
                    elif have is None:
                        made[i] = axis
                    elif mine != theirs:
                        become_one(mine, theirs)
            labels[value] = tuple(fresh(s) if a is None and s != 1 else a for a, s in zip(made, shape, strict=True))
        else:
            labels[value] = tuple(None if s == 1 else fresh(s) for s in shape)
        if labels[value] in met:
            continue
        met.add(labels[value])
        roots = {find(a) for a in labels[value] if a is not None}
        for axis in roots:
            beside.setdefault(axis, set()).update(roots - {axis})
    resolved = {known: tuple(None if a is None else find(a) for a in known) for known in met}
    return Axes(
        {v: resolved[known] for v, known in labels.items()}, {find(a): sizes[a] for a in range(len(parent))}, clashes
    )


def reduced_axes(axes: Axes, value: Value) -> frozenset[int]:
    """The axes that a reduction sums (or maximizes) away."""
    return axes.of(value.inputs[0]) - axes.of(value)


def is_row_reduction(axes: Axes, value: Value) -> bool:
    """Whether one program reduces a whole row: its length is known, and if it is very long, rows are not few.

    All other reductions are column reductions: accumulated over tiles of rows, finalized by a second kernel.
    """
    (x,) = value.inputs
    gone = reduced_axes(axes, value)
    length = known_product(axes, gone)
    if length is None:
        return False
    known = [a for a in axes.labels[x] if a is not None]
    kept = [a for a in known if a not in gone]
    if not kept:
        return length <= MAX_WHOLE
    if set(known[len(known) - len(gone) :]) == set(gone):
        rows = known_product(axes, kept)
        return length <= MAX_ROW or rows is None or rows > FEW_ROWS
    # A short leading axis with something behind it is summed faster down the columns.
    return length <= 1024 and known[-1] not in gone and known[0] not in gone


def known_product(axes: Axes, some: Iterable[int]) -> int | None:
    """The product of the sizes of axes; None where a `Dim` is among them."""
    product = 1
    for axis in some:
        size = axes.sizes[axis]
        if not isinstance(size, int):
            return None
        product *= size
    return product


def row_bytes(axes: Axes, columns: Iterable[int], width: int) -> float:
    """Registers, in bytes, that a program needs to keep one row, its length rounded up to a power of two, at `width`
    bytes a column; infinite where the length is a `Dim`."""
    length = known_product(axes, columns)
    return math.inf if length is None else width * (1 << max(length - 1, 0).bit_length())


@dataclass(frozen=True)
class Space:
    """What a kernel iterates over. `rows` are spread over programs; `cols` lie in one program where rows are reduced.

    `reduces_rows`: a row is reduced inside the tile. `accumulates`: sums over all rows leave the kernel as partials.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    reduces_rows: bool = False
    accumulates: bool = False
    finalizes: bool = False
