"""Constraints of users on fusion: forced, forbidden, impossible."""

from __future__ import annotations

import pytest
import torch
from compiled import digits

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import as_fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan, verify_plan
from tritonnotes.codegen.plan.launches import Launch
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph
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
