"""Reductions that the last block of a launch finalizes: the same sums however they are split, and no races."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from compiled import digits, gradient_programs
from torch import Tensor

import tritonnotes as tn
from tritonnotes import native
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.last_block import GROUP, MAX_FINALIZED
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.interpreter.ownership import Ownership
from tritonnotes.ir.core.errors import KernelError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.runtime.executors.execution import Execution
from tritonnotes.runtime.runner import Runner
from tritonnotes.tensors.dtypes import torch_dtype

BATCH = tn.Dim("batch")
CPU = torch.device("cpu")
ROWS = 200


def program_of(build: Callable[..., Any], *shapes: Any, dtype: str = "float32") -> Program:
    graph = Graph("sums")
    graph.output(y=build(*(graph.input(f"x{i}", shape, dtype) for i, shape in enumerate(shapes))))
    return make_program(optimize(decompose(graph)))


def norm_backward() -> Program:
    graph = Graph("norm")
    graph.output(y=tn.gelu(tn.layer_norm(graph.input("x", (BATCH, 200)), name="ln")))
    return gradient_programs(graph)[1]


def leaves_of(program: Program, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    leaves = {}
    for buffer in program.buffers:
        if buffer.role == "leaf":
            shape = [ROWS if isinstance(size, tn.Dim) else size for size in buffer.shape]
            leaves[buffer.name] = torch.rand(shape, generator=generator).to(torch_dtype(buffer.dtype))
    return leaves


def run(runner: Runner, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return runner.run({name: tensor.clone() for name, tensor in leaves.items()}, {"batch": ROWS})


@pytest.mark.parametrize("programs", [1, 2, GROUP, GROUP + 1, 40, ROWS])
def test_any_number_of_programs_finishes_the_same_sums(programs: int) -> None:
    program = norm_backward()
    assert len(program.plan.launches) == 1
    leaves = leaves_of(program)
    runner = Runner(program, CPU, programs=programs, tile=256)
    found = run(runner, leaves)
    exact = run(Runner(program, CPU, programs=1), leaves)
    for name, tensor in exact.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    for _ in range(3):
        again = run(runner, leaves)
        assert all(torch.equal(again[name], tensor) for name, tensor in found.items())


@pytest.mark.parametrize("build", [
    lambda x: tn.sum(x, 0), lambda x: tn.mean(x * x), lambda x: tn.max(x, 0), lambda x: tn.min(x),
    lambda x: tn.exp(tn.sum(x, 0) / 100.0),
], ids=["sum", "mean of all", "largest", "smallest of all", "more after it"])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_every_reduction_is_finished(build: Callable[..., Any], dtype: str) -> None:
    program = program_of(build, (BATCH, 300), dtype=dtype)
    is_largest = program.graph.outputs["y"].shape != () and any(v.op.name == "max" for v in program.graph.values)
    assert len(program.plan.launches) == (2 if is_largest else 1)
    leaves = leaves_of(program)
    few, many = (run(Runner(program, CPU, programs=n, tile=256), leaves)["y"] for n in (1, 50))
    torch.testing.assert_close(many, few, rtol=2**-7 if dtype == "bfloat16" else 1e-5, atol=1e-5)
    assert many.shape == few.shape and many.dtype == torch_dtype(program.graph.outputs["y"].dtype)


def test_rows_spread_over_columns_too_are_waited_for() -> None:
    """Programs that share columns as well all arrive before the sums of their group are added up."""
    program = program_of(lambda x: tn.sum(x, 0), (BATCH, 5000))
    assert "members * tl.num_programs(1)" in program.source
    leaves = leaves_of(program)
    torch.testing.assert_close(run(Runner(program, CPU, programs=20, tile=2048), leaves)["y"], leaves["x0"].sum(0))


def test_counts_are_zero_again_after_each_run_even_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    program = norm_backward()
    leaves = leaves_of(program)
    runner = Runner(program, CPU, Execution(strict=False), programs=40, tile=256)
    first = run(runner, leaves)
    assert runner._recorded is not None
    (record,) = runner._recorded._kept.values()
    held, _ = record._kept
    (arrivals,) = (t for name, t in held.items() if name.endswith(":arrivals"))
    assert arrivals.shape == (1 + 3,) and not arrivals.any()

    def broken(*anything: Any) -> Any:
        arrivals.fill_(1)
        raise KernelError("planted")

    with monkeypatch.context() as patch, pytest.raises(KernelError, match="planted"):
        patch.setattr(native.Bundle, "run", broken)
        run(runner, leaves)
    assert all(torch.equal(tensor, first[name]) for name, tensor in run(runner, leaves).items())


@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize("slip", [
    ('sem="acq_rel"', 'sem="relaxed"'),
    ("    return is_last\n", "    return is_last | True\n"),
    ("programs - 1\n", "programs - 2\n"),
], ids=["arrivals that order nothing", "nobody waits", "one too early"])  # fmt: skip
def test_a_program_that_does_not_wait_is_noticed(
    slip: tuple[str, str], is_watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the race detector alone; and where it is watched who wrote each byte, by that or by the detector."""
    program = norm_backward()
    text = program.source
    assert slip[0] in text
    planted = replace(program)
    planted.__dict__["_rendered"] = text.replace(*slip), program.kernel_sources
    if not is_watched:
        monkeypatch.setattr(Ownership, "access", lambda *anything: None)
    with pytest.raises(KernelError, match="race|nothing has written" if is_watched else "race"):
        run(Runner(planted, CPU, Execution(strict=True), programs=40, tile=256), leaves_of(program))


