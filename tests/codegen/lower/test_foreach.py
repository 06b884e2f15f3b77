"""Foreach updates inside a training step: the same bits as kernels of their own, in fewer launches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled import digits
from counted_traffic import assert_exact
from program_style import wrong
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen import pipeline
from tritonnotes.codegen.fusion.constraints import as_fusion
from tritonnotes.codegen.fusion.cost import scheduled_cost
from tritonnotes.codegen.fusion.horizontal import FOREACH, SEGMENTS
from tritonnotes.codegen.lower.foreach import ForeachKernel
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.plan.fusion_plan import FusionPlan, verify_plan
from tritonnotes.codegen.plan.launches import Launch
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.report.kernel_reports import make_reports
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.optimizer import Optimizer
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.runtime import runner
from tritonnotes.tensors.dtypes import torch_dtype
from tritonnotes.training.step import TrainingStep


@tn.update_rule(state=("trace",), reference=lambda p, g, trace, *, lr, decay: None)
def traced(p: Any, g: Any, trace: Any, *, lr: float, decay: float = 0.9) -> Any:
    """p ← p − lr · tanh(trace), trace ← decay · trace + g"""
    kept = decay * trace + g
    return p - lr * tn.tanh(kept), kept


RULES: dict[str, Optimizer] = {
    "adam": tn.adam(lr=0.01),
    "adamw": tn.adamw(lr=0.01),
    "amsgrad": tn.adam(lr=0.01, amsgrad=True),
    "sgd": tn.sgd(lr=0.1),
    "momentum": tn.sgd(lr=0.1, momentum=0.9, weight_decay=0.01, maximize=True),
    "nadam": tn.nadam(lr=0.01),
    "lion": tn.lion(lr=0.01),
    "averaged": tn.ema(tn.adam(lr=0.01)),
    "clipped to a norm": tn.clip(tn.adam(lr=0.01), max_norm=0.5),
    "clipped by value": tn.clip(tn.sgd(lr=0.1), max_value=0.1),
    "custom": traced(lr=0.05),
}


@pytest.fixture(autouse=True)
def products_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients come of library calls here: a kernel that multiplies takes the update along instead."""
    monkeypatch.setattr(pipeline, "fuse_matmul_epilogues", lambda found: found)


RAGGED = ((7, 33), (1, 3), (64, 32), (5, 1), (1, 1), (41, 31))


def weights(shapes: Sequence[tuple[int, int]], dtypes: Sequence[str] = ("float32",)) -> Graph:
    """A loss over parameters of these shapes, and dtypes in turn. Each gradient comes of a matrix product."""
    g = Graph("weights")
    parts = []
    for place, (rows, columns) in enumerate(shapes):
        dtype = dtypes[place % len(dtypes)]
        x = g.input(f"x{place}", (4, columns), dtype=dtype)
        w = g.parameter(f"w{place}", (rows, columns), "uniform", dtype=dtype, low=-1.0, high=1.0)
        y = tn.linear(x, weight=w, bias=None)
        parts.append(tn.sum(tn.cast(y * y, "float32")))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    g.output(loss=total)
    return g


def joined(plan: FusionPlan) -> list[Launch]:
    return [k for k in plan.launches if k.kind == FOREACH]


