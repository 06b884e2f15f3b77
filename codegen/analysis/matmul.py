"""Matrix products: their operands, what is summed, and which of them a kernel can compute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Shape, Size

from ..support.sizes import known_size
from .axes import Axes

PRODUCTS = ("matmul", "matmul_over_rows")
"""The contractions that a generated kernel may compute."""


DTYPES = ("float16", "bfloat16", "float32")


INNER_BLOCK = 16
"""Elements along the summed axis that are multiplied at once: as few as tensor cores take, as each thread that
multiplies float32 keeps so many of its rows and columns in registers."""


@dataclass(frozen=True)
class Operand:
    """One side of a product: `dims` are the axes of the tile that it has, each with the sizes behind it in memory,
    `behind` the sizes behind the summed axes, `shape` that of the memory."""

    value: Value
    dims: tuple[tuple[int, Shape], ...]
    behind: Shape
    shape: Shape


def is_generable(axes: Axes, value: Value) -> bool:
    """Whether a generated kernel can compute a contraction: of floats of at most 32 bits that lie in memory as they are
    shown, none of them empty, and whose result has more than one row and more than one column."""
    if value.op.name not in PRODUCTS or value.dtype.name not in DTYPES or not axes.is_distinct(value):
        return False
    if 0 in (*value.shape, *summed(value)):
        return False
    rows, columns = sides(axes, value)
    return bool(rows and columns) and all(lies_plain(a) for a in value.inputs)


def lies_plain(value: Value) -> bool:
    """Whether a value lies in memory as it is shown."""
    while value.op.name == "reshape":
        (value,) = value.inputs
    return value.op.name not in ("transpose", "broadcast_to", "narrow", "iota", "constant", "uniform")


def sides(axes: Axes, value: Value) -> tuple[frozenset[int], frozenset[int]]:
    """The axes of the rows of a product, and of its columns."""
    *rows, column = axes.labels[value]
    return frozenset(a for a in rows if a is not None), frozenset(() if column is None else (column,))


def operands(axes: Axes, value: Value) -> tuple[Operand, Operand]:
    """What has the rows of a product, and what has its columns."""
    a, b = value.inputs
    *rows, column = axes.labels[value]
    assert column is not None
    if value.op.name == "matmul_over_rows":
        (row,) = rows
        assert row is not None
        return Operand(a, ((row, ()),), a.shape[-1:], a.shape), Operand(b, ((column, ()),), b.shape[-1:], b.shape)
    left = tuple((axis, _larger(a.shape[i + 1 :])) for i, axis in enumerate(rows) if axis is not None)
    if value.attrs["transpose_b"]:
        right = Operand(b, ((column, _larger(b.shape[1:])),), (), b.shape)
    else:
        right = Operand(b, ((column, ()),), b.shape[1:], b.shape)
    return Operand(a, left, (), a.shape), right


def summed(value: Value) -> Shape:
    """The sizes that a product sums over."""
    a, _ = value.inputs
    return a.shape[:-1] if value.op.name == "matmul_over_rows" else a.shape[-1:]


def summed_with(operand: Operand, products: Iterable[Value]) -> Shape:
    """The sizes that the products of an operand sum over."""
    return next(summed(p) for p in products if any(a is operand.value for a in p.inputs))


def tiles(rows: int, columns: int, tile: tuple[int, int]) -> int:
    """How many tiles cover so many rows and columns."""
    return -(-rows // tile[0]) * -(-columns // tile[1])


def is_ragged(size: Shape) -> bool:
    """Whether blocks of the summed axis may end behind it."""
    known = known_size(size)
    return known is None or known % INNER_BLOCK != 0


def _larger(shape: tuple[Size, ...]) -> Shape:
    return tuple(size for size in shape if size != 1)
