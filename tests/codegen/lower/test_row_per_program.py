"""Long rows with a program each: read once, held to the end, and the same numbers as eager's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.cost.traffic import Traffic
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.plan.launches import TileLaunch
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.joint import loss_gradient_graph
from tritonnotes.runtime.runner import Runner, pick_device

BATCH = tn.Dim("batch")
CLASSES = 32_000
DEVICE = pick_device()


def classifier(rows: int | tn.Dim = BATCH, dtype: str = "float32", metric: bool = True, **attrs: object) -> Program:
    graph = Graph("classifier")
    logits, y = graph.input("logits", (rows, CLASSES), dtype), graph.input("y", (rows,), "int64")
    graph.output(loss=tn.cross_entropy(logits, y, **attrs))  # type: ignore[arg-type]
    if metric:
        graph.output(accuracy=tn.accuracy(logits, y))
    return make_program(loss_gradient_graph(graph, "loss", ["logits"]))


def run(program: Program, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, accuracy and the gradient of the logits."""
    sizes = {"batch": len(y)} if program.graph["logits"].shape[0] == BATCH else {}
    found = Runner(program, DEVICE).run({"logits": logits, "y": y}, sizes)
    (gradient,) = (v for name, v in found.items() if name.startswith("gradient"))
    return found["loss"], found.get("accuracy", torch.zeros(())), gradient


def drawn(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, CLASSES, generator=generator)
    y = torch.randint(0, CLASSES, (rows,), generator=generator)
    return logits.to(DEVICE, dtype), y.to(DEVICE)


@pytest.mark.parametrize("rows", [4096, BATCH], ids=str)
def test_loss_accuracy_and_gradient_read_a_row_once_and_spill_nothing(rows: int | tn.Dim) -> None:
    program = classifier(rows)
    (launch,) = program.plan.launches
    assert isinstance(launch, TileLaunch)
    assert launch.kernel.long_rows == (rows,) and launch.loop_reads is None
    row = 4 * CLASSES
    assert launch.traffic(4096) == Traffic(4096 * (row + 8), 4096 * row + 8)
    for arch in ARCHS:
        (report,) = compile_program(program, arch)
        assert not report.spills, f"sm_{arch}: {report.registers} registers, {report.spills}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_one_launch_reads_a_row_once_and_again_for_its_gradient(dtype: str) -> None:
    program = classifier(8192, dtype, metric=False)
    (launch,) = program.plan.launches
    assert isinstance(launch, TileLaunch) and launch.loop_reads is not None
    assert {v.name: count for v, count in launch.loop_reads.items()}["logits"] == 2
    assert program.source.count("for start in") == 2 and "logits_ptr + row_start + y" in program.source


@pytest.mark.parametrize("outside", [CLASSES, -1])
def test_a_target_outside_the_classes_addresses_nothing_on_a_looped_row(outside: int) -> None:
    logits, y = drawn(3, torch.bfloat16)
    y[1] = outside
    loss, _, _ = run(classifier(dtype="bfloat16", reduction="sum"), logits, y)
    assert loss.isinf()


@pytest.mark.parametrize("attrs", [{"metric": False}, {"reduction": "sum"}, {"label_smoothing": 0.1}], ids=str)
def test_no_variant_spills_held_or_not(attrs: dict[str, object]) -> None:
    program = classifier(4096, **attrs)  # type: ignore[arg-type]
    (launch,) = program.plan.launches
    assert (launch.loop_reads is None) == ("label_smoothing" not in attrs), (
        "one more sum along the row makes ptxas spill"
    )
    assert not any(compile_program(program, arch)[0].spills for arch in ARCHS)


@pytest.mark.parametrize("attrs", [{}, {"label_smoothing": 0.1}, {"ignore_index": 7}], ids=str)
def test_loss_and_gradient_err_no_more_than_eager_does(attrs: dict[str, float]) -> None:
    logits, y = drawn(6)
    y[1] = y[4] = int(attrs.get("ignore_index", -100))
    logits[2] *= 1000
    loss, accuracy, gradient = run(classifier(**attrs), logits, y)
    (want, d_want), (eager, d_eager) = (judged(logits.to(dtype), y, attrs) for dtype in (torch.float64, torch.float32))
    for found, oracle, other in ((loss, want, eager), (gradient, d_want, d_eager)):
        unit = torch.finfo(torch.float32).eps * oracle.abs().max()
        assert (found - oracle).abs().max() <= 2 * (other - oracle).abs().max() + 2 * unit
    counted = y != -100
    assert accuracy == (logits.argmax(-1) == y)[counted].float().mean()


