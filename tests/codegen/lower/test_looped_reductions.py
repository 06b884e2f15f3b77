"""Rows of any length: held in registers, reduced in a loop, or split over programs; and memory past 2³¹ elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compiled import assert_within_policy, draw, gradient_programs, judge
from op_graphs import op_graph
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.plan.launches import TileLaunch
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.runtime.runner import pick_device

BATCH = tn.Dim("batch")
ROW_OPS = ("softmax", "log_softmax", "layer_norm", "cross_entropy", "js_divergence")
HELD, WALKED, LONGER = 12_289, 70_001, 300_000


def classifier(cols: int, dtype: str = "float32") -> Graph:
    """All that is asked of one row: loss, accuracy, distribution and norm, over several dependent reductions."""
    graph = Graph("classifier")
    x, target = graph.input("x", (BATCH, cols), dtype), graph.input("target", (BATCH,), "int64")
    graph.output(
        loss=tn.cross_entropy(x, target),
        accuracy=tn.accuracy(x, target),
        share=tn.softmax(x, -1),
        normal=tn.layer_norm(x, weight=None, bias=None),
    )
    return graph


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("cols", [HELD, WALKED, LONGER])
@pytest.mark.parametrize("name", ROW_OPS)
def test_op_agrees_with_eager_on_a_long_row(name: str, cols: int, dtype: str) -> None:
    graph = op_graph(name, (BATCH, cols), dtype)
    assert_within_policy(judge(graph, draw(graph, batch=2), redraw=lambda seed: draw(graph, seed, batch=2)))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, BATCH], ids=str)
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "cross_entropy"])
def test_op_agrees_with_eager_on_a_million_columns(name: str, rows: int | tn.Dim) -> None:
    """Two rows are split over programs; who knows how many are each walked along by one."""
    graph = op_graph(name, (rows, 1_000_000), "float32")
    launches = [k for k in tn.compile(graph).plan.launches if isinstance(k, TileLaunch)]
    is_walked = any(k.kernel.loop_reads is not None for k in launches)
    assert launches and is_walked != (rows == 2)
    assert_within_policy(judge(graph, draw(graph, batch=2), redraw=lambda seed: draw(graph, seed, batch=2)))


@pytest.mark.parametrize("cols", [40_960, WALKED])
def test_several_reductions_share_the_walks_along_a_row(cols: int) -> None:
    graph = classifier(cols)
    assert_within_policy(judge(graph, draw(graph, batch=3), noisy=2))
    source = tn.compile(graph).source
    # Maximum and sum of exponentials, and mean and variance, in the first walk; the class, and what needs them, in the
    # second.
    assert source.count("for start in") == 2
    assert len(tn.compile(graph).plan.kernels) == 1


def special_rows(cols: int) -> Tensor:
    """Rows that a running maximum gets wrong where it is careless."""
    rows = torch.randn(8, cols, generator=torch.Generator().manual_seed(0))
    rows[0] = -math.inf
    rows[1, : cols // 2] = -math.inf  # whole blocks of nothing, then numbers
    rows[2, cols // 2 :] = -math.inf
    rows[3, 9000] = math.nan
    rows[4, 60_000] = math.inf
    rows[5] = torch.linspace(-1e4, 1e4, cols)  # the maximum grows in every block
    rows[6] = torch.linspace(1e4, -1e4, cols)
    rows[7] = 3.0
    return rows.to(pick_device())


def test_special_numbers_go_where_eager_sends_them() -> None:
    graph = classifier(WALKED)
    target = torch.tensor([1, 60_000, 5, 9000, 60_000, 70_000, 0, -100], device=pick_device())
    feeds = {"x": special_rows(WALKED), "target": target}
    assert_within_policy(judge(graph, feeds, gradients=False, noisy=2))
    lanes, whole = (tn.compile(graph, target=machine) for machine in ("gpu", "cpu"))
    assert "add_exponential(" in lanes.source and "rescale(" in whole.source
    for name, found in lanes(**feeds).items():
        torch.testing.assert_close(found, whole(**feeds)[name], equal_nan=True)


FAR = {
    "a mean far from 0": lambda rows: rows + 1e4,
    "an outlier that comes first": lambda rows: torch.cat([torch.full_like(rows[:, :1], 1e4), rows[:, 1:]], 1),
    "equal numbers": lambda rows: torch.full_like(rows, 1234.567),
    "a slope": lambda rows: rows + torch.linspace(-1e3, 1e3, rows.shape[1]),
}
"""Rows whose moments are lost where they are gathered carelessly."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("far", FAR)
def test_moments_of_one_walk_are_as_exact_as_those_of_two(far: str, dtype: str) -> None:
    graph = Graph("norm")
    graph.output(y=tn.layer_norm(graph.input("x", (BATCH, WALKED), dtype), weight=None, bias=None))
    assert tn.compile(graph).source.count("for start in") == 2
    rows = FAR[far](torch.randn(2, WALKED, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x = rows.to(getattr(torch, dtype)).to(pick_device())
    assert_within_policy(judge(graph, {"x": x}, gradients=False))


def rows_far_from_their_numbers(cols: int) -> Tensor:
    """Rows of which sums about another number than the mean are infinite, or lose more by way of the mean."""
    rows = torch.randn(6, cols, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1, 6000] = -math.inf
    rows[2] = rows[2].sign() * 1e38  # eˣ and x − first end, x − c does not
    rows[3, 17] = math.inf
    rows[4, :4096] += 1e6
    rows[5, 5] = math.nan
    return rows


ABOUT: dict[str, tuple[Callable[[Value], Value], Callable[[Tensor], Tensor]]] = {
    "logsumexp": (lambda x: tn.logsumexp(x, 1, keepdim=True), lambda x: x.logsumexp(1, keepdim=True)),
    "smallest": (lambda x: tn.amin(x, 1, keepdim=True), lambda x: x.amin(1, keepdim=True)),
    "largest": (lambda x: tn.amax(x, 1, keepdim=True), lambda x: x.amax(1, keepdim=True)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("cols", [9001, 20_011, WALKED])
@pytest.mark.parametrize("about", ABOUT)
def test_sums_of_deviations_from_any_number_are_as_exact_as_eager(about: str, cols: int, dtype: str) -> None:
    graph = Graph("deviations")
    x = graph.input("x", (BATCH, cols), dtype)
    ours, theirs = ABOUT[about]
    off = x - ours(x)
    graph.output(sums=tn.sum(off, 1), squares=tn.sum(off * off, 1))
    rows = rows_far_from_their_numbers(cols).to(getattr(torch, dtype)).to(pick_device())
    found = tn.compile(graph)(x=rows)
    eager, exact = (given - theirs(given) for given in (rows, rows.double()))
    for name, other, want in (
        ("sums", eager.sum(1), exact.sum(1)),
        ("squares", (eager * eager).sum(1), (exact * exact).sum(1)),
    ):
        rounded = want.to(rows.dtype)
        assert found[name].isnan().equal(rounded.isnan()) and found[name].isinf().equal(rounded.isinf()), name
        unit = torch.finfo(rows.dtype).eps * want.abs()
        # Eager is its own judge in float64.
        units = 16 if dtype == "float64" else 2
        is_near = (found[name] - want).abs() <= 2 * (other - want).abs() + units * unit
        assert bool((is_near | ~rounded.isfinite()).all()), (name, found[name], other, want)


@pytest.mark.parametrize(
    ("name", "has_moments"), [("mean", True), ("half", False), ("norm", True), ("smallest", False)]
)
def test_moments_are_gathered_for_deviations_from_the_mean_alone(name: str, has_moments: bool) -> None:
    graph = Graph("deviations")
    x = graph.input("x", (BATCH, WALKED))
    off = {
        "mean": lambda: x - tn.mean(x, 1, keepdim=True),
        "half": lambda: x - tn.sum(x, 1, keepdim=True) / (WALKED // 2),
        "norm": lambda: tn.layer_norm(x, weight=None, bias=None),
        "smallest": lambda: x - tn.amin(x, 1, keepdim=True),
    }[name]()
    graph.output(y=tn.sum(off * off, 1))
    assert ("add_moment(" in tn.compile(graph).source) == has_moments


def test_deviations_of_integers_are_summed_one_by_one() -> None:
    graph = Graph("integers")
    x = graph.input("x", (BATCH, WALKED), "int64")
    graph.output(y=tn.sum(x - tn.amax(x, 1, keepdim=True), 1))
    rows = torch.randint(0, 100, (2, WALKED), generator=torch.Generator().manual_seed(0)).to(pick_device())
    assert tn.compile(graph)(x=rows)["y"].equal((rows - rows.amax(1, keepdim=True)).sum(1))


def test_row_does_not_depend_on_the_others_and_runs_agree_bitwise() -> None:
    model = tn.compile(op_graph("softmax", (BATCH, WALKED), "float32"))
    x = torch.randn(5, WALKED, device=model.device)
    whole = model(x=x)["y"]
    assert all(torch.equal(model(x=x[i : i + 1])["y"][0], whole[i]) for i in range(5))
    assert all(torch.equal(model(x=x)["y"], whole) for _ in range(5))


def test_one_long_row_of_a_vector() -> None:
    graph = Graph("vector")
    x = graph.input("x", (WALKED,))
    graph.output(y=tn.softmax(x, 0), z=tn.logsigmoid(x))
    assert_within_policy(judge(graph, draw(graph), noisy=2))


# -- nothing spills ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cols", [256, 769, 1024, 3000, 5120, 8192, 16_384, 32_768, 65_536])
@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
def test_no_kernel_spills_at_the_sizes_of_the_benchmark(name: str, cols: int, dtype: str) -> None:
    assert_no_spills(name, cols, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cols", [10, 1000, 32_000, 128_256])
def test_no_kernel_of_a_loss_spills_at_the_sizes_of_the_benchmark(cols: int, dtype: str) -> None:
    assert_no_spills("cross_entropy", cols, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_norm_spills_on_a_long_row_that_masks_cut(dtype: str) -> None:
    assert_no_spills("layer_norm", WALKED - 1, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cols", [3072, 14_336])
def test_no_gate_spills_at_the_sizes_of_the_benchmark(cols: int, dtype: str) -> None:
    assert_no_spills("swiglu", cols, dtype)


def assert_no_spills(name: str, cols: int, dtype: str) -> None:
    for program in gradient_programs(op_graph(name, (BATCH, cols), dtype)):
        for arch in ARCHS:
            for report in compile_program(program, arch):
                assert not report.spills, f"{report.name} for sm_{arch}: {report.registers} registers, {report.spills}"


# -- memory past 2³¹ elements ------------------------------------------------------------------------------------------


@pytest.mark.skipif(pick_device().type != "cpu", reason="a sparse file is memory of the host")
def test_elements_past_two_to_the_31_are_found(tmp_path: Path) -> None:
    """A sparse file takes no disk and no memory until it is touched."""
    shape = (3, 2**30)
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=shape[0] * shape[1], dtype=torch.float16)
    x = memory.reshape(shape)
    x[2, -5:] = torch.arange(5, dtype=torch.float16)
    x[2, 7] = 9
    graph = Graph("far")
    far = graph.input("x", shape, "float16")
    graph.output(end=far[2, -5:] * 2, begin=far[1:, 5:9] + 1, total=tn.sum(far[:, -6:], -1))
    result = tn.compile(graph, device="cpu")(x=x)
    assert result["end"].tolist() == [0, 2, 4, 6, 8]
    assert result["begin"].tolist() == [[1, 1, 1, 1], [1, 1, 10, 1]]
    assert result["total"].tolist() == [0, 0, 10]
