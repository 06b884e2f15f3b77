"""Kind 10 of faults: merged symbolic sizes. What torch does with the shapes of tensors works on symbolic ones."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import FeedError, FormatError, ShapeError, VerificationError
from tritonnotes.ir.core.types import Dim, Size, bind_dims, element_count, product_of, quotient
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.text.json_form import from_json
from tritonnotes.ir.text.parser import parse_graph

B, T, C = Dim("batch"), Dim("time"), Dim("0")
SIZES = {"batch": 3, "time": 5, "0": 2}
CLASSES = 40

sizes = st.lists(st.sampled_from([B, T, C, 1, 2, 3, 7]), min_size=0, max_size=6)


@settings(max_examples=300)
@given(sizes, st.randoms(), sizes)
def test_products_of_sizes_are_what_they_are_of_numbers(factors: list[Size], order: object, others: list[Size]) -> None:
    """Property of the kind: equal in any order, right at every size of the Dims, divided exactly or not at all."""
    shuffled = list(factors)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    product, by = product_of(factors), product_of(others)
    assert product == product_of(shuffled) and hash(product) == hash(product_of(shuffled))
    assert element_count((product,), SIZES) == math.prod(SIZES[f.name] if isinstance(f, Dim) else f for f in factors)
    assert quotient(product * by, by) == product and quotient(product * by, product) == by
    whole = quotient(product, by)
    assert whole is None or whole * by == product
    bound: dict[str, int] = {}
    bind_dims([((product,), (element_count((product,), SIZES),)), ((B, T), (3, 5))], bound)
    assert all(SIZES[name] == size for name, size in bound.items())


@settings(max_examples=60)
@given(st.permutations([B, T, C, 4, 3]), st.integers(0, 4), st.integers(0, 4))
def test_axes_merge_and_split_again(shape: list[Size], start: int, end: int) -> None:
    """Property of the kind: any run of axes merges, is what torch merges, and splits back, forward and backward, with
    the text and the JSON form in between."""
    start, end = sorted((start, end))
    g = tn.Graph("g")
    x = g.input("x", tuple(shape))
    merged = tn.flatten(x, start, end)
    inferred = tn.reshape(x, *shape[:start], -1, *shape[end + 1 :])
    assert merged.shape == inferred.shape
    g.output(merged=tn.exp(merged), back=tn.reshape(tn.tanh(merged), *shape), total=tn.sum(inferred, -1))
    verify(g)
    assert same_graph(parse_graph(str(g)), g) and same_graph(from_json(g.to_json()), g)
    fed = torch.randn([SIZES[s.name] if isinstance(s, Dim) else s for s in shape])
    found = tn.eager(g, {"x": fed})
    torch.testing.assert_close(found["merged"], fed.flatten(start, end).exp())
    torch.testing.assert_close(found["back"], fed.tanh())
    torch.testing.assert_close(found["total"], fed.flatten(start, end).sum(-1))


def language_model(
    batch: Size, time: Size, *, classes: int = CLASSES, cap: bool = False, kept: bool = False
) -> tn.Graph:
    g = tn.Graph("language_model")
    x, y = g.input("x", (batch, time, 16)), g.input("y", (batch, time), dtype="int64")
    logits = tn.linear(tn.layer_norm(x, name="ln"), CLASSES, name="head")
    if cap:
        logits = 3 * tn.tanh(logits / 3)
    flat, target = tn.reshape(logits, -1, CLASSES), tn.flatten(y, 0, 1)
    g.output(loss=tn.cross_entropy(flat, target), accuracy=tn.accuracy(flat, target))
    if kept:
        g.output(logits=logits)
    return g


def texts(batch: int, time: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return {
        "x": torch.randn(batch, time, 16, generator=generator),
        "y": torch.randint(0, CLASSES, (batch, time), generator=generator),
    }


@pytest.mark.parametrize(("cap", "kept"), [(False, False), (True, False), (False, True)])
def test_flattened_logits_of_a_language_model_train_at_every_size(cap: bool, kept: bool) -> None:
    step = tn.compile_step(language_model(B, T, cap=cap, kept=kept), optimizer=tn.adam(lr=0.1), device="cpu")
    apart = tn.compile_step(
        language_model(B, T, cap=cap, kept=kept), optimizer=tn.adam(lr=0.1), fusion="off", device="cpu"
    )
    for batch, time in ((3, 5), (2, 7), (1, 1)):
        state = {n: v.clone() for n, v in step.model.state_dict().items()}
        feeds = texts(batch, time)
        found, wanted = step(**feeds), apart(**feeds)
        for name, value in tn.eager(step.model.graph, feeds, state).items():
            torch.testing.assert_close(found[name], value)
            torch.testing.assert_close(wanted[name], value)
    for name, value in step.model.state_dict().items():
        torch.testing.assert_close(value, apart.model.state_dict()[name])


@pytest.mark.parametrize("shape", [(B, T), (8, 5)])
def test_flattened_logits_of_many_classes_are_computed_in_chunks(shape: tuple[Size, Size]) -> None:
    budget = 16 * CLASSES * 4
    step = tn.compile_step(language_model(*shape), optimizer=tn.sgd(lr=0.1), logits_budget=budget, device="cpu")
    whole = tn.compile_step(language_model(*shape), optimizer=tn.sgd(lr=0.1), logits_budget=None, device="cpu")
    assert "chunk loop" in step.explain() and "chunk loop" not in whole.explain()
    feeds = texts(8, 5)
    found, wanted = step(**feeds), whole(**feeds)
    torch.testing.assert_close(found, wanted)
    for name, value in step.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name])


def test_certificate_holds_for_flattened_logits() -> None:
    assert tn.check(language_model(B, T, cap=True), sizes={"batch": 3, "time": 5}, optimizer=tn.adam()).ok


def test_targets_are_checked_through_the_views_that_show_them() -> None:
    model = tn.compile(language_model(B, T), device="cpu")
    feeds = texts(2, 3)
    feeds["y"][1, 2] = CLASSES
    with pytest.raises(FeedError, match=rf"target {CLASSES} in input 'y' at \[1, 2\] is out of bounds"):
        model(**feeds)


def test_one_factor_of_a_fed_product_is_found_from_the_others() -> None:
    for names in permutations("xzw"):
        g = tn.Graph("g")
        shapes = {"x": (B * T, 4), "z": (B,), "w": (2 * C,)}
        values = {name: g.input(name, shapes[name]) for name in names}
        x = tn.reshape(values["x"], B, T, 4)
        g.output(y=x * tn.reshape(values["z"], B, 1, 1), mean=tn.mean(values["x"]), w=tn.reshape(values["w"], C, 2) + 1)
        model = tn.compile(g, device="cpu")
        fed = {"x": torch.randn(6, 4, requires_grad=True), "z": torch.randn(2), "w": torch.randn(10)}
        found = model(**fed)
        torch.testing.assert_close(found["y"], fed["x"].reshape(2, 3, 4) * fed["z"].reshape(2, 1, 1))
        torch.testing.assert_close(found["mean"], fed["x"].mean())
        assert found["w"].shape == (5, 2)
        (gradient,) = torch.autograd.grad(found["y"].sum() + found["mean"], fed["x"])
        torch.testing.assert_close(gradient, (fed["z"].reshape(2, 1, 1) + 1 / 24).expand(2, 3, 4).reshape(6, 4))
        with pytest.raises(FeedError, match="declared with shape"):
            model(**{**fed, "x": torch.randn(7, 4)})
        with pytest.raises(FeedError, match="time cannot be told|declared with shape"):
            model(**{**fed, "z": torch.randn(0), "x": torch.randn(0, 4)})


def test_what_no_tensor_tells_is_refused() -> None:
    g = tn.Graph("g")
    g.output(y=g.input("x", (B * T, 4)) * 2)
    with pytest.raises(VerificationError, match="batch.*nothing can bind it"):
        verify(g)


def test_sizes_are_multiplied_and_divided_by_hand() -> None:
    assert B * T == T * B == product_of((T, B)) and 2 * B * 3 == 6 * B
    assert (6 * B * T) // (2 * T) == 3 * B and str(6 * T * B) == "6*batch*time" and B * 0 == 0
    with pytest.raises(ShapeError, match="no whole size"):
        B // 2
    with pytest.raises(ShapeError, match="at most 16 Dims"):
        math.prod([B] * 17, start=1)


@pytest.mark.parametrize(
    "size", ["time*batch", "batch*", "*batch", "1*batch", "batch*2", "0*batch", "a-b*c", "9" * 25 + "*a"]
)
def test_product_in_a_file_is_written_in_one_way(size: str) -> None:
    text = f"graph g declared\nb: float32[batch, time, a] = input()\nx: float32[{size}] = input()\n"
    with pytest.raises(FormatError):
        parse_graph(text)
