"""What cannot be imported ends in one error that names the op, the module, the line and the remedy."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError, ModelImportError

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
        "of <lambda> are not known; pass an example of the target: target_example=y": (
            lambda: tn.compile_step(net, X, loss=lambda y, t: y, optimizer=tn.sgd())
        ),
        "are not known; pass an example of the target: target=y": (lambda: tn.from_torch(net, X, loss=lambda y, t: y)),
        "loss: is the class MSELoss; pass an instance": (
            lambda: tn.compile_step(net, X, loss=nn.MSELoss, optimizer=tn.sgd())
        ),
        "loss is 'mse', and Linear returns no 'mse' (it returns output); pass a function": (
            lambda: tn.compile_step(net, X, loss="mse", optimizer=tn.sgd())
        ),
        "no loss is given, and Linear returns no 'loss'": lambda: tn.compile_step(net, X, optimizer=tn.sgd()),
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


EXAMPLES = {
    "a width": (lambda: tn.compile(nn.Linear(8, 3), torch.randn(3, 9)), r"example: .*input float32\[3, 9\]"),
    "a width before a loss": (
        lambda: tn.from_torch(nn.Linear(8, 3), torch.randn(3, 9), loss=F.mse_loss),
        r"Linear does not take its example: .*input float32\[3, 9\]",
    ),
    "a target": (
        lambda: tn.from_torch(nn.Linear(8, 3), X, loss=F.cross_entropy, target=torch.randn(4, 7)),
        r"loss cross_entropy does not take its example: .*result float32\[4, 3\], target float32\[4, 7\]",
    ),
    "a dtype": (
        lambda: tn.compile(nn.Linear(8, 3), X.double()),
        r"the example of 'input' is torch.float64, parameter 'weight' torch.float32; convert one",
    ),
    "a device": (
        lambda: tn.compile_step(nn.Linear(8, 3).to("meta"), X, loss=F.mse_loss, optimizer=tn.sgd()),
        r"parameter 'weight' lies on 'meta' and the example of 'input' on 'cpu'; move .*to_empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", EXAMPLES)
def test_an_example_that_does_not_fit_is_shown(fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    call, message = EXAMPLES[fault]
    with pytest.raises(DeclarationError, match=f"(?i){message}") as raised:
        call()
    assert "torch.where" not in str(raised.value), "there is no if"
    assert capfd.readouterr() == ("", ""), "torch's log says the same in many lines"


def test_only_a_branch_on_values_is_told_to_use_where(capfd: pytest.CaptureFixture[str]) -> None:
    class LeavesTorch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor(x.numpy() + 1)

    with pytest.raises(ModelImportError, match="torch.where in place of an if"):
        tn.from_torch(AsksForValues(), X)
    with pytest.raises(DeclarationError, match="numpy") as raised:
        tn.from_torch(LeavesTorch(), X)
    assert "torch.where" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_module_may_convert_its_example() -> None:
    class Converts(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    module = Converts(8, 3)
    x = torch.randn(4, 8, dtype=torch.float64)
    assert torch.allclose(tn.compile(module, x)(x), module(x))


def test_feeds_of_another_dtype_and_shape_are_told_both() -> None:
    step = tn.compile_step(nn.Linear(8, 3), X, loss=F.cross_entropy, optimizer=tn.sgd())
    one_hot = torch.eye(3)[[0, 1, 2, 0]]
    with pytest.raises(
        FeedError, match=r"declared int64\[batch\], got float32\[4, 3\]; feed .*dtype and shape.*argmax\(1\)"
    ):
        step(X, one_hot)
    with pytest.raises(
        FeedError, match=r"declared int64\[batch\], got float32\[4\]; convert it with .to\(torch.int64\)"
    ):
        step(X, torch.zeros(4))
    with pytest.raises(FeedError, match=r"'target' is not fed; .*call the module itself"):
        step.model(X)