def test_what_one_program_would_take_long_for_is_a_launch_of_its_own() -> None:
    kinds = {
        columns: [k.kind for k in program_of(lambda x: tn.sum(x, 0), (BATCH, columns)).plan.launches]
        for columns in (MAX_FINALIZED, MAX_FINALIZED + 1)
    }
    assert kinds == {MAX_FINALIZED: ["column"], MAX_FINALIZED + 1: ["column", "finalize"]}


def test_sums_that_are_needed_everywhere_are_finished_before_the_next_launch() -> None:
    launches = program_of(lambda x: x - tn.sum(x, 0, keepdim=True), (BATCH, 64)).plan.launches
    assert [k.kind for k in launches] == ["column", "elementwise"] and len(launches[0].stages) == 2


def test_a_largest_number_of_each_column_is_finished_apart_from_sums() -> None:
    """Groups of programs add sums up; a maximum beside them keeps all its rows until its own launch."""
    program = program_of(lambda x: tn.cat([tn.sum(x, 0), tn.max(x, 0)], 0), (BATCH, 64))
    assert [k.kind for k in program.plan.launches] == ["column", "finalize"]
    leaves = leaves_of(program)
    found = run(Runner(program, CPU, programs=50, tile=64), leaves)["y"]
    torch.testing.assert_close(found, torch.cat([leaves["x0"].sum(0), leaves["x0"].amax(0)]))


def test_a_user_may_forbid_it() -> None:
    graph = Graph("sums")
    x = graph.input("x", (BATCH, 64))
    graph.output(y=tn.exp(tn.sum(tn.tanh(x), 0)))
    assert len(make_plan(optimize(decompose(graph))).launches) == 1
    apart = make_plan(optimize(decompose(graph)), Fusion("optimal", forbid=(("tanh", "y"),)))
    assert len(apart.launches) == 2
    assert len(make_plan(optimize(decompose(graph)), "off").launches) == 4


def test_every_norm_and_bias_of_a_step_is_finished_where_it_is_summed() -> None:
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()))
    assert not [k.name for k in plan.launches if k.kind == "finalize"]
    assert sum(len(k.stages) - 1 for k in plan.launches) >= 4


def test_a_last_block_counts_batches_once_and_their_launch_is_saved() -> None:
    graph = Graph("counts")
    x = graph.input("x", (BATCH, 200))
    graph.output(y=tn.batch_norm(x, name="bn"))
    program = make_program(optimize(decompose(graph)))
    hosts = [k for k in program.plan.launches if any(v.name == "bn.updated_num_batches_tracked" for v in k.stores)]
    assert [len(k.partials) > 0 for k in hosts] == [True]
    leaves = leaves_of(program)
    counted = leaves["bn.num_batches_tracked"] = torch.tensor(6)
    runner = Runner(program, CPU, programs=5)
    for number in (7, 8):
        found = runner.run(leaves, {"batch": ROWS})
        assert counted.item() == number, found.keys()


@pytest.mark.parametrize("execution", [Execution(), Execution(strict=True)], ids=["native", "strict"])
def test_without_sums_over_rows_the_first_program_counts(execution: Execution) -> None:
    """Statistics of channels that programs hold as rows: no program is the last of all, and no count of arrivals."""
    graph = Graph("counts")
    h = tn.relu(tn.batch_norm(graph.input("x", (ROWS, 6, 5)), name="one"))
    graph.output(y=tn.batch_norm(h, name="other"))
    program = make_program(optimize(decompose(graph)))
    (launch,) = (k for k in program.plan.launches if len(k.stages) > 1)
    assert launch.kind == "row" and "last block" not in str(program.plan)
    assert {v.name for v in launch.stores} >= {f"{n}.updated_num_batches_tracked" for n in ("one", "other")}
    assert not any("elementwise" in k.kind for k in program.plan.launches)
    assert "arrives_last" not in program.source and not [b for b in program.buffers if b.role == "arrivals"]
    leaves = leaves_of(program)
    counted = {n: leaves.setdefault(f"{n}.num_batches_tracked", torch.tensor(0)) for n in ("one", "other")}
    for n, start in (("one", 6), ("other", 2**40)):
        counted[n].fill_(start)
    runner = Runner(program, CPU, execution)
    for number in (1, 2):
        runner.run(leaves, {})
        assert [counted["one"].item(), counted["other"].item()] == [6 + number, 2**40 + number]


def test_a_kernel_that_may_have_no_program_does_not_count() -> None:
    graph = Graph("counts")
    rows = tn.softmax(graph.input("x", (BATCH, 6)), -1)
    tracked = graph.buffer("seen", (), dtype="int64")
    graph.output(y=rows)
    graph.update(tracked, tracked + 1)
    plan = make_plan(optimize(decompose(graph)))
    assert len(plan.launches) == 2 and all(len(k.stages) == 1 for k in plan.launches)
