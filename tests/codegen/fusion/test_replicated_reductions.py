"""Reductions replicated in every program: one launch for loss, metrics and gradient, and the same results."""

from __future__ import annotations

import pytest
import torch
from compiled import digits
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.analysis.units import make_units
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.fusion.reduction_strategy import replicable_sums
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.passes.joint import joint_graph, loss_gradient_graph
from tritonnotes.runtime.runner import Runner

BATCH = tn.Dim("batch")
CPU = torch.device("cpu")


def classifier(rows: int | tn.Dim = BATCH, classes: int = 10) -> Graph:
    graph = Graph("classifier")
    logits, y = graph.input("logits", (rows, classes)), graph.input("y", (rows,), "int64")
    graph.output(loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    return loss_gradient_graph(graph, "loss", ["logits"])


def replicated_of(graph: Graph) -> list[str]:
    return sorted(v.name for v in replicable_sums(make_units(materialize(graph))))


@pytest.mark.parametrize("rows", [1, 7, 300, 2100])
def test_loss_metrics_and_gradient_come_from_one_launch_and_agree_with_torch(rows: int) -> None:
    program = make_program(classifier())
    (launch,) = program.plan.launches
    assert [u.value.name for u in launch.units if u.part == "replicated"] == ["loss.count"]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 10, generator=generator)
    y = torch.randint(0, 10, (rows,), generator=generator)
    y[:: max(2, rows // 5)] = -100
    found = Runner(program, CPU, programs=3, tile=512).run({"logits": logits, "y": y}, {"batch": rows})
    logits.requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(logits, y)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(found["loss"], loss.detach(), equal_nan=True)
    torch.testing.assert_close(_gradient(found), logits.grad, rtol=1e-5, atol=1e-7)


def test_all_targets_ignored_give_nan_and_no_gradient_as_in_torch() -> None:
    leaves = {"logits": torch.randn(5, 10), "y": torch.full((5,), -100)}
    found = Runner(make_program(classifier()), CPU).run(leaves, {"batch": 5})
    assert found["loss"].isnan() and not _gradient(found).any()


def _gradient(found: dict[str, Tensor]) -> Tensor:
    (name,) = found.keys() - {"loss", "accuracy"}
    return found[name]


def _mean_of_what_counts(y: Value, x: Value) -> Value:
    return x / tn.sum(tn.cast(tn.ne(y, -100), "float32"))


def test_only_small_sums_of_inputs_that_are_needed_for_more_numbers_are_taken() -> None:
    graph = Graph("sums")
    x, y = graph.input("x", (BATCH, 8)), graph.input("y", (BATCH,), "int64")
    graph.output(needed=_mean_of_what_counts(y, x))
    assert replicated_of(graph)

    graph = Graph("sums")
    y = graph.input("y", (BATCH,), "int64")
    graph.output(alone=tn.sum(tn.cast(tn.ne(y, -100), "float32")))
    assert not replicated_of(graph), "a number that is only shown is nobody's to wait for"

    graph = Graph("sums")
    x = graph.input("x", (BATCH, 8))
    graph.output(needed=x - tn.mean(x))
    assert not replicated_of(graph), "all of a matrix is no small input"

    graph = Graph("sums")
    weight = graph.parameter("weight", (8,))
    graph.output(needed=graph.input("x", (BATCH, 8)) * tn.sum(weight * weight))
    assert not replicated_of(graph), "what a step overwrites must not be read by programs that come later"


def test_many_targets_are_counted_once_in_a_launch_of_their_own() -> None:
    """Half a megabyte, read by every program, takes longer than a launch."""
    plans = {rows: make_plan(classifier(rows), "greedy") for rows in (1024, 65_536)}
    taken = {
        rows: [u for k in plan.launches for u in k.units if u.part == "replicated"] for rows, plan in plans.items()
    }
    assert taken[1024] and not taken[65_536]


def test_a_step_has_no_launch_for_the_loss_alone() -> None:
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()))
    (kernel,) = (k for k in plan.kernels if "loss" in k.ops)
    assert {u.value.scope.phase for u in kernel.units} >= {"forward", "backward"}


def test_verdicts_say_who_takes_it() -> None:
    plan: FusionPlan = make_plan(classifier())
    said = [v for v in plan.verdicts if v.rule == "replicated"]
    assert said and all(v.fused and "loss.count" in v.reason for v in said)


@pytest.mark.parametrize("fusion", ["optimal", "greedy", "off"])
def test_a_sum_that_a_library_call_reads_lies_in_memory(fusion: str) -> None:
    """Its gradient has axes, so every program would compute it, but for the call."""
    g = tn.Graph("library")
    x = g.input("x", (tn.Dim("batch"), 1), "float16")
    most = tn.amax(x, [0, 1], keepdim=True)
    norm = tn.batch_norm(x, weight=None, bias=None, track_running_stats=False)
    g.output(product=tn.linear(most, weight=most, bias=False), norm=norm)
    model = tn.compile(g, training=True, fusion=fusion, strict=True)
    fed = torch.tensor([[1.0], [3.0], [-2.0]]).half().requires_grad_()
    product = model(x=fed)["product"]
    product.sum().backward()
    assert product.item() == 9
    assert fed.grad is not None and fed.grad.flatten().tolist() == [0, 6, 0]
