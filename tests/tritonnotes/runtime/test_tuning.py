"""Tiles and warps by timing, with clocks that lie as told: what is chosen, written, kept, and left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton.runtime.errors
from compiled import digits
from fake_cuda import CudaError, fake_cuda

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.lower.tile_ir import Kernel
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.support.sizes import Sizes
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.runtime.runner import Runner
from tritonnotes.runtime.tuning import candidates, tuned
from tritonnotes.training import step_programs

CPU = torch.device("cpu")
SIZES = Sizes(40)


def norm() -> Program:
    graph = Graph("norm")
    graph.output(y=tn.layer_norm(graph.input("x", (tn.Dim("batch"), 200)), name="ln"))
    return make_program(optimize(decompose(graph)))


def clock(*times: float) -> tuple[Callable[[Callable[[], None]], float], list[float]]:
    """A timer that runs what it is given and says the next of these times; and those that are left."""
    left = list(times)

    def timer(once: Callable[[], None]) -> float:
        once()
        return left.pop(0)

    return timer, left


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[KernelCache]:
    yield KernelCache(tmp_path / "cache")


def test_the_fastest_takes_the_rules_place_and_stands_beside_the_kernel(cache: KernelCache) -> None:
    program = norm()
    (kernel,) = program.kernels
    found = candidates(kernel)
    assert len(found) == 9 and found[0].rows == kernel.layout.row_block
    times = [10.0] * len(found)
    times[4] = 5.0
    timer, left = clock(*times)
    faster = tuned(program, CPU, SIZES, timer=timer, cache=cache, progress=False)
    assert not left
    choice = faster.kernels[0].layout.tuned
    assert choice is not None and (choice.rows, choice.num_warps) == (found[4].rows, found[4].num_warps)
    assert f"ROWS={choice.rows}" in faster.source and f"num_warps={choice.num_warps}" in faster.source
    assert "by timing on another timer: 5.0 µs, where the rules'" in faster.source
    assert not compile_program(faster, 90)[0].spills
    leaves = {"x": torch.randn(40, 200), "ln.weight": torch.rand(200), "ln.bias": torch.rand(200)}
    results = [Runner(p, CPU).run(leaves, {"batch": 40})["y"] for p in (program, faster)]
    assert torch.equal(*results)


def test_what_was_chosen_is_kept_for_its_sizes(cache: KernelCache) -> None:
    program = norm()
    count = len(candidates(program.kernels[0]))
    first = tuned(program, CPU, SIZES, timer=clock(*range(count, 0, -1))[0], cache=cache, progress=False)

    def never(once: Callable[[], None]) -> float:
        raise AssertionError("timed again")

    again = tuned(program, CPU, SIZES, timer=never, cache=cache, progress=False)
    assert again.source == first.source != program.source
    with pytest.raises(AssertionError, match="timed again"):
        tuned(program, CPU, Sizes(41), timer=never, cache=cache, progress=False)


def test_a_little_faster_is_noise(cache: KernelCache) -> None:
    program = norm()
    times = [10.0, *[9.9] * (len(candidates(program.kernels[0])) - 1)]
    assert tuned(program, CPU, SIZES, timer=clock(*times)[0], cache=cache, progress=False).source == program.source


def test_a_tile_without_masks_stays_a_divisor() -> None:
    graph = Graph("exact")
    graph.output(y=tn.softmax(graph.input("x", (6, 2048)), -1))
    (kernel,) = make_program(optimize(decompose(graph))).kernels
    assert not kernel.layout.masks_rows and {c.rows for c in candidates(kernel)} <= {1, 2}


def test_a_whole_step_is_timed_kernel_by_kernel(cache: KernelCache) -> None:
    """Every candidate runs under the strict interpreter, and the step still takes the same numbers."""
    program = make_program(joint_graph(digits(), "loss", tn.adam()), Fusion(products=False))
    seen: list[int] = []

    def timer(once: Callable[[], None]) -> float:
        once()
        seen.append(1)
        return 1.0 / len(seen)

    faster = tuned(program, CPU, SIZES, timer=timer, cache=cache, progress=False)
    assert len(seen) == sum(len(candidates(k)) for k in program.kernels) > 30
    assert sum(isinstance(k, Kernel) and k.layout.tuned is not None for k in faster.kernels) > 3


def test_both_programs_of_accumulated_batches_are_tuned(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the batches after it are gathered by the new one, to the same numbers."""
    graph = Graph("normed")
    x, y = graph.input("x", (tn.Dim("batch"), 12)), graph.input("y", (tn.Dim("batch"),), "int64")
    graph.output(loss=tn.cross_entropy(tn.linear(tn.layer_norm(x, name="ln"), 5, name="fc"), y))
    seen: list[int] = []

    def timer(once: Callable[[], None]) -> float:
        once()
        seen.append(1)
        return 1.0 / len(seen)

    def by_this_clock(*given: Any, progress: bool) -> Program:
        return tuned(*given, timer=timer, cache=cache, progress=progress)

    monkeypatch.setattr(step_programs, "tuned", by_this_clock)
    steps = [tn.compile_step(graph, optimizer=tn.sgd(lr=0.1), accumulate=2, device="cpu") for _ in range(2)]
    plain, step = steps
    before = step.gathering
    step.tune(batch=40, progress=False)
    assert step.gathering is not None and before is not None and step.gathering.source != before.source
    assert step._runner.gathering is not None and step._runner.gathering.program is step.gathering
    assert step._runner.updating.program is step.program
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        fed = {"x": torch.randn(40, 12, generator=generator), "y": torch.randint(0, 5, (40,), generator=generator)}
        for each in steps:
            each(**fed)
    torch.testing.assert_close(dict(step.model.state_dict()), dict(plain.model.state_dict()))


