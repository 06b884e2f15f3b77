"""The cases of `benchmarks/plans.py`, bit for bit: the same from run to run, and row by row whatever the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.runtime.runner import pick_device

BATCH = tn.Dim("batch")
DEVICE = pick_device()
RUNS = 20
Tensors = dict[str, Tensor]


def softmax_to_rms_norm(x: Value) -> Value:
    return tn.rms_norm(tn.dropout(tn.softmax(x, -1), 0.1) + x, name="norm")


ROW_LOCAL: dict[str, tuple[Callable[[Value], Value], tuple[int, ...]]] = {
    "gelu(LN(x)) + x": (lambda x: tn.gelu(tn.layer_norm(x, name="ln")) + x, (1024,)),
    "softmax, dropout, residual, RMS norm": (softmax_to_rms_norm, (1024,)),
    "SwiGLU": (tn.swiglu, (2 * 1100,)),
    "cross entropy with its gradient": (lambda x: _losses(x), (3200,)),
}
OVER_ROWS: dict[str, tuple[Callable[[Value], Value], tuple[int, ...]]] = {
    "relu(BN(x))": (lambda x: tn.relu(tn.batch_norm(x, name="bn")), (6, 7, 7)),
    "cross entropy, mean, with accuracy": (lambda x: _mean_loss(x), (3200,)),
}


def _losses(x: Value) -> Value:
    return tn.cross_entropy(x, x.graph.input("y", (BATCH,), "int64"), reduction="none")


def _mean_loss(x: Value) -> Value:
    y = x.graph.input("y", (BATCH,), "int64")
    return tn.cross_entropy(x, y) + 0 * tn.accuracy(x, y)


def model_of(build: Callable[[Value], Value], shape: tuple[int, ...]) -> tn.Model:
    graph = Graph("case")
    graph.output(y=build(graph.input("x", (BATCH, *shape))))
    return tn.compile(graph, training=True)


def feeds_of(model: tn.Model, shape: tuple[int, ...], rows: int) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    feeds = {"x": 3 * torch.randn((rows, *shape), generator=generator)}
    if any(v.name == "y" for v in model.graph.leaves("input")):
        feeds["y"] = torch.randint(0, shape[0], (rows,), generator=generator)
    return {name: tensor.to(DEVICE) for name, tensor in feeds.items()}


def forward_and_backward(model: tn.Model, feeds: Tensors) -> Tensors:
    """The output, and the gradients for input and parameters of numbers that differ from row to row."""
    x = feeds["x"].clone().requires_grad_(True)
    torch.manual_seed(3)  # what is dropped depends on it and on the place alone
    y = model(**{**feeds, "x": x})["y"]
    upstream = torch.linspace(-1, 1, y.numel(), device=DEVICE).reshape(y.shape) if y.shape else torch.ones_like(y)
    if y.shape:  # the same for a row, however many there are
        upstream = torch.linspace(-1, 1, y[0].numel(), device=DEVICE).reshape(y[:1].shape).expand(y.shape)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(y, [x, *parameters.values()], upstream)
    return {"y": y.detach(), **dict(zip(["x", *parameters], found, strict=True))}


@pytest.mark.parametrize("name", [*ROW_LOCAL, *OVER_ROWS])
def test_twenty_runs_give_the_same_bits(name: str) -> None:
    build, shape = {**ROW_LOCAL, **OVER_ROWS}[name]
    model = model_of(build, shape)
    feeds = feeds_of(model, shape, 9)
    first = forward_and_backward(model, feeds)
    for _ in range(RUNS - 1):
        again = forward_and_backward(model, feeds)
        assert not [what for what, tensor in first.items() if not torch.equal(again[what], tensor)]


@pytest.mark.parametrize("name", ROW_LOCAL)
def test_a_row_is_the_same_however_many_others_there_are(name: str) -> None:
    build, shape = ROW_LOCAL[name]
    model = model_of(build, shape)
    feeds = feeds_of(model, shape, RUNS)
    whole = forward_and_backward(model, feeds)
    for rows in range(1, RUNS):
        part = forward_and_backward(model, {n: t[:rows] for n, t in feeds.items()})
        for what in ("y", "x"):
            assert torch.equal(part[what], whole[what][:rows]), f"{what} of {rows} rows"


def test_twenty_training_steps_give_the_same_bits_again() -> None:
    graph = Graph("step")
    x, y = graph.input("x", (BATCH, 64)), graph.input("y", (BATCH,), "int64")
    h = tn.prelu(tn.batch_norm(tn.linear(x, 128, name="fc1"), name="bn1"), name="act1")
    h = tn.elu(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2"))
    graph.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc3"), y))
    generator = torch.Generator().manual_seed(0)
    feeds = {"x": torch.randn(32, 64, generator=generator), "y": torch.randint(0, 10, (32,), generator=generator)}
    feeds = {name: tensor.to(DEVICE) for name, tensor in feeds.items()}

    def losses() -> list[Tensor]:
        step = tn.compile_step(graph, loss="loss", optimizer=tn.adam(lr=1e-2), seed=0)
        return [step(**feeds)["loss"] for _ in range(RUNS)]

    assert all(torch.equal(one, other) for one, other in zip(losses(), losses(), strict=True))


def test_twenty_updates_of_64_parameters_give_the_same_bits() -> None:
    def updated() -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.randn(3, 20 + i, generator=generator).to(DEVICE).requires_grad_(True) for i in range(64)]
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(DEVICE)
        tn.optim.Adam(parameters, lr=1e-2).step()
        return [p.detach() for p in parameters]

    first = updated()
    for _ in range(RUNS - 1):
        assert all(torch.equal(one, other) for one, other in zip(first, updated(), strict=True))