def judged(logits: Tensor, y: Tensor, attrs: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Torch's loss and gradient."""
    leaf = logits.clone().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(leaf, y, **attrs)  # type: ignore[arg-type]
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_agree_with_torch(dtype: torch.dtype) -> None:
    logits, y = drawn(3, dtype)
    loss, _, gradient = run(classifier(dtype=str(dtype).removeprefix("torch.")), logits, y)
    want, d_want = judged(logits.double(), y, {})
    eps = torch.finfo(dtype).eps
    assert (loss - want).abs() <= 4 * eps * want and (gradient - d_want).abs().max() <= 4 * eps * d_want.abs().max()


def test_the_first_of_the_largest_is_predicted_and_nan_is_larger_than_all() -> None:
    logits, y = drawn(7)
    logits[0, [70, 4000, 31_999]] = 100  # a tie goes to the first
    logits[1, [70, 4000]] = 100
    logits[2, [9000, 20_000]] = math.nan  # so does one of NaN, though there are infinities
    logits[2, 5] = math.inf
    logits[3] = -math.inf
    logits[4, 31_999] = 100
    logits[5, [3, 4]] = torch.tensor([0.0, -0.0], device=DEVICE)
    logits[5, 5:] = logits[5, :3] = -1
    logits[6, 30_000] = math.inf
    y[:] = torch.tensor([70, 4000, 9000, 0, 31_999, 3, 30_000])
    assert logits.argmax(-1).tolist() == [70, 70, 9000, 0, 31_999, 3, 30_000]
    program = classifier(1)
    for row, right in enumerate([1, 0, 1, 1, 1, 1, 1]):
        loss, accuracy, gradient = run(program, logits[row : row + 1], y[row : row + 1])
        want, d_want = judged(logits[row : row + 1], y[row : row + 1], {})
        assert accuracy == right, row
        torch.testing.assert_close(loss, want, equal_nan=True)
        torch.testing.assert_close(gradient, d_want, equal_nan=True, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("cols", [3001, 16_385, 32_768, 40_001])
def test_the_place_of_the_largest_is_found_with_nothing_beside_it(cols: int, dtype: torch.dtype) -> None:
    """On rows that are held, by a program of many or of its own, and on rows that are walked along."""
    x = torch.randn(4, cols, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    x[1, [cols - 1, 20]] = 9
    x[2, [cols // 2, cols - 1]] = math.nan
    y = torch.stack([x[0].argmin(), *x[1:].argmax(1)])
    place, right = graphs = Graph("place"), Graph("right")
    rows = [graph.input("x", (BATCH, cols), str(dtype).removeprefix("torch.")) for graph in graphs]
    place.output(y=tn.argmax(rows[0], 1))
    right.output(y=tn.accuracy(rows[1], right.input("target", (BATCH,), "int64")))
    assert tn.compile(place, device=DEVICE)(x=x)["y"].equal(x.argmax(1))
    assert tn.compile(right, device=DEVICE)(x=x, target=y)["y"] == 0.75


def test_rows_depend_on_no_others_and_runs_agree_bitwise() -> None:
    program = classifier(reduction="sum")
    logits, y = drawn(5)
    loss, accuracy, gradient = run(program, logits, y)
    for _ in range(4):
        assert all(map(torch.equal, run(program, logits, y), (loss, accuracy, gradient)))
    for i in range(5):
        assert torch.equal(run(program, logits[i : i + 1], y[i : i + 1])[2][0], gradient[i])


def test_a_batch_of_no_rows_has_the_loss_of_eager() -> None:
    logits, y = drawn(0)
    program = classifier()
    loss, _, gradient = run(program, logits, y)
    assert loss.isnan() and gradient.shape == (0, CLASSES)
    logits, y = drawn(2)
    assert run(program, logits, y)[0].isfinite()


def test_sums_that_other_launches_finish_are_shared_by_few_programs() -> None:
    graph = Graph("mean")
    x, y = graph.input("x", (BATCH, CLASSES)), graph.input("y", (BATCH, 8))
    graph.output(y=y * tn.mean(tn.logsumexp(x, -1)))
    program = make_program(graph_of_primitives(graph))
    tiles = [k for k in program.plan.launches if isinstance(k, TileLaunch)]
    assert all(k.kernel.long_rows is None for k in tiles if k.partials and not k.last_block)
    logits, _ = drawn(3)
    feeds = {"x": logits, "y": torch.ones(3, 8, device=DEVICE)}
    (found,) = Runner(program, DEVICE).run(feeds, {"batch": 3}).values()
    torch.testing.assert_close(found, logits.logsumexp(-1).mean().expand(3, 8))


def graph_of_primitives(graph: Graph) -> Graph:
    from tritonnotes.ir.core.rewrite import optimize
    from tritonnotes.ir.passes.decompose import decompose

    return optimize(decompose(graph))
