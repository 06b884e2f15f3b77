"""Launches that go round Triton's dispatch: compiled kernels get what Triton would hand them, without a GPU.

Kernels are compiled for an H100 as on one; what stands in for the driver records each launch instead of making it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiled import digits, draw
from fake_cuda import DRIVER, Driver
from triton import knobs
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

import tritonnotes as tn
from tritonnotes.runtime.executors import baked
from tritonnotes.runtime.executors.baked import BakedLaunch


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(driver, "_active", DRIVER)
    DRIVER.calls.clear()
    return DRIVER


class Both:
    """Each launch through Triton's dispatch, then baked: both must call the same compiled kernel with the same."""

    def __init__(self, recorder: Driver) -> None:
        self.recorder = recorder
        self.launch = BakedLaunch()
        self.baked = self.launches = 0

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        calls = self.recorder.calls
        calls.clear()
        kernel[grid](*arguments, enable_fp_fusion=True, **options)
        before = len(self.launch._known)
        self.launch(kernel, grid, *arguments, **options)
        theirs, mine = calls
        assert len(mine) == len(theirs)
        assert all(a is b or a == b for a, b in zip(mine, theirs, strict=True) if not isinstance(a, torch.Tensor))
        assert all(a is b for a, b in zip(mine, theirs, strict=True) if isinstance(a, torch.Tensor))
        self.launches += 1
        self.baked += len(self.launch._known) == before


def run_all(step: tn.TrainingStep, launch: Any, batch: int, shift: int = 0, number: int = 1) -> None:
    """The launches of one step, over memory that begins `shift` elements behind a multiple of 16 bytes."""
    runner = step._runner.updating
    feeds = draw(step.model.graph, number, batch=batch)
    leaves = {**feeds, **step.model.state_dict(), **step.slots}
    tensors = {n: shifted(t, shift) for n, t in {**leaves, **runner.temporaries({"batch": batch}, 3)}.items()}
    tensors |= runner.outputs({"batch": batch})
    runner.module.run(tensors, batch=batch, **numbers_of(step, number), programs=3, launch=launch)


def numbers_of(step: tn.TrainingStep, number: int) -> dict[str, float]:
    wanted = [v.name.rpartition(".")[2] for v in step.program.graph.leaves("scalar")]
    return {n: 2**40 + number if n == "seed" else 1e-3 * number for n in wanted}


def shifted(tensor: torch.Tensor, elements: int) -> torch.Tensor:
    held = torch.empty(tensor.numel() + elements + 16, dtype=tensor.dtype)
    start = (-held.data_ptr() // tensor.element_size()) % 16 + elements
    return held[start : start + tensor.numel()].view(tensor.shape)


def test_compiled_kernels_get_what_tritons_dispatch_hands_them(recorder: Driver) -> None:
    """Sizes that are 1, a multiple of 16 and neither, aligned memory and not, numbers that change: the second time each
    is baked, and the first time Triton chooses the kernel."""
    step = tn.compile_step(digits(), optimizer=tn.adamw())
    both = Both(recorder)
    for batch, shift in [(64, 0), (33, 0), (1, 0), (64, 1), (64, 0)]:
        first = both.baked
        run_all(step, both, batch, shift, number=batch + shift)
        again = both.baked
        run_all(step, both, batch, shift, number=batch + shift + 1)
        assert both.baked - again == len(step.plan.kernels) >= again - first
    assert both.launch.reason is None


@pytest.mark.parametrize("fault", ["alignment", "one"])
def test_a_key_that_minds_too_little_is_noticed(recorder: Driver, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    step = tn.compile_step(digits(), optimizer=tn.adamw())

    def coarse(kernel: Any, device: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        kept = [a for a in arguments if isinstance(a, torch.Tensor) == (fault == "one")]
        return (id(kernel), *((a.dtype, a.data_ptr() % 16) if isinstance(a, torch.Tensor) else a for a in kept))

    monkeypatch.setattr(baked, "_key", coarse)
    both = Both(recorder)
    run_all(step, both, 64)
    with pytest.raises(AssertionError):
        run_all(step, both, *((64, 1) if fault == "alignment" else (1, 0)))


def test_who_watches_launches_has_all_of_them_by_tritons_dispatch(recorder: Driver) -> None:
    step = tn.compile_step(digits(), optimizer=tn.adamw())
    launch = BakedLaunch()
    run_all(step, launch, 64)
    known = len(launch._known)
    knobs.runtime.launch_enter_hook.add(print)
    try:
        run_all(step, launch, 33)
    finally:
        knobs.runtime.launch_enter_hook.remove(print)
    assert len(launch._known) == known
    run_all(step, launch, 33)
    assert len(launch._known) > known


def test_what_a_hook_of_tritons_cache_kept_from_being_compiled_is_not_kept(
    recorder: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tn.compile_step(digits(), optimizer=tn.sgd(lr=1e-2))
    launch = BakedLaunch()
    with monkeypatch.context() as patch:
        patch.setattr(knobs.runtime, "jit_cache_hook", lambda **_: True)
        for _ in range(2):
            run_all(step, launch, 48)
    assert not recorder.calls and not launch._known
    run_all(step, launch, 48)
    assert len(recorder.calls) == len(step.plan.kernels)


def test_another_triton_is_left_to_its_own_dispatch(recorder: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baked.triton, "__version__", "3.9.0")
    launch = BakedLaunch()
    assert launch.reason == "Triton 3.9.0 dispatches in its own way"
    run_all(tn.compile_step(digits(), optimizer=tn.adamw()), launch, 64)
    assert recorder.calls and not launch._known


def test_baked_launches_ask_nothing_of_triton_dispatch(recorder: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they save is Triton's dispatch, the slow part of a launch on the host: the first launch of each kernel pays
    for it, the later ones do not."""
    step = tn.compile_step(digits(), optimizer=tn.adamw())
    dispatched: list[str] = []
    run = JITFunction.run

    def counted(kernel: JITFunction, *args: Any, **options: Any) -> Any:
        dispatched.append(kernel.__name__)
        return run(kernel, *args, **options)

    monkeypatch.setattr(JITFunction, "run", counted)
    counts = []
    for launch in (step._runner.updating.module.launch, BakedLaunch()):
        run_all(step, launch, 64)
        dispatched.clear()
        run_all(step, launch, 64)
        counts.append(len(dispatched))
    assert counts[0] == len(step.plan.kernels) and counts[1] == 0
