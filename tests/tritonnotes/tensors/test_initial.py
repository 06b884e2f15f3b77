"""First values are torch's own, bit for bit, and nobody else's random numbers move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tritonnotes.ir import Dim, Graph
from tritonnotes.ir.core.errors import DeclarationError, DTypeError
from tritonnotes.ir.ops.linear import linear
from tritonnotes.ir.ops.normalization import layer_norm
from tritonnotes.tensors.initial import initial_state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_same_bits_as_torch_modules_declared_in_the_same_order(dtype: torch.dtype, seed: int) -> None:
    graph = Graph("model")
    hidden = linear(graph.input("x", (Dim("batch"), 33), dtype), 64, name="fc1")
    hidden = layer_norm(hidden, name="ln1")
    hidden = linear(hidden, 7, bias=False, name="fc2")
    graph.output(y=linear(hidden, 5, name="fc3"))
    torch.manual_seed(seed)
    modules = nn.ModuleDict({"fc1": nn.Linear(33, 64, dtype=dtype), "ln1": nn.LayerNorm(64, dtype=dtype)})
    modules.update({"fc2": nn.Linear(64, 7, bias=False, dtype=dtype), "fc3": nn.Linear(7, 5, dtype=dtype)})
    theirs, mine = modules.state_dict(), initial_state(graph, seed)
    assert list(mine) == list(theirs)
    for name, tensor in theirs.items():
        assert mine[name].dtype == dtype and torch.equal(mine[name], tensor), name


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layer_without_inputs_or_outputs_draws_what_torch_draws() -> None:
    graph = Graph("empty")
    x = graph.input("x", (3, 0))
    linear(linear(linear(x, 4, name="a"), 0, name="b"), 2, name="c")
    torch.manual_seed(5)
    modules = nn.ModuleDict({"a": nn.Linear(0, 4), "b": nn.Linear(4, 0), "c": nn.Linear(0, 2)})
    mine = initial_state(graph, 5)
    assert all(torch.equal(mine[name], tensor) for name, tensor in modules.state_dict().items())


def test_every_init_is_torchs() -> None:
    graph = Graph("inits")
    graph.parameter("zeros", (3,))
    graph.parameter("ones", (3,), init="ones")
    graph.parameter("number", (3,), init=0.25)
    graph.parameter("uniform", (50,), init="uniform", low=-2, high=3)
    graph.parameter("normal", (50,), init="normal", mean=1, std=0.5)
    graph.buffer("count", (), init=0, dtype="int64")
    mine = initial_state(graph, 3)
    torch.manual_seed(3)
    want = {
        "zeros": torch.zeros(3),
        "ones": torch.ones(3),
        "number": torch.full((3,), 0.25),
        "uniform": nn.init.uniform_(torch.empty(50), -2, 3),
        "normal": nn.init.normal_(torch.empty(50), 1, 0.5),
        "count": torch.tensor(0),
    }
    assert list(mine) == list(want)
    for name, tensor in want.items():
        assert mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor), name


def test_global_generator_is_neither_read_nor_moved() -> None:
    graph = Graph("model")
    linear(graph.input("x", (2, 3)), 4, name="fc")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = initial_state(graph)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert all(torch.equal(first[name], tensor) for name, tensor in initial_state(graph).items())
    assert not torch.equal(first["fc.weight"], initial_state(graph, 1)["fc.weight"])


def test_what_cannot_be_drawn_is_an_error() -> None:
    graph = Graph("symbolic")
    graph.parameter("w", (Dim("batch"), 3))
    with pytest.raises(DeclarationError, match="'w': its size 'batch' is known only when"):
        initial_state(graph)
    graph = Graph("integers")
    graph.buffer("n", (3,), init="uniform", low=0, high=1, dtype="int64")
    with pytest.raises(DTypeError, match="'n': init 'uniform' draws real numbers"):
        initial_state(graph)
    graph = Graph("vector")
    graph.parameter("v", (3,), init="kaiming_uniform", a=1)
    with pytest.raises(DeclarationError, match="'v': kaiming_uniform needs"):
        initial_state(graph)
