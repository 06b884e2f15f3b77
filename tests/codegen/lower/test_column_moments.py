"""Batch statistics in one pass: programs gather moments of their rows, and what they leave is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from counted_traffic import assert_exact
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.analysis.units import PARTIAL
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.kept import read, written
from tritonnotes.codegen.fusion.partition import Partition
from tritonnotes.codegen.fusion.search.greedy import greedy
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.report.kernel_reports import make_reports
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.joint import gradient_graph
from tritonnotes.ir.passes.split import split_gradient
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime.executors.execution import Execution
from tritonnotes.runtime.runner import Runner

BATCH = tn.Dim("batch")
NATIVE = Execution()


def statistics(cols: int, dtype: str = "float32", rows: int | tn.Dim = BATCH) -> Graph:
    """The forward run of a batch norm in training, as primitives."""
    graph = Graph("statistics")
    graph.output(y=tn.batch_norm(graph.input("x", (rows, cols), dtype), name="bn"))
    return split_gradient(gradient_graph(graph, ["x"]), ["y"], ["gradient.y"]).forward


def gathered(program: Program) -> bool:
    return "add_moment(" in program.source


def judged(cols: int, x: Tensor, programs: int, execution: Execution = NATIVE) -> None:
    """Output and running statistics of a run natively, or as `execution` says, held to float64 and to eager."""
    program = make_program(statistics(cols, str(x.dtype).removeprefix("torch.")))
    assert gathered(program)
    held = dict.fromkeys(("bn.weight", "bn.running_var"), torch.ones)
    held |= dict.fromkeys(("bn.bias", "bn.running_mean"), torch.zeros)
    leaves = {name: make(cols, dtype=x.dtype) for name, make in held.items()}
    counted = torch.zeros((), dtype=torch.int64)
    runner = Runner(program, torch.device("cpu"), execution, programs=programs, tile=512)
    y = runner.run({"x": x, **leaves, "bn.num_batches_tracked": counted}, {"batch": len(x)}, {})["y"]

    def expected(dtype: torch.dtype) -> list[Tensor]:
        weight, var, bias, mean = (make(cols, dtype=dtype) for make in held.values())
        return [torch.nn.functional.batch_norm(x.to(dtype), mean, var, weight, bias, True, 0.1, 1e-5), mean, var]

    found = [y, leaves["bn.running_mean"], leaves["bn.running_var"]]
    for comparison in map(compare, found, expected(x.dtype), expected(torch.float64)):
        assert comparison.ok, str(comparison)
    assert counted == 1


def about(mean: float, rows: int, cols: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(rows, cols, generator=torch.Generator().manual_seed(0)) + mean).to(dtype)


def test_one_pass_over_the_rows_has_mean_and_variance() -> None:
    graph = statistics(512, rows=65_536)
    plan = make_plan(graph)
    apart = make_plan(graph, Fusion(forbid=(("bn.estimate", "bn.off"),)))
    x = 65_536 * 512 * 4
    assert [k.kind for k in plan.launches] == ["column", "elementwise"]
    assert 3 * x < plan.bytes_moved() < 3.01 * x
    assert len(apart.launches) == 3 and 4 * x < apart.bytes_moved() < 4.01 * x
    known = {(v.source, v.target): v for v in plan.verdicts}
    assert len(known) == len(plan.verdicts)
    verdict = known["bn.estimate", "bn.off"]
    assert (verdict.fused, verdict.rule, verdict.opposite.launches) == (True, "moments", 1)
    assert verdict.opposite.bytes == pytest.approx(x, rel=0.01)


def test_two_passes_remain_where_a_cache_has_the_rows_or_nothing_is_fused() -> None:
    graph = statistics(64)
    assert not gathered(make_program(graph, Fusion(target="cpu")))
    assert not gathered(make_program(graph, "off"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_numbers_are_those_of_float64(dtype: str) -> None:
    judged(200, about(3, 513, 200, getattr(torch, dtype)), 37)


@pytest.mark.parametrize("mean", [0, 3])
@pytest.mark.parametrize(("rows", "cols", "programs"), [(2, 7, 3), (513, 200, 37), (33, 2000, 3), (40, 8200, 3)])
def test_rows_and_columns_may_be_many_or_few(rows: int, cols: int, programs: int, mean: float) -> None:
    """With programs that have no rows, columns of several tiles, and sums that a launch of their own finalizes."""
    judged(cols, about(mean, rows, cols), programs)


FAR: dict[str, Callable[[Tensor], object]] = {
    "a mean that dwarfs the deviations": lambda x: x,
    "equal numbers": lambda x: x.fill_(1e4 + 0.1),
    "a first row far from the others": lambda x: x[0].zero_(),
    "half of the rows far from the others": lambda x: x[: len(x) // 2].zero_(),
    "an infinity and a NaN": lambda x: (x[1, 2].fill_(torch.inf), x[0, 0].fill_(torch.nan)),
    "squares that overflow": lambda x: x[:, :3].mul_(1e30),
}


@pytest.mark.parametrize("far", FAR)
def test_moments_are_as_exact_as_deviations_from_the_mean(far: str) -> None:
    x = about(1e4, 1000, 64)
    FAR[far](x)
    judged(64, x, 20)


@pytest.mark.parametrize(("rows", "cols", "programs"), [(33, 1030, 3), (70, 31, 34)])
def test_the_strict_interpreter_finds_nothing(rows: int, cols: int, programs: int) -> None:
    """Bounds, masked lanes and races: columns of two tiles, and three groups of programs, some without rows."""
    judged(cols, about(2, rows, cols), programs, Execution(strict=True))


def test_what_moves_is_what_the_plan_says() -> None:
    assert_exact(make_program(statistics(40)), batch=33)


def test_no_kernel_spills() -> None:
    program = make_program(statistics(2048, rows=8192))
    reports = make_reports(program, 90)
    assert gathered(program) and not any(r.spilled_bytes for r in reports), reports


def test_sums_that_follow_from_the_same_moments_are_not_parted() -> None:
    found = greedy(materialize(statistics(64)), Fusion())
    kernel = next(k for k in found.kernels if sum(u.part == PARTIAL for u in k) == 3)
    alone = frozenset(u for u in kernel if u.moments is not None and u.value is u.moments.squares)
    kernels = tuple(some for k in found.kernels for some in ((k - alone, alone) if k == kernel else (k,)))
    parted = replace(found, partition=Partition(kernels, found.partition.recomputed))
    assert parted.refusal is not None and parted.refusal.rule == "moments"


def test_a_user_may_keep_the_sums_apart() -> None:
    graph = statistics(64)
    for names in (("bn.sum", "bn.sum_1"), ("bn.sum",), ("bn.off", "bn.sum_2")):
        assert not gathered(make_program(graph, Fusion(forbid=(names,))))
    assert gathered(make_program(graph, Fusion(forbid=(("bn.centered", "bn.normalized"),))))


def test_what_is_kept_on_disk_gathers_again() -> None:
    graph = materialize(statistics(64))
    found = greedy(graph, Fusion())
    again = read(written(found), graph, Fusion())
    assert again is not None and str(again) == str(found) and any(u.moments for u in again.units.units)
