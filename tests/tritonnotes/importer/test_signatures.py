"""Modules by what they take, return and hold: nested containers, keywords, shared parts, parts in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonnotes as tn

X, Y = torch.randn(4, 8), torch.randn(4, 8)


def outputs(net: nn.Module, *example: Any) -> dict[str, Tensor]:
    """What the imported graph gives, by the torch executor."""
    g = tn.from_torch(net, *example)
    state = {name: tensor.detach().clone() for name, tensor in net.state_dict(keep_vars=False).items()}
    leaves = torch.utils._pytree.tree_leaves(example)
    feeds = dict(zip([v.name for v in g.inputs], leaves, strict=True))
    held = {name: state[name] for name in (v.name for v in g.leaves("parameter", "buffer")) if name in state}
    held |= {n: b for n, b in net.named_buffers() if n not in held}
    return tn.eager(g, feeds, held, training=True)


class Nested(nn.Module):
    def forward(self, parts: dict[str, Any], pair: tuple[Tensor, list[Tensor]]) -> dict[str, Any]:
        x, (y, z) = pair[0], pair[1]
        return {"sums": [x + y, (parts["a"] * z, parts["b"][0])], "first": x}


def test_nested_containers_come_in_and_go_out() -> None:
    example = ({"a": X, "b": (Y,)}, (X, [Y, X]))
    g = tn.from_torch(Nested(), *example)
    assert [v.name for v in g.inputs] == ["parts_a", "parts_b_0", "pair_0", "pair_1_0", "pair_1_1"]
    assert list(g.outputs) == ["sums_0", "sums_1_0", "sums_1_1", "first"]
    got = outputs(Nested(), *example)
    torch.testing.assert_close(got["sums_1_0"], X * X)
    torch.testing.assert_close(got["sums_0"], X + Y)


class Siamese(nn.Module):
    """One branch, used twice, with a norm that moves its statistics each time."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.branch(x) - self.branch(y)
        return out


def test_a_module_that_runs_twice_has_one_set_of_parameters() -> None:
    torch.manual_seed(0)
    net = Siamese()
    g = tn.from_torch(net, X, Y)
    assert [p.name for p in g.parameters] == [n for n, _ in net.named_parameters()]
    state = {n: t.clone() for n, t in net.state_dict().items()}
    moved = tn.eager_updates(g, {"x": X, "y": Y}, state)
    got = tn.eager(g, {"x": X, "y": Y}, state, training=True)["output"]
    torch.testing.assert_close(got, net(X, Y).detach())
    for name, tensor in net.named_buffers():
        torch.testing.assert_close(moved[name], tensor)


def test_parts_in_evaluation_stay_so() -> None:
    net = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    net[0].eval()
    net[3].eval()
    g = tn.from_torch(net, X)
    assert [v.attrs["training"] for v in g.values if v.op.name == "batch_norm"] == [False, True]
    assert list(g.updates) == ["2.running_mean", "2.running_var", "2.num_batches_tracked"]


class Held(nn.Module):
    scale: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((8,), 0.5), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * self.scale


def test_buffers_that_state_dicts_leave_out_are_buffers_all_the_same() -> None:
    g = tn.from_torch(Held(), X)
    assert [b.name for b in g.leaves("buffer")] == ["scale", "seen"] and list(g.updates) == ["seen"]
    torch.testing.assert_close(outputs(Held(), X)["output"], X * 0.5)


SIZES = {
    "x.view(b, -1)": lambda x: x.view(x.size(0), -1),
    "flatten(1)": lambda x: x.flatten(1),
    "flatten": lambda x: x.flatten(),
    "reshape(b * 2, -1)": lambda x: x.reshape(x.size(0) * 2, -1),
    "x / b": lambda x: x / x.size(0),
    "x * b * 2": lambda x: x * (x.size(0) * 2),
    "mean by hand": lambda x: x.sum() / x.numel(),
    "two batches": lambda x: torch.cat([x, 2 * x]),
    "halves of two batches": lambda x: torch.cat([x, 2 * x]).chunk(2)[1],
    "rows of an index": lambda x: x.flatten(1).gather(1, torch.arange(x.size(0)).unsqueeze(1) * 0),
    "expand": lambda x: x[:, :1].expand(x.size(0), 4, 2),
}


class OfSizes(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return SIZES[self.name](x)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_in_shapes_and_in_arithmetic(name: str) -> None:
    g = tn.from_torch(OfSizes(name), torch.randn(3, 4, 2))
    assert str(g.inputs[0].shape) == "(batch, 4, 2)"
    for rows in (1, 5):
        x = torch.randn(rows, 4, 2)
        torch.testing.assert_close(tn.eager(g, {"x": x}, {})["output"], SIZES[name](x))


class OfOneRow(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.view(8) * y


@pytest.mark.parametrize("dynamic", [{}, {"y": {0: "rows"}}])
def test_a_module_that_fixes_one_row_is_imported_with_one(dynamic: dict[str, dict[int, str]]) -> None:
    x, y = torch.randn(1, 8), torch.randn(1, 8)
    g = tn.from_torch(OfOneRow(), x, y, dynamic=dynamic)
    assert [str(v.shape) for v in g.inputs] == ["(1, 8)", "(rows, 8)" if dynamic else "(1, 8)"]
    torch.testing.assert_close(tn.eager(g, {"x": x, "y": y}, {})["output"], x * y)


class Difference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.held = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y * self.held


@pytest.mark.parametrize("batch", ["batch", None])
def test_inputs_stay_apart_whose_examples_are_one_tensor(batch: str | None) -> None:
    net = Difference()
    for example in ((X, X), (net.held, net.held), (X[0], X[0])):
        g = tn.from_torch(net, *example, batch=batch)
        x, y = torch.randn(2, *example[0].shape)
        torch.testing.assert_close(tn.eager(g, {"x": x, "y": y}, {"held": net.held})["output"], x - y)


class Pairs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([x, y])
        return both[: x.size(0)].gather(1, y.argmax(1, keepdim=True)) + both.chunk(2)[1]


def test_inputs_of_one_batch_have_one_size() -> None:
    """Whatever export calls the sizes of their first axes: sums of them are multiples, and none is the smaller one."""
    g = tn.from_torch(Pairs(), X, Y)
    for rows in (1, 5):
        x, y = torch.randn(rows, 8), torch.randn(rows, 8)
        torch.testing.assert_close(tn.eager(g, {"x": x, "y": y}, {})["output"], Pairs()(x, y))
