"""Plans within a memory budget: what they hold, and that they compute what eager PyTorch does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compiled import draw

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.judge.executor import eager, oracle
from tritonnotes.judge.tolerance import compare
from tritonnotes.tensors.seeds import step_seed

Tensors = dict[str, torch.Tensor]


def table_case(rows: int | tn.Dim = 256) -> Graph:
    """The first case of the benchmark's table of launches and bytes."""
    g = Graph("step")
    x, y = g.input("x", (rows, 64)), g.input("y", (rows,), dtype="int64")
    h = tn.prelu(tn.batch_norm(tn.linear(x, 128, name="fc1"), name="bn1"), name="act1")
    h = tn.elu(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc3"), y))
    return g


def dropped(rows: int | tn.Dim = 96) -> Graph:
    g = Graph("dropped")
    x, y = g.input("x", (rows, 24)), g.input("y", (rows, 8))
    h = tn.dropout(tn.silu(tn.rms_norm(tn.linear(x, 40, name="fc1"), name="rms")), 0.25)
    h = tn.dropout(tn.gelu(tn.linear(h, 48, name="fc2")), 0.5)
    g.output(loss=tn.mse_loss(tn.linear(h, 8, name="fc3"), y))
    return g


def gated(rows: int | tn.Dim = 64) -> Graph:
    g = Graph("gated")
    x, y = g.input("x", (rows, 32)), g.input("y", (rows,), dtype="int64")
    h = x
    for layer in range(2):
        gates = tn.linear(tn.rms_norm(h, name=f"norm{layer}"), 64, bias=False, name=f"gates{layer}")
        h = h + tn.linear(tn.swiglu(gates), 32, bias=False, name=f"mix{layer}")
    g.output(loss=tn.cross_entropy(tn.linear(tn.layer_norm(h, name="ln"), 12, name="head"), y))
    return g


GRAPHS: dict[str, Callable[..., Graph]] = {"table case": table_case, "dropped": dropped, "gated": gated}


def program_of(graph: Graph, budget: int | None) -> Program:
    return make_program(joint_graph(graph, "loss", tn.adam()), Fusion(memory_budget=budget))


def test_the_first_case_takes_ten_launches_and_half_of_what_eager_holds() -> None:
    free = tn.compile_step(table_case(), optimizer=tn.adam())
    half = free.eager_peak_bytes() // 2
    step = tn.compile_step(table_case(), optimizer=tn.adam(), memory_budget=half)
    assert free.peak_bytes() > half >= step.peak_bytes()
    assert len(step.plan.launches) <= 10
    assert "within the budget" in step.explain()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_smaller_budget_never_holds_more(name: str) -> None:
    graph = GRAPHS[name]()
    free = program_of(graph, None).peak_bytes()
    held = [program_of(graph, budget).peak_bytes() for budget in (free, free - 1, 0)]
    assert held[0] == free
    assert held == sorted(held, reverse=True) and held[2] < free


def test_a_budget_that_is_kept_anyway_changes_nothing() -> None:
    joint = joint_graph(table_case(), "loss", tn.adam())
    assert str(make_plan(joint, Fusion(memory_budget=2**30))) == str(make_plan(joint))


@pytest.mark.parametrize("rows", [None, 61], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", GRAPHS)
def test_steps_err_as_eager_does(name: str, rows: int | None) -> None:
    """Three steps of gradient descent, each from the step's own weights."""
    graph = GRAPHS[name]() if rows is None else GRAPHS[name](tn.Dim("batch"))
    step = tn.compile_step(graph, optimizer=tn.sgd(lr=1.0), memory_budget=0, seed=1)
    free = tn.compile_step(graph, optimizer=tn.sgd(lr=1.0), seed=1)
    assert step.peak_bytes() < free.peak_bytes()
    for number in range(3):
        before = {n: t.clone() for n, t in step.model.state_dict().items()}
        feeds = draw(graph, number, **({} if rows is None else {"batch": rows}))
        seed = step_seed(step.seed, step.steps)
        step(**feeds)
        free(**feeds)
        after = step.model.state_dict()
        for parameter, other in free.model.state_dict().items():
            torch.testing.assert_close(after[parameter], other, rtol=1e-5, atol=1e-6)
        exact, near = (descended(judge, graph, feeds, before, seed) for judge in (oracle, eager))
        wrong = {n: str(c) for n in exact if not (c := compare(after[n], near[n], exact[n])).ok}
        assert not wrong, f"step {number}: {wrong}"


def descended(judge: Callable[..., Tensors], graph: Graph, feeds: Tensors, state: Tensors, seed: int) -> Tensors:
    """Parameters after one step of gradient descent, with the gradients of a judge."""
    names = [v.name for v in graph.leaves("parameter")]
    held = {n: t.clone().requires_grad_(n in names) for n, t in state.items()}
    loss = judge(graph, feeds, held, training=True, seed=seed)["loss"]
    gradients = torch.autograd.grad(loss, [held[n] for n in names])
    return {n: state[n].to(g.dtype) - g for n, g in zip(names, gradients, strict=True)}


@pytest.mark.parametrize("arch", ARCHS)
def test_the_first_case_compiles_without_spills(arch: int) -> None:
    reports = compile_program(program_of(table_case(), 467_000), arch)
    assert reports and not {c.name: c.spills for c in reports if c.spills}


def test_operands_read_what_is_not_updated_yet() -> None:
    step = program_of(table_case(), 467_000)
    order = {k.name: i for i, k in enumerate(step.plan.launches)}
    writers = {n: i for k, i in order.items() for n in step.uses[i].writes if n in step.graph.updates}
    for launch in step.plan.launches:
        place = order[launch.name]
        early = [n for n in step.uses[place].reads if n in writers and writers[n] < place]
        assert not early, f"{launch.name} reads {early} after their update"


@pytest.mark.parametrize("budget", [-1, 1.5, True, "1 GB"])
def test_a_budget_that_is_no_number_of_bytes_is_an_error(budget: object) -> None:
    with pytest.raises(PlanError, match="memory_budget.*number of bytes"):
        tn.compile_step(gated(), memory_budget=budget)  # type: ignore[arg-type]


def test_explain_says_by_how_much_a_budget_is_missed() -> None:
    step = tn.compile_step(gated(), optimizer=tn.adam(), memory_budget=0)
    assert f"{step.peak_bytes():,} bytes over the budget of 0" in " ".join(step.explain().split())


def test_a_step_of_two_programs_has_the_budget_for_each() -> None:
    free = tn.compile_step(gated(), optimizer=tn.adam(), accumulate=2)
    budget = max(p.peak_bytes() for p in free._programs.in_order)
    step = tn.compile_step(gated(), optimizer=tn.adam(), accumulate=2, memory_budget=budget)
    assert f"within the budget of {budget:,} bytes for each of them" in " ".join(step.explain().split())
    assert str(step.plan) == str(free.plan) and step.peak_bytes() > budget
