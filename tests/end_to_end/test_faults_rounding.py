"""One value, one rounding: a cast rounds wherever it is fused, and what memory holds with 16 bits is the number that
all read."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.ir.core.types import DTYPES
from tritonnotes.judge.executor import eager, oracle
from tritonnotes.runtime.runner import pick_device

MODES = ("optimal", "greedy", "off")
NARROW = ("float16", "bfloat16")
DEVICE = pick_device()
BATCH = tn.Dim("batch")


def same(mine: Tensor, theirs: Tensor) -> bool:
    return torch.equal(mine.isnan(), theirs.isnan()) and torch.equal(mine.nan_to_num(7.0), theirs.nan_to_num(7.0))


# -- casts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", MODES)
def test_a_cast_back_and_forth_rounds_and_overflows(fusion: str) -> None:
    g = tn.Graph("there_and_back")
    g.output(y=tn.cast(tn.cast(g.input("x", (BATCH, 4)), "float16"), "float32"))
    x = torch.tensor([[1 / 3, 1e6, 7.1, 65520.0]])
    assert tn.compile(g, fusion=fusion)(x=x.to(DEVICE))["y"].tolist() == x.half().float().tolist()
    assert tn.check(g, feeds={"x": x}, fusion=fusion).ok


STEPS: tuple[tuple[Callable[[Value], Value], Callable[[Tensor], Tensor]], ...] = (
    (lambda v: v * 1.7, lambda t: t * 1.7),
    (lambda v: v + 0.3, lambda t: t + 0.3),
    (lambda v: tn.maximum(v, -0.4), lambda t: torch.clamp(t, min=-0.4)),
    (abs, torch.abs),
    (lambda v: -v, torch.neg),
    (tn.relu, torch.relu),
    (lambda v: v * v, lambda t: t * t),
    (lambda v: v / 3, lambda t: t / 3),
)
"""What is exact to the last bit in any float dtype once it is rounded, and what torch says it is."""


def chain(seed: int) -> tuple[Graph, Callable[[Tensor], Tensor]]:
    """Ops with a cast to 16 bits and back behind each, in a graph and in torch."""
    pick = random.Random(seed).choice
    g = tn.Graph("chain")
    value = g.input("x", (BATCH, 5))
    meanings: list[Callable[[Tensor], Tensor]] = []
    for _ in range(pick((2, 4, 6))):
        made, meant = pick(STEPS)
        narrow, wide = pick(NARROW), pick(("float32", "float32", "float64"))
        value = tn.cast(tn.cast(made(value), narrow), wide)
        meanings.append(lambda t, m=meant, n=narrow, w=wide: m(t).to(getattr(torch, n)).to(getattr(torch, w)))
    g.output(y=tn.cast(value, "float32"))

    def run(t: Tensor) -> Tensor:
        for meaning in meanings:
            t = meaning(t)
        return t.float()

    return g, run


@pytest.mark.parametrize("seed", range(8))
def test_casts_anywhere_between_ops_are_torchs_to_the_bit(seed: int) -> None:
    g, run = chain(seed)
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(seed)) * 3
    theirs = x.clone().requires_grad_()
    expected = run(theirs)
    expected.sum().backward()
    for fusion in MODES:
        mine = x.clone().to(DEVICE).requires_grad_()
        found = tn.compile(g, fusion=fusion)(x=mine)["y"]
        found.sum().backward()
        assert same(found.detach().cpu(), expected.detach()), (fusion, str(g))
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=2e-2, atol=1e-3)
    exact = oracle(g, {"x": x})["y"]
    torch.testing.assert_close(exact.float(), expected.detach(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("fusion", MODES)
def test_the_gradient_of_a_cast_is_a_cast(dtype: str, fusion: str) -> None:
    g = tn.Graph("backward")
    g.output(y=tn.cast(g.input("x", (4,), dtype) * 0.5, "float32") * (1 / 3))
    torch_dtype = getattr(torch, dtype)
    mine = torch.ones(4, dtype=torch_dtype, device=DEVICE).requires_grad_()
    tn.compile(g, fusion=fusion)(x=mine)["y"].sum().backward()
    theirs = torch.ones(4, dtype=torch_dtype).requires_grad_()
    ((theirs * 0.5).float() * (1 / 3)).sum().backward()
    assert mine.grad is not None and torch.equal(mine.grad.cpu(), theirs.grad)


@pytest.mark.parametrize("fusion", ["optimal", "greedy"])
def test_casts_of_autocast_round(fusion: str) -> None:
    g = tn.Graph("scaled")
    x, w = g.input("x", (BATCH, 3)), g.parameter("w", (3,), 0.1)
    g.output(y=tn.prelu(x, weight=w) * 3.0)
    g = tn.autocast(g, "bfloat16")
    t = torch.tensor([[-1 / 3, -7.1, -1e-3]])
    state = {"w": torch.full((3,), 0.1)}
    model = tn.compile(g, fusion=fusion)
    model.load_state_dict(state)
    product = t.bfloat16().double() * torch.tensor(0.1).bfloat16().double()
    torch.testing.assert_close(model(x=t.to(DEVICE))["y"].cpu(), (product * 3).bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(oracle(g, {"x": t}, state)["y"], product * 3, rtol=1e-14, atol=0)


def test_numpy_rounds_as_torch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (20000,), generator=generator).to(torch.int32).view(torch.float32)
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 65519.9, 65520.0, 3.39e38, 2.0**-25, -0.0, 1e-45])
    x = torch.cat([bits, ties, torch.tensor([float("nan"), float("inf"), -float("inf")])]).double()
    for name in ("float16", "bfloat16", "float32", "float64"):
        found = torch.from_numpy(np.asarray(PRIMITIVES["round_to"].evaluate(x.numpy(), dtype=DTYPES[name])))
        assert same(found, x.to(getattr(torch, name)).double()), name


# -- what is stored ----------------------------------------------------------------------------------------------------


def extrema(dtype: str) -> Graph:
    """Largest and smallest of what kernels compute again, along rows, along columns and of all."""
    g = tn.Graph("extrema")
    x = g.input("x", (17, 8), dtype)
    made = {"tanh": tn.tanh(x), "scaled": x * 1.1, "norm": tn.layer_norm(x, weight=None, bias=None)}
    for name, value in made.items():
        g.output(**{f"{name}_rows": tn.amax(value, -1), f"{name}_columns": tn.amin(value, 0)})
    g.output(columns=tn.amax(made["tanh"], 0), all=tn.amax(made["scaled"]))
    return g


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("fusion", MODES)
def test_extrema_of_16_bits_have_gradients(dtype: str, fusion: str) -> None:
    g = extrema(dtype)
    model = tn.compile(g, fusion=fusion)
    t = torch.randn(17, 8, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    mine, theirs = t.clone().to(DEVICE).requires_grad_(), t.clone().requires_grad_()
    for outputs in (model(x=mine), eager(g, {"x": theirs})):
        sum(2.0**i * t.float().sum() for i, t in enumerate(outputs.values())).backward()
    assert mine.grad is not None and theirs.grad is not None
    torch.testing.assert_close(mine.grad.cpu().float(), theirs.grad.float(), rtol=0.03, atol=1.0)


@pytest.mark.parametrize("fusion", MODES)
def test_extrema_behind_a_loss_train(fusion: str) -> None:
    g = tn.Graph("largest")
    x, w = g.input("x", (BATCH, 8), "bfloat16"), g.parameter("w", (8,), 1.1, "bfloat16")
    h = x * w
    g.output(h=h, loss=tn.cast(tn.mean(tn.amax(h, 0)) + tn.mean(tn.amin(tn.tanh(h), -1)), "float32"))
    step = tn.compile_step(g, loss="loss", optimizer=tn.sgd(lr=0.1), fusion=fusion)
    out = step(x=torch.randn(33, 8, generator=torch.Generator().manual_seed(0)).bfloat16().to(DEVICE))
    assert out["loss"].isfinite() and step.model.state_dict()["w"].isfinite().all()


@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize("kind", ["autocast", "bfloat16", "float16"])
def test_metrics_beside_16_bit_logits_are_those_of_these_logits(kind: str, fusion: str) -> None:
    g = tn.Graph("classifier")
    dtype = "float32" if kind == "autocast" else kind
    x, y = g.input("x", (BATCH, 16), dtype), g.input("y", (BATCH,), "int64")
    h = tn.relu(tn.linear(x, 32, name="fc1", bias=False) * 1.3)
    logits = tn.linear(h, 10, name="fc2") * 0.7
    largest = tn.amax(logits, -1, keepdim=True)
    g.output(logits=logits, best=tn.argmax(logits, -1), accuracy=tn.accuracy(logits, y), above=logits >= 0.01)
    g.output(largest=largest, is_largest=logits == largest)
    g.output(turned=tn.transpose(h, 0, 1), positive=h > 0.05)
    if kind == "autocast":
        g = tn.autocast(g)
    torch.manual_seed(0)
    feeds = {"x": torch.randn(700, 16).to(getattr(torch, dtype)), "y": torch.randint(0, 10, (700,))}
    out = tn.compile(g, fusion=fusion)(**{n: t.to(DEVICE) for n, t in feeds.items()})
    shown = out["logits"].detach()
    assert shown.dtype.itemsize == 2
    assert torch.equal(out["best"], shown.argmax(-1))
    assert float(out["accuracy"]) == pytest.approx(float((shown.argmax(-1) == feeds["y"].to(DEVICE)).float().mean()))
    assert torch.equal(out["above"], shown >= 0.01)
    assert torch.equal(out["largest"].detach(), shown.amax(-1, keepdim=True))
    assert torch.equal(out["is_largest"], shown == shown.amax(-1, keepdim=True))
    assert torch.equal(out["positive"], out["turned"].detach().T > 0.05)


@pytest.mark.parametrize("fusion", MODES)
def test_what_backward_computes_again_is_what_was_given_out(fusion: str) -> None:
    """d/dx of relu(h − 1), where h is 1 in bfloat16 and a little more in float32: the gradient is that at 1."""
    g = tn.Graph("again")
    h = g.input("x", (4,), "bfloat16") * (1 + 2**-10)
    g.output(h=h, y=tn.relu(h - 1))
    x = torch.ones(4, dtype=torch.bfloat16, device=DEVICE).requires_grad_()
    out = tn.compile(g, fusion=fusion)(x=x)
    out["y"].sum().backward()
    assert out["h"].tolist() == [1.0] * 4 and out["y"].tolist() == [0.0] * 4
    assert x.grad is not None and x.grad.tolist() == [0.0] * 4


def test_the_oracle_reads_outputs_as_they_are_given_out() -> None:
    g = tn.Graph("given_out")
    h = g.input("x", (3,), "bfloat16") * (1 + 2**-10)
    g.output(h=h, above=h > 1, twice=h * 2)
    found = oracle(g, {"x": torch.ones(3, dtype=torch.bfloat16)})
    assert found["above"].tolist() == [False] * 3 and found["twice"].tolist() == [2.0] * 3
    assert found["h"].tolist() == [1 + 2**-10] * 3


@pytest.mark.interpreted
@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "of_one", [lambda x: tn.softmax(x, 0), lambda x: x - tn.mean(x, 0)], ids=["softmax", "centered"]
)
def test_gradient_that_cancels_in_torch_cancels_here(of_one: Callable[[Value], Value], dtype: str, fusion: str) -> None:
    """Over an axis of size 1: what is subtracted from a gradient that was added up in float32 is as wide as it is."""
    g = tn.Graph("one")
    g.output(y=tn.expand(of_one(g.input("x", (1, 4), dtype)[..., None]), (1, 4, 3)))
    x = torch.tensor([[0.26, -1.3, 0.7, 2.1]], dtype=getattr(torch, dtype), requires_grad=True)
    y = tn.compile(g, fusion=fusion)(x=x)["y"]
    y.backward(torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)).to(y.dtype))
    assert x.grad is not None and not x.grad.any()


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", NARROW)
def test_one_number_is_as_exact_between_kernels_as_within_one(dtype: str) -> None:
    """sigmoid(x) − t, of which 16 bits would keep few digits where every primitive is a kernel."""
    g = tn.Graph("number")
    w, t = g.parameter("w", (), dtype=dtype), g.input("t", (), dtype)
    g.output(loss=tn.binary_cross_entropy_with_logits(w, t))
    model = tn.compile(g, fusion="off")
    number = torch.tensor(2.59375, dtype=getattr(torch, dtype))
    model.load_state_dict({"w": number})
    target = torch.tensor(0.80078125, dtype=number.dtype)
    model(t=target)["loss"].backward()
    (slope,) = [p.grad for p in model.parameters()]
    assert slope is not None
    wanted = number.double().sigmoid() - target.double()
    assert abs(slope.double() - wanted) <= torch.finfo(number.dtype).eps * abs(wanted)
