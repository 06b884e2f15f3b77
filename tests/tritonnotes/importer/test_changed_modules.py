"""Tensors and parts of a module may be replaced after a model or a step was imported from it: a model follows, and a
step says which parameter it would not train. Torch's own run of the module is the oracle."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.errors import FeedError
from tritonnotes.native.errors import NativeError
from tritonnotes.native.run import watch

X, Y = torch.randn(6, 8), torch.randint(0, 5, (6,))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.BatchNorm1d(5)).eval()


def stepped(module: nn.Module) -> tn.TrainingStep:
    step = tn.compile_step(module, X, loss=F.cross_entropy, optimizer=tn.sgd(lr=0.1))
    step(X, Y)
    return step


def agrees(model: nn.Module, module: nn.Module) -> bool:
    return torch.allclose(model(X), module(X), atol=1e-5)


def no_machine_code(*given: object) -> None:
    raise NativeError("there is no llvmlite")


@pytest.mark.parametrize("by", ["machine code", "Python"])
def test_a_model_follows_the_tensors_of_its_module(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "Python":
        monkeypatch.setattr(watch, "same_items", no_machine_code)
    module = net()
    model = tn.compile(module, X)
    assert agrees(model, module)
    module[0].weight = nn.Parameter(torch.randn(5, 8))
    module[2].running_mean = torch.randn(5)
    assert agrees(model, module)
    assert dict(model.named_parameters())["0.weight"] is module[0].weight
    module.load_state_dict(net().state_dict(), assign=True)
    assert agrees(model, module)


def test_a_step_refuses_another_parameter_until_the_first_is_back() -> None:
    module = net()
    step, first = stepped(module), module[0].weight
    module[0].weight = nn.Parameter(torch.zeros(5, 8))
    for call in (lambda: step(X, Y), lambda: step(X, Y), lambda: step.model(X, Y)):
        with pytest.raises(
            FeedError, match=r"parameter '0.weight' of the module was replaced .* compile the step again"
        ):
            call()
    module[0].weight = first
    before = first.detach().clone()
    step(X, Y)
    assert not torch.equal(before, first)


def test_a_step_goes_on_with_another_buffer() -> None:
    module = net()
    step = stepped(module)
    module[2].running_mean = mean = torch.full((5,), 100.0)
    step(X, Y)
    assert step.model.get_buffer("2.running_mean") is mean
    assert (mean < 95).all()


def test_what_is_written_into_a_module_is_no_replacement() -> None:
    module = net()
    step, model = stepped(module), tn.compile(module, X)
    module.load_state_dict(net().state_dict())
    module[0].bias.data = torch.randn(5)
    assert agrees(model, module)
    step(X, Y)
    assert agrees(model, module)


def swap(module: nn.Sequential) -> None:
    module[1] = nn.GELU()


def delete(module: nn.Sequential) -> None:
    del module[0].bias


def add(module: nn.Sequential) -> None:
    module[0].register_parameter("scale", nn.Parameter(torch.ones(5)))
    module[0].weight = nn.Parameter(torch.randn(5, 8))


CHANGES = [
    (swap, "module '1' was replaced"),
    (delete, "'0.bias' is gone from the module"),
    (add, "'0.scale' was added to the module"),
    (lambda module: module.double(), "float32.*float64"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_cannot_be_followed_is_refused(change: Callable[[nn.Module], object], message: str) -> None:
    module = net()
    called = {"model": tn.compile(module, X), "step": stepped(module)}
    change(module)
    with pytest.raises(FeedError, match=message):
        called["model"](X)
    with pytest.raises(FeedError, match=message if change is not add else "added|replaced"):
        called["step"](X, Y)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


def test_tied_tensors_stay_tied() -> None:
    module = Tied()
    model = tn.compile(module, X)
    module.second.weight = nn.Parameter(torch.randn(8, 8))
    with pytest.raises(FeedError, match=r"'first.weight' and 'second.weight' were one tensor"):
        model(X)
    module.first.weight = module.second.weight
    assert agrees(model, module)


def test_copies_and_pickles_have_tensors_of_their_own() -> None:
    module = net()
    model, step = tn.compile(module, X), stepped(module)
    expected = model(X)
    copies = [deepcopy(model), pickle.loads(pickle.dumps(model))]
    trained = [deepcopy(step), pickle.loads(pickle.dumps(step))]
    module[0].weight = nn.Parameter(torch.randn(5, 8))
    assert all(torch.equal(made(X), expected) for made in copies)
    one, other = (made(X, Y)["loss"] for made in trained)
    assert torch.equal(one, other)
