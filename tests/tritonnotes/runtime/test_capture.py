"""Captured runs: a step that is replayed leaves the bits of one that is launched, and says why where it cannot be.

Without a GPU a fake stands in for the graph. While it captures it records what each kernel is launched with: the
kernel, the grid, tensors as places, numbers as they are then. It replays exactly these, between the same library calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import digits

import tritonnotes as tn
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.runtime.capture import CapturedRuns
from tritonnotes.runtime.executors.executor import Launch

Launched = tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]

CPU = torch.device("cpu")
BATCH = tn.Dim("batch")
CASES = {
    "clipped": (lambda: digits(), tn.clip(tn.adamw(lr=1e-2), 0.1)),
    "random numbers": (lambda: noisy(), tn.adam(lr=1e-2)),
    "float64": (lambda: digits("float64"), tn.adam(lr=1e-2)),
}


def noisy() -> Graph:
    """A step that draws random numbers, with batch statistics."""
    g = Graph("noisy")
    x, y = g.input("x", (BATCH, 20)), g.input("y", (BATCH,), "int64")
    h = tn.dropout(tn.relu(tn.batch_norm(tn.linear(x, 33, name="fc1"), name="bn1")), 0.4)
    g.output(loss=tn.cross_entropy(tn.linear(h, 5, name="fc2"), y))
    return g


class Graphs:
    """Records what is launched while it captures, as a graph keeps it, and launches that again. Counts both."""

    def __init__(self) -> None:
        self.runs: CapturedRuns | None = None
        self.captured = 0
        self.replayed = 0

    def __call__(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        assert self.runs is not None
        (*_, fixed) = self.runs._fixed.values()
        before = {name: tensor.clone() for name, tensor in fixed.tensors.items()}
        recorded: list[Launched] = []

        def recording(launch: Launch) -> Launch:
            def keep(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
                kernel, arguments = self.kept(kernel, arguments, fixed)
                recorded.append((kernel, grid, arguments, dict(options)))
                launch(kernel, grid, *arguments, **options)

            return keep

        self._through(recording, launch_all)
        for name, tensor in before.items():  # A capture launches nothing.
            fixed.tensors[name].copy_(tensor)

        def replay() -> None:
            self.replayed += 1
            kept = iter(recorded)

            def as_recorded(launch: Launch) -> Launch:
                def again(*_: Any, **__: Any) -> None:
                    kernel, grid, arguments, options = next(kept)
                    launch(kernel, grid, *arguments, **options)

                return again

            self._through(as_recorded, launch_all)
            assert next(kept, None) is None

        return replay

    def kept(self, kernel: Any, arguments: tuple[Any, ...], fixed: Any) -> tuple[Any, tuple[Any, ...]]:
        return kernel, arguments

    def _through(self, around: Callable[[Launch], Launch], launch_all: Callable[[], None]) -> None:
        assert self.runs is not None
        runner, usual = self.runs.runner, self.runs.runner.around
        runner.around = around
        try:
            launch_all()
        finally:
            runner.around = usual


class ByValue(Graphs):
    """A planted bug: kernels are given numbers of their own, and not those that are written before each replay."""

    def kept(self, kernel: Any, arguments: tuple[Any, ...], fixed: Any) -> tuple[Any, tuple[Any, ...]]:
        start = fixed.numbers.data_ptr()
        places = range(start, start + fixed.numbers.nbytes)
        given = (a.clone() if isinstance(a, torch.Tensor) and a.data_ptr() in places else a for a in arguments)
        return kernel, tuple(given)


def captured_step(graph: Graph, optimizer: Any, capture: Any, most: int = 8) -> tn.TrainingStep:
    step = tn.compile_step(graph, optimizer=optimizer, seed=3)
    step._runner.captured = CapturedRuns(step.program, CPU, capture=capture, most=most)
    if isinstance(capture, Graphs):
        capture.runs = step._runner.captured
    return step


def everything(step: tn.TrainingStep, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**outputs, **step.model.state_dict(), **step.slots}


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps_give_the_bits_of_launched_ones_while_numbers_and_sizes_change(case: str) -> None:
    graphs = Graphs()
    build, optimizer = CASES[case]
    plain = tn.compile_step(build(), optimizer=optimizer, seed=3)
    captured = captured_step(build(), optimizer, graphs)
    kept = []
    for turn, batch in enumerate((6, 6, 6, 3, 6, 3, 3)):
        for step in (plain, captured):
            step.hyperparameters["lr"] = 1e-2 / (turn + 1)
        feeds = draw_feeds(build(), {"batch": batch}, seed=turn)
        first, second = everything(plain, plain(**feeds)), everything(captured, captured(**feeds))
        assert [n for n in first if not torch.equal(first[n], second[n])] == [], f"step {turn}"
        kept.append((second["loss"], first["loss"].clone()))
    assert (graphs.captured, graphs.replayed) == (2, 5), "each size is launched once, then captured once"
    assert all(torch.equal(*losses) for losses in kept), "a later step writes over no output of an earlier one"
    assert captured.graph_reason is None


def test_what_torch_makes_is_copied_to_where_tables_have_it() -> None:
    """Weights whose gradients are torch's: the launches of a replay find this run's gradients at the first run's
    places."""
    module = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(24, 5))
    graph = tn.from_torch(module, torch.rand(4, 3, 8), loss=torch.nn.functional.cross_entropy)
    plain = tn.compile_step(graph, optimizer=tn.adam(lr=1e-2), seed=3)
    captured = captured_step(graph, tn.adam(lr=1e-2), lambda launch_all: launch_all)
    for turn, batch in enumerate((6, 6, 3, 6, 3, 3)):
        feeds = draw_feeds(graph, {"batch": batch}, seed=turn)
        first, second = everything(plain, plain(**feeds)), everything(captured, captured(**feeds))
        assert [n for n in first if not torch.equal(first[n], second[n])] == [], f"step {turn}"
    assert captured._runner.captured is not None and captured.graph_reason is None
    assert [len(fixed.tables) for fixed in captured._runner.captured._fixed.values()] == [1, 1]


def test_a_number_that_is_baked_in_would_be_noticed() -> None:
    """The same with numbers left in memory as they were."""
    graphs = Graphs()
    plain = tn.compile_step(digits(), optimizer=tn.sgd(lr=1e-2), seed=3)
    captured = captured_step(digits(), tn.sgd(lr=1e-2), graphs)
    assert captured._runner.captured is not None
    feeds = draw_feeds(digits(), {"batch": 6})
    for step in (plain, captured, plain, captured):
        step(**feeds)
    (fixed,) = captured._runner.captured._fixed.values()
    fixed.tell = lambda numbers: None  # type: ignore[method-assign]
    for step in (plain, captured):
        step.hyperparameters["lr"] = 1.0
        step(**feeds)
    first, second = plain.model.state_dict(), captured.model.state_dict()
    assert not all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("number", ["lr", "seed"])
def test_a_number_that_a_launch_is_given_by_value_would_be_noticed(number: str) -> None:
    plain = tn.compile_step(noisy(), optimizer=tn.sgd(lr=1e-2), seed=3)
    captured = captured_step(noisy(), tn.sgd(lr=1e-2), ByValue())
    feeds = draw_feeds(noisy(), {"batch": 6})
    same = []
    for turn in range(3):
        for step in (plain, captured):
            if number == "lr":
                step.steps, step.hyperparameters["lr"] = 0, 1e-2 / (turn + 1)
            first, second = plain.model.state_dict(), captured.model.state_dict()
            step(**feeds)
        same.append(all(torch.equal(first[n], second[n]) for n in first))
    assert same == [True, True, False], "launched, captured with its own number, replayed with an old one"


def test_sizes_beyond_the_bound_are_captured_anew() -> None:
    graphs = Graphs()
    step = captured_step(digits(), tn.sgd(lr=1e-2), graphs, most=2)
    assert step._runner.captured is not None
    feeds = {batch: draw_feeds(digits(), {"batch": batch}) for batch in (2, 3, 4)}
    for batch in (2, 2, 3, 3, 2, 4, 4, 2):
        step(**feeds[batch])
        assert len(step._runner.captured._fixed) <= 2
    assert graphs.captured == 3, "3 was used longest ago, so that 2 is still there"
    step(**feeds[3])
    step(**feeds[3])
    assert graphs.captured == 4


def test_moved_weights_are_captured_anew() -> None:
    graphs = Graphs()
    step = captured_step(digits(), tn.sgd(lr=1e-2), graphs)
    feeds = draw_feeds(digits(), {"batch": 4})
    for _ in range(3):
        step(**feeds)
    weight = dict(step.model.named_parameters())["fc1.weight"]
    weight.data = weight.data.clone()
    before = weight.detach().clone()
    for count in (1, 2):
        step(**feeds)
        assert graphs.captured == count
    assert not torch.equal(weight, before)


def test_one_refusal_leaves_other_sizes_to_be_captured() -> None:
    graphs, refused = Graphs(), []

    def capture(launch_all: Callable[[], None]) -> Callable[[], None]:
        if not refused:
            refused.append(1)
            raise RuntimeError("out of memory")
        return graphs(launch_all)

    step = captured_step(digits(), tn.adam(), capture)
    graphs.runs = step._runner.captured
    for rows in (4, 4, 5, 5, 5):
        step(**draw_feeds(digits(), {"batch": rows}))
    assert graphs.captured == 1
    assert step.graph_reason is not None and "batch=4: out of memory; free memory" in step.graph_reason


def test_another_precision_is_captured_anew() -> None:
    graphs, asked = Graphs(), torch.backends.cuda.matmul
    step = captured_step(digits(), tn.adam(), graphs)
    feeds, before = draw_feeds(digits(), {"batch": 4}), asked.allow_tf32
    try:
        for wanted in (False, True):
            asked.allow_tf32 = wanted
            for _ in range(3):
                step(**feeds)
    finally:
        asked.allow_tf32 = before
    assert graphs.captured == 2


def test_a_refused_capture_says_why_and_the_step_goes_on() -> None:
    def refuse(launch_all: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    plain, captured = tn.compile_step(digits(), optimizer=tn.adam(), seed=3), captured_step(digits(), tn.adam(), refuse)
    feeds = draw_feeds(digits(), {"batch": 4})
    for _ in range(3):
        first, second = everything(plain, plain(**feeds)), everything(captured, captured(**feeds))
        assert all(torch.equal(first[n], second[n]) for n in first)
    assert captured.graph_reason == (
        "capture refused for batch=4: operation not permitted when stream is capturing; "
        "free memory, or call capture() again"
    )


def test_without_a_gpu_kernels_are_launched_one_by_one_and_the_reason_is_told() -> None:
    step = tn.compile_step(digits(), optimizer=tn.adam(), device="cpu")
    assert step.graph_reason == "capture() was not asked for"
    step.capture()
    assert step.graph_reason == "cpu is no GPU, so kernels are launched one by one"
    assert step(**draw_feeds(digits(), {"batch": 4}))["loss"].isfinite()


@pytest.mark.parametrize("build", [digits, noisy])
def test_kernels_with_numbers_in_memory_compile_and_spill_no_more(build: Callable[[], Graph]) -> None:
    step = captured_step(build(), tn.adam(), Graphs())
    assert step._runner.captured is not None
    program = step._runner.captured.runner.program
    assert "step_size = tl.load(step_size_ptr).to(tl.float32)" in program.source
    assert "step_size_ptr" not in step.source
    plain, reading = ([k.spills for k in compile_program(p, 90)] for p in (step.program, program))
    assert plain == reading


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to capture on")
def test_a_gpu_replays_what_it_launches() -> None:
    plain, captured = (tn.compile_step(noisy(), optimizer=tn.adam(lr=1e-2), seed=3) for _ in range(2))
    captured.capture()
    for turn, batch in enumerate((6, 6, 6, 3, 6, 3, 3)):
        feeds = {n: t.cuda() for n, t in draw_feeds(noisy(), {"batch": batch}, seed=turn).items()}
        for step in (plain, captured):
            step.hyperparameters["lr"] = 1e-2 / (turn + 1)
        first, second = everything(plain, plain(**feeds)), everything(captured, captured(**feeds))
        assert all(torch.equal(first[n], second[n]) for n in first)
    assert captured.graph_reason is None
