"""Rows inside one program or columns shared by many: which strategy the plan gives a reduction."""

from __future__ import annotations

from typing import Any

import pytest
from compiled import assert_within_policy, draw, judge

import tritonnotes as tn
from tritonnotes.codegen.analysis.units import make_units
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.fusion.reduction_strategy import other_strategies
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose


def standardized(*shape: Any) -> Graph:
    """Each channel, axis 1, less its mean and divided by its deviation."""
    graph = Graph("standardized")
    x = graph.input("x", shape)
    axes = tuple(a for a in range(len(shape)) if a != 1)
    centered = x - tn.mean(x, axes, keepdim=True)
    graph.output(y=centered * tn.rsqrt(tn.mean(centered * centered, axes, keepdim=True) + 0.1))
    return graph


def planned(graph: Graph, fusion: str = "optimal") -> FusionPlan:
    return make_plan(optimize(decompose(graph)), fusion)


def test_a_channel_that_one_program_can_hold_is_a_row() -> None:
    plan = planned(standardized(32, 64, 28, 28))
    assert [k.kind for k in plan.launches] == ["row"]
    assert plan.bytes_moved() == 2 * 4 * 32 * 64 * 28 * 28
    assert len(planned(standardized(32, 64, 28, 28), "greedy").launches) == 3


def test_a_few_long_channels_are_shared_by_many_programs() -> None:
    """Three programs would leave all but three multiprocessors idle."""
    launches = planned(standardized(32, 3, 88, 88)).launches
    kinds = [[piece.kind for piece in k.pieces] for k in launches]
    assert kinds == [["column", "finalize"], ["column", "finalize"], ["elementwise"]]


def test_a_long_batch_of_features_goes_down_the_columns() -> None:
    """A program for each feature would use 4 of the 32 bytes that memory hands out at least."""
    assert len(planned(standardized(256, 2048)).launches) == 1
    assert planned(standardized(65536, 512)).launches[0].kind == "column"


def test_a_length_that_is_known_at_run_time_is_no_row() -> None:
    graph = optimize(decompose(standardized(tn.Dim("batch"), 64)))
    assert not other_strategies(make_units(materialize(graph)))


@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (33, 20), (2, 3, 65), (4, 1, 9)], ids=str)
def test_either_form_agrees_with_eager(shape: tuple[int, ...]) -> None:
    graph = standardized(*shape)
    kinds = []
    for fusion in ("greedy", "optimal"):
        model = tn.compile(graph, fusion=fusion)
        kinds.append(model.plan.kernels[0].kind)
        assert_within_policy(judge(graph, draw(graph), model=model, noisy=2))
    assert kinds[1] == "row"
