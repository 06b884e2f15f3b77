"""Faults of `tn.optim`: a step that is interrupted says so, and `torch.compile` leaves steps to it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tritonnotes import optim
from tritonnotes.ir.core.errors import FeedError, InterruptedStepError
from tritonnotes.optim import plan


def two_groups(**options: Any) -> tuple[list[Tensor], Any]:
    params = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    groups = [{"params": [params[0]]}, {"params": [params[1]], "weight_decay": 0.5}]
    return params, optim.Adam(groups, lr=0.1, **options)


def give(params: list[Tensor], value: float = 1.0) -> None:
    for p in params:
        p.grad = torch.full_like(p, value)


def interrupt(patch: pytest.MonkeyPatch, at: int, after: bool) -> None:
    """Interrupt before or after launch number `at`."""
    count, run = [0], plan.run

    def watched(*given: Any, **how: Any) -> None:
        count[0] += 1
        if count[0] == at and not after:
            raise KeyboardInterrupt("now")
        run(*given, **how)
        if count[0] == at:
            raise KeyboardInterrupt("now")

    patch.setattr(plan, "run", watched)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_step_that_is_interrupted_between_its_launches_is_torn(at: int, after: bool) -> None:
    params, optimizer = two_groups()
    give(params)
    optimizer.step()
    weights, state = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    wanted = [p.detach().clone() for p in params]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, at, after)
        optimizer.step()
    uses = [optimizer.step, optimizer.state_dict, lambda: copy.deepcopy(optimizer), lambda: pickle.dumps(optimizer)]
    for use in uses:
        with pytest.raises(InterruptedStepError, match=r"Adam: .*between its launches.*with load_state_dict\(\)"):
            use()
    with torch.no_grad():
        for p, weight in zip(params, weights, strict=True):
            p.copy_(weight)
    optimizer.load_state_dict(state)
    optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(params, wanted, strict=True))


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_an_interruption_before_the_first_launch_tears_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}
    params, others = ([torch.ones(3, requires_grad=True)] for _ in range(2))
    optimizer, other = (getattr(optim, name)(p, lr=0.1, **options) for p in (params, others))
    give([*params, *others])

    def impatient(*given: Any) -> None:
        raise KeyboardInterrupt("now")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tritonnotes.optim.base.make_plan", impatient)
        optimizer.step()
    for made in (optimizer, other):
        made.step()
    assert torch.equal(params[0], others[0])


def test_sparse_gradients_are_refused_before_anything_is_changed() -> None:
    params = [torch.ones(3, requires_grad=True), torch.ones(3, 2, requires_grad=True)]
    optimizer = optim.SGD(params, lr=0.1, max_norm=1.0)
    params[0].grad = torch.ones(3)
    params[1].grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(FeedError, match="sparse gradients are left to torch"):
        optimizer.step()
    assert params[0].tolist() == [1.0, 1.0, 1.0]
    params[1].grad = None
    optimizer.step()


def test_a_step_in_what_is_compiled_is_a_graph_break() -> None:
    found = []
    for of in (torch.optim, optim):
        weight = torch.ones(2, 3, requires_grad=True)
        optimizer = of.Adam([weight], lr=0.1)

        def train(x: Tensor, weight: Tensor = weight, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (x @ weight.T).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        compiled = torch.compile(train, backend="eager") if of is optim else train
        losses = [compiled(torch.arange(6.0).reshape(2, 3) + step).detach() for step in range(3)]
        found.append([*losses, weight.detach()])
    torch.testing.assert_close(found[1], found[0])
