"""Constraints of users on fusion: forced, forbidden, impossible."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from compiled import digits
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.analysis.units import REPLICATED, make_units
from tritonnotes.codegen.fusion.constraints import Fusion, as_fusion, together
from tritonnotes.codegen.fusion.legality import Legality
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan, verify_plan
from tritonnotes.codegen.plan.launches import Launch
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph


def step_plan(mode: str = "optimal", **options: list[object]) -> FusionPlan:
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()), as_fusion(mode, **options))
    verify_plan(plan)
    return plan


def kernel_of(plan: FusionPlan, value: str) -> Launch:
    return next(k for k in plan.launches for u in k.units if u.value.name == value)


def chain() -> Graph:
    graph = Graph("chain")
    x = graph.input("x", (tn.Dim("batch"), 33))
    h = tn.relu(x, name="first")
    g = tn.sigmoid(h, name="second")
    graph.output(y=tn.sum(g * h, 0))
    return graph


@pytest.mark.parametrize("mode", ["optimal", "greedy"])
def test_forbidden_ops_share_no_kernel(mode: str) -> None:
    free, told = step_plan(mode), step_plan(mode, forbid=[("ln1", "relu")])
    assert any({"ln1", "relu"} <= set(k.ops) for k in free.kernels)
    for kernel in told.kernels:
        scopes = {v.scope.name for v in kernel.values}
        assert not {"ln1", "relu"} <= scopes
    assert len(told.launches) > len(free.launches)


def test_a_name_alone_is_kept_apart_from_everything() -> None:
    plan = step_plan(forbid=["tanh"])
    for kernel in plan.kernels:
        assert {v.scope.name for v in kernel.values} in ({"tanh"}, {v.scope.name for v in kernel.values} - {"tanh"})


@pytest.mark.parametrize("mode", ["off", "greedy", "optimal"])
def test_forced_ops_share_a_kernel(mode: str) -> None:
    graph = tn.compile(chain()).program.graph
    plan = make_plan(graph, as_fusion(mode, fuse=[("first", "second")]))
    assert kernel_of(plan, "first") is kernel_of(plan, "second.neg")
    if mode == "off":
        assert len(plan.launches) == len(make_plan(graph, "off").launches) - 1


def test_values_are_forced_together_with_what_lies_between() -> None:
    plan = step_plan("off", fuse=[("ln1.sum", "ln1.rstd")])
    assert kernel_of(plan, "ln1.sum") is kernel_of(plan, "ln1.rstd") is kernel_of(plan, "ln1.centered")


@pytest.mark.parametrize("options, said", [
    ({"fuse": [("h.d_h", "relu.d_relu")]}, "by the rule 'matmul': .* multiplies "),
    ({"fuse": [("ln1", "relu")], "forbid": [("ln1", "relu")]}, "contradict each other, by ln1, relu; take one"),
    ({"fuse": [("ln1", "norm3")]}, "no op and no value 'norm3'.*ops are .*ln1"),
    ({"forbid": ["nothing"]}, "no op and no value 'nothing'"),
    ({"fuse": "ln1"}, "give a list of names"),
    ({"forbid": [3]}, "neither a name nor a tuple"),
    ({"fuse": [("relu", "fc1.bias.updated")]}, "one and the same run|cannot be fused"),
])  # fmt: skip
def test_impossible_wishes_name_the_rule_and_the_reason(options: dict[str, list[object]], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        step_plan(**options)


@pytest.mark.parametrize("names", [("fc1.product", "fc1"), ("loss.count", "loss.d_row")])
def test_what_kernels_compute_without_wishes_may_be_wished_for(names: tuple[str, str]) -> None:
    """A product that its reader computes, and a sum that every program computes for itself."""
    usual, told = step_plan(), step_plan(fuse=[names])
    assert [k.ops for k in told.launches] == [k.ops for k in usual.launches]
    with pytest.raises(PlanError, match="'library'|'finalize'"):
        step_plan("off", fuse=[names])


def test_unknown_mode_is_an_error() -> None:
    with pytest.raises(PlanError, match="'optimal', 'greedy', 'off'"):
        tn.compile(chain(), fusion="best")


def test_wishes_reach_every_program_of_a_model_and_change_no_result() -> None:
    told = tn.compile(chain(), forbid=[("first", "second")])
    free = tn.compile(chain())
    assert len(told.plan.launches) > len(free.plan.launches)
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    results = []
    for model in (told, free):
        fed = x.clone().requires_grad_()
        y = model(x=fed)["y"]
        y.sum().backward()
        results.append((y.detach(), fed.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_takes_wishes_too() -> None:
    step = tn.compile_step(digits(), optimizer=tn.sgd(lr=0.1), fuse=[("ln1", "relu")], forbid=[("loss", "accuracy")])
    assert all(not {"loss", "accuracy"} <= set(k.ops) for k in step.plan.kernels)


def _pairs_asked_for(graph: Graph, rng: random.Random) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of ops and of values to forbid, and often an edge to fuse, against them or not."""
    computed = {v: None for v in graph.values if v.op.kind not in ("leaf", "shape") and v.dtype.name != "host"}
    edges = [(a.name, v.name) for v in computed for a in v.inputs if a in computed]
    ops = sorted({v.scope.name for v in computed if v.scope.name})
    every = [*itertools.combinations(ops, 2)]
    forbid = {frozenset(pair): pair for some in (edges, every) if some for pair in [rng.choice(some)]}
    return [*forbid.values()], [rng.choice(edges)] if edges and rng.random() < 0.6 else []


