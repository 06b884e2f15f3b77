"""Mixed precision: the casts of torch.autocast, held to torch.autocast itself and to the policy."""

from __future__ import annotations

import inspect
import re
import sys

import pytest
import torch
from autocast_by_hand import BATCH, DEVICE, ByHand, feeds, hold, mlp
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, DTypeError
from tritonnotes.ir.core.op import OPS
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.judge.tolerance import Comparison, compare
from tritonnotes.tensors.initial import initial_state

either = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def run(module: nn.Module, fed: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """Logits, loss and gradients, under torch.autocast or, for None, in float64."""
    module.zero_grad()
    with torch.autocast(DEVICE.type, getattr(torch, dtype or "bfloat16"), enabled=dtype is not None):
        logits = module(fed["x"])
        loss = nn.functional.cross_entropy(logits, fed["y"])
    loss.backward()
    return {"logits": logits.detach(), "loss": loss.detach(), **{n: p.grad for n, p in module.named_parameters()}}


@either
def test_values_and_gradients_err_as_those_of_torch_autocast(dtype: str) -> None:
    model = tn.compile(tn.autocast(mlp(), dtype), training=True, seed=4)
    by_hand, exact = ByHand().to(DEVICE), ByHand().to(DEVICE, torch.float64)
    by_hand.load_state_dict(model.state_dict())
    exact.load_state_dict(model.state_dict())
    found_of: dict[str, list[Comparison]] = {}
    for number in range(4):
        fed = feeds(number)
        model.zero_grad()
        mine = model(**fed)
        mine["loss"].backward()
        found = {"logits": mine["logits"].detach(), "loss": mine["loss"].detach()}
        found |= {n: p.grad for n, p in model.named_parameters()}
        theirs = run(by_hand, fed, dtype)
        truth = run(exact, {**fed, "x": fed["x"].double()}, None)
        for name, tensor in theirs.items():
            assert found[name].dtype == tensor.dtype, name
            found_of.setdefault(name, []).append(compare(found[name], tensor, truth[name]))
    for name, comparisons in found_of.items():
        hold(name, comparisons)


@either
def test_training_follows_torch_autocast(dtype: str) -> None:
    """Six steps in a row: as far from float64 as torch.autocast, at most."""
    step = tn.compile_step(tn.autocast(mlp(), dtype), optimizer=tn.sgd(lr=0.1, momentum=0.9), seed=4)
    sides = []
    for number_type in (torch.float32, torch.float64):
        module = ByHand().to(DEVICE, number_type)
        module.load_state_dict(step.model.state_dict())
        sides.append((module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)))
    for number in range(6):
        fed = feeds(number)
        step(**fed)
        run(sides[0][0], fed, dtype)
        run(sides[1][0], {**fed, "x": fed["x"].double()}, None)
        for _, optimizer in sides:
            optimizer.step()
    judged, truth = (dict(m.named_parameters()) for m, _ in sides)
    for name, weight in step.model.state_dict().items():
        assert weight.dtype == torch.float32
        comparison = compare(weight, judged[name].detach(), truth[name].detach())
        assert comparison.ok, f"{name}: {comparison}"


@pytest.mark.slow
@either
def test_everything_else_is_as_the_policy_has_it(dtype: str) -> None:
    g = tn.Graph("mixed")
    x, y = g.input("x", (BATCH, 12)), g.input("y", (BATCH,), "int64")
    h = tn.prelu(tn.batch_norm(tn.linear(x, 16, name="fc1"), name="bn"), name="act")
    h = tn.swiglu(tn.rms_norm(tn.linear(h, 16, name="fc2"), name="norm"))
    h = tn.cat([h, tn.linear(h, 8, name="fc3")], -1)
    logits = tn.linear(tn.layer_norm(h, name="ln"), 5, name="head")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y, label_smoothing=0.1), accuracy=tn.accuracy(logits, y))
    cast = tn.autocast(g, dtype)
    assert [str(cast[n].dtype) for n in ("fc1", "bn", "act", "fc2", "norm", "fc3", "ln", "head")] == [
        dtype, dtype, dtype, dtype, "float32", dtype, "float32", dtype,
    ]  # fmt: skip
    assert cast.outputs["loss"].dtype.name == "float32"
    assert [v.name for v in cast.leaves("parameter", "buffer")] == [v.name for v in g.leaves("parameter", "buffer")]
    found_of: dict[str, list[Comparison]] = {}
    # Seldom an activation near 0 has another sign, for eager as for kernels, and decides a whole gradient.
    for seed in range(20):
        feeds, state = draw_feeds(cast, {"batch": 33}, seed), initial_state(cast, seed)
        for row in tn.check(cast, optimizer=tn.sgd(lr=0.1), seed=seed, feeds=feeds, state=state).rows:
            found_of.setdefault(f"{row.what} {row.name}", []).append(row.comparison)
    assert len(found_of) > 20
    for name, comparisons in found_of.items():
        hold(name, comparisons)
    assert tn.Graph.from_json(cast.to_json()).to_json() == cast.to_json()


