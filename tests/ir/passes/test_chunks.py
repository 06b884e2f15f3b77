"""A linear layer of many classes, its loss and its gradients, in chunks of rows: as eager PyTorch has them, and the
logits never whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.plan.chunk_loops import chunk_loops
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.report.kernel_reports import make_reports
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import DeclarationError, KernelError, ShapeError
from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.core.types import Dim
from tritonnotes.ir.core.verify import verify, verify_joint
from tritonnotes.ir.passes.chunks import LOGITS_BUDGET, Chunking, in_chunks
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import loss_gradient_graph
from tritonnotes.judge.eager_memory import eager_peak_bytes
from tritonnotes.judge.executor import eager, oracle
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime.capture import CapturedRuns
from tritonnotes.runtime.runner import Runner, pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")
CLASSES, WIDTH = 300, 12
Loss = Callable[[Value, Value, Graph], Value]


def head(loss: Loss, rows: int | Dim = 50, dtype: str = "float32", bias: bool = True) -> Graph:
    g = Graph("head")
    x, y = g.input("x", (rows, WIDTH), dtype), g.input("y", (rows,), "int64")
    h = tn.tanh(tn.linear(x, WIDTH, name="fc"))
    logits = tn.linear(h, CLASSES, bias=bias, name="vocabulary")
    g.output(loss=loss(logits, y, g), accuracy=tn.accuracy(logits, y))
    return g


def weighted(logits: Value, y: Value, g: Graph) -> Value:
    weight = g.buffer("class_weight", (CLASSES,), "uniform", logits.dtype, low=0.5, high=1.5)
    return tn.cross_entropy(logits, y, weight=weight, label_smoothing=0.1)


def focal(logits: Value, y: Value, g: Graph) -> Value:
    losses = tn.cross_entropy(logits, y, reduction="none")
    return tn.mean((1 - tn.exp(-losses)) ** 2.0 * losses)


def to_soft_targets(logits: Value, y: Value, g: Graph) -> Value:
    return tn.cross_entropy(logits, g.input("targets", logits.shape, logits.dtype))


def with_z_loss(logits: Value, y: Value, g: Graph) -> Value:
    return tn.cross_entropy(logits, y) + 1e-2 * tn.mean(tn.logsumexp(logits, 1) ** 2.0)


def capped(logits: Value, y: Value, g: Graph) -> Value:
    return tn.cross_entropy(30.0 * tn.tanh(logits / 30.0), y, ignore_index=7)


LOSSES: dict[str, Loss] = {
    "cross entropy": lambda logits, y, g: tn.cross_entropy(logits, y),
    "sum": lambda logits, y, g: tn.cross_entropy(logits, y, reduction="sum"),
    "weighted, smoothed": weighted,
    "nll": lambda logits, y, g: tn.nll_loss(tn.log_softmax(logits, 1), y),
    "focal": focal,
    "soft targets": to_soft_targets,
    "z-loss": with_z_loss,
    "capped, ignoring": capped,
}


def budget_for(rows: int, itemsize: int = 4) -> int:
    return rows * CLASSES * itemsize


def chunked(graph: Graph, budget: int | None) -> tuple[Graph, tuple[Chunking, ...]]:
    """The gradients of a graph's loss, chunked, and verified."""
    wanted = [v.name for v in graph.leaves("parameter")]
    made, found = in_chunks(loss_gradient_graph(graph, "loss", wanted), budget)
    verify_joint(made)
    return made, found


def drawn(graph: Graph, rows: int, seed: int = 0) -> dict[str, Tensor]:
    leaves = draw_feeds(graph, {"batch": rows}, seed, kinds=("input", "parameter", "buffer"))
    generator = torch.Generator().manual_seed(seed)
    leaves["y"] = torch.randint(0, CLASSES, (rows,), generator=generator)
    if "targets" in leaves:
        leaves["targets"] = torch.softmax(leaves["targets"].double(), 1).to(leaves["targets"].dtype)
    return {name: t.to(DEVICE) for name, t in leaves.items()}