def _computes(launch: Launch, graph: Graph, name: str) -> set[Value]:
    is_op = any(v.scope.name == name for v in graph.values if v.op.kind != "leaf")
    return {v for v in launch.values if (v.scope.name if is_op else v.name) == name}


@pytest.mark.parametrize("seed", range(40))
def test_no_launch_computes_what_is_forbidden_whatever_is_wanted(seed: int) -> None:
    """Not by computing it again, nor as the last program of another kernel, nor as a call of the library adds a bias;
    and wishes against each other are refused."""
    graph = make_plan(optimize(decompose(random_graph(seeded(seed), 10)[0])), "greedy").graph
    rng = random.Random(seed)
    for mode, target in itertools.product(("optimal", "greedy"), ("gpu", "cpu")):
        forbid, fuse = _pairs_asked_for(graph, rng)
        asked = Fusion(mode, tuple(fuse), tuple(forbid), target=target)
        try:
            plan = make_plan(graph, asked)
        except PlanError as error:
            assert fuse, (asked, str(error))
            continue
        for launch, names in itertools.product(plan.launches, forbid):
            one, other = (_computes(launch, graph, name) for name in names)
            assert all(a is b for a in one for b in other), (asked, launch.name, names)


def whitened() -> Graph:
    """What a norm over rows makes of a column's deviations: a finalized sum, broadcast."""
    graph = Graph("whitened")
    x = graph.input("x", (tn.Dim("batch"), 7))
    off = x - tn.mean(x, 0, keepdim=True)
    scale = tn.rsqrt(tn.mean(off * off, 0, keepdim=True) + 0.5)
    y = off * scale
    graph.output(y=y, beside=graph.input("b", (7,)) * 2.0)
    return graph


@pytest.mark.parametrize("target", ["gpu", "cpu"])
def test_what_is_wanted_with_what_is_made_of_a_sum_leaves_the_sum_free(target: str) -> None:
    plan = make_plan(optimize(decompose(whitened())), as_fusion("optimal", fuse=[("scale", "y")], target=target))
    assert any({"scale", "y"} <= {v.name for v in k.values} for k in plan.launches)


def test_two_that_one_last_program_would_run_may_be_forbidden_to_fuse() -> None:
    graph = Graph("largest")
    x = graph.input("x", (tn.Dim("batch"),))
    largest = tn.max(x, 0, keepdim=True)
    graph.output(scaled=largest * 3.0, beside=graph.input("one", (1,)) + graph.input("other", (1,)))
    free, told = (
        make_plan(optimize(decompose(graph)), as_fusion("greedy", forbid=f)) for f in ([], [("scaled", "beside")])
    )
    assert kernel_of(free, "scaled") is kernel_of(free, "beside")
    assert kernel_of(told, "scaled") is not kernel_of(told, "beside")


def test_a_wish_that_reaches_around_another_takes_all_of_it() -> None:
    graph = Graph("steps")
    value = graph.input("x", (tn.Dim("batch"), 33))
    for place in range(5):
        value = tn.relu(value, name=f"v{place}")
        if place == 2:
            graph.output(beside=tn.sigmoid(value, name="beside"))
    graph.output(y=value)
    units = make_units(optimize(decompose(graph)))
    (group,) = together(units, Legality(units), Fusion(fuse=(("v2", "beside"), ("v0", "v4"))))
    assert {u.value.scope.name for u in group} == {"v0", "v1", "v2", "v3", "v4", "beside"}


def test_products_that_compute_what_is_forbidden_again_share_no_launch() -> None:
    graph = Graph("products")
    x, y = graph.input("x", (256, 256)), graph.input("y", (256, 256))
    w0, w1, w2 = (graph.input(f"w{n}", (256, 256)) for n in range(3))
    p0 = tn.matmul(y, w0)
    act = tn.sigmoid(x, name="act")
    graph.output(p0=p0, p1=tn.matmul(act, w1), p2=tn.matmul(act, w2))
    prepared = optimize(decompose(graph))
    free, told = (
        make_plan(prepared, as_fusion("optimal", forbid=f, products="generated", target="gpu"))
        for f in ([], [("act", "p0")])
    )
    assert any(_computes(k, prepared, "p0") and _computes(k, prepared, "act") for k in free.launches)
    assert not any(_computes(k, prepared, "p0") and _computes(k, prepared, "act") for k in told.launches)


@pytest.mark.parametrize("is_read", [True, False], ids=["also an output", "inside alone"])
@pytest.mark.parametrize("target", ["gpu", "cpu"])
@pytest.mark.parametrize("mode", ["optimal", "greedy"])
def test_a_sum_that_every_program_would_compute_holds_nothing_that_is_forbidden(
    mode: str, target: str, is_read: bool
) -> None:
    graph = Graph("scaled")
    batch = tn.Dim("batch")
    z, w = graph.input("z", (batch, 64)), graph.input("w", (batch,))
    inside = tn.sigmoid(w, name="inside")
    y = tn.relu(tn.sigmoid(z) * tn.mean(inside, 0), name="y")
    graph.output(y=y, **({"other": tn.relu(inside)} if is_read else {}))
    prepared = optimize(decompose(graph))
    told = make_plan(prepared, as_fusion(mode, forbid=[("inside", "y")], target=target))
    assert not any(u.part == REPLICATED for k in told.launches for u in k.units)
    assert not any(_computes(k, prepared, "inside") and _computes(k, prepared, "y") for k in told.launches)
