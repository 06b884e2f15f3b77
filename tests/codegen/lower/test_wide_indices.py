"""Memory of more than 2³¹ elements, and grids beyond what a GPU runs: from the source alone, without the memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from index_widths import index_complaints

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.ir.core.errors import KernelError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.runtime.executors.baked import BakedLaunch

B, C = tn.Dim("batch"), tn.Dim("width")
Case = tuple[Callable[[Graph], Value], dict[str, int]]


def x(g: Graph, *shape: object) -> Value:
    return g.input("x", shape)


CASES: dict[str, Case] = {
    "a matrix and its transpose": (lambda g: x(g, 70_000, 70_000) + tn.transpose(g["x"], 0, 1), {}),
    "rows that lie apart": (lambda g: tn.softmax(tn.transpose(x(g, 4096, 1_000_000), 0, 1), -1), {}),
    "rows that lie a Dim apart": (lambda g: tn.softmax(tn.transpose(x(g, 4096, B), 0, 1), -1), {"batch": 1_000_000}),
    "two operands whose rows lie a Dim apart": (
        lambda g: tn.softmax(tn.transpose(x(g, 4096, B), 0, 1) * tn.transpose(g.input("z", (4096, B)), 0, 1), -1),
        {"batch": 1_000_000},
    ),
    "axes in another order": (
        lambda g: tn.sum(tn.transpose(x(g, 8, 500, B), 0, 2) + tn.transpose(g.input("z", (8, 500, B)), 0, 2), (1, 2)),
        {"batch": 1_000_000},
    ),
    "axes that lie Dims apart": (
        lambda g: tn.softmax(tn.transpose(x(g, C, B), 0, 1), -1),
        {"batch": 100_000, "width": 60_000},
    ),
    "an axis in the middle": (
        lambda g: tn.sum(tn.permute(x(g, B, 1000, C), 2, 0, 1) * 2, 0),
        {"batch": 5000, "width": 3000},
    ),
    "sums of many columns": (lambda g: tn.sum(x(g, B, 5_000_000), 0), {"batch": 100_000}),
    "sums of many columns, a Dim of them": (lambda g: tn.sum(x(g, B, C), 0), {"batch": 9000, "width": 5_000_000}),
    "sums of more columns than a grid has": (lambda g: tn.sum(x(g, B, 80_000_000), 0), {"batch": 64}),
    "columns beside each other": (lambda g: x(g, B, 300_000_000) + tn.mean(g["x"], 0), {"batch": 9}),
    "a sum and an output of many columns": (lambda g: x(g, 70_000, 1) * g.input("y", (1, 70_000)), {}),
    "a part": (lambda g: tn.relu(x(g, 70_000, 70_000)[60_000:, 60_000:]), {}),
    "a part of rows a Dim long": (lambda g: tn.relu(x(g, 70_000, C)[60_000:]), {"width": 50_000}),
    "parts joined": (lambda g: tn.cat([x(g, 70_000, 40_000), tn.relu(g["x"])], -1), {}),
    "channels": (lambda g: tn.batch_norm(x(g, B, 100, 700, 700), name="bn"), {"batch": 100}),
    "channels of Dims": (
        lambda g: tn.batch_norm(x(g, B, 100, C, C), name="bn", momentum=0.1),
        {"batch": 16, "width": 3000},
    ),
    "one sum of all": (lambda g: tn.sum(x(g, 3, 1_000_000_000)), {}),
    "long rows": (lambda g: tn.layer_norm(x(g, B, 100_000), weight=None, bias=None), {"batch": 100_000}),
    "very long rows": (lambda g: tn.softmax(x(g, 2, 1_000_000_000), -1), {}),
    "a table": (
        lambda g: tn.embedding(g.input("i", (B,), "int64"), weight=x(g, 40_000_000, 64)),
        {"batch": 70_000_000},
    ),
    "columns that are given": (lambda g: tn.argmax(x(g, 70_000, 70_000), 0), {}),
}


@pytest.mark.parametrize("fusion", ["greedy", "off"])
@pytest.mark.parametrize("case", CASES)
def test_no_offset_passes_its_bits_and_no_grid_its_limit(case: str, fusion: str) -> None:
    build, sizes = CASES[case]
    graph = Graph("wide")
    graph.output(y=build(graph))
    assert index_complaints(make_program(optimize(decompose(graph)), fusion), sizes) == []


def test_columns_of_an_unknown_size_beyond_the_limit_of_a_grid_are_refused_with_the_remedy() -> None:
    with pytest.raises(KernelError, match=r"5 by 65,536 programs.*declare the size of the columns as an int"):
        BakedLaunch()(index_complaints, (5, 65_536))