def run(program: Program, leaves: dict[str, Tensor], edit: Callable[[str], str] = lambda s: s) -> dict[str, Tensor]:
    """A run, of a module with another text if one is wanted."""
    runner = Runner(program, DEVICE)
    if (text := edit(program.source)) != program.source:
        runner.module = load_source(text, KernelCache())
    sizes = {"batch": len(leaves["y"])} if program.dims else {}
    return runner.run({b.name: leaves[b.name] for b in program.buffers if b.role == "leaf"}, sizes)


def judged(execute: Any, graph: Graph, leaves: dict[str, Tensor], exact: bool = False) -> dict[str, Tensor]:
    """Outputs and gradients by autograd through the references."""
    state = {v.name: leaves[v.name].double() if exact else leaves[v.name] for v in graph.leaves("parameter", "buffer")}
    state = {n: t.clone().requires_grad_() if graph[n].op.name == "parameter" else t for n, t in state.items()}
    outputs = execute(graph, {v.name: leaves[v.name] for v in graph.inputs}, state, training=True)
    trained = {n: t for n, t in state.items() if t.requires_grad}
    found = torch.autograd.grad(outputs["loss"], list(trained.values()))
    made = {n: t.detach() for n, t in outputs.items()}
    return made | {f"gradient.{n}": d for n, d in zip(trained, found, strict=True)}


def assert_as_eager(graph: Graph, program: Program, rows: int, seed: int = 0) -> None:
    leaves = drawn(graph, rows, seed)
    mine = run(program, leaves)
    theirs, truth = judged(eager, graph, leaves), judged(oracle, graph, leaves, exact=True)
    assert mine.keys() == theirs.keys()
    wrong = {n: str(c) for n in mine if not (c := compare(mine[n], theirs[n], truth[n])).ok}
    assert not wrong, wrong


# -- as eager PyTorch has it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_eagers_within_the_policy(name: str) -> None:
    """50 rows in chunks of 16: the last one has 2."""
    graph = head(LOSSES[name])
    made, (chunking,) = chunked(graph, budget_for(16))
    assert chunking.rows == 16 and not chunking.reason, chunking
    assert len(chunk_loops(make_plan(made, "greedy").launches)) == 1, "one loop for all results"
    # Searching for the best plan of a large region takes seconds, and is tested where one is small.
    assert_as_eager(graph, make_program(made, "optimal" if name == "cross entropy" else "greedy", graph), 50)


STEPS_BEFORE: tuple[Callable[[Value], Value], ...] = (
    lambda v: 3.0 * tn.tanh(v),
    lambda v: v - tn.mean(v, 1, keepdim=True),
    lambda v: tn.where(v > 0, v, 0.2 * v),
    lambda v: v / (1 + tn.sum(abs(v), 1, keepdim=True) / 100.0),
)
ENDS: tuple[Loss, ...] = (
    lambda v, y, g: tn.cross_entropy(v, y),
    lambda v, y, g: tn.mean(tn.cross_entropy(v, y, reduction="none") * tn.cast(y, v.dtype) * 0.01),
    lambda v, y, g: tn.mean(tn.sum(tn.softmax(v, 1) * tn.log_softmax(v, 1), 1)),
    lambda v, y, g: tn.multi_margin_loss(v, y),
    lambda v, y, g: tn.sum(tn.logsumexp(v, 1)),
)


@pytest.mark.parametrize("seed", range(8))
def test_losses_that_are_drawn_at_random_are_eagers(seed: int) -> None:
    draw = random.Random(seed)

    def loss(logits: Value, y: Value, g: Graph) -> Value:
        for _ in range(draw.randrange(3)):
            logits = draw.choice(STEPS_BEFORE)(logits)
        return draw.choice(ENDS)(logits, y, g)

    rows = draw.choice((17, 33, 50, 64, 100))
    graph = head(loss, rows)
    made, (chunking,) = chunked(graph, min(budget_for(draw.choice((16, 32))), budget_for(rows) - 1))
    assert not chunking.reason, chunking
    assert_as_eager(graph, make_program(made, "greedy", graph), rows, seed)


@pytest.mark.parametrize(("rows", "budget"), [(33, 16), (64, 32), (7, 16), (100, 64), (17, 16)])
def test_any_number_of_rows_in_chunks_of_any_size(rows: int, budget: int) -> None:
    graph = head(LOSSES["cross entropy"], rows, "float64", bias=rows % 2 == 0)
    made, found = chunked(graph, min(budget_for(budget, 8), budget_for(rows, 8) - 1))
    assert found and not found[0].reason
    assert_as_eager(graph, make_program(made, declared=graph), rows, seed=rows)