def feeds_of(graph: Graph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    leaves = graph.leaves("input")
    return {
        v.name: torch.rand(v.shape, generator=generator).to(torch_dtype(v.dtype))  # type: ignore[arg-type]
        for v in leaves
    }


def compiled(graph: Graph, optimizer: Optimizer, *, apart: bool = False, strict: bool | None = None) -> TrainingStep:
    """A training step, with updates joined or each in a kernel of its own."""
    with pytest.MonkeyPatch.context() as patch:
        if apart:
            patch.setattr(pipeline, "join_foreach_updates", lambda found, launches, taken: launches)
        return tn.compile_step(graph, loss="loss", optimizer=optimizer, fusion="greedy", strict=strict)


def state_after(step: TrainingStep, steps: int) -> dict[str, Tensor]:
    """All tensors after some steps, with another learning rate at each."""
    for number in range(steps):
        step.hyperparameters["lr"] = 0.1 / (number + 1)
        step(**feeds_of(step.graph, number))
    return {**step.model.state_dict(), **step.slots}


# -- the same bits -----------------------------------------------------------------------------------------------------


def assert_same_bits(graph: Graph, optimizer: Optimizer, launches: int = 1) -> None:
    together, apart = compiled(graph, optimizer), compiled(graph, optimizer, apart=True)
    assert len(joined(together.plan)) == launches and not joined(apart.plan)
    assert len(together.plan.launches) < len(apart.plan.launches)
    start = {n: t.clone() for n, t in together.model.state_dict().items()}
    found, wanted = state_after(together, 3), state_after(apart, 3)
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
        assert name not in start or not tensor.numel() or not torch.equal(tensor, start[name]), name


@pytest.mark.parametrize("name", RULES)
def test_updates_together_leave_the_bits_that_they_leave_apart(name: str) -> None:
    assert_same_bits(weights(RAGGED), RULES[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_dtype_is_updated_alike(dtype: str) -> None:
    assert_same_bits(weights(RAGGED, [dtype]), RULES["adam"])


def test_mixed_dtypes_share_a_launch() -> None:
    graph = weights([*RAGGED, *RAGGED[:3]], ["float32", "bfloat16", "float64"])
    assert_same_bits(graph, RULES["adam"])
    (update,) = joined(compiled(graph, RULES["adam"]).plan)
    assert len(update.group) == 3 and len(update.members) == 9


def test_a_parameter_without_elements_takes_no_row() -> None:
    graph = weights([(3, 5), (0, 5), (6, 2), (0, 4)])
    assert_same_bits(graph, RULES["adam"])
    (kernel,) = (k for k in compiled(graph, RULES["adam"]).program.kernels if isinstance(k, ForeachKernel))
    assert kernel.sizes() == [15, 12] and len(kernel.launch.members) == 4


def test_blocks_cut_tensors_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks much smaller than the tensors, so that programs begin and end everywhere in them."""
    monkeypatch.setattr(runner.Runner.__init__, "__kwdefaults__", {"programs": None, "tile": 64})
    assert_same_bits(weights(RAGGED), RULES["adam"])


def test_a_step_goes_on_bit_for_bit_from_its_state() -> None:
    graph = weights(RAGGED)
    through = state_after(compiled(graph, RULES["nadam"]), 4)
    first, second = (compiled(graph, RULES["nadam"]) for _ in range(2))
    state_after(first, 2)
    second.load_state_dict(first.state_dict())
    for number in (2, 3):
        second.hyperparameters["lr"] = 0.1 / (number + 1)
        second(**feeds_of(graph, number))
    for name, tensor in {**second.model.state_dict(), **second.slots}.items():
        assert torch.equal(tensor, through[name]), name


# -- where tensors lie -------------------------------------------------------------------------------------------------


def test_a_table_is_made_once_and_again_when_a_tensor_moves() -> None:
    graph = weights(RAGGED)
    step = compiled(graph, RULES["adam"], strict=True)
    tables = step._runner.updating.tables()
    state_after(step, 3)
    assert len(tables) == 1
    step.slots["w0.exp_avg"] = step.slots["w0.exp_avg"].clone()
    moved = step.slots["w0.exp_avg"].clone()
    step(**feeds_of(graph, 9))
    assert len(tables) == 2 and not torch.equal(step.slots["w0.exp_avg"], moved)


def test_machine_code_follows_tensors_that_move_between_steps() -> None:
    """Slots and parameters elsewhere, aligned to 16 bytes and not, at every step: the bits stay those of one place."""
    graph = weights([(8, 8), (16, 4), (5, 3)])
    step, other = compiled(graph, RULES["adam"]), compiled(graph, RULES["adam"])
    for number in range(6):
        for name, slot in step.slots.items():
            step.slots[name] = torch.zeros(slot.numel() + number % 3)[number % 3 :].view(slot.shape).copy_(slot)
        for parameter in step.model.parameters():
            parameter.data = parameter.data.clone()
        for each in (step, other):
            each(**feeds_of(graph, number))
        for name, tensor in {**other.model.state_dict(), **other.slots}.items():
            assert torch.equal({**step.model.state_dict(), **step.slots}[name], tensor), (number, name)


def test_tensors_that_are_not_aligned_are_updated_too() -> None:
    graph = weights([(8, 8), (16, 4)])
    step, other = (compiled(graph, RULES["adam"], strict=True) for _ in range(2))
    for name, slot in step.slots.items():
        step.slots[name] = torch.zeros(slot.numel() + 1)[1:].view(slot.shape)
        assert step.slots[name].data_ptr() % 16
    found = state_after(step, 2)
    # The interpreter has no use for the hint, so that it is right can only be read off the table.
    (table,) = step._runner.updating.tables().values()
    assert table[:, SEGMENTS.place("aligned")].tolist() == [0, 0]
    wanted = state_after(other, 2)
    (table,) = other._runner.updating.tables().values()
    assert table[:, SEGMENTS.place("aligned")].tolist() == [1, 1]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# -- what the plan says ------------------------------------------------------------------------------------------------


def test_adam_on_64_small_parameters_is_one_launch() -> None:
    plan = make_plan(joint_graph(weights([(2 + i % 5, 3 + i % 7) for i in range(64)]), "loss", RULES["adam"]))
    (update,) = (k for k in plan.launches if any(u.value.scope.phase == "update" for u in k.units))
    assert update.kind == FOREACH and len(update.members) == 64
    verify_plan(plan)


def test_an_update_that_finishes_its_gradient_rides_there() -> None:
    plan = make_plan(joint_graph(digits(), "loss", RULES["adam"]))
    (update,) = joined(plan)
    left = {v.scope.name for k in plan.launches if k is not update for v in k.stores if v.scope.phase == "update"}
    assert {v.scope.name for v in update.stores} == {"fc1.weight", "fc2.weight", "fc3.weight"}
    assert left == {"fc1.bias", "fc2.bias", "fc3.bias", "ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias"}


def test_without_fusion_each_update_is_apart() -> None:
    assert not joined(make_plan(joint_graph(digits(), "loss", RULES["adam"]), "off"))


def test_a_single_update_is_a_kernel_of_its_own() -> None:
    assert not joined(make_plan(joint_graph(weights([(8, 8)]), "loss", RULES["adam"])))


def test_what_a_user_forbids_is_not_joined() -> None:
    graph = joint_graph(weights(RAGGED), "loss", RULES["sgd"])
    (free,) = joined(make_plan(graph))
    (told,) = joined(make_plan(graph, as_fusion("optimal", forbid=[("w0.updated", "w2.updated")])))
    assert len(free.members) == 6 and len(told.members) == 5


def test_an_update_that_something_waits_for_stays_where_it_is() -> None:
    """What another kernel reads cannot be left to the end."""
    graph = joint_graph(weights(RAGGED), "loss", RULES["sgd"])
    graph.output(seen=tn.sum(graph.updates["w2"]))
    plan = make_plan(graph)
    verify_plan(plan)
    (update,) = joined(plan)
    assert {v.scope.name for v in update.stores} == {"w0", "w1", "w3", "w4", "w5"}


def test_plan_says_what_is_joined_and_counts_it_once() -> None:
    plan = make_plan(joint_graph(digits(), "loss", RULES["adam"]))
    (update,) = joined(plan)
    cost = scheduled_cost(plan.candidate)
    assert (cost.launches, cost.bytes) == (len(plan.launches), plan.bytes_moved())
    assert "joins  fc1_weight_adam, fc2_weight_adam, fc3_weight_adam" in str(plan)
    assert re.search(r"update_adam +foreach .* fc1.weight, fc2.weight, fc3.weight", text := explain_plan(plan))
    assert "update_adam runs 3 updates in one launch: no other launch waits for them." in text
    inside = [v for v in plan.verdicts if v.fused and v.reason == f"both in {update.name}"]
    assert inside and all(v.opposite.launches >= 0 for v in inside)


def test_parting_an_update_from_its_gradient_costs_no_launch() -> None:
    """Apart, it would join the others."""
    plan = make_plan(joint_graph(digits(), "loss", RULES["sgd"]))
    riding = next(v for v in plan.verdicts if v.fused and v.source == "fc1.d_fc1_bias_1")
    assert riding.opposite.launches == 0 and riding.opposite.bytes > 0


@pytest.mark.parametrize("dtypes", [("float32",), ("float32", "bfloat16"), ("float64", "float32")], ids="-".join)
@pytest.mark.parametrize("rule", ["adam", "clipped to a norm", "sgd"])
def test_launches_move_what_the_plan_says(rule: str, dtypes: tuple[str, ...]) -> None:
    shapes = [*RAGGED, (0, 7), *RAGGED]
    assert_exact(make_program(joint_graph(weights(shapes, dtypes), "loss", RULES[rule]), "greedy"))


@pytest.mark.parametrize("name", ["sgd", "adam", "lion"])
def test_tile_program_and_source_name_what_they_update(name: str) -> None:
    program = step_of(weights([(3, 5), (4, 2)]), RULES[name])
    (kernel,) = (k for k in program.kernels if isinstance(k, ForeachKernel))
    assert f"{kernel.name}_block: 2 updates, of w0, w1" in str(kernel)
    assert '"""One block of w0, w1."""' in program.source


def test_a_report_counts_the_blocks_and_the_arithmetic_of_all_updates() -> None:
    graph = weights([(64, 64), (64, 32), (3, 5)], ["float32", "bfloat16"])
    (report,) = (r for r in make_reports(step_of(graph, RULES["sgd"])) if r.kind == FOREACH)
    elements = 64 * 64 + 64 * 32 + 3 * 5
    assert report.programs == 4 + 2 + 1 and report.operations == 2 * elements, "p - lr * g"


# -- what is generated -------------------------------------------------------------------------------------------------


def step_of(graph: Graph, optimizer: Optimizer) -> Program:
    return make_program(joint_graph(graph, "loss", optimizer), "greedy", declared=graph)


@pytest.mark.parametrize("name", RULES)
def test_source_reads_as_if_a_person_had_written_it(name: str) -> None:
    assert not wrong(step_of(weights(RAGGED), RULES[name]))
    assert not wrong(step_of(weights(RAGGED, ["float32", "bfloat16"]), RULES[name]))


def test_source_does_not_depend_on_what_else_is_called_so() -> None:
    """An op may be called as the kernel, or as what that calls for each block."""
    g = Graph("names")
    x = g.input("x", (4, 8))
    h = tn.layer_norm(tn.linear(x, 6, name="update_adam"), name="update_adam_block")
    g.output(loss=tn.sum(tn.layer_norm(tn.linear(h, 5, name="segments"), name="table_of")))
    assert_same_bits(g, RULES["adam"])


def test_generated_file_runs_alone(tmp_path: Path) -> None:
    path = tmp_path / "step.py"
    path.write_text(step_of(weights(RAGGED, ["float32", "bfloat16"]), RULES["adam"]).source, encoding="utf-8")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "w5.exp_avg_sq: (41, 31), mean " in done.stdout


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_compiled_kernel_takes_sixteen_bytes_an_access_and_spills_nothing(arch: int) -> None:
    found = {report.name: report for report in compile_program(step_of(weights(RAGGED), RULES["adam"]), arch)}
    report = found["update_adam"]
    assert not report.spills
    # Two accesses a thread for each of four tensors read and three written; the rest is the narrow form.
    assert (report.load_widths[128], report.store_widths[128]) == (8, 6)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("name", RULES)
def test_no_rule_spills_in_any_mixture(name: str, arch: int) -> None:
    graph = weights(RAGGED, ["float32", "bfloat16", "float64"])
    for report in compile_program(step_of(graph, RULES[name]), arch):
        assert not report.spills, f"{report.name}: {report.registers} registers, {report.spills}"
