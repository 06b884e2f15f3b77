"""Numbers at extremes: where squares overflow or vanish, where slopes are infinite, and the signs of zeros."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.certificate import DRAWS
from tritonnotes.judge.executor import eager, oracle
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")


def spreads(shape: tuple[object, ...], axis: int, dtype: str = "float32") -> tn.Graph:
    g = tn.Graph("spread")
    x = g.input("x", shape, dtype)
    g.output(var=tn.var(x, axis), std=tn.std(x, axis), biased=tn.var(x, axis, correction=0, keepdim=True))
    return g


def of_scale(scale: float, mean: float = 0.0) -> Tensor:
    return (torch.randn(33, 200, generator=torch.Generator().manual_seed(0)) + mean) * scale


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("scale", [1e30, 4e19, 1e18, 1.0, 1e-18, 1e-25, 1e-36])
def test_spread_is_torchs_at_every_scale(scale: float, axis: int) -> None:
    g = spreads((BATCH, 200), axis)
    for mean in (0.0, 1e3):
        certificate = tn.check(g, feeds={"x": of_scale(scale, mean)})
        outputs = [row for row in certificate.rows if row.what == "output"]
        assert all(row.comparison.ok for row in outputs), str(certificate)


@pytest.mark.parametrize("scale", [1e30, 1e-25])
def test_gradient_of_std_is_of_the_order_of_1_at_every_scale(scale: float) -> None:
    g = tn.Graph("std")
    g.output(std=tn.std(g.input("x", (BATCH, 200)), -1))
    x = of_scale(scale)
    mine, theirs = x.clone().to(DEVICE).requires_grad_(), x.double().requires_grad_()
    tn.compile(g)(x=mine)["std"].sum().backward()
    torch.std(theirs, -1).sum().backward()
    assert mine.grad is not None and theirs.grad is not None
    torch.testing.assert_close(mine.grad.cpu().double(), theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("count", "values", "dtype"),
    [(1_000_003, (1.2345678,), "float32"), (10_007, (3.0, 1000.1, 0.1), "float32"), (10_007, (0.1, 7.7), "float64")],
)
def test_numbers_that_all_but_agree_have_no_negative_variance(
    count: int, values: tuple[float, ...], dtype: str
) -> None:
    """One of them is the next number: the variance is the square of that step over the count."""
    model = tn.compile(spreads((count,), 0, dtype))
    for value in values:
        x = torch.full((count,), value, dtype=getattr(torch, dtype))
        assert model(x=x.to(DEVICE))["var"] == 0
        x[5] = torch.nextafter(x[5], torch.tensor(9e9, dtype=x.dtype))
        step = float(x[5].double() - x[4].double())
        out = model(x=x.to(DEVICE))
        assert float(out["var"].detach()) == pytest.approx(step**2 / count, rel=1e-3)
        assert float(out["std"].detach()) == pytest.approx(step / math.sqrt(count), rel=1e-3)


def test_spread_of_nothing_one_and_what_is_not_finite_is_torchs() -> None:
    for width in (0, 1, 3):
        g = spreads((BATCH, width), -1)
        x = torch.tensor([[1.0, 2.0, 4.0], [math.inf, 1.0, 2.0], [math.nan, 1.0, 2.0]])[:, :width]
        out = tn.compile(g)(x=x.to(DEVICE))
        assert torch.allclose(out["var"].cpu(), torch.var(x, -1), equal_nan=True)
        assert torch.allclose(out["std"].cpu(), torch.std(x, -1), equal_nan=True)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.9, 1.0, 2.0, 0.0])
def test_focal_loss_of_what_is_certainly_right_has_no_slope(gamma: float) -> None:
    g = tn.Graph("focal")
    x, y = g.input("x", (BATCH,)), g.input("y", (BATCH,))
    g.output(loss=tn.focal_loss(x, y, gamma=gamma, reduction="none"))
    logits, target = torch.tensor([120.0, -120.0, 1e4, -1e4, 89.0, -89.0]), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    wrong = torch.tensor([-120.0, 120.0, 3.0, -3.0, 0.0])
    logits, target = torch.cat([logits, wrong]), torch.cat([target, torch.tensor([1.0, 0.0, 1.0, 0.5, 0.5])])
    found = []
    for run in (lambda f: tn.compile(g)(**f), lambda f: eager(g, f), lambda f: oracle(g, f)):
        t = logits.double() if len(found) == 2 else logits.clone()
        feeds = {"x": t.requires_grad_(), "y": target}
        loss = run({n: each.to(DEVICE) for n, each in feeds.items()} if not found else feeds)["loss"]
        loss.sum().backward()
        assert t.grad is not None
        found.append((loss.detach().cpu().double(), t.grad.double()))
    for loss, gradient in found:
        assert loss[:6].abs().max() < 1e-9 and gradient[:6].abs().max() < 1e-9
        torch.testing.assert_close(loss, found[2][0], rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(gradient, found[2][1], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_of_zeros_infinities_and_negative_numbers_are_torchs(dtype: str) -> None:
    bases = [-0.0, 0.0, -math.inf, math.inf, -2.0, -1.0, 1.0, math.nan, 0.5, -0.5, 3.0]
    exponents = [-1.0, -3.0, 3.0, -2.0, 2.0, 0.5, -0.5, 0.0, 1.0, math.inf, -math.inf, math.nan, 0.7, -3.3, 5.0, -7.0]
    g = tn.Graph("powers")
    x, e = g.input("x", (BATCH,), dtype), g.input("e", (BATCH,), dtype)
    g.output(both=tn.pow(x, e), of_2=tn.pow(2.0, x))
    fixed = {f"to_{i}": p for i, p in enumerate(exponents)}
    g.output(**{name: tn.pow(x, p) for name, p in fixed.items()})
    base = torch.tensor([b for b in bases for _ in exponents], dtype=getattr(torch, dtype))
    exponent = torch.tensor(exponents * len(bases), dtype=base.dtype)
    out = tn.compile(g)(x=base.to(DEVICE), e=exponent.to(DEVICE))
    expected = {"both": base**exponent, "of_2": 2.0**base} | {name: base**p for name, p in fixed.items()}
    for name, wanted in expected.items():
        mine = out[name].cpu()
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=0, equal_nan=True, msg=f"{name} {fixed.get(name)}")
        assert torch.equal(mine.signbit() & ~mine.isnan(), wanted.signbit() & ~wanted.isnan()), (name, fixed.get(name))


def language_model() -> tn.Graph:
    g = tn.Graph("language_model")
    tokens, following = g.input("tokens", (BATCH,), "int64"), g.input("following", (BATCH,), "int64")
    h = tn.embedding(tokens, 30, 16, name="embedding")
    h = h + tn.linear(tn.gelu(tn.linear(tn.layer_norm(h, name="ln1"), 32, name="fc1")), 16, name="fc2")
    logits = tn.linear(tn.rms_norm(h, name="ln2"), 30, name="head")
    g.output(loss=tn.cross_entropy(logits, following), accuracy=tn.accuracy(logits, following))
    return tn.autocast(g, "bfloat16")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_seed_decides_the_certificate_of_a_language_model(seed: int) -> None:
    certificate = tn.check(language_model(), seed=seed)
    assert certificate.ok, str(certificate)
    shapes = {row.name: row.comparison.shape for row in certificate.rows}
    assert shapes["loss"] == (DRAWS,) and shapes["head.weight"] == (30, 16)


def test_scalars_are_compared_over_draws_unless_these_are_given() -> None:
    g = tn.Graph("one")
    g.output(loss=tn.mean(g.input("x", (BATCH, 3)) ** 2))
    assert tn.check(g).rows[0].comparison.shape == (DRAWS,)
    assert tn.check(g, feeds={"x": torch.ones(4, 3)}, state={}).rows[0].comparison.shape == ()
