"""Plans for a GPU and for a CPU: the prices of each decide, and results do not depend on it."""

from __future__ import annotations

import pytest
import torch
from compiled import digits

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.target.targets import CPU, GPU, SERVER_CORE, TARGETS
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.passes.joint import joint_graph


def plan_for(target: str, graph: tn.Graph | None = None) -> FusionPlan:
    return make_plan(joint_graph(graph or digits(), "loss", tn.adam()), Fusion(target=target))


def classifier(width: int) -> tn.Graph:
    g = tn.Graph("classifier")
    batch = tn.Dim("batch")
    x, y = g.input("x", (batch, width)), g.input("y", (batch,), dtype="int64")
    h = tn.relu(tn.linear(x, width, name="fc1"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc2"), y))
    return g


def test_default_is_a_gpu() -> None:
    graph = joint_graph(digits(), "loss", tn.adam())
    assert str(make_plan(graph)) == str(plan_for(GPU)) != str(plan_for(CPU))


def test_cpu_leaves_large_products_to_the_library_and_computes_small_ones() -> None:
    assert not plan_for(CPU, classifier(8)).library
    large = plan_for(CPU, classifier(256))
    assert {"fc1"} <= {op for launch in large.library for op in launch.ops}


def test_cpu_takes_more_launches_for_fewer_bytes_than_a_gpu_would() -> None:
    """There a launch is the price of a few kilobytes."""
    assert TARGETS[CPU].launch_bytes < TARGETS[GPU].launch_bytes / 100
    assert len(plan_for(CPU).launches) >= len(plan_for(GPU).launches)


@pytest.mark.parametrize("target", TARGETS)
def test_plan_and_its_opposites_speak_of_their_target(target: str) -> None:
    plan = plan_for(target, classifier(8))
    text = explain_plan(plan)
    assert f"It is made for {TARGETS[target].machine} (target={target!r})." in text


def test_tiles_follow_from_the_nearest_cache() -> None:
    held = SERVER_CORE.tile_elements * 4 * 3
    assert held <= SERVER_CORE.cache < 2 * held


def test_unknown_target_is_named() -> None:
    with pytest.raises(PlanError, match="target='tpu'; use one of 'gpu', 'cpu'"):
        tn.compile(digits(), target="tpu")


def test_both_plans_train_alike() -> None:
    x, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 5])
    losses = []
    for target in TARGETS:
        step = tn.compile_step(classifier(8), "loss", tn.adam(), target=target, device="cpu")
        assert f"target={target!r}" in step.explain()
        losses.append(torch.stack([step(x=x, y=y)["loss"] for _ in range(3)]))
    torch.testing.assert_close(losses[0], losses[1])
