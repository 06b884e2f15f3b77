"""What cannot be imported ends in one error that names the op, the module, the line and the remedy."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, ModelImportError

X = torch.randn(4, 8)


class AsksForValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class AsksForSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 10 else x * 3


class HasARandomCall(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), Draws())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.rrelu(x, training=True)


class WritesItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


class WritesBehindAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        part = y[:, :4]
        part.mul_(3)
        return y


class ReadsTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x * 3


class FixesRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 16)


FAULTS = {
    "a branch on values": (AsksForValues(), r"AsksForValues: torch.export refuses it at .*test_import_faults.py:\d+"),
    "a branch on sizes": (AsksForSizes(), r"it computes this only where batch <= 10"),
    "a call that draws": (
        HasARandomCall(), r"aten.rrelu.default in module 'inner.1' \(Draws\), at .*:\d+: return F.rrelu.*draws random",
    ),
    "a write into an input": (WritesItsInput(), r"aten.add_.Tensor in the module itself .*writes into 'x'.* no buffer"),
    "a write behind a view": (WritesBehindAView(), r"aten.mul_.Tensor .*writes into memory that 'mul' shows"),
    "forms that differ": (ReadsTraining(), r"ReadsTraining: its forward computes something else in evaluation"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_imported_says_where_and_why(fault: str) -> None:
    module, message = FAULTS[fault]
    with pytest.raises(ModelImportError, match=message):
        tn.from_torch(module, X)


def test_an_axis_that_must_be_symbolic_and_is_fixed_is_refused() -> None:
    assert tn.from_torch(FixesRows(), X).inputs[0].shape == (4, 8)
    with pytest.raises(ModelImportError, match="the module fixes axis 0 of 'x' to 4"):
        tn.from_torch(FixesRows(), X, dynamic={"x": {0: "batch"}})


def test_arguments_that_fit_nothing_are_refused() -> None:
    net = nn.Linear(8, 3)
    cases = {
        "wanted a torch.nn.Module, got Tensor": lambda: tn.from_torch(X, X),  # type: ignore[arg-type]
        "there is no input 'y'; there are input": lambda: tn.from_torch(net, X, dynamic={"y": {0: "batch"}}),
        "input 'input' has 2 axes, and no axis 5": lambda: tn.from_torch(net, X, dynamic={"input": {5: "n"}}),
        "too many positional arguments": lambda: tn.from_torch(net, X, X),
        "'input' is 3, no tensor": lambda: tn.from_torch(net, 3),
        "give loss=, too": lambda: tn.from_torch(net, X, target=X),
        "not known what it compares": lambda: tn.compile_step(net, X, loss=lambda y, t: y, optimizer=tn.sgd()),
        "move it with module.to": lambda: tn.compile(net, X, device="cuda"),
        "says how a torch module is imported": lambda: tn.compile(tn.from_torch(net, X), batch="n"),
    }
    for message, call in cases.items():
        with pytest.raises(DeclarationError, match=re.escape(message)):
            call()


def test_a_module_is_left_in_the_form_it_was_in() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    tn.from_torch(net, X)
    assert not any(part.training for part in net.modules())
    with pytest.raises(ModelImportError):
        tn.from_torch(nn.Sequential(net, AsksForValues()), X)
    assert not any(part.training for part in net.modules())


def test_losses_of_several_results_take_an_example_of_their_target() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x + 1

    with pytest.raises(DeclarationError, match="returns a tuple"):
        tn.from_torch(Two(), X, loss=F.mse_loss)
    g = tn.from_torch(Two(), X, loss=lambda y, t: F.mse_loss(y[0], t), target=X)
    assert [v.name for v in g.inputs] == ["x", "target"]
    assert list(g.outputs) == ["output_0", "output_1", "loss"]
