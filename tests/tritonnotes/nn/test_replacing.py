"""`tn.nn.replace`: modules of any model become ours in place, and what is left is told."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()


class OwnNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        act = nn.GELU()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), act, nn.BatchNorm1d(6), act, nn.ReLU(inplace=True))
        self.own = OwnNorm(6)
        self.bent = parametrizations.weight_norm(nn.PReLU(6))
        self.patched = nn.SiLU()
        self.patched.forward = lambda x: x
        self.drop = nn.Dropout(0.0)
        self.head = nn.Softmax(dim=None)
        self.odd = nn.LayerNorm(6, dtype=torch.complex64)
        self.pool = nn.AvgPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.patched(self.bent(self.own(self.body(x)))))


@pytest.mark.interpreted
def test_a_mixed_model_keeps_its_results_its_tensors_and_its_hooks() -> None:
    torch.manual_seed(0)
    model = Mixed().double().to(DEVICE)
    before = copy.deepcopy(model)
    tensors = {name: t for name, t in model.state_dict(keep_vars=True).items()}
    seen: list[str] = []
    model.body[1].register_forward_hook(lambda module, *_: seen.append(type(module).__module__))
    done = tn.nn.replace(model)
    assert dict(done.replaced) == {"body.1": "LayerNorm", "body.2": "GELU", "body.3": "BatchNorm1d"}
    assert type(model.body[1]) is tn.nn.LayerNorm and model.body[2] is model.body[4]
    now = model.state_dict(keep_vars=True)
    assert list(now) == list(tensors) and all(now[name] is t for name, t in tensors.items())
    x = torch.randn(5, 4, dtype=torch.float64).to(DEVICE)
    found = []
    for made in (before, model):
        y = made(x)
        y.square().sum().backward()
        found.append([y, *(p.grad for n, p in made.named_parameters() if p.grad is not None), *made.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert seen == ["tritonnotes.nn.normalization"]


def test_what_is_left_is_told_with_its_reason() -> None:
    model = Mixed()
    model.lazy = nn.LazyBatchNorm1d()
    done = tn.nn.replace(model)
    reasons = {
        "body.0": "a matrix product is a call of torch's library either way",
        "body.5": "inplace=True overwrites its input, and kernels write a new tensor",
        "own": "OwnNorm has a forward of its own",
        "bent": "its parameters are parametrized",
        "patched": "its forward was replaced on the object",
        "drop": "its mask would be drawn from other random numbers",
        "head": "dim=None lets torch guess the axis",
        "odd": "kernels compute no complex64",
        "pool": "there is no tn.nn.AvgPool1d",
        "lazy": "its parameters have no shape yet; run the model once, then replace",
    }
    assert dict(done.left) == reasons
    lines = str(done).splitlines()
    assert lines[0] == "3 modules replaced, 10 left"
    assert any(line.split() == ["body.1", "tn.nn.LayerNorm"] for line in lines)
    assert any(line.endswith("left: there is no tn.nn.AvgPool1d") for line in lines)


def test_a_module_alone_is_replaced_and_a_second_time_is_none() -> None:
    norm = nn.LayerNorm(4)
    assert dict(tn.nn.replace(norm).replaced) == {"LayerNorm": "LayerNorm"} and type(norm) is tn.nn.LayerNorm
    assert tn.nn.replace(norm) == tn.nn.Replacement({}, {})
    with pytest.raises(DeclarationError, match=r"tn.nn.replace: takes a torch.nn.Module, got Tensor"):
        tn.nn.replace(torch.ones(2))