def test_without_a_gpu_tuning_says_so() -> None:
    step: Any = tn.compile_step(digits(), loss="loss", optimizer=tn.adam(), device="cpu")
    for tune in (step.tune, step.model.tune):
        with pytest.raises(DeclarationError, match="tune: cpu is no GPU"):
            tune(batch=64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to time on")
def test_tuning_on_a_gpu_changes_no_result_beyond_rounding() -> None:
    step: Any = tn.compile_step(digits(), loss="loss", optimizer=tn.adam())
    feeds = {"x": torch.rand(64, 64, device=step.device), "y": torch.randint(0, 10, (64,), device=step.device)}
    state = step.state_dict()
    before = step(**feeds)["loss"]
    step.load_state_dict(state)
    step.tune(batch=64, progress=False)
    torch.testing.assert_close(step(**feeds)["loss"], before)


@pytest.mark.parametrize("library_is_faster", [False, True])
def test_library_calls_take_the_place_of_products_where_they_are_faster(
    cache: KernelCache, library_is_faster: bool
) -> None:
    """Tiles cost the same whatever they are; then whole programs are timed, the one with products first."""
    program = make_program(joint_graph(digits(), "loss", tn.sgd(lr=0.1)))
    assert not any(k.is_library for k in program.plan.launches)
    whole = iter([10.0, 5.0] if library_is_faster else [5.0, 10.0])

    def timer(once: Callable[[], None]) -> float:
        once()
        return (
            next(whole)
            if once.__module__ == "tritonnotes.runtime.tuning" and once.__qualname__.startswith("_whole")
            else 1.0
        )

    chosen = tuned(program, CPU, SIZES, timer=timer, cache=cache, progress=False)
    assert any(k.is_library for k in chosen.plan.launches) is library_is_faster
    assert not list(whole)
    again = tuned(program, CPU, SIZES, timer=timer, cache=cache, progress=False)
    assert again.source == chosen.source


# -- choices that are refused ------------------------------------------------------------------------------------------

REFUSED = {
    "too much shared memory": triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory"),
    "ptxas": triton.runtime.errors.PTXASError("ptxas: too many registers"),
    "a pass of Triton": RuntimeError("PassManager::run failed"),
    "the driver": RuntimeError("Triton Error [CUDA]: invalid argument"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_choice_that_is_refused_is_not_chosen(cache: KernelCache, case: str) -> None:
    """Two kernels: where the first one is refused a choice, the second is still timed with all of its own."""
    graph = Graph("two")
    x = tn.layer_norm(graph.input("x", (tn.Dim("batch"), 200)), name="ln")
    graph.output(y=tn.softmax(x @ graph.parameter("w", (200, 50)), -1))
    program = make_program(optimize(decompose(graph)), Fusion(products=False))
    count = sum(len(candidates(kernel)) for kernel in program.kernels)
    assert len(program.kernels) == 2
    asked: list[int] = []

    def timer(once: Callable[[], None]) -> float:
        once()
        asked.append(1)
        if len(asked) == 3:
            raise REFUSED[case]
        return 1.0 / len(asked)

    faster = tuned(program, CPU, SIZES, timer=timer, cache=cache, progress=False)
    assert len(asked) == count, "the refused one counts, and what came before it in its round was not timed"
    assert all(isinstance(k, Kernel) and k.layout.tuned is not None for k in faster.kernels)


def test_what_the_rules_chose_must_run(cache: KernelCache) -> None:
    def timer(once: Callable[[], None]) -> float:
        raise REFUSED["ptxas"]

    with pytest.raises(triton.runtime.errors.PTXASError):
        tuned(norm(), CPU, SIZES, timer=timer, cache=cache, progress=False)


def test_a_library_that_refuses_is_not_chosen(cache: KernelCache) -> None:
    program = make_program(joint_graph(digits(), "loss", tn.sgd(lr=0.1)))
    whole = iter([10.0, None])

    def timer(once: Callable[[], None]) -> float:
        once()
        if not once.__qualname__.startswith("_whole"):
            return 1.0
        found = next(whole)
        if found is None:
            raise REFUSED["the driver"]
        return found

    chosen = tuned(program, CPU, SIZES, timer=timer, cache=cache, progress=False)
    assert not any(k.is_library for k in chosen.plan.launches)


def test_a_gpu_that_answers_no_more_ends_the_tuning(cache: KernelCache) -> None:
    """An illegal access is no refusal of one choice: every later call raises it, and no time means anything."""
    with fake_cuda() as cuda:
        asked: list[int] = []

        def timer(once: Callable[[], None]) -> float:
            once()
            asked.append(1)
            if len(asked) == 2:
                cuda.fault = CudaError("CUDA error: an illegal memory access was encountered")
                raise cuda.fault
            return 1.0

        with pytest.raises(CudaError, match="illegal memory access"):
            tuned(norm(), torch.device("cuda:0"), SIZES, timer=timer, cache=cache, progress=False)
        assert len(asked) == 2
