"""Regions of autocast and without gradients: casts stand where torch casts, and gradients stop where they stop."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from scripts import assert_declares
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.judge.tolerance import compare

DTYPE = torch.bfloat16
OPS = {
    "linear": lambda x, w: F.linear(x, w),
    "matmul": lambda x, w: x @ w,
    "addmm": lambda x, w: torch.addmm(w[0], x, w),
    "softmax": lambda x, w: torch.softmax(x, -1),
    "layer_norm": lambda x, w: F.layer_norm(x, (8,), w[0], w[1]),
    "mse_loss": lambda x, w: F.mse_loss(x, x.detach() * 2),
    "cross_entropy": lambda x, w: F.cross_entropy(x, x.detach().softmax(-1)),
    "kl_div": lambda x, w: F.kl_div(x, x.detach(), reduction="sum"),
    "cat": lambda x, w: torch.cat([x, F.linear(x, w)], -1),
    "stack": lambda x, w: torch.stack([F.linear(x, w), x]),
    "exp": lambda x, w: torch.exp(F.linear(x, w)),
    "pow": lambda x, w: F.linear(x, w) ** 2,
    "sum": lambda x, w: F.linear(x, w).sum(-1),
    "mixed": lambda x, w: F.linear(x, w) + x * w[0],
    "in 16 bits already": lambda x, w: F.linear(x.to(DTYPE), w.to(DTYPE)).float(),
}


class InAutocast(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.weight = name, nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=DTYPE):
            return OPS[self.name](x, self.weight)


@pytest.mark.parametrize("name", OPS)
def test_autocast_casts_what_torch_casts(name: str) -> None:
    net, x = InAutocast(name), torch.randn(4, 8)
    g = tn.from_torch(net, x)
    assert g.outputs["output"].dtype.name == str(net(x).dtype).removeprefix("torch.")
    exact = OPS[name](x.double(), net.weight.double()) if name != "in 16 bits already" else net(x).double()
    (got,) = tn.eager(g, {"x": x}, {"weight": net.weight.detach()}).values()
    found = compare(got, net(x).detach(), exact.detach())
    assert found.ok, found


class Mixed(nn.Module):
    """A layer in autocast, of which a part is outside of it again, and a norm in float32 behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.frozen = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=DTYPE):
            h = torch.relu(self.fc(x))
            with torch.autocast("cpu", enabled=False):
                h = h.float() * 2
            h = self.fc(h)
        with torch.no_grad():
            target = self.frozen(x)
        out: Tensor = self.norm(h.float()) - target
        return out


def test_regions_are_part_of_the_graph_around_them() -> None:
    torch.manual_seed(0)
    net, x = Mixed(), torch.randn(4, 8)
    g = tn.from_torch(net, x)
    casts = [(v.inputs[0].name, v.dtype.name) for v in g.values if v.op.name == "cast"]
    assert [name for name, _ in casts].count("fc.weight") == 1, "a weight is cast once"
    assert [name for name, _ in casts].count("fc.bias") == 1
    assert_declares(g)

    model, eager, exact = tn.compile(net, x), deepcopy(net), deepcopy(net)
    got = model(x)
    got.square().sum().backward()
    want = eager(x)
    want.square().sum().backward()
    with torch.autocast("cpu", enabled=False):
        found = compare(got.detach(), want.detach(), _in_float64(exact, x))
    assert found.ok, found
    assert net.frozen.weight.grad is None and eager.frozen.weight.grad is None
    torch.testing.assert_close(net.norm.weight.grad, eager.norm.weight.grad, rtol=2e-2, atol=2e-2)


def _in_float64(net: Mixed, x: Tensor) -> Tensor:
    net, x = net.double(), x.double()
    h = net.fc(torch.relu(net.fc(x)) * 2)
    return (net.norm(h) - net.frozen(x)).detach()


def test_gradients_stop_where_both_regions_begin_together() -> None:
    class Teaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.teacher = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=DTYPE):
                with torch.no_grad():
                    target = torch.tanh(self.teacher(x))
                return F.mse_loss(self.fc(x) * target, target)

    torch.manual_seed(0)
    net, x = Teaches(), torch.randn(4, 8)
    model = tn.compile(deepcopy(net), x)
    loss, got = net(x), model(x)
    loss.backward()
    got.backward()
    torch.testing.assert_close(got, loss, rtol=2e-2, atol=2e-2)
    found = dict(model.named_parameters())
    assert net.teacher.weight.grad is None and found["teacher.weight"].grad is None
    torch.testing.assert_close(found["fc.weight"].grad, net.fc.weight.grad, rtol=2e-2, atol=2e-2)


def test_gradients_pass_where_they_are_enabled_again() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = x * 2
                with torch.enable_grad():
                    z = x * 3
                y = y + 1
            return y + z

    x = torch.randn(4, 8, requires_grad=True)
    (got,) = tn.eager(tn.from_torch(Nested(), x), {"x": x}, {}).values()
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert torch.equal(got, Nested()(x)) and (gradient == 3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_modules_in_other_dtypes_stay_in_them(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.GELU(), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(dtype)
    x, y = torch.randn(5, 8, dtype=dtype), torch.randint(0, 3, (5,))
    eager, exact = deepcopy(net), deepcopy(net).double()
    step = tn.compile_step(net, x, loss=F.cross_entropy, optimizer=tn.sgd(lr=0.1))
    got, losses = step(x, y), [F.cross_entropy(n(x.to(d)), y) for n, d in ((eager, dtype), (exact, torch.float64))]
    assert got["loss"].dtype is dtype and got["output"].dtype is dtype
    found = compare(got["loss"], losses[0].detach(), losses[1].detach())
    assert found.ok, found
    assert all(p.dtype is dtype for p in net.parameters())
    assert net[3].num_batches_tracked == 1
