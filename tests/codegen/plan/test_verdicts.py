"""What a plan says of its edges, and what its opposites would cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compiled import digits
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.verdicts import Opposite, Verdict
from tritonnotes.codegen.report import explain
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.target.targets import TARGETS
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.testing import assert_fused

BATCH = tn.Dim("batch")
MATRIX = 256 * 40 * 4


def planned(graph: Graph, fusion: str = "optimal") -> FusionPlan:
    return make_plan(optimize(decompose(graph)), fusion)


def edge(plan: FusionPlan, source: str, target: str) -> Verdict:
    (found,) = [v for v in plan.verdicts if (v.source, v.target) == (source, target)]
    return found


def chain() -> Graph:
    graph = Graph("chain")
    x = graph.input("x", (BATCH, 40))
    first = tn.exp(x)
    graph.output(y=tn.tanh(first))
    return graph


def test_parting_a_chain_costs_a_launch_and_the_value_written_and_read() -> None:
    verdict = edge(planned(chain()), "first", "y")
    assert verdict.fused and verdict.rule == "same kernel" and verdict.bytes == 2 * MATRIX
    assert verdict.opposite == Opposite(1, 2 * MATRIX)


def test_fusing_what_was_not_saves_what_parting_would_cost() -> None:
    verdict = edge(planned(chain(), "off"), "first", "y")
    assert not verdict.fused and verdict.rule == "not selected" and verdict.bytes == 2 * MATRIX
    assert verdict.opposite == Opposite(-1, -2 * MATRIX)


def test_a_value_that_others_need_in_memory_saves_its_reading_alone() -> None:
    graph = chain()
    graph.output(first=graph["first"])
    verdict = edge(planned(graph), "first", "y")
    assert verdict.bytes == MATRIX and verdict.opposite == Opposite(1, MATRIX)


def test_every_edge_has_a_verdict_with_a_reason_and_an_opposite() -> None:
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()))
    edges = {(a.name, v.name) for v in plan.graph.values for a in v.inputs}
    said = {(v.source, v.target) for v in plan.verdicts}
    views = {v.name for v in plan.graph.values if v.op.kind in ("shape", "leaf") or v.dtype.name == "host"}
    assert said <= edges and all(target in views for _, target in edges - said)
    assert all(v.reason and v.rule for v in plan.verdicts)
    for verdict in plan.verdicts:
        # Other matmuls can compute what they multiply block by block.
        is_sum_of_a_row = (verdict.source, verdict.target) == ("h.d_h", "relu.d_relu")
        impossible = verdict.rule in ("number", "leaf", "library") or is_sum_of_a_row
        assert bool(verdict.opposite.reason) == impossible, str(verdict)
    assert sum(verdict.rule == "matmul" for verdict in plan.verdicts) > 1


@pytest.mark.parametrize("seed", range(20))
def test_no_opposite_beats_an_optimal_plan(seed: int) -> None:
    plan = planned(random_graph(seeded(seed), 6)[0])
    assert plan.fusion == "optimal"
    for verdict in plan.verdicts:
        opposite = verdict.opposite
        if not opposite.reason:
            # Fewer bytes may come of computing something again, at a price that is not bytes.
            assert (
                opposite.launches * TARGETS["gpu"].launch_bytes + opposite.bytes >= 0 or verdict.rule != "same kernel"
            ), str(verdict)


FORBIDDEN = [
    ("down", "r"),
    ("r", "norm"),
    ("r", "norm.sum"),
    ("up", "act"),
    ("up.product", "up"),
    ("act.erf", "act.add"),
    ("norm.centered", "norm.mul"),
]
"""Pairs that are next to each other, of ops and of values."""


def block(width: int = 64) -> Graph:
    graph = Graph("block")
    x = graph.input("x", (BATCH, width))
    act = tn.gelu(tn.linear(x, 2 * width, name="up"), name="act")
    r = x + tn.linear(act, width, name="down")
    graph.output(y=tn.layer_norm(r, name="norm"))
    return graph


@pytest.mark.parametrize("target", ["gpu", "cpu"])
@pytest.mark.parametrize("pair", FORBIDDEN, ids=lambda pair: "-".join(pair))
def test_what_a_user_forbids_is_said_of_each_such_edge_with_what_it_costs(pair: tuple[str, str], target: str) -> None:
    """No rule that would part them otherwise, such as that of matmuls, hides that; and `fuse=` is not offered."""
    free, plan = (make_plan(optimize(decompose(block())), Fusion(forbid=f, target=target)) for f in ((), (pair,)))
    edges = [v for v in plan.verdicts if {*pair} <= {v.source, v.target, *_ops(plan, v)} and v.rule != "leaf"]
    assert edges and all((v.fused, v.rule, v.is_forbidden) == (False, "forbidden", True) for v in edges)
    text = explain_plan(plan)
    offered = text.partition("Fusing these by fuse=")[2].partition("Splitting these")[0]
    assert not any(f"{v.source} → {v.target}" in offered for v in edges)
    launch = plan.candidate.options.planned_for.launch_bytes
    gained = (len(free.launches) - len(plan.launches)) * launch + free.bytes_moved() - plan.bytes_moved()
    for verdict in edges:
        assert not verdict.opposite.reason
        if len(edges) == 1:
            assert verdict.opposite.launches * launch + verdict.opposite.bytes >= gained
    assert gained <= 0
    assert text == explain_plan(make_plan(plan.graph, plan.candidate.options))


def _ops(plan: FusionPlan, verdict: Verdict) -> set[str]:
    return {plan.graph[name].scope.name for name in (verdict.source, verdict.target)}


def test_opposites_keep_what_else_a_user_asks_for() -> None:
    """A price is that of a plan that `fuse=` can have beside the other wishes."""
    graph = optimize(decompose(block()))
    asked = Fusion("greedy", forbid=(("down", "norm"),), products=False, target="gpu")
    plan = make_plan(graph, asked)
    assert all(v.opposite.reason for v in plan.verdicts if v.rule == "library")
    for verdict in plan.verdicts:
        if not verdict.fused and verdict.rule == "forbidden" and not verdict.is_forbidden:
            wish = (verdict.source, verdict.target)
            if verdict.opposite.reason:
                with pytest.raises(PlanError, match="'forbidden'"):
                    make_plan(plan.graph, replace(asked, fuse=(wish,)))
            else:
                make_plan(plan.graph, replace(asked, fuse=(wish,)))


def test_explanation_is_a_screenful_and_names_each_launch() -> None:
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()))
    text = explain_plan(plan)
    assert all(kernel.name in text for kernel in plan.launches)
    assert f"{plan.bytes_moved():,} bytes" in text and plan.fusion in text
    assert (
        "matmul: " in text and "Matmuls computed inside kernels" in text and "Fusing these by fuse= would cost" in text
    )
    assert len(text.splitlines()) <= 50


def test_an_edge_into_a_library_call_hides_no_other_of_its_value() -> None:
    graph = Graph("beside")
    h = tn.relu(graph.input("x", (256, 64)), name="h")
    graph.output(e=tn.relu(h * 2.0 + 1.0), p=tn.matmul(h, graph.input("w", (64, 64))))
    text = explain_plan(make_plan(optimize(decompose(graph)), Fusion("off", products=False)))
    offered = text.partition("Fusing these by fuse=")[2].partition("Splitting these")[0]
    assert "    h → " in offered


def test_explanation_of_many_launches_lists_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "MOST_LAUNCHES", 5)
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()))
    least = min(plan.launches, key=lambda launch: launch.bytes_moved())
    rest = f"\n    and {len(plan.launches) - 5} more, "
    listed, found, _ = explain_plan(plan).partition(rest)
    assert found and least.name not in listed and sum(launch.name in listed for launch in plan.launches) == 5


def test_assert_fused_holds_what_it_should() -> None:
    assert_fused(chain(), kernels=1, launches=1, max_bytes=2 * MATRIX)
    assert_fused(tn.compile(chain()), kernels=1)
    assert_fused(planned(chain()), max_bytes=2 * 7 * 40 * 4, batch=7)
    assert_fused(digits(), launches=18, loss="loss", optimizer=tn.adam())


def test_assert_fused_tells_what_is_wrong_and_why() -> None:
    with pytest.raises(AssertionError, match=r"(?s)81,920 bytes at batch 256, wanted at most 100.*What runs:.*first"):
        assert_fused(chain(), max_bytes=100)
    with pytest.raises(AssertionError, match=r"(?s)2 generated kernels, wanted at most 1.*not selected: 1 edge"):
        assert_fused(planned(chain(), "off"), kernels=1)
