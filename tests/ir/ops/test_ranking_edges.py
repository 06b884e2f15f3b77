"""Losses that compare, where they go wrong: ties, vectors of zeros, norms of every kind, what torch refuses. Formula
and reference agree on values and gradients of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import assert_within_policy, draw, judge
from edges import BATCH, INF, NAN, graph_of, random, same, upstream
from numerics import agree, formula_values
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir import Graph, Value
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError

REDUCTIONS = ("mean", "sum", "none")
Build = Callable[..., Value]
ROWS = ((4,), "int64")


def ranking(*margin: float, shape: tuple[Any, ...] = (4,), **attrs: Any) -> Graph:
    return graph_of(lambda a, b, t: tn.margin_ranking_loss(a, b, t, *margin, **attrs), a=shape, b=shape, t=shape)


def classes(*p_and_margin: float, rows: tuple[Any, ...] = (4,), weight: bool = False, **attrs: Any) -> Graph:
    given: dict[str, Any] = {"x": (*rows, 3), "t": (rows, "int64")} | ({"w": (3,)} if weight else {})
    build = lambda x, t, w=None: tn.multi_margin_loss(x, t, *p_and_margin, weight=w, **attrs)  # noqa: E731
    return graph_of(build, **given)


def cosine(margin: float = 0.0, vectors: tuple[Any, ...] = (4, 3), **attrs: Any) -> Graph:
    build = lambda a, b, t: tn.cosine_embedding_loss(a, b, t, margin, **attrs)  # noqa: E731
    return graph_of(build, a=vectors, b=vectors, t=vectors[:-1])


def triplet(shape: tuple[Any, ...] = (4, 3), **attrs: Any) -> Graph:
    return graph_of(lambda a, p, n: tn.triplet_margin_loss(a, p, n, **attrs), a=shape, p=shape, n=shape)


SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0])
LABELS = torch.tensor([0, 2, 1, 1])
LOSSES: dict[str, tuple[Callable[..., Graph], dict[str, torch.Tensor]]] = {
    "margin_ranking_loss": (ranking, {"a": random(4), "b": random(4, seed=1), "t": SIGNS}),
    "multi_margin_loss": (classes, {"x": random(4, 3), "t": LABELS}),
    "cosine_embedding_loss": (cosine, {"a": random(4, 3), "b": random(4, 3, seed=1), "t": SIGNS}),
    "triplet_margin_loss": (triplet, {"a": random(4, 3), "p": random(4, 3, seed=1), "n": random(4, 3, seed=2)}),
}


# -- what all have in common -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_reduction_honours_any_upstream_gradient(name: str, reduction: str) -> None:
    build, feeds = LOSSES[name]
    graph = build(reduction=reduction)
    agree(graph, upstream(graph), **feeds)


@pytest.mark.parametrize(("reduction", "want"), [("mean", NAN), ("sum", 0.0)])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_an_empty_batch(name: str, reduction: str, want: float) -> None:
    build, feeds = LOSSES[name]
    where = {"margin_ranking_loss": "shape", "multi_margin_loss": "rows", "cosine_embedding_loss": "vectors"}
    where |= {"triplet_margin_loss": "shape"}
    rows = (BATCH,) if name in ("margin_ranking_loss", "multi_margin_loss") else (BATCH, 3)
    graph = build(reduction=reduction, **{where[name]: rows})
    values, _ = agree(graph, **{n: t[:0] for n, t in feeds.items()})
    assert same([values["y"].item()], want)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_reduction_raises(name: str) -> None:
    with pytest.raises(DeclarationError, match=f"{name}.*use 'mean', 'sum' or 'none'"):
        LOSSES[name][0](reduction="average")


@pytest.mark.parametrize("name", LOSSES)
def test_arguments_have_torchs_names_order_and_defaults(name: str) -> None:
    legacy = ("size_average", "reduce")
    theirs = [p for p in inspect.signature(getattr(F, name)).parameters.values() if p.name not in legacy]
    ours = [p for p in inspect.signature(getattr(tn, name)).parameters.values() if p.name != "name"]
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("name", LOSSES)
def test_float16_inputs_lose_nothing_on_the_way_back(name: str) -> None:
    """Small vectors have gradients whose parts would leave the range of float16, were they stored in it."""
    feeds = {n: t * 1e-3 if t.is_floating_point() and n != "t" else t for n, t in LOSSES[name][1].items()}
    graph = Graph("half")
    given = [graph.input(n, t.shape, "float16" if t.is_floating_point() else "int64") for n, t in feeds.items()]
    graph.output(y=getattr(tn, name)(*given, reduction="none"))
    fed = {n: t.half() if t.is_floating_point() else t for n, t in feeds.items()}
    assert_within_policy(judge(graph, fed))


# -- one score above another -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.5])
def test_ranking_passes_its_gradient_at_the_margin_itself(margin: float) -> None:
    graph = ranking(margin, reduction="none")
    _, gradients = agree(graph, a=[margin, 1.0, 1.0, 9.0], b=[0.0, 1.0 + margin, 2.0, 0.0], t=[1.0, -1.0, 1.0, 1.0])
    assert gradients["a"].tolist() == [-1, 1, -1, 0]


def test_ranking_of_nan_is_nan_without_a_gradient() -> None:
    graph = ranking(reduction="none")
    values, gradients = agree(graph, a=[NAN, INF, INF, -INF], b=[0.0, INF, 0.0, 0.0], t=[1.0] * 4)
    assert same(values["y"].tolist(), NAN, NAN, 0, INF) and same(gradients["a"].tolist(), 0, 0, 0, -1)


def test_ranking_of_one_score_against_many() -> None:
    graph = graph_of(tn.margin_ranking_loss, a=(4, 3), b=(4, 1), t=(1, 3))
    agree(graph, a=random(4, 3), b=random(4, 1, seed=1), t=[[1.0, -1.0, 1.0]])
    with pytest.raises(ShapeError, match=r"margin_ranking_loss: input1 'a' \[4, 3\].* differ in their number of dims"):
        graph_of(tn.margin_ranking_loss, a=(4, 3), b=(3,), t=(3,))


# -- the right class above the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("margin", [1.0, -0.5, 3.0])
@pytest.mark.parametrize("p", [1, 2])
def test_multi_margin_of_every_power_and_weight(p: int, margin: float, weight: bool, reduction: str) -> None:
    graph = classes(p, margin, weight=weight, reduction=reduction)
    feeds = {"x": random(4, 3), "t": LABELS} | ({"w": random(3, seed=2).abs()} if weight else {})
    _, gradients = agree(graph, upstream(graph), **feeds)
    assert "w" not in gradients or not gradients["w"].any()


@pytest.mark.parametrize("p", [1, 2])
def test_multi_margin_at_the_margin_and_where_numbers_end(p: int) -> None:
    x = [[1.0, 0.0, 2.0], [NAN, 0.0, 1.0], [0.0, NAN, 5.0], [INF, INF, 0.0]]
    values, gradients = agree(classes(p, reduction="none"), x=x, t=torch.zeros(4, dtype=torch.int64))
    assert gradients["x"][0, 1] == 0 and not gradients["x"][1].any() and values["y"][1] == 0
    agree(classes(p, reduction="none"), x=[[0.0, INF, 1.0]] * 4, t=LABELS)


@pytest.mark.parametrize(("rows", "target"), [((), ()), ((), (1,)), ((1,), (1,))], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_multi_margin_of_one_row(rows: tuple[int, ...], target: tuple[int, ...], reduction: str) -> None:
    graph = graph_of(lambda x, t: tn.multi_margin_loss(x, t, reduction=reduction), x=(*rows, 3), t=(target, "int64"))
    feeds = {"x": random(*rows, 3), "t": torch.full(target, 2)}
    values, _ = agree(graph, **feeds)
    want = F.multi_margin_loss(feeds["x"], feeds["t"], reduction=reduction)
    assert values["y"].shape == want.shape and torch.allclose(values["y"], want, rtol=1e-14)


def test_multi_margin_of_a_single_score_is_0() -> None:
    values, gradients = agree(graph_of(tn.multi_margin_loss, x=(), t=((), "int64")), x=3.0, t=torch.tensor(0))
    assert values["y"] == 0 and gradients["x"] == 0


@pytest.mark.parametrize("target", [3, -1])
def test_target_outside_the_classes_raises_on_the_cpu_and_is_infinite_in_the_formula(target: int) -> None:
    graph = classes(rows=(1,))
    feeds = {"x": torch.zeros(1, 3), "t": torch.tensor([target])}
    assert formula_values(graph, feeds)["y"] == INF
    graph = Graph("outside")
    graph.output(y=tn.multi_margin_loss(graph.input("x", (1, 3)), graph.input("t", (1,), "int64")))
    wanted = rf"target {target} in input 't' at \[0\] is out of bounds for 3 classes; use 0 to 2$"
    with pytest.raises(IndexError, match=wanted):
        tn.compile(graph, device="cpu")(**feeds)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classes(3), "p is 3; use 1 or 2"),
        (lambda: graph_of(tn.multi_margin_loss, x=(2, 3, 4), t=((2, 4), "int64")), r"'x' has shape \[2, 3, 4\]"),
        (lambda: graph_of(tn.multi_margin_loss, x=(4, 3), t=((4, 3), "int64")), r"want targets of shape \[4\]"),
        (lambda: graph_of(tn.multi_margin_loss, x=(4, 3), t=(4,)), "class indices are int64"),
        (lambda: graph_of(tn.multi_margin_loss, x=(4, 0), t=ROWS), "max: .* is empty"),
        (
            lambda: graph_of(lambda x, t, w: tn.multi_margin_loss(x, t, weight=w), x=(4, 3), t=ROWS, w=(4,)),
            "one number for each class",
        ),
    ],
)
def test_what_torchs_multi_margin_loss_refuses_raises(build: Build, message: str) -> None:
    with pytest.raises((ShapeError, DTypeError, DeclarationError), match=message):
        build()


# -- directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.3, -1.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cosine_of_matching_and_other_pairs(margin: float, reduction: str) -> None:
    graph = cosine(margin, reduction=reduction)
    agree(graph, upstream(graph), a=random(4, 3), b=random(4, 3, seed=1), t=SIGNS)
    graph = cosine(margin, (3,), reduction=reduction)
    agree(graph, upstream(graph), a=random(3), b=random(3, seed=1), t=-1.0)


def test_cosine_of_vectors_of_zeros_is_0() -> None:
    a, b = [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    values, gradients = agree(cosine(vectors=(3, 2), reduction="none"), a=a, b=b, t=[1.0, -1.0, 1.0])
    assert values["y"].tolist() == [1, 0, 1] and gradients["a"].isfinite().all()


def test_cosine_passes_its_gradient_at_the_margin_itself() -> None:
    _, gradients = agree(cosine(vectors=(1, 2)), a=[[1.0, 0.0]], b=[[0.0, 1.0]], t=[-1.0])
    assert gradients["a"][0, 1] == pytest.approx(1)


def test_cosine_of_a_target_that_says_neither_is_0() -> None:
    graph = cosine(reduction="none")
    values, gradients = agree(graph, a=random(4, 3), b=random(4, 3, seed=1), t=[0.0, 0.5, NAN, 2.0])
    assert not values["y"].any() and not gradients["a"].any()


@pytest.mark.parametrize("target", [1.0, -1.0, 0.0])
def test_cosine_of_nan_and_infinity(target: float) -> None:
    a = [[NAN, 0.0], [INF, 0.0], [1.0, 2.0]]
    agree(cosine(vectors=(3, 2), reduction="none"), a=a, b=[[0.0, 1.0]] * 3, t=[target] * 3)


def test_cosine_of_huge_vectors_is_that_of_their_directions() -> None:
    a, b = (torch.tensor([pair]).double() * 1e153 for pair in ([3, 4], [4, 3]))
    values = formula_values(cosine(vectors=(1, 2)), {"a": a, "b": b, "t": torch.ones(1)})
    assert values["y"].item() == pytest.approx(1 - 24 / 25)


@pytest.mark.parametrize("shapes", [((2, 3), ()), ((2, 3), (2, 1)), ((2, 3, 4), (2, 3)), ((), ())], ids=str)
def test_cosine_of_what_are_no_pairs_of_vectors_raises(shapes: Any) -> None:
    with pytest.raises(ShapeError, match=r"cosine_embedding_loss: input1 'a'.*give vectors of shape \(N, D\)"):
        graph_of(tn.cosine_embedding_loss, a=shapes[0], b=shapes[0], t=shapes[1])


# -- one pair closer than another --------------------------------------------------------------------------------------


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [2, 1, 3, 1.5, 0.5, INF])
def test_triplet_of_every_norm(p: float, swap: bool) -> None:
    graph = triplet(p=p, swap=swap, margin=2.0, reduction="none")
    agree(graph, upstream(graph), a=random(4, 3), p=random(4, 3, seed=1), n=random(4, 3, seed=2))


@pytest.mark.parametrize("p", [2, 1, 3, 1.5, 0.5, INF])
def test_triplet_of_equal_points_has_gradient_0(p: float) -> None:
    point = random(4, 3)
    values, gradients = agree(triplet(p=p, eps=0.0), a=point, p=point, n=point)
    assert values["y"] == 1 and not gradients["a"].any()


@pytest.mark.parametrize("p", [3, 1.5, 0.5, INF])
def test_triplet_where_some_elements_are_equal_or_tied(p: float) -> None:
    a, positive, negative = [[0.0, 0.0, 1.0]], [[0.0, 2.0, 3.0]], [[0.0, -1.0, 2.0]]
    agree(triplet((1, 3), p=p, eps=0.0), a=a, p=positive, n=negative)


def test_triplet_passes_its_gradient_at_the_margin_itself() -> None:
    values, gradients = agree(triplet((1, 2), eps=0.0), a=[[0.0, 0.0]], p=[[0.0, 1.0]], n=[[2.0, 0.0]])
    assert values["y"] == 0 and gradients["a"].tolist() == [[1, -1]]


def test_triplet_halves_the_gradient_where_both_distances_are_equal() -> None:
    _, gradients = agree(triplet((1, 1), eps=0.0, swap=True, margin=5.0), a=[[0.0]], p=[[2.0]], n=[[1.0]])
    assert [gradients[n].item() for n in "apn"] == [-0.5, 0.5, 0]


def test_triplet_of_nan_and_infinity() -> None:
    for a, positive in ((NAN, 2.0), (INF, 2.0), (0.0, INF)):
        agree(triplet((1, 2), reduction="none"), a=[[a, 0.0]], p=[[positive, 0.0]], n=[[1.0, 0.0]])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (4, 0)], ids=str)
def test_triplet_takes_any_rank(shape: tuple[int, ...]) -> None:
    graph = triplet(shape, reduction="none")
    agree(graph, upstream(graph), a=random(*shape), p=random(*shape, seed=1), n=random(*shape, seed=2))


def test_triplet_of_one_anchor_against_many() -> None:
    graph = graph_of(tn.triplet_margin_loss, a=(1, 3), p=(4, 3), n=(4, 1))
    agree(graph, a=random(1, 3), p=random(4, 3, seed=1), n=random(4, 1, seed=2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: triplet(margin=0.0), "margin is 0.0; it must be greater than 0"),
        (lambda: triplet(p=0.0), "p is 0.0; a norm has p greater than 0, or inf"),
        (lambda: triplet(p=NAN), "p is nan"),
        (lambda: graph_of(tn.triplet_margin_loss, a=(3, 4), p=(4,), n=(3, 4)), "differ in their number of dims"),
        (lambda: graph_of(tn.triplet_margin_loss, a=(3, 4), p=(3, 5), n=(3, 4)), "do not broadcast"),
    ],
)
def test_what_torchs_triplet_margin_loss_refuses_raises(build: Build, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        build()


# -- kernels -----------------------------------------------------------------------------------------------------------


def embeddings(name: str) -> Graph:
    """Each loss on what a layer makes of its inputs."""
    graph = Graph("embedded")
    x, y, z = (graph.input(n, (BATCH, 5)) for n in "xyz")
    weight = graph.parameter("fc.weight", (7, 5), "uniform", low=-1, high=1)
    a, b, c = (tn.linear(v, weight=weight, bias=False, name=f"fc_{n}") for v, n in ((x, "x"), (y, "y"), (z, "z")))
    sign = tn.sign(graph.input("sign", (BATCH,)))
    weights = graph.parameter("w", (7,), "uniform", low=0.5, high=2.0)
    graph.output(
        y={
            "margin_ranking_loss": lambda: tn.margin_ranking_loss(tn.sum(a, 1), tn.sum(b, 1), sign, 1.0),
            "multi_margin_loss": lambda: tn.multi_margin_loss(
                a, graph.input("t", (BATCH,), "int64"), 2, weight=weights
            ),
            "cosine_embedding_loss": lambda: tn.cosine_embedding_loss(a, b, sign, -2.0),
            "triplet_margin_loss": lambda: tn.triplet_margin_loss(a, b, c, 8.0, swap=True),
        }[name]()
    )
    return graph


@pytest.mark.parametrize("name", LOSSES)
def test_kernel_of_a_loss_after_a_layer(name: str) -> None:
    certificate = tn.check(embeddings(name))
    assert certificate.ok, certificate


@pytest.mark.parametrize("p", [1, 3, INF])
def test_kernel_of_triplets_in_another_norm(p: float) -> None:
    graph = Graph("norms")
    graph.output(y=tn.triplet_margin_loss(*(graph.input(n, (BATCH, 33)) for n in "apn"), 64.0, p))
    assert_within_policy(judge(graph, draw(graph, batch=7)))
