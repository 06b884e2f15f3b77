"""Mixed precision: the casts of torch.autocast, held to torch.autocast itself and to the policy."""

from __future__ import annotations

import inspect
import math
import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, DTypeError
from tritonnotes.ir.core.op import OPS
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.judge.tolerance import Comparison, compare
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")
either = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def mlp() -> tn.Graph:
    """Where the lists of torch.autocast on the CPU and on GPUs agree."""
    g = tn.Graph("mlp")
    x, y = g.input("x", (BATCH, 12)), g.input("y", (BATCH,), "int64")
    h = tn.relu(tn.linear(x, 32, name="fc1"))
    h = h + tn.silu(tn.linear(h, 32, name="fc2")) * 0.5
    logits = tn.linear(h, 7, name="fc3")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y))
    return g


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        h = h + nn.functional.silu(self.fc2(h)) * 0.5
        return self.fc3(h)


def feeds(number: int, rows: int = 33) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(rows, 12, generator=generator)
    return {"x": x.to(DEVICE), "y": torch.randint(0, 7, (rows,), generator=generator).to(DEVICE)}


def run(module: nn.Module, fed: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """Logits, loss and gradients, under torch.autocast or, for None, in float64."""
    module.zero_grad()
    with torch.autocast(DEVICE.type, getattr(torch, dtype or "bfloat16"), enabled=dtype is not None):
        logits = module(fed["x"])
        loss = nn.functional.cross_entropy(logits, fed["y"])
    loss.backward()
    return {"logits": logits.detach(), "loss": loss.detach(), **{n: p.grad for n, p in module.named_parameters()}}


def hold(name: str, found: list[Comparison]) -> None:
    """The policy over several batches taken as one. What is float32 in mixed precision carries the roundings of narrow
    values, and of few numbers torch rounds some luckily in one batch."""
    largest, eager_largest = max(c.max_error for c in found), max(c.eager_max_error for c in found)
    rms, eager_rms = (math.sqrt(sum(e * e for e in errors) / len(found)) for errors in _rms_errors(found))
    whole = replace(
        found[0],
        max_error=largest,
        eager_max_error=eager_largest,
        rms_error=rms,
        eager_rms_error=eager_rms,
        ulp=min(c.ulp for c in found),
        special=all(c.special for c in found),
    )
    assert whole.ok, f"{name}: {whole} of {[str(c) for c in found]}"


def _rms_errors(found: list[Comparison]) -> tuple[list[float], list[float]]:
    return [c.rms_error for c in found], [c.eager_rms_error for c in found]


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
    for seed in range(10):
        for row in tn.check(cast, optimizer=tn.sgd(lr=0.1), seed=seed).rows:
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
    losses = {n for n, op in OPS.items() if sys.modules[op.formula.__module__].__dict__.get("FAMILY") == "losses"}
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
