"""Steps of `tn.optim` on the CPU are recorded: one native call, which follows what is another tensor in each step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from counted_work import lines_run
from devices import on_the_cpu
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes import native
from tritonnotes.ir.core.errors import FeedError
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


def _state(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Any, list[nn.Parameter]], None]:
    def changed(optimizer: Any, params: list[nn.Parameter]) -> None:
        optimizer.state[params[0]][name] = change(optimizer.state[params[0]][name])

    return changed


def _gradient(change: Callable[[Tensor], Tensor]) -> Callable[[Any, list[nn.Parameter]], None]:
    def changed(optimizer: Any, params: list[nn.Parameter]) -> None:
        gradient = params[0].grad
        assert gradient is not None
        params[0].grad = change(gradient)

    return changed


def _data(optimizer: Any, params: list[nn.Parameter]) -> None:
    params[0].data = params[0].data.clone()


def _turned(optimizer: Any, params: list[nn.Parameter]) -> None:
    params[0].data = params[0].data.t().contiguous().t()


def _moments_elsewhere(optimizer: Any, params: list[nn.Parameter]) -> None:
    moments = optimizer.state[params[3]]["exp_avg"]
    moments.data = moments.data.clone()


def _another_dict(optimizer: Any, params: list[nn.Parameter]) -> None:
    optimizer.state[params[1]] = {n: t.clone() for n, t in optimizer.state[params[1]].items()}


def _swapped(optimizer: Any, params: list[nn.Parameter]) -> None:
    state = optimizer.state
    state[params[0]]["exp_avg"] = state[params[0]]["exp_avg_sq"].clone()


CHANGES: dict[str, Callable[[Any, list[nn.Parameter]], Any]] = {
    "another moment": _state("exp_avg", torch.zeros_like),
    "another count": _state("step", lambda step: step + 7),
    "a moment that is gone": lambda optimizer, params: optimizer.state[params[2]].pop("exp_avg_sq"),
    "a moment elsewhere": _moments_elsewhere,
    "a moment for another": _swapped,
    "another dict of state": _another_dict,
    "no state of one": lambda optimizer, params: optimizer.state.pop(params[1]),
    "no state at all": lambda optimizer, params: optimizer.state.clear(),
    "another memory of a weight": _data,
    "a turned weight": _turned,
    "another gradient": _gradient(lambda g: 2 * g),
    "a turned gradient": _gradient(lambda g: g.t().contiguous().t()),
    "a gradient that is negated when read": _gradient(lambda g: g._neg_view()),
    "no gradient": lambda optimizer, params: setattr(params[0], "grad", None),
    "another rate": lambda optimizer, params: optimizer.param_groups[0].update(lr=0.5),
    "a parameter less": lambda optimizer, params: optimizer.param_groups[0]["params"].pop(),
    "parameters in another order": lambda optimizer, params: optimizer.param_groups[0]["params"].reverse(),
}


@on_the_cpu
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_many_steps_is_followed(change: str) -> None:
    """As by an optimizer that remembers nothing."""
    found: list[list[Tensor]] = []
    for forgets in (False, True):
        params = parameters()
        optimizer = tn.optim.Adam(params, lr=1e-2)
        for turn in range(9):
            if forgets:
                optimizer._forget()
            set_gradients(params, turn, anew=False)
            if turn == 6:
                CHANGES[change](optimizer, params)
            optimizer.step()
        found.append([*params, *(t for p in params for t in optimizer.state[p].values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@on_the_cpu
@pytest.mark.parametrize("memory", ["a gradient that was freed", "a weight that was freed"])
def test_memory_that_is_gone_is_refused_after_many_steps(memory: str) -> None:
    params = parameters()
    optimizer = tn.optim.Adam(params)
    for turn in range(6):
        set_gradients(params, turn, anew=False)
        optimizer.step()
    tensor = params[0].grad if "gradient" in memory else params[0]
    assert tensor is not None
    tensor.untyped_storage().resize_(0)
    with pytest.raises(FeedError, match="freed"):
        optimizer.step()


@on_the_cpu
def test_a_step_does_the_same_work_however_many_parameters_there_are() -> None:
    found = []
    for count in (2, 40):
        params = [nn.Parameter(torch.randn(3)) for _ in range(count)]
        optimizer = tn.optim.Adam(params)
        for p in params:
            p.grad = torch.randn(3)
        for _ in range(4):
            optimizer.step()
        found.append(lines_run(optimizer.step))
    few, many = found
    assert few == many, "lines of Python"


@on_the_cpu
def test_what_a_step_remembers_keeps_no_gradient() -> None:
    params = parameters()
    optimizer = tn.optim.Adam(params)
    for turn in range(4):
        set_gradients(params, turn, anew=False)
        optimizer.step()
    gone = [weakref.ref(p.grad) for p in params if p.grad is not None]
    optimizer.zero_grad()
    assert not any(each() is not None for each in gone)


class Meaningful(Tensor):
    """A tensor for which functions mean something of their own."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(function, types, args, kwargs or {})


@on_the_cpu
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_what_a_step_that_was_refused_had_taken_in_is_forgotten(rule: str) -> None:
    """Its gradients lie where those of the step before did, turned; the next step is the first to be made of them."""
    found = []
    for optim in (tn.optim, torch.optim):
        params = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(2))]
        optimizer = getattr(optim, rule)([{"params": [p]} for p in params], lr=0.1)
        gradient = torch.arange(9.0).reshape(3, 3)
        params[0].grad, params[1].grad = gradient, torch.ones(2)
        for _ in range(2):
            optimizer.step()
        params[0].grad = gradient.t()
        if optim is tn.optim:
            right, params[1].grad = params[1].grad, torch.ones(2).as_subclass(Meaningful)
            with pytest.raises(FeedError, match="Meaningful"):
                optimizer.step()
            params[1].grad = right
        optimizer.step()
        found.append(params)
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)
