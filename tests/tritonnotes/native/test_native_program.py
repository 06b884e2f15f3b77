"""All launches of a program as one native call, and generated kernels beside the strict interpreter."""

from __future__ import annotations

import ctypes
import math
import threading
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from native_comparing import run_both
from paths import GOLDENS
from torch import Tensor

from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.native import Bundle, Launch, Recorder, launch
from tritonnotes.native.llvm.engine import LEVEL_VARIABLE
from tritonnotes.native.run import compiled, program
from tritonnotes.native.run.arguments import face_of


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


MODULES = sorted(path for path in GOLDENS.glob("*.py") if path.stem != "update_adam")


def recorded(path: Path) -> tuple[ModuleType, list[Launch], list[Tensor]]:
    """The launches of a generated module over tensors that it makes up, and all these tensors."""
    module = load_source(path.read_text(), KernelCache())
    recorder, run = Recorder(), module.run
    seen: list[Tensor] = []

    def watched(tensors: dict[str, Tensor], **sizes: Any) -> None:
        seen.extend(tensors.values())
        run(tensors, **sizes, launch=recorder)

    module.run = watched
    try:
        module.main()
    finally:
        module.run = run
    return module, recorder.launches, seen


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_generated_kernels_agree_with_the_strict_interpreter(path: Path) -> None:
    _, launches, tensors = recorded(path)
    assert launches
    for each in launches:
        assert run_both(each.kernel, each.grid, (), each.values, tensors) == "", each.kernel.__name__


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_one_call_leaves_the_same_bits_as_launch_after_launch(path: Path) -> None:
    _, launches, tensors = recorded(path)
    before = [tensor.clone() for tensor in tensors]
    for each in launches:
        launch(each.kernel, each.grid, **each.values)
    expected = [tensor.clone() for tensor in tensors]
    bundle = Bundle(launches)
    for threads in (1, 2, 8):
        for _ in range(7):
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            bundle.run(threads)
            for tensor, value in zip(tensors, expected, strict=True):
                assert torch.equal(tensor.reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("small", [0b000000, 0b101010, 0b011100, 0b111111])
def test_small_launches_run_on_the_calling_thread_and_leave_the_same_bits(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of the launches of a step may be small; those that follow each other run together, in order."""
    path = next(path for path in MODULES if path.stem == "digits_step")
    _, launches, tensors = recorded(path)
    is_small = [bool(small >> place & 1) and bool(math.prod(each.grid) > 1) for place, each in enumerate(launches)]
    given = [replace(each, work=program.LEAST_SHARED - few) for each, few in zip(launches, is_small, strict=True)]
    before = [tensor.clone() for tensor in tensors]
    Bundle(launches).run(2)
    expected = [tensor.clone() for tensor in tensors]
    for tensor, value in zip(tensors, before, strict=True):
        tensor.copy_(value)
    calls: list[tuple[int, int]] = []
    entry = program._entry()

    def watched(place: ctypes.c_void_p) -> None:
        _, count, _, _, threads = (ctypes.c_uint64 * 5).from_address(place.value or 0)
        calls.append((count, threads))
        entry(place)

    monkeypatch.setattr(program, "_entry", lambda: watched)
    Bundle(given).run(2)
    assert all(torch.equal(_bits(a), _bits(b)) for a, b in zip(tensors, expected, strict=True))
    shared = [math.prod(each.grid) > 1 and not few for each, few in zip(launches, is_small, strict=True)]
    assert calls == [(len([*same]), 2 if many else 1) for many, same in groupby(shared)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_how_much_llvm_does_changes_no_bit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, launches, tensors = recorded(path)
    before = [tensor.clone() for tensor in tensors]
    found: dict[str, list[Tensor]] = {}
    for level in ("0", "1"):
        monkeypatch.setenv(LEVEL_VARIABLE, level)
        monkeypatch.setattr(compiled, "_kernels", {})
        for each in launches:
            monkeypatch.setattr(face_of(each.kernel), "specialized", {})
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        for each in launches:
            launch(each.kernel, each.grid, **each.values)
        found[level] = [tensor.clone().reshape(-1).view(torch.uint8) for tensor in tensors]
    assert all(torch.equal(a, b) for a, b in zip(found["0"], found["1"], strict=True))


def test_another_tensor_takes_the_place_of_one_that_was_passed() -> None:
    path = next(path for path in MODULES if path.stem == "residual_forward")
    _, launches, tensors = recorded(path)
    bundle = Bundle(launches)
    bundle.run()
    x = launches[0].values["x_ptr"]
    other = torch.rand_like(x)
    bundle.replace(x, other)
    bundle.run()
    found = [tensor.clone() for tensor in tensors]
    launch(launches[0].kernel, launches[0].grid, **{**launches[0].values, "x_ptr": other})
    assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))


def test_a_program_of_no_launches_runs_and_has_no_kernel() -> None:
    bundle = Recorder().bundle()
    bundle.run()
    assert bundle.launches == () and bundle.kernels == []


def test_threads_that_run_a_program_at_once_take_turns() -> None:
    """The entry reads what one of them has written: its own scratch memory, and how many threads share it."""
    path = next(path for path in MODULES if path.stem == "residual_forward")
    bundle = Bundle(recorded(path)[1])
    inside, most = 0, 0

    def entry(place: object) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1

    bundle._entry = entry
    threads = [threading.Thread(target=bundle.run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
