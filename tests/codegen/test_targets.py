"""Plans for a GPU and for a CPU: the prices of each decide, and results do not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from compiled import digits

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.cost import scheduled_cost
from tritonnotes.codegen.fusion.last_block import GROUP
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.target.gpus import H100, PROGRAMS_PER_SM
from tritonnotes.codegen.target.rates import RATES
from tritonnotes.codegen.target.targets import CPU, GPU, SERVER_CORE, TARGETS
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
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


# -- prices ------------------------------------------------------------------------------------------------------------


def plan_of(build: Callable[[Value], Value], columns: int, dtype: str = "float32") -> FusionPlan:
    graph = tn.Graph("priced")
    graph.output(y=build(graph.input("x", (tn.Dim("batch"), columns), dtype)))
    return make_plan(optimize(decompose(graph)), Fusion("greedy"))


def test_prices_are_the_times_that_kernel_reports_predict_with() -> None:
    def moved_in(*rates: str) -> int:
        return round(sum(RATES[name].value for name in rates) * RATES["memory"].value)

    gpu = TARGETS[GPU]
    assert gpu.launch_bytes == moved_in("launch", "load_latency")
    assert gpu.load_bytes == moved_in("load_latency")
    assert gpu.arrival_bytes == moved_in("arrival", "cache_latency")
    assert gpu.call_bytes == moved_in("library_call")
    assert TARGETS[CPU].arrival_bytes == TARGETS[CPU].load_bytes == 0, "programs run one after the other there"


@pytest.mark.parametrize(
    ("build", "columns", "arrivals", "loads"),
    [
        (lambda x: tn.sum(x), 200, 1, 0),
        (lambda x: tn.sum(x, 0), 200, 2, 0),
        (lambda x: tn.sum(x, 0), 16_384, 0, -(-PROGRAMS_PER_SM * H100.multiprocessors // GROUP) - 1),
        (lambda x: x + 1.0, 200, 0, 0),
    ],
    ids=["one number", "columns", "a launch of its own", "no sum"],
)
def test_finishing_partial_sums_has_its_price(
    build: Callable[[Value], Value], columns: int, arrivals: int, loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged = scheduled_cost(plan_of(build, columns).candidate)
    prices = TARGETS[GPU]
    monkeypatch.setitem(TARGETS, GPU, replace(prices, arrival_bytes=0, load_bytes=0))
    free = scheduled_cost(plan_of(build, columns).candidate)
    counted = min(arrivals * prices.arrival_bytes, prices.launch_bytes)  # no more than the launch that is saved
    assert charged.total - free.total == counted + loads * prices.load_bytes


def test_a_library_call_takes_a_least_time_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> FusionPlan:
        return plan_of(lambda x: tn.relu(tn.linear(x, 512)), 1024, "bfloat16")

    least = step()
    monkeypatch.setitem(TARGETS, GPU, replace(TARGETS[GPU], call_bytes=0))
    assert not least.library and len(step().library) == 1
