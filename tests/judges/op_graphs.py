"""A graph for each op of the catalogue, and the sizes at which ops are tried."""

from __future__ import annotations

from typing import Any

from compiled import DTYPES

from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.types import as_dtype

SIZES = (0, 1, 2, 7, 31, 33, 64, 200, 513, 769, 3000, 4097)
QUICK_SHAPES = ((0, 7), (1, 1), (2, 33), (33, 7), (7, 200), (64, 64))
MOST_ELEMENTS = 120_000
OPS = sorted(catalogue())


def op_graph(name: str, shape: tuple[Any, ...], dtype: str) -> Graph:
    """One op of the catalogue, its result the output `y`."""
    graph = Graph("one_op")
    sample = catalogue()[name].sample
    assert sample is not None
    graph.output(y=sample(graph, shape, as_dtype(dtype)))
    return graph


def shapes_for(dtype: str) -> list[tuple[int, int]]:
    """Every size as rows and as columns, paired otherwise for each dtype; the long ones with short ones."""
    turn = 5 * DTYPES.index(dtype) + 3
    pairs = [(SIZES[(i * 7 + turn) % len(SIZES)], cols) for i, cols in enumerate(SIZES) if cols]
    long = [(rows, cols) for rows, cols in ((3000, 7), (4097, 2), (769, 33)) if (rows, cols) not in pairs]
    return [(rows if rows * cols <= MOST_ELEMENTS else 2, cols) for rows, cols in pairs] + long