def test_one_program_serves_every_batch_even_an_empty_one() -> None:
    graph = head(LOSSES["cross entropy"], BATCH)
    made, _ = chunked(graph, budget_for(16))
    program = make_program(made, declared=graph)
    for rows in (0, 1, 16, 33):
        assert_as_eager(graph, program, rows, seed=rows)


@pytest.mark.parametrize("name", ["begin", "chunk", "rows"])
def test_a_dim_may_be_called_as_the_loop_calls_its_own(name: str) -> None:
    graph = head(LOSSES["cross entropy"], Dim(name))
    program = make_program(chunked(graph, budget_for(16))[0], declared=graph)
    leaves = draw_feeds(graph, {name: 20}, kinds=("input", "parameter"))
    leaves["y"] = leaves["y"] % CLASSES
    found = Runner(program, DEVICE).run({n: t.to(DEVICE) for n, t in leaves.items()}, {name: 20})
    theirs = judged(eager, graph, {n: t.to(DEVICE) for n, t in leaves.items()})
    torch.testing.assert_close(found, theirs)


def test_a_dim_called_as_the_rows_of_a_chunk_keeps_logits_whole() -> None:
    made, (chunking,) = chunked(head(LOSSES["cross entropy"], Dim("chunk.rows")), budget_for(16))
    assert "a Dim of the graph is called chunk.rows; call it otherwise" in str(chunking)
    assert not any(v.op.name == "chunked" for v in made.values)


def test_the_graph_means_the_same_in_numpy() -> None:
    graph = head(LOSSES["weighted, smoothed"], dtype="float64")
    made, _ = chunked(graph, budget_for(16, 8))
    leaves = {n: t.cpu() for n, t in drawn(graph, 50).items()}
    found = evaluate(made, {n: t.numpy() for n, t in leaves.items()})
    truth = judged(oracle, graph, leaves, exact=True)
    for name, value in made.outputs.items():
        torch.testing.assert_close(torch.as_tensor(found[value]), truth[name], rtol=1e-10, atol=1e-12)


def test_bfloat16_adds_chunks_up_in_float32() -> None:
    graph = tn.autocast(head(LOSSES["cross entropy"], 70), "bfloat16")
    made, (chunking,) = chunked(graph, budget_for(16, 2))
    assert not chunking.reason and chunking.row_bytes == 2 * CLASSES
    sums = [v for v in made.values if v.op.name == "chunked" and v.shape in ((CLASSES, WIDTH), (1, CLASSES))]
    assert len(sums) == 2 and all(v.dtype.name == "float32" for v in sums)
    assert_as_eager(graph, make_program(made, declared=graph), 70)


def test_runs_give_the_same_bits() -> None:
    graph = head(LOSSES["cross entropy"])
    program = make_program(chunked(graph, budget_for(16))[0], declared=graph)
    leaves = drawn(graph, 50)
    first = run(program, leaves)
    for _ in range(3):
        again = run(program, leaves)
        assert all(torch.equal(first[n], again[n]) for n in first)


# -- a training step ---------------------------------------------------------------------------------------------------

STEPS: dict[str, dict[str, Any]] = {
    "adam": {},
    # Under this plan a sum could be finished before what it waits for, were it not asked again at the end.
    "accumulated": {"accumulate": 2, "fusion": "optimal"},
    "clipped": {"optimizer": tn.clip(tn.sgd(lr=0.1), max_norm=0.05)},
    "scaled": {"scaler": tn.GradScaler(init_scale=64.0)},
}


@pytest.mark.parametrize("how", STEPS)
def test_a_step_trains_as_one_with_whole_logits(how: str) -> None:
    options = {"optimizer": tn.adam(lr=1e-2), "seed": 3, "fusion": "greedy", **STEPS[how]}
    whole, parts = (
        tn.compile_step(head(LOSSES["cross entropy"], BATCH, "float64"), logits_budget=b, **options)
        for b in (None, budget_for(16, 8))
    )
    assert "chunk loop" in str([k.kind for p in parts._programs.in_order for k in p.plan.launches])
    for turn, rows in enumerate((50, 50, 20, 7)):
        leaves = drawn(whole.graph, rows, turn)
        feeds = {v.name: leaves[v.name] for v in whole.graph.inputs}
        first, second = whole(**feeds), parts(**feeds)
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dict(whole.model.state_dict()), dict(parts.model.state_dict()), rtol=1e-9, atol=1e-11)


