"""Pickles of plans: what is read back is the plan that was written, whatever passes added to its graph."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.analysis.views import APART
from tritonnotes.codegen.fusion.constraints import as_fusion
from tritonnotes.codegen.pipeline import finish, make_plan
from tritonnotes.codegen.plan.chunk_loops import chunk_loops
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

B = tn.Dim("batch")


def read_back(made: Any) -> Any:
    return pickle.loads(pickle.dumps(made))


def assert_same_graph(a: Graph, b: Graph) -> None:
    assert same_graph(a, b)
    assert [v.hint for v in a.values] == [v.hint for v in b.values]
    assert all(x.op is y.op and x.dtype is y.dtype for x, y in zip(a.values, b.values, strict=True))


def launches(plan: FusionPlan) -> list[tuple[Any, ...]]:
    return [(k.name, k.kind, k.ops, k.bytes_moved(7), *k.describe()) for k in plan.launches]


def assert_read_back(plan: FusionPlan) -> None:
    """Once and twice: the graph, the launches, the text and the source are the same."""
    once = read_back(plan)
    source = finish(plan).source
    for other in (once, read_back(once)):
        assert_same_graph(plan.graph, other.graph)
        assert str(other) == str(plan)
        assert launches(other) == launches(plan)
        assert other.candidate.options == plan.candidate.options
        assert finish(other).source == source


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.sampled_from(("optimal", "greedy", "off")),
    st.sampled_from(("fastest", "generated", "library")),
    st.sampled_from(("cpu", "gpu")),
    st.booleans(),
)
def test_plans_of_random_graphs(seed: int, mode: str, products: str, target: str, is_backward: bool) -> None:
    declared, _ = random_graph(seeded(seed), most=6)
    trained = [v.name for v in declared.parameters]
    graph = gradient_graph(declared, trained) if is_backward else optimize(decompose(declared))
    options = as_fusion(mode, products=products, target=target)
    plan = make_plan(graph, options)
    assert_read_back(plan)
    # The launches of two programs in one file have names of their own.
    assert_read_back(make_plan(graph, options, taken=frozenset(k.name for k in plan.launches)))


def transposed() -> Graph:
    g = tn.Graph("transposed")
    x = g.input("x", (5, 5))
    g.output(y=tn.reshape(x + tn.permute(x, (1, 0)), (25,)))
    return g


def test_a_plan_of_a_sum_with_its_transpose() -> None:
    plan = tn.compile(transposed()).plan
    assert any(APART in v.attrs for v in plan.graph.values)
    assert_read_back(plan)
    launch = plan.launches[0]
    assert str(read_back(launch)) == str(launch)
    assert [str(read_back(v)) for v in plan.verdicts] == [str(v) for v in plan.verdicts]


def test_a_graph_of_a_plan_is_not_made_canonical_again() -> None:
    g = tn.Graph("joined")
    x = g.input("x", (B, 4))
    g.output(y=tn.cat([x * 2, tn.exp(x)], 1))
    plan = tn.compile(g).plan
    assert str(make_plan(plan.graph)) != str(plan), "a second pass copies the parts once more"
    assert_read_back(plan)


def model() -> Graph:
    g = tn.Graph("model")
    h = tn.gelu(tn.layer_norm(tn.linear(g.input("x", (B, 8)), 16, name="fc1"), name="ln"), name="act")
    g.output(loss=tn.cross_entropy(tn.linear(h, 4, name="fc2"), g.input("y", (B,), "int64")))
    return g


def small() -> Graph:
    g = tn.Graph("small")
    g.output(loss=tn.cross_entropy(tn.linear(g.input("x", (B, 8)), 4, name="a"), g.input("y", (B,), "int64")))
    return g


STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gathered": {"accumulate": 2},
    "scaled": {"scaler": tn.GradScaler()},
    "gathered and scaled": {"accumulate": 3, "scaler": tn.GradScaler(), "optimizer": tn.clip(tn.sgd(lr=0.1), 1.0)},
    "groups": {"param_groups": [{"params": ["*.bias", "ln*"], "lr": 0.1}]},
    "forbidden": {"forbid": [("ln", "act")], "target": "gpu"},
    "together": {"fuse": [("ln", "act")], "accumulate": 2, "target": "gpu"},
    "a budget": {"memory_budget": 0, "target": "gpu"},
    "no fusion": {"fusion": "off", "accumulate": 2},
    "generated products": {"products": "generated", "target": "gpu", "accumulate": 2},
    "chunks of rows": {"logits_budget": 1, "target": "gpu", "accumulate": 2},
}


@pytest.mark.parametrize("how", STEPS)
def test_plans_of_steps(how: str) -> None:
    graph = small() if {"scaler", "logits_budget"} & STEPS[how].keys() else model()
    step = tn.compile_step(graph, **{"optimizer": tn.adam(), **STEPS[how]})
    if how == "a budget":
        assert str(step.plan) != str(tn.compile_step(graph, optimizer=tn.adam(), target="gpu").plan)
    plans = [program.plan for program in (step.program, step.gathering) if program is not None]
    assert len(plans) == (2 if "accumulate" in STEPS[how] else 1)
    for plan in plans:
        assert_read_back(plan)
        for loop in chunk_loops(plan.launches):
            assert_read_back(loop.plan)
    verdict = plans[-1].verdicts[-1]
    assert str(read_back(verdict)) == str(verdict)
    assert how != "chunks of rows" or step.gathering is None or chunk_loops(step.gathering.plan.launches)


def test_a_graph_of_any_stage_is_read_back_with_all_that_passes_wrote() -> None:
    g = transposed()
    primitives = optimize(decompose(g))
    step = joint_graph(model(), "loss", tn.adam(), batches=2)
    for graph in (g, decompose(g), primitives, make_plan(primitives).graph, step):
        made = read_back(graph)
        assert_same_graph(made, graph)
        assert type(made) is type(graph) and made.scope == graph.scope
        # What is appended next has the name that it would have in the other.
        assert made.fresh_name("relu") == graph.fresh_name("relu")
