"""Steps of `tn.optim` on the CPU are recorded: one native call, which follows what is another tensor in each step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import on_the_cpu
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes import native
from tritonnotes.native.run import program
from tritonnotes.optim import launching

SHAPES = ((3, 5), (7,), (), (2, 2))


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(params: list[nn.Parameter], turn: int, *, anew: bool) -> None:
    generator = torch.Generator().manual_seed(turn)
    for p in params:
        drawn = torch.randn(p.shape, generator=generator)
        if anew or p.grad is None:
            p.grad = drawn
        else:
            p.grad.copy_(drawn)


CASES: dict[str, dict[str, Any]] = {
    "host counts": {},
    "device counts": {"capturable": True},
    "clipped": {"max_norm": 0.1},
    "clipped on the device": {"max_norm": 0.1, "capturable": True},
}


@on_the_cpu
@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_leave_the_bits_of_launches_one_by_one(case: str) -> None:
    """With the same gradients' memory, with new gradients, another rate, other counts, and another state."""
    found: list[list[Tensor]] = []
    for forgets in (False, True):
        params = parameters()
        optimizer = tn.optim.Adam(params, lr=1e-2, **CASES[case])
        for turn in range(8):
            if forgets:
                optimizer._forget()
            set_gradients(params, turn, anew=turn in (3, 6))
            if turn == 4:
                optimizer.param_groups[0]["lr"] = 1e-3
            if turn == 5:
                params[1].grad = None
            if turn == 6:
                optimizer.state[params[0]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"].clone()
            optimizer.step()
        found.append([*params, *(t for p in params for t in optimizer.state[p].values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@on_the_cpu
@pytest.mark.parametrize("case", CASES)
def test_a_step_that_was_recorded_launches_nothing_one_by_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    optimizer = tn.optim.Adam(params, **CASES[case])
    for turn in range(2):
        set_gradients(params, turn, anew=False)
        optimizer.step()
    before = [p.detach().clone() for p in params]
    set_gradients(params, 2, anew=False)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a kernel is launched by itself, or recorded anew")

    monkeypatch.setattr(native, "launch", refused)
    monkeypatch.setattr(launching.native, "Recorder", refused)
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(params, before, strict=True))


@on_the_cpu
def test_small_updates_run_on_the_calling_thread() -> None:
    work = []
    for size in (64, 2**20):
        p = nn.Parameter(torch.zeros(size))
        p.grad = torch.ones(size)
        optimizer = tn.optim.SGD([p], lr=0.1)
        optimizer.step()
        (gathered,) = optimizer._gathered.values()
        plan = gathered.works[0].plan
        assert plan is not None
        work.append(plan.recorded.work)
    assert work[0] < program.LEAST_SHARED <= work[1]
