"""Imported graphs as text, and what is compiled of modules: its inputs, results, forms, sizes and copies."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from modules_to_import import ROWS, WIDTH, TiedModel, WritesInPlace, rows, words
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn

TEXT = """\
graph Sequential declared
0.weight: float32[4, 8] = parameter(init='kaiming_uniform', a=2.23606797749979)
0.bias: float32[4] = parameter(init='bias_uniform', fan_in=8.0)
1.weight: float32[4] = parameter(init='ones')
1.bias: float32[4] = parameter(init='zeros')
input: float32[batch, 8] = input()
0: float32[batch, 4] = linear(input, 0.weight, 0.bias)
1: float32[batch, 4] = layer_norm(0, 1.weight, 1.bias, dims=1, eps=1e-05)
2: float32[batch, 4] = relu(1) as output
output output = 2
"""


class Many(nn.Module):
    """Two inputs, and results in a dict and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, object]:
        h = self.fc(x)
        return {"logits": h, "parts": (h.sum(dim=-1), y * 2), "loss": F.mse_loss(h, y), "nothing": None}


def test_a_graph_reads_like_a_declared_one() -> None:
    g = tn.from_torch(nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.ReLU()), *rows())
    assert str(g) == TEXT
    assert g.state()["1.weight"].tolist() == [1.0] * 4


def test_a_tied_weight_begins_as_its_first_reader_has_it() -> None:
    table = tn.from_torch(TiedModel(), *words())["table.weight"]
    assert dict(table.attrs) == {"init": "normal_rows", "mean": 0.0, "std": 1.0, "zero_row": -1.0}


def test_a_model_returns_what_its_module_returns() -> None:
    net, x, y = Many(), torch.randn(ROWS, WIDTH), torch.randn(ROWS, 3)
    model = tn.compile(net, x, y)
    got, want = model(x, y), net(x, y)
    assert got.keys() == want.keys() and got["nothing"] is None and isinstance(got["parts"], tuple)
    torch.testing.assert_close(got, want)
    assert list(model.graph.outputs) == ["logits", "parts_0", "parts_1", "loss"]
    torch.testing.assert_close(model(y=y, x=x)["loss"], want["loss"])
    step = tn.compile_step(net, x, y, optimizer=tn.sgd(lr=0.1))
    assert step(x, y)["loss"] == pytest.approx(want["loss"].item()) and step(x, y)["loss"] < want["loss"]


@pytest.mark.parametrize("given", [1, 5])
def test_the_batch_is_symbolic_whatever_the_example(given: int) -> None:
    net = nn.Linear(WIDTH, 3)
    model = tn.compile(net, torch.randn(given, WIDTH))
    for count in (1, 2, 7):
        x = torch.randn(count, WIDTH)
        torch.testing.assert_close(model(x), net(x))


def test_axes_are_called_as_asked() -> None:
    net = nn.Embedding(10, 4)
    ids = torch.zeros(2, 5, dtype=torch.int64)
    assert str(tn.from_torch(net, ids).inputs[0].shape) == "(batch, 5)"
    assert str(tn.from_torch(net, ids, batch="rows").inputs[0].shape) == "(rows, 5)"
    assert str(tn.from_torch(net, ids, batch=None).inputs[0].shape) == "(2, 5)"
    both = tn.from_torch(net, ids, dynamic={"input": {0: "batch", 1: "time"}})
    assert str(both.outputs["output"].shape) == "(batch, time, 4)"


def test_products_of_sizes_are_sizes() -> None:
    g = tn.from_torch(TiedModel(), *words(), dynamic={"ids": {0: "batch", 1: "time"}})
    assert str(g.outputs["output"].shape) == "(batch*time, 10)"


def test_an_import_leaves_the_module_as_it_was() -> None:
    net = nn.Sequential(WritesInPlace(), nn.BatchNorm1d(WIDTH))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    tn.compile_step(net, *rows(), loss=F.mse_loss, optimizer=tn.sgd())
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_both_forms_are_those_of_the_module() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
    (x,) = rows()
    model = tn.compile(net, x)
    torch.testing.assert_close(model(x), deepcopy(net).eval()(x))
    assert net[0].num_batches_tracked == 0
    dropped = model.train()(x)
    other = deepcopy(net)
    kept = other[0].train()(x)
    assert net[0].num_batches_tracked == 1
    assert ((dropped == 0) | torch.isclose(dropped, 2 * kept, atol=1e-5)).all() and (dropped == 0).any()


def test_a_step_of_tied_weights_is_copied_pickled_and_saved() -> None:
    torch.manual_seed(0)
    net, (ids,) = TiedModel(), words()
    step = tn.compile_step(net, ids, loss=F.cross_entropy, optimizer=tn.adamw(lr=1e-2))
    target = torch.randint(0, 10, (ids.numel(),))
    step(ids, target)
    assert net.head.weight is net.table.weight
    for other in (deepcopy(step), pickle.loads(pickle.dumps(step))):
        tensors = other.model.state_dict()
        assert tensors.keys() == net.state_dict().keys()
        assert other.model.get_parameter("head.weight") is other.model.get_parameter("table.weight")
        assert other.model.get_parameter("head.weight") is not net.head.weight
        expected = other(ids, target)["loss"]
    assert torch.equal(step(ids, target)["loss"], expected)
    net.load_state_dict(tensors)


class Tokens(nn.Module):
    """A language model whose result has a row for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(tokens)).flatten(0, 1)
        return out


@pytest.mark.parametrize("rows", [1, 4])
def test_the_batch_stays_symbolic_where_targets_are_flattened(rows: int) -> None:
    module, tokens = Tokens(), torch.randint(0, 11, (6, 5))
    step = tn.compile_step(module, tokens[:rows], loss=F.cross_entropy, optimizer=tn.sgd(lr=0.5))
    assert [str(v.shape[0]) for v in step.graph.inputs] == ["batch", "5*batch"]
    target = torch.randint(0, 11, (30,))
    for count in (6, 3):
        wanted = F.cross_entropy(module(tokens[:count]), target[: 5 * count])
        assert torch.allclose(step(tokens[:count], target[: 5 * count])["loss"], wanted)


def test_targets_of_two_symbolic_sizes_are_their_product() -> None:
    axes = {"tokens": {0: "batch", 1: "time"}}
    g = tn.from_torch(Tokens(), torch.zeros(4, 5, dtype=torch.int64), dynamic=axes, loss=F.cross_entropy)
    assert g.inputs[1].shape[0] == tn.Dim("batch") * tn.Dim("time")


def test_a_target_that_fixes_the_batch_is_warned_of() -> None:
    def of_what_follows(result: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(result[1:], target)

    with pytest.warns(UserWarning, match="batches of 4 rows alone: the example of 'target' has 3") as warned:
        tn.from_torch(nn.Linear(8, 3), torch.randn(4, 8), loss=of_what_follows, target=torch.zeros(3, 3))
    assert warned[0].filename == __file__
