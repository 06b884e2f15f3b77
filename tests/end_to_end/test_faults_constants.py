"""A constant is an operand like any other: in every place, exact in its dtype, in every fusion mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from compiled import DTYPES, Tensors
from torch import Tensor
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.judge.executor import eager, oracle
from tritonnotes.judge.tolerance import ulp
from tritonnotes.runtime.runner import pick_device

MODES = ("optimal", "greedy", "off")
DEVICE = pick_device()
BATCH = tn.Dim("batch")


def run(graph: Graph, fusion: str, feeds: Tensors, state: Tensors | None = None) -> Tensors:
    model = tn.compile(graph, fusion=fusion, strict=fusion == "off")  # where each primitive is a kernel to compile
    model.load_state_dict(state or {})
    return {n: t.detach().cpu() for n, t in model(**{n: t.to(DEVICE) for n, t in feeds.items()}).items()}


def assert_near(graph: Graph, mine: Tensors, steps: float, *given: Tensors) -> None:
    """Within so many units in the last place of the oracle, or what eager has if it is no float."""
    eagerly = eager(graph, *given)
    for name, wanted in oracle(graph, *given).items():
        found = mine[name]
        assert found.shape == wanted.shape, name
        if not found.is_floating_point():
            assert torch.equal(found, eagerly[name]), (name, found, eagerly[name])
            continue
        assert torch.equal(found.isfinite(), wanted.to(found.dtype).isfinite()), (name, found, wanted)
        gap = (found.double() - wanted).nan_to_num(0, 0, 0).abs().max() if found.numel() else torch.zeros(())
        largest = float(wanted.nan_to_num(0, 0, 0).abs().max()) if found.numel() else 0.0
        assert float(gap) <= steps * ulp(found.dtype, largest), (name, found, wanted)


# -- the examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", MODES)
def test_float64_constants_are_exact(fusion: str) -> None:
    g = tn.Graph("exact")
    x, c = g.input("x", (BATCH,), "float64"), g.input("c", (BATCH,), "bool")
    g.output(clamped=tn.clamp(x, -0.7, 0.9), larger=tn.maximum(x, 0.1), chosen=tn.where(c, 0.1, 0.3) + x)
    g.output(celu=tn.celu(x, alpha=0.3), filled=tn.where(c, 0.1, x), always=tn.expand(g.constant(0.1, "float64"), (3,)))
    x, c = torch.tensor([1.0, -1.0, 0.05], dtype=torch.float64), torch.tensor([True, False, True])
    mine = x.clone().to(DEVICE).requires_grad_()
    out = tn.compile(g, fusion=fusion)(x=mine, c=c.to(DEVICE))
    assert out["clamped"].tolist() == [0.9, -0.7, 0.05] and out["larger"].tolist() == [1.0, 0.1, 0.1]
    assert out["chosen"].tolist() == [0.1 + 1.0, 0.3 - 1.0, 0.1 + 0.05]
    assert out["filled"].tolist() == [0.1, -1.0, 0.1] and out["always"].tolist() == [0.1] * 3
    out["celu"].sum().backward()
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad.cpu(), torch.exp((x / 0.3).clamp(max=0)), rtol=1e-14, atol=0)
    assert tn.check(g, fusion=fusion).ok


def summed(g: Graph) -> Value:
    return tn.sum(tn.linear(g.input("x", (4, 3)), 2, name="fc"))


def averaged(g: Graph) -> Value:
    return tn.mean(tn.linear(g.input("x", (4, 3)), 2, name="fc"))


def gated(g: Graph) -> Value:
    return tn.sum(tn.relu(tn.linear(g.input("x", (4, 3)), 2, name="fc", bias=False)) * 0.5)


@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize("loss", [summed, averaged, gated])
def test_steps_of_sums_of_products(loss: Callable[[Graph], Value], fusion: str) -> None:
    g = tn.Graph("products")
    g.output(loss=loss(g))
    step = tn.compile_step(g, loss="loss", optimizer=tn.sgd(lr=1.0), fusion=fusion)
    before = {n: t.clone() for n, t in step.model.state_dict().items()}
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    step(x=x.to(DEVICE))
    leaves = {n: t.double().requires_grad_() for n, t in before.items()}
    oracle(g, {"x": x}, leaves)["loss"].backward()
    for name, after in step.model.state_dict().items():
        torch.testing.assert_close((before[name] - after).double(), leaves[name].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fusion", MODES)
def test_products_of_numbers(fusion: str) -> None:
    g = tn.Graph("filled")
    x, w = g.input("x", (BATCH, 40)), g.parameter("w", (7, 40), "ones")
    filled = tn.expand(g.constant(2.0), (40, 50))
    g.output(right=tn.matmul(x, filled), left=tn.matmul(tn.expand(g.constant(0.5), (6, 40)), tn.transpose(w, 0, 1)))
    g.output(both=tn.matmul(tn.expand(g.constant(0.1), (3, 4)), tn.expand(g.constant(0.3), (4, 5))))
    g.output(weight=tn.linear(x, weight=tn.expand(g.constant(0.25), (9, 40)), bias=None))
    g.output(again=tn.relu(tn.matmul(x, filled)) + 1)
    feeds, state = {"x": torch.randn(5, 40)}, {"w": torch.randn(7, 40)}
    assert_near(g, run(g, fusion, feeds, state), 8, feeds, state)


@pytest.mark.parametrize("fusion", MODES)
def test_one_weight_of_bfloat16_meets_casts(fusion: str) -> None:
    g = tn.Graph("single")
    x, w = g.input("x", (BATCH, 1), "bfloat16"), g.parameter("w", (1,), 1.0, "bfloat16")
    g.output(loss=tn.mean(tn.cast(x * w, "float32")) + tn.mean(tn.cast(w, "float32")))
    step = tn.compile_step(g, loss="loss", optimizer=tn.sgd(lr=0.5), fusion=fusion)
    assert float(step(x=torch.ones(4, 1, dtype=torch.bfloat16, device=DEVICE))["loss"]) == 2.0
    assert step.model.state_dict()["w"].tolist() == [0.0]


# -- every place of every primitive ------------------------------------------------------------------------------------


def places(g: Graph, dtype: str) -> None:
    """Each elementwise primitive with a number, alone or repeated, in each of its places, and in all of them."""
    x, c = g.input("x", (BATCH, 3), dtype), g.input("c", (BATCH, 3), "bool")
    single, repeated = g.constant(0.3, dtype), tn.expand(g.constant(0.7, dtype), (1, 3))
    for name, primitive in PRIMITIVES.items():
        if primitive.kind != "elementwise":
            continue
        is_logical = name.startswith("logical_")
        tensors: list[Value] = [c] * primitive.arity if is_logical else [x] * primitive.arity
        numbers = [g.constant(True), tn.expand(g.constant(True), (1, 3))] if is_logical else [single, repeated]
        if name == "where":
            tensors[0] = c
        for i, number in itertools.product(range(primitive.arity), numbers):
            if name == "where" and i == 0:
                number = g.constant(True) if number is single else tn.expand(g.constant(True), (1, 3))
            args = [number if place == i else t for place, t in enumerate(tensors)]
            g.output(**{f"{name}_{i}_{'one' if not number.shape else 'row'}": getattr(P, name)(*args)})
        if name != "where":
            g.output(**{f"{name}_all": getattr(P, name)(*numbers[1:] * primitive.arity)})
        else:
            g.output(where_all=tn.where(c, 0.1, 0.3), where_typed=tn.where(c, single, repeated))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fusion", MODES)
def test_numbers_in_every_place_of_elementwise_primitives(dtype: str, fusion: str) -> None:
    g = tn.Graph("places")
    places(g, dtype)
    x = torch.tensor([[0.3, 0.7, 1.9], [0.5, 2.25, 0.1]]).to(getattr(torch, dtype))
    feeds = {"x": x, "c": torch.tensor([[True, False, True], [False, True, True]])}
    assert_near(g, run(g, fusion, feeds), 64 if dtype == "float64" else 8, feeds)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fusion", MODES)
def test_numbers_are_reduced_joined_shaped_and_looked_up(dtype: str, fusion: str) -> None:
    g = tn.Graph("shapes")
    x, index = g.input("x", (BATCH, 3), dtype), g.input("index", (BATCH,), "int64")
    number = g.constant(0.3, dtype)
    block, rows = tn.expand(number, (4, 3)), tn.expand(number, (BATCH, 3))
    for name in ("sum", "max", "min", "mean", "var", "logsumexp", "argmax"):
        made = getattr(tn, name)
        g.output(**{f"{name}_rows": made(block, -1), f"{name}_columns": made(block, 0), f"{name}_all": made(block)})
        g.output(**{f"{name}_batch": made(rows, -1), f"{name}_of_sum": made(rows * 0.5 + block[:1], -1)})
    g.output(total=tn.sum(rows, 0), joined=tn.cat([x, rows], -1), beside=tn.cat([block, block], 0))
    g.output(turned=tn.transpose(block, 0, 1), flat=tn.reshape(block, (12,)), part=block[1:3, :2])
    g.output(cast=tn.cast(block, "float16"), whole=tn.cast(block, "int64"))
    g.output(rows_of_table=P.take_rows(block, index), ones=P.take_rows(tn.expand(number, (4,)), index))
    g.output(fixed=P.take_rows(block, tn.expand(g.constant(2), (5,))), number=number + 0)
    feeds = {"x": torch.ones(2, 3).to(getattr(torch, dtype)), "index": torch.tensor([3, 0])}
    assert_near(g, run(g, fusion, feeds), 4, feeds)


@pytest.mark.interpreted
@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda x: tn.mean(x * x), lambda x: torch.mean(x * x)),
        (lambda x: tn.mean(x * x * x), lambda x: torch.mean(x * x * x)),
        (lambda x: tn.mean(tn.exp(2.5 * x)), lambda x: torch.mean(torch.exp(2.5 * x))),
        (lambda x: tn.var(3 * x), lambda x: torch.var(3 * x)),
        (lambda x: tn.mse_loss(x * x, 0.7 * x), lambda x: F.mse_loss(x * x, 0.7 * x)),
        (lambda x: tn.sum(tn.mean(x, 0) * x), lambda x: torch.sum(torch.mean(x, 0) * x)),
    ],
    ids=["squares", "cubes", "exp", "var", "mse_loss", "mean_of_rows"],
)
def test_a_number_over_the_size_of_a_dim_has_the_digits_of_float64(
    ours: Callable[[Value], Value], torchs: Callable[[Tensor], Tensor], fusion: str
) -> None:
    """Literals and sizes alone are float32 and int32 in Triton."""
    g = tn.Graph("sizes")
    w = g.parameter("w", (1, 1), dtype="float64")
    g.output(loss=ours(g.input("x", (BATCH,), "float64") * w))
    step = tn.compile_step(g, optimizer=tn.sgd(lr=1.0), fusion=fusion)
    for rows in (3, 7):
        weight = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
        step.model.load_state_dict({"w": weight.detach()})
        x = torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
        step(x=x)
        (slope,) = torch.autograd.grad(torchs(x * weight), weight)
        torch.testing.assert_close(
            step.model.state_dict()["w"].cpu(), (weight - slope).detach(), rtol=1e-14, atol=1e-14
        )