def test_gradients_that_processes_share_are_of_all_chunks(tmp_path: Path) -> None:
    options = {"optimizer": tn.sgd(lr=0.1), "seed": 3}
    whole = tn.compile_step(head(LOSSES["cross entropy"], BATCH, "float64"), logits_budget=None, **options)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        graph = head(LOSSES["cross entropy"], BATCH, "float64")
        parts = tn.compile_step(graph, logits_budget=budget_for(16, 8), data_parallel=True, **options)
        assert parts.gathering is not None and parts.gathering.loops
        for turn, rows in enumerate((50, 33)):
            leaves = drawn(graph, rows, turn)
            feeds = {v.name: leaves[v.name] for v in graph.inputs}
            torch.testing.assert_close(whole(**feeds), parts(**feeds), rtol=1e-10, atol=1e-12)
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(dict(whole.model.state_dict()), dict(parts.model.state_dict()), rtol=1e-10, atol=1e-12)


def test_a_replayed_step_reads_its_numbers_from_memory() -> None:
    def scaled(logits: Value, y: Value, g: Graph) -> Value:
        return tn.mean(tn.cross_entropy(logits, y, reduction="none"))  # divides by the number of rows, on the host

    options = {"optimizer": tn.sgd(lr=0.1), "seed": 3, "logits_budget": budget_for(16)}
    plain, captured = (tn.compile_step(head(scaled, BATCH), **options) for _ in range(2))
    captured._runner.captured = CapturedRuns(captured.program, torch.device("cpu"), capture=lambda launch: launch)
    for turn, rows in enumerate((33, 33, 33, 20, 20)):
        leaves = {n: t.cpu() for n, t in drawn(plain.graph, rows, turn).items()}
        feeds = {v.name: leaves[v.name] for v in plain.graph.inputs}
        for step in (plain, captured):
            step.hyperparameters["lr"] = 0.1 / (turn + 1)
        first, second = plain(**feeds), captured(**feeds)
        assert torch.equal(first["loss"], second["loss"])
    first, second = plain.model.state_dict(), captured.model.state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert captured.graph_reason is None


def test_the_kernels_of_a_chunk_compile_and_have_cards() -> None:
    program = make_program(chunked(head(LOSSES["cross entropy"], BATCH), budget_for(16))[0])
    reports = make_reports(program, 90)
    names = {c.name for c in reports}
    assert names == {k.name for k in program.kernels} and names & set(program.loops)
    assert not any(c.spilled_bytes for c in reports)
    assert not any(report.spills for report in compile_program(program, 80))


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_no_buffer_holds_the_logits() -> None:
    graph = head(LOSSES["cross entropy"], 1000)
    made, _ = chunked(graph, budget_for(64))
    assert not any(v.shape == (1000, CLASSES) for v in made.values)
    most = max(b.bytes({}, 1) for b in make_program(made).buffers)
    assert most <= budget_for(64)
    whole = make_program(loss_gradient_graph(graph, "loss", ["vocabulary.weight"]))
    assert max(b.bytes({}, 1) for b in whole.buffers) == budget_for(1000)


ROWS, MANY, WIDE = 8192, 32000, 1024


def large() -> Graph:
    """8,192 tokens, 32,000 classes, 1,024 wide; what the layer takes wants a gradient too."""
    g = Graph("large")
    x, y = g.parameter("x", (ROWS, WIDE)), g.input("y", (ROWS,), "int64")
    g.output(loss=tn.cross_entropy(tn.linear(x, MANY, bias=False, name="vocabulary"), y))
    return g