def test_weights_are_cast_once_and_products_take_narrow_operands() -> None:
    g = tn.Graph("shared")
    x = g.input("x", (BATCH, 8))
    weight = g.parameter("weight", (8, 8), "ones")
    h = tn.linear(tn.linear(x, weight=weight, bias=None), weight=weight, bias=None)
    g.output(loss=tn.mse_loss(h, x))
    cast = tn.autocast(g)
    casts = [v for v in cast.values if v.op.name == "cast" and v.inputs[0].name == "weight"]
    assert len(casts) == 1
    step = tn.compile_step(cast, optimizer=tn.sgd(lr=0.1))
    products = [v for v in step.plan.graph.values if v.op.kind == "contraction"]
    assert len(products) == 5, "two forward, one back to the first layer, two for the weight"
    assert {str(a.dtype) for v in products for a in v.inputs} == {"bfloat16"}


def test_numbers_widen_nothing() -> None:
    g = tn.Graph("numbers")
    h = tn.linear(g.input("x", (BATCH, 8)), 8, name="fc")
    g.output(y=2 * h + 0.5, kept=g.constant(3.0))
    cast = tn.autocast(g)
    assert cast.outputs["y"].dtype.name == "bfloat16" and cast.outputs["kept"].dtype.name == "float32"


def test_float64_is_never_cast() -> None:
    g = tn.Graph("wide")
    h = tn.linear(g.input("x", (BATCH, 8), "float64"), 8, name="fc")
    g.output(loss=tn.mse_loss(h, g.input("y", (BATCH, 8), "float64")))
    assert not [v for v in tn.autocast(g).values if v.op.name == "cast"]


def test_the_lists_name_what_there_is() -> None:
    from tritonnotes.ir.passes.autocast import NARROW, WIDE

    assert {*NARROW, *WIDE} <= {*OPS, *PRIMITIVES} and not NARROW & WIDE


def test_the_lists_are_torchs() -> None:
    """Torch's own, of its tests for GPUs; what it does not know is ours alone."""
    from torch.testing._internal.autocast_test_lists import AutocastTestLists

    from tritonnotes.ir.passes.autocast import NARROW, WIDE

    text = inspect.getsource(AutocastTestLists)
    start = text.index("self.torch_fp32")
    wide = {*re.findall(r'\("(\w+)"', text[start : text.index("self.torch_need_autocast_promote")])}
    ours = {"normalize", "weight_norm", "softmin"}
    modules = {n: sys.modules[op.formula.__module__] for n, op in OPS.items() if not op.custom}
    losses = {n for n, module in modules.items() if getattr(module, "FAMILY", "") == "losses"}
    assert wide & {*OPS, *PRIMITIVES} <= WIDE | losses and WIDE - ours <= wide | {"softplus"}
    assert {"prelu", "matmul"} <= {*re.findall(r'\("(\w+)"', text)} and {"prelu", "matmul", "linear"} == NARROW


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_another_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(DTypeError, match=f"autocast: dtype is {dtype}; use 'bfloat16'"):
        tn.autocast(mlp(), dtype)


def test_primitives_are_refused() -> None:
    from tritonnotes.ir.passes.decompose import decompose

    with pytest.raises(DeclarationError, match="autocast: graph 'mlp' is one of primitives"):
        tn.autocast(decompose(mlp()))
