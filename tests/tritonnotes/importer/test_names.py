"""A module may call its parameters as it likes: state dicts keep its names, a graph has names of its own for them."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import assert_declares
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.importer.names import local_name
from tritonnotes.ir.core.types import check_name

KEYS = st.text(min_size=1).filter(lambda key: "." not in key)


@settings(max_examples=200)
@given(st.lists(KEYS | st.sampled_from(["a-b", "a_b", "a b", "a_b_1", "_", "__"]), unique=True, max_size=8))
def test_names_of_a_graph_are_names_and_differ(keys: list[str]) -> None:
    taken = set(keys)
    names = {}
    for key in keys:
        names[key] = local_name(key, taken if key not in names else ())
        taken.add(names[key])
    for key, name in names.items():
        assert check_name(name, "test") == name
        if key.isascii() and key.replace("_", "a").isalnum() and len(key) <= 100:
            assert name == key, "a name stays"
    assert len(set(names.values())) == len(keys)


class Odd(nn.Module):
    """Parameters and buffers under any names; two that differ in their odd characters alone."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.parts = nn.Module()
        self.keys = keys
        for key in keys:
            self.parts.register_parameter(key, nn.Parameter(torch.rand(4) + 0.5))
        self.parts.register_buffer("moved by", torch.zeros(()), persistent=False)
        self.parts.add_module("läyer 1", nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for key in self.keys:
            x = x * getattr(self.parts, key)
        out: Tensor = getattr(self.parts, "läyer 1")(x) + getattr(self.parts, "moved by")
        return out


def test_state_dicts_have_the_names_of_the_module() -> None:
    torch.manual_seed(0)
    net, x, y = Odd(("größe-1", "gr_e_1", "w" * 150, "plain")), torch.randn(3, 4), torch.randn(3, 4)
    other = deepcopy(net)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    step = tn.compile_step(net, x, loss=F.mse_loss, optimizer=tn.sgd(lr=0.1))
    assert step.model.state_dict().keys() == net.state_dict().keys()
    assert [n for n, _ in step.model.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert step.model.get_parameter("parts.größe-1") is net.parts.get_parameter("größe-1")
    assert "parts.plain" in step.graph.given_names
    assert_declares(tn.from_torch(net, x))

    step(x, y)
    F.mse_loss(other(x), y).backward()
    optimizer.step()
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[name], tensor)
    copied = pickle.loads(pickle.dumps(step))
    copied.model.load_state_dict(other.state_dict())
    assert copied.model.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(copied(x, y)["output"], other(x).detach())


@pytest.mark.parametrize("key", ["self", "0", "lambda", "graph"])
def test_names_that_mean_something_elsewhere_are_names(key: str) -> None:
    net = nn.ParameterDict({key: torch.randn(3)})

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = net

        def forward(self, x: Tensor) -> Tensor:
            return x * self.held[key]

    g = tn.from_torch(Scaled(), torch.randn(2, 3))
    assert [p.name for p in g.parameters] == [f"held.{key}"]
    assert_declares(g)