def ligers_bytes() -> tuple[int, int]:
    """The rows of a chunk and the peak by the rule of Liger's fused linear cross entropy: as many rows that the logits
    of a chunk take what the layer's input does, overwritten by their gradient, beside both gradients and the losses."""
    share = -(-MANY // WIDE)
    rows = 1 << (-(-ROWS // share) - 1).bit_length()
    return rows, 4 * (rows * MANY + MANY * WIDE + ROWS * WIDE + ROWS)


def test_peak_memory_is_a_tenth_of_eagers_and_near_ligers_rule() -> None:
    graph = large()
    eagers = eager_peak_bytes(graph, "loss", {})
    rows, ligers = ligers_bytes()
    whole = make_program(chunked(graph, None)[0]).peak_bytes()
    mine = make_program(chunked(graph, LOGITS_BUDGET)[0]).peak_bytes()
    as_ligers = make_program(chunked(graph, 4 * rows * MANY)[0]).peak_bytes()
    assert eagers is not None and rows == 256
    assert mine < whole / 7 and mine < eagers / 10
    # Both gradients of a chunk and its logits live at one time here, where Liger writes one over the other.
    assert ligers < as_ligers < ligers + 4 * rows * MANY + 2**20
    assert mine < 1.51 * ligers
    gradients = 4 * (MANY * WIDE + ROWS * WIDE)
    assert mine < gradients + 2 * LOGITS_BUDGET + 2**20


def test_bytes_and_launches_count_every_chunk() -> None:
    graph = head(LOSSES["cross entropy"])
    program = make_program(chunked(graph, budget_for(16))[0])
    (loop,) = {id(k): k for k in program.loops.values()}.values()
    inner = loop.plan
    assert loop.launch_count({}) == len(loop.sums) + 4 * len(inner.launches)
    zeros = sum(4 * v.shape[0] * v.shape[1] for _, v in loop.sums)  # type: ignore[operator]
    added = 4 * 4 * CLASSES * WIDTH  # the product on top of the weight's gradient reads it, in each of 4 chunks
    moved = 3 * inner.bytes_moved({"chunk.rows": 16}) + inner.bytes_moved({"chunk.rows": 2})
    assert loop.bytes_moved() == moved + zeros + added


def test_plan_and_explanation_say_so() -> None:
    step = tn.compile_step(head(LOSSES["cross entropy"]), optimizer=tn.sgd(lr=0.1), logits_budget=budget_for(16))
    assert "16 of 50 rows at a time" in str(step.plan)
    text = step.explain()
    assert "vocabulary.product of 50 rows would take 60,000 bytes, the budget is 19,200" in text
    assert "16 rows at a time, in 4 chunks of 19,200 bytes; the full logits are never materialized" in text
    assert "launches over 4 chunks" in text


def test_the_forward_run_alone_is_chunked_too() -> None:
    graph = head(LOSSES["cross entropy"])
    made, (chunking,) = in_chunks(optimize(decompose(graph)), budget_for(16))
    assert not chunking.reason
    leaves = drawn(graph, 50)
    mine, theirs = run(make_program(made), leaves), judged(eager, graph, leaves)
    torch.testing.assert_close(mine["loss"], theirs["loss"])
    assert torch.equal(mine["accuracy"], theirs["accuracy"])


# -- what stays whole, and why -----------------------------------------------------------------------------------------


def test_what_fits_the_budget_is_left_alone() -> None:
    graph = head(LOSSES["cross entropy"])
    joint = loss_gradient_graph(graph, "loss", ["vocabulary.weight"])
    assert in_chunks(joint, budget_for(50)) == (joint, ())
    assert in_chunks(joint, None) == (joint, ())
    dynamic = loss_gradient_graph(head(LOSSES["cross entropy"], BATCH), "loss", ["vocabulary.weight"])
    assert in_chunks(dynamic, budget_for(16_384)) == (dynamic, ())
    assert in_chunks(dynamic, budget_for(16_384) - 1)[1][0].rows == 8192


def test_layers_before_the_last_are_no_logits() -> None:
    g = Graph("deep")
    x, y = g.input("x", (50, WIDTH)), g.input("y", (50,), "int64")
    h = tn.relu(tn.linear(x, 400, name="wide"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 5, name="few"), y))
    forward = optimize(decompose(g))
    assert in_chunks(forward, budget_for(16)) == (forward, ())
    joint = loss_gradient_graph(g, "loss", ["wide.weight", "few.weight"])
    assert in_chunks(joint, budget_for(16)) == (joint, ())


def _as_output(g: Graph, logits: Value, y: Value) -> None:
    g.output(logits=logits, loss=tn.cross_entropy(logits, y))


def _over_rows(g: Graph, logits: Value, y: Value) -> None:
    g.output(loss=tn.cross_entropy(logits - tn.mean(logits, 0), y))


def _largest_of_rows(g: Graph, logits: Value, y: Value) -> None:
    g.output(loss=tn.cross_entropy(tn.softmax(logits, 0), y))


def _all_rows_first(g: Graph, logits: Value, y: Value) -> None:
    losses = tn.cross_entropy(logits, y, reduction="none")
    g.output(loss=tn.mean(losses) ** 2.0)


def _dropped(g: Graph, logits: Value, y: Value) -> None:
    g.output(loss=tn.cross_entropy(tn.dropout(logits, 0.3), y))


REFUSED = {
    "output": (_as_output, "is the output 'logits'"),
    "a mean over rows": (_over_rows, "mean is known only once all rows are"),
    "a softmax over rows": (_largest_of_rows, "needs more of them than one row at a time"),
    "the loss in the gradient": (_all_rows_first, "is known only once all rows are"),
    "random numbers": (_dropped, "draws random numbers by the number of the row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_local_to_rows_stays_whole_and_says_why(case: str) -> None:
    declare, reason = REFUSED[case]
    g = Graph("refused")
    x, y = g.input("x", (50, WIDTH)), g.input("y", (50,), "int64")
    declare(g, tn.linear(x, CLASSES, name="vocabulary"), y)
    step = tn.compile_step(g, optimizer=tn.sgd(lr=0.1), logits_budget=budget_for(16))
    assert "not chunked, as" in step.explain() and reason in step.explain()
    assert not step.program.loops


@pytest.mark.parametrize("budget", [0, -1, True, 1e6, "64 MiB"])
def test_a_budget_is_a_number_of_bytes(budget: Any) -> None:
    with pytest.raises(DeclarationError, match="logits_budget is .*give the bytes"):
        tn.compile_step(head(LOSSES["sum"]), optimizer=tn.sgd(lr=0.1), logits_budget=budget)


def test_a_chunked_graph_reads_back_from_text_and_json_and_is_verified() -> None:
    made, _ = chunked(head(LOSSES["cross entropy"], BATCH), budget_for(16))
    for read in (Graph.from_text(str(made)), Graph.from_json(made.to_json())):
        verify(read)
        assert str(read) == str(made) and same_graph(read, made)
        assert len({v.attrs["region"] for v in read.values if v.op.name == "chunked"}) == 1, "they share one region"
    node = next(v for v in made.values if v.op.name == "chunked")
    for attrs in ({"which": 99}, {"rows": 0}, {"region": ("graph chunk primitive",)}, {"region": made}):
        with pytest.raises((ShapeError, DeclarationError)):
            node.op.infer(node.inputs, {**node.attrs, **attrs})  # type: ignore[union-attr]
    with pytest.raises(DeclarationError, match="take its gradient before"):
        node.op.vjp(node, node, *node.inputs, **node.attrs)  # type: ignore[union-attr]


# -- bugs that were planted --------------------------------------------------------------------------------------------

PLANTED: dict[str, Callable[[str], str]] = {
    "sums that do not begin at 0": lambda s: s.replace(".zero_()", ".fill_(1)"),
    "sums that begin anew": lambda s: s.replace("torch.addmm(", "torch.addmm(0 * "),
    "the last chunk left out": lambda s: s.replace("in range(0, 50, 16)", "in range(0, 48, 16)"),
    "a chunk that overlaps": lambda s: s.replace("in range(0, 50, 16)", "in range(0, 50, 15)"),
    "targets of the first chunk": lambda s: s.replace('t["y"][begin : begin + chunk_rows]', 't["y"][:chunk_rows]'),
}


@pytest.mark.interpreted  # a recorded run would not read the module's other text
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_noticed(bug: str) -> None:
    graph = head(LOSSES["cross entropy"])
    program = make_program(chunked(graph, budget_for(16))[0], declared=graph)
    leaves = drawn(graph, 50)
    assert PLANTED[bug](program.source) != program.source
    try:
        mine = run(program, leaves, PLANTED[bug])
    except KernelError:
        return
    theirs, truth = judged(eager, graph, leaves), judged(oracle, graph, leaves, exact=True)
    assert not all(compare(mine[n], theirs[n], truth[n]).ok for n in mine)
