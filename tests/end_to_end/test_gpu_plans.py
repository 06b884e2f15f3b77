"""Plans for a GPU compute on a CPU what plans for a CPU do: their sums are carried for each place of a tile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value


def of(build: Callable[[Value], Value], columns: int, dtype: str) -> Graph:
    g = tn.Graph("case")
    g.output(y=build(g.input("x", (tn.Dim("batch"), columns), dtype=dtype)))
    return g


def loss(dtype: str) -> Graph:
    """A mean, and counts of rows, which are whole numbers."""
    g = tn.Graph("case")
    batch = tn.Dim("batch")
    logits, y = g.input("logits", (batch, 10), dtype=dtype), g.input("y", (batch,), dtype="int64")
    g.output(loss=tn.cross_entropy(logits, y, ignore_index=3), accuracy=tn.accuracy(logits, y))
    return g


GRAPHS: dict[str, Callable[[str], Graph]] = {
    "rows and columns": lambda dtype: of(tn.layer_norm, 50, dtype),
    "columns": lambda dtype: of(tn.batch_norm, 20, dtype),
    "more columns than a program finalizes": lambda dtype: of(lambda x: x * tn.sum(x, 0), 9000, dtype),
    "counts": loss,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", GRAPHS)
def test_sums_of_a_plan_for_a_gpu_are_right_where_rows_are_ragged(name: str, dtype: str) -> None:
    rows = 37 if name.startswith("more") else 301
    certificate = tn.check(tn.compile(GRAPHS[name](dtype), device="cpu", target="gpu"), sizes={"batch": rows})
    assert certificate.ok, certificate
