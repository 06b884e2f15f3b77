"""The executor is plain eager PyTorch: bit-equal to a hand-written model, and strict about what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tritonnotes.ir import Dim, Graph
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError, FeedError, VerificationError
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.op import Op, op
from tritonnotes.ir.ops.activations import relu
from tritonnotes.ir.ops.batch_statistics import batch_norm, instance_norm
from tritonnotes.ir.ops.linear import linear
from tritonnotes.ir.ops.losses import cross_entropy
from tritonnotes.ir.ops.metrics import accuracy
from tritonnotes.ir.ops.normalization import group_norm, layer_norm
from tritonnotes.ir.passes.evaluation import evaluation_form
from tritonnotes.judge.executor import eager, oracle
from tritonnotes.judge.references import REFERENCES, register_reference
from tritonnotes.tensors.initial import initial_state

BATCH = Dim("batch")


def small_model(dtype: str = "float32") -> Graph:
    graph = Graph("small")
    x, y = graph.input("x", (BATCH, 6), dtype), graph.input("y", (BATCH,), "int64")
    hidden = relu(layer_norm(linear(x, 8, name="fc1"), name="ln1"))
    logits = linear(0.3 * hidden + 1, 4, name="fc2")
    graph.output(logits=logits, loss=cross_entropy(logits, y), accuracy=accuracy(logits, y))
    return graph


def by_hand(
    x: Tensor, y: Tensor, p: dict[str, Tensor], given_out: Callable[[Tensor], Tensor] = lambda t: t
) -> dict[str, Tensor]:
    hidden = F.linear(x, p["fc1.weight"], p["fc1.bias"])
    hidden = F.relu(F.layer_norm(hidden, (8,), p["ln1.weight"], p["ln1.bias"]))
    logits = F.linear(0.3 * hidden + 1, p["fc2.weight"], p["fc2.bias"])
    shown = given_out(logits)
    correct = (shown.argmax(-1) == y).float().mean()
    return {"logits": logits, "loss": F.cross_entropy(shown, y), "accuracy": correct}


def fed(dtype: str = "float32", batch: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 6, generator=generator).to(getattr(torch, dtype))
    return {"x": x, "y": torch.randint(0, 4, (batch,), generator=generator)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_same_bits_as_the_model_written_by_hand(dtype: str, batch: int) -> None:
    graph, feeds = small_model(dtype), fed(dtype, batch)
    state = initial_state(graph)
    got, want = eager(graph, feeds, state), by_hand(**feeds, p=state)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=0, equal_nan=True)


def test_autograd_reaches_inputs_and_state() -> None:
    graph, feeds = small_model(), fed()
    results = []
    for run in (lambda x, y, p: eager(graph, {"x": x, "y": y}, p), by_hand):
        state = {n: t.requires_grad_() for n, t in initial_state(graph).items()}
        x = feeds["x"].clone().requires_grad_()
        run(x, feeds["y"], state)["loss"].backward()
        results.append([x.grad, *(t.grad for t in state.values())])
    for mine, theirs in zip(*results, strict=True):
        assert mine is not None and torch.equal(mine, theirs)


def test_weights_of_a_group_norm_have_gradients_where_channels_lie_last() -> None:
    """torch 2.13 kills the process there, if the input needs no gradient."""
    graph = Graph("channels_last")
    graph.output(y=group_norm(graph.input("x", (BATCH, 33, 1, 4), "float64"), 1, name="gn"))
    x = torch.randn(7, 33, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = []
    for laid_out in (x, x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
        state = {n: t.requires_grad_() for n, t in initial_state(graph).items()}
        eager(graph, {"x": laid_out}, state)["y"].square().mean().backward()
        slopes.append([t.grad for t in state.values()])
    for mine, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("norm", [batch_norm, instance_norm, group_norm], ids=["batch", "instance", "group"])
def test_gradients_of_a_norm_do_not_depend_on_where_channels_lie(norm: Callable[..., Value]) -> None:
    """In torch 2.13 those of a batch norm in evaluation do."""
    graph = Graph("laid_out")
    how: dict[str, Any] = {"num_groups": 1} if norm is group_norm else {"affine": True} if norm is instance_norm else {}
    graph.output(y=norm(graph.input("x", (BATCH, 2, 2, 1)), name="norm", **how))
    graph = evaluation_form(graph)
    x, d = torch.randn(2, 1, 2, 2, 1, generator=torch.Generator().manual_seed(0))
    found = []
    turned = x[..., 0].transpose(1, 2).contiguous().transpose(1, 2)[..., None]
    for laid_out in (x, x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), turned):
        state = {n: t.requires_grad_(t.is_floating_point()) for n, t in initial_state(graph).items()}
        leaf = laid_out.detach().requires_grad_()
        eager(graph, {"x": leaf}, state)["y"].backward(d)
        found.append([leaf.grad, *(t.grad for t in state.values() if t.grad is not None)])
    assert len(found[0]) > 1
    for first, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(first, other)


def test_each_op_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    linear_reference = REFERENCES["linear"]
    monkeypatch.setitem(REFERENCES, "linear", lambda *a: calls.append(a) or linear_reference(*a))
    graph = small_model()
    eager(graph, fed(), initial_state(graph))
    assert len(calls) == 2


def test_oracle_computes_in_float64_from_the_rounded_tensors() -> None:
    graph, feeds = small_model("bfloat16"), fed("bfloat16")
    state = initial_state(graph)
    got = oracle(graph, feeds, state)
    wide = {n: t.double() for n, t in state.items()}
    want = by_hand(feeds["x"].double(), feeds["y"], wide, given_out=lambda t: t.bfloat16().double())
    assert all(t.dtype == torch.float64 for t in got.values())
    for name in want:
        torch.testing.assert_close(got[name], want[name].double(), rtol=1e-14, atol=1e-14)


def test_oracle_rounds_where_the_graph_casts() -> None:
    graph = Graph("casts")
    x = graph.input("x", (2,))
    low = P.cast(x, "bfloat16")
    graph.output(low=low, wide=P.cast(low, "float32"), twice=low * 2, whole=P.cast(x, "int64"))
    given = torch.tensor([1.2345678, -2.5], dtype=torch.float64, requires_grad=True)
    exact = oracle(graph, {"x": given})
    for name in ("low", "wide", "twice"):
        assert exact[name].dtype == torch.float64
        assert exact[name].tolist() == [(1 + (name == "twice")) * t for t in given.bfloat16().tolist()]
    assert exact["whole"].tolist() == [1, -2]
    (gradient,) = torch.autograd.grad(exact["wide"].sum() * (1 / 3), given)
    assert gradient.tolist() == [torch.tensor(1 / 3).bfloat16().item()] * 2, "the gradient of a cast is a cast"
    assert eager(graph, {"x": given.detach().float()})["low"].dtype == torch.bfloat16


def test_mean_over_a_symbolic_batch_does_not_overflow_float16() -> None:
    graph = Graph("mean")
    graph.output(y=P.mean(graph.input("x", (BATCH, 2), "float16"), 0))
    x = torch.full((70_000, 2), 0.5, dtype=torch.float16)
    assert eager(graph, {"x": x})["y"].tolist() == x.mean(0).tolist() == [0.5, 0.5]


def test_constant_and_input_may_be_outputs() -> None:
    graph = Graph("direct")
    x = graph.input("x", (2,), "float64")
    graph.output(x=x, three=graph.constant(3, "float64"), truth=graph.constant(True))
    got = eager(graph, {"x": torch.ones(2).double()})
    assert got["three"].dtype == torch.float64 and got["three"] == 3 and bool(got["truth"])


def test_graph_without_state_or_feeds_runs() -> None:
    graph = Graph("nothing")
    graph.output(y=graph.constant(2.0) * graph.constant(4.0))
    assert eager(graph, {})["y"] == 8


# -- what is fed is checked --------------------------------------------------------------------------------------------

BAD_FEEDS: list[tuple[dict[str, Any], str]] = [
    ({"x": torch.zeros(5, 7)}, r"input 'x': declared float32\[batch, 6\], got float32\[5, 7\]; axis 1 must be 6"),
    ({"x": torch.zeros(6)}, r"input 'x': .* got float32\[6\]; feed a tensor of 2 dims"),
    ({"x": torch.zeros(5, 6).double()}, r"input 'x': .* got float64\[5, 6\]; convert it with .to\(torch.float32\)"),
    ({"x": [[0.0] * 6] * 5}, r"input 'x': .* got list; pass a torch.Tensor"),
    (
        {"y": torch.zeros(4, dtype=torch.int64)},
        r"input 'y': .* axis 0 must be 5 \(batch is 5 in the tensors before it\)",
    ),
    ({"y": torch.zeros(5)}, r"input 'y': declared int64\[batch\], got float32\[5\]"),
    ({"z": torch.zeros(5)}, r"feed 'z': graph 'small' declares no such input"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_FEEDS)
def test_feed_that_does_not_fit_is_named_with_its_remedy(wrong: dict[str, Any], message: str) -> None:
    graph = small_model()
    with pytest.raises(FeedError, match=message):
        eager(graph, fed() | wrong, initial_state(graph))


def test_missing_feed_and_missing_state_say_how_to_get_them() -> None:
    graph = small_model()
    with pytest.raises(FeedError, match=r"input 'x' .*is missing; add it to the feeds"):
        eager(graph, {"y": fed()["y"]}, initial_state(graph))
    with pytest.raises(FeedError, match=r"parameter 'fc1.weight' .*is missing, with 5 more; pass state=g.state"):
        eager(graph, fed())


def test_misspelt_state_suggests_the_name() -> None:
    graph = small_model()
    state = initial_state(graph)
    with pytest.raises(FeedError, match=r"'fc1.weigth'.*did you mean 'fc1.weight'\?"):
        eager(graph, fed(), state | {"fc1.weigth": state["fc1.weight"]})


def test_state_of_another_shape_or_dtype_is_refused() -> None:
    graph = small_model()
    state = initial_state(graph)
    with pytest.raises(FeedError, match=r"parameter 'fc1.bias': declared float32\[8\], got float32\[9\]"):
        eager(graph, fed(), state | {"fc1.bias": torch.zeros(9)})
    with pytest.raises(FeedError, match="fc1.bias"):
        eager(graph, fed(), state | {"fc1.bias": torch.zeros(8, dtype=torch.float16)})


def test_tensors_on_two_devices_are_refused() -> None:
    graph = small_model()
    feeds = fed() | {"y": torch.zeros(5, dtype=torch.int64, device="meta")}
    with pytest.raises(FeedError, match="different devices.*'x' on cpu.*'y' on meta"):
        eager(graph, feeds, initial_state(graph))


# -- the judge says when the witnesses disagree ------------------------------------------------------------------------


@pytest.fixture
def planted(no_op_stays: None) -> Op:
    @op(domain=(-1, 1))
    def planted(x):
        return x + 1

    return planted


def test_reference_of_another_shape_or_dtype_is_an_error(planted: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph("planted")
    graph.output(y=planted(graph.input("x", (3,))))
    for wrong in (lambda x: x.sum(), lambda x: x.double(), lambda x: None):
        monkeypatch.setitem(REFERENCES, "planted", wrong)
        with pytest.raises(VerificationError, match=r"planted.*formula gives float32\[3\], its torch reference"):
            eager(graph, {"x": torch.zeros(3)})


def test_op_without_reference_is_named(planted: Op) -> None:
    graph = Graph("planted")
    graph.output(y=planted(graph.input("x", (3,))))
    with pytest.raises(DeclarationError, match=r"planted: has no torch reference; declare it with @tn.op"):
        eager(graph, {"x": torch.zeros(3)})


def test_reference_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(DeclarationError, match="cannot be called"):
        register_reference("planted", "torch.relu")  # type: ignore[arg-type]
