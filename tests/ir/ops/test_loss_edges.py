"""Where losses go wrong: weights, smoothing, nothing to average, infinities, what torch refuses. Formula and reference
agree on values and gradients of each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import edges
import pytest
import torch
from edges import BATCH, INF, NAN, graph_of, random, same, upstream
from numerics import (
    agree,
    assert_same,
    formula_gradients,
    formula_values,
    reference_gradients,
    reference_values,
)

import tritonnotes as tn
from tritonnotes.ir import Graph, Value
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError
from tritonnotes.ir.passes.joint import gradient_graph

REDUCTIONS = ("mean", "sum", "none")
Build = Callable[..., Value]
PAIRS: dict[str, Build] = {
    "binary_cross_entropy_with_logits": tn.binary_cross_entropy_with_logits,
    "focal_loss": tn.focal_loss,
    "l1_loss": tn.l1_loss,
    "smooth_l1_loss": tn.smooth_l1_loss,
    "huber_loss": tn.huber_loss,
    "log_cosh_loss": tn.log_cosh_loss,
    "quantile_loss": tn.quantile_loss,
    "poisson_nll_loss": tn.poisson_nll_loss,
    "hinge_loss": tn.hinge_loss,
    "squared_hinge_loss": tn.squared_hinge_loss,
    "exponential_loss": tn.exponential_loss,
    "perceptron_loss": tn.perceptron_loss,
    "soft_margin_loss": tn.soft_margin_loss,
    "zero_one_loss": tn.zero_one_loss,
}


# -- every loss on a pair ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_every_reduction_honours_any_upstream_gradient(name: str, reduction: str) -> None:
    graph = graph_of(lambda a, b: PAIRS[name](a, b, reduction=reduction), a=(4, 3), b=(4, 3))
    agree(graph, upstream(graph), a=random(4, 3), b=random(4, 3, seed=1))


@pytest.mark.parametrize(("reduction", "want"), [("mean", NAN), ("sum", 0.0)])
@pytest.mark.parametrize("name", PAIRS)
def test_loss_of_an_empty_batch(name: str, reduction: str, want: float) -> None:
    graph = graph_of(lambda a, b: PAIRS[name](a, b, reduction=reduction), a=(BATCH, 3), b=(BATCH, 3))
    values, _ = agree(graph, a=torch.zeros(0, 3), b=torch.zeros(0, 3))
    assert same([values["y"].item()], want)


@pytest.mark.parametrize("name", PAIRS)
def test_unknown_reduction_raises(name: str) -> None:
    with pytest.raises(DeclarationError, match=f"{name}.*use 'mean', 'sum' or 'none'"):
        graph_of(lambda a, b: PAIRS[name](a, b, reduction="average"), a=(3,), b=(3,))


@pytest.mark.parametrize("name", ["l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss", "quantile_loss"])
def test_other_shapes_warn_and_broadcast(name: str) -> None:
    with pytest.warns(UserWarning, match="broadcast, which is rarely meant") as caught:
        graph = graph_of(PAIRS[name], a=(BATCH, 3), b=(3,))
    assert caught[0].filename == edges.__file__  # where graph_of calls it
    agree(graph, a=random(4, 3), b=random(3, seed=1))


@pytest.mark.parametrize("name", ["l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss", "quantile_loss"])
def test_error_of_0_infinity_and_nan(name: str) -> None:
    graph = graph_of(lambda a, b: PAIRS[name](a, b, reduction="none"), a=(5,), b=(5,))
    values, gradients = agree(graph, a=[1.0, INF, -INF, NAN, INF], b=[1.0, 0.0, 0.0, 0.0, INF])
    assert same(values["y"].tolist(), 0, *values["y"][1:3].tolist(), NAN, NAN)
    assert gradients["a"][0] == 0 and values["y"][1:3].isinf().all()


# -- regression --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_smooth_l1_at_its_bounds(beta: float) -> None:
    graph = graph_of(lambda a, b: tn.smooth_l1_loss(a, b, beta=beta), a=(5,), b=(5,))
    agree(graph, a=[beta, -beta, 0.0, 3.0, -0.1], b=[0.0] * 5)


@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_huber_at_its_bounds(delta: float) -> None:
    graph = graph_of(lambda a, b: tn.huber_loss(a, b, delta=delta), a=(5,), b=(5,))
    agree(graph, a=[delta, -delta, 0.0, 3.0, -0.1], b=[0.0] * 5)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-3, 0.999, 1.001, 30.0])
def test_log_cosh_keeps_its_digits(size: float) -> None:
    graph = graph_of(tn.log_cosh_loss, a=(1,), b=(1,))
    found = formula_values(graph, {"a": torch.tensor([size]).double(), "b": torch.zeros(1).double()})["y"].item()
    exact = torch.tensor([size]).double().item()
    want = math.log(math.cosh(exact)) if size > 0.5 else exact**2 / 2 - exact**4 / 12
    assert found == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("q", [0.1, 0.9])
def test_quantile_weighs_the_sides(q: float) -> None:
    graph = graph_of(lambda a, b: tn.quantile_loss(a, b, q=q, reduction="none"), a=(2,), b=(2,))
    values, _ = agree(graph, a=[0.0, 0.0], b=[1.0, -1.0])
    assert values["y"].tolist() == pytest.approx([q, 1 - q])


@pytest.mark.parametrize("attrs", [{"log_input": False}, {"full": True}, {"full": True, "log_input": False}])
def test_poisson_variants(attrs: dict[str, bool]) -> None:
    graph = graph_of(lambda a, b: tn.poisson_nll_loss(a, b, **attrs), a=(5,), b=(5,))
    agree(graph, a=[0.5, 1.0, 2.0, 3.0, 4.0], b=[0.5, 1.0, 1.5, 2.0, 7.0])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("var", [(4, 3), (4, 1), (4,)], ids=str)
def test_gaussian_takes_a_variance_for_each_element_or_row(var: tuple[int, ...], full: bool) -> None:
    build = lambda a, b, v: tn.gaussian_nll_loss(a, b, v, full, reduction="none")  # noqa: E731
    graph = graph_of(build, a=(4, 3), b=(4, 3), v=var)
    agree(graph, upstream(graph), a=random(4, 3), b=random(4, 3, seed=1), v=random(*var, seed=2).abs() + 0.1)


def test_variance_below_eps_counts_as_eps_and_still_learns() -> None:
    graph = graph_of(lambda a, b, v: tn.gaussian_nll_loss(a, b, v, eps=0.5), a=(3,), b=(3,), v=(3,))
    _, gradients = agree(graph, a=[1.0, 2.0, 3.0], b=[0.0] * 3, v=[0.0, 0.5, 1.0])
    assert gradients["v"].all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda a, b: tn.smooth_l1_loss(a, b, beta=-1.0), "beta is -1.0"),
        (lambda a, b: tn.huber_loss(a, b, delta=0.0), "delta is 0.0"),
        (lambda a, b: tn.quantile_loss(a, b, q=1.0), "q is 1.0"),
        (lambda a, b: tn.gaussian_nll_loss(a, b, a, eps=0.0), "eps is 0.0"),
        (lambda a, b: tn.cross_entropy(a, b, label_smoothing=1.5), "label_smoothing is 1.5"),
        (lambda a, b: tn.cross_entropy(a, b, ignore_index=0), "ignore_index is 0"),
        (lambda a, b: tn.kl_div(a, b, reduction="average"), "use 'batchmean'"),
    ],
)
def test_number_that_torch_refuses_raises(build: Build, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        graph_of(build, a=(2, 3), b=(2, 3))


@pytest.mark.parametrize(
    "build", [tn.binary_cross_entropy, tn.binary_cross_entropy_with_logits, tn.focal_loss, tn.js_divergence]
)
def test_shapes_that_differ_raise(build: Build) -> None:
    with pytest.raises(ShapeError, match="give them one shape"):
        graph_of(build, a=(4, 3), b=(3,))


# -- yes or no ---------------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_limits_the_logarithm_at_both_ends() -> None:
    graph = graph_of(lambda a, b: tn.binary_cross_entropy(a, b, reduction="none"), a=(4,), b=(4,))
    pair = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]]).double()
    tensors = {"a": pair[0], "b": pair[1]}
    values = formula_values(graph, tensors)
    assert values["y"].tolist() == [0, 0, 100, 100]
    assert_same(values, reference_values(graph, tensors))
    d = {"y": torch.ones(4).double()}
    # torch divides by float32's 10⁻¹² in float64 too.
    assert_same(formula_gradients(graph, tensors, d), reference_gradients(graph, tensors, d), rtol=1e-8)


@pytest.mark.parametrize("x", [-0.1, 1.1, NAN])
def test_probability_outside_0_and_1_raises_in_torch_and_is_nan_in_the_formula(x: float) -> None:
    graph = graph_of(tn.binary_cross_entropy, a=(1,), b=(1,))
    tensors = {"a": torch.tensor([x]).double(), "b": torch.tensor([0.5]).double()}
    assert formula_values(graph, tensors)["y"].isnan()
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        reference_values(graph, tensors)


def test_infinite_logits() -> None:
    graph = graph_of(lambda a, b: tn.binary_cross_entropy_with_logits(a, b, reduction="none"), a=(5,), b=(5,))
    values, _ = agree(graph, a=[INF, INF, -INF, -INF, NAN], b=[1.0, 0.0, 0.0, 1.0, 0.5])
    assert same(values["y"].tolist(), NAN, INF, *values["y"][2:4].tolist(), NAN)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [(4, 3), (3,), (4, 1)], ids=str)
@pytest.mark.parametrize("build", [tn.binary_cross_entropy, tn.binary_cross_entropy_with_logits])
def test_binary_weights(build: Build, weight: tuple[int, ...], reduction: str) -> None:
    graph = graph_of(lambda a, b, w: build(a, b, w, reduction=reduction), a=(4, 3), b=(4, 3), w=weight)
    a, b = random(4, 3).sigmoid(), random(4, 3, seed=1).sigmoid()
    _, gradients = agree(graph, upstream(graph), a=a, b=b, w=random(*weight, seed=2).abs())
    assert not gradients["w"].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_positives_may_weigh_more(reduction: str) -> None:
    build = lambda a, b, w, p: tn.binary_cross_entropy_with_logits(  # noqa: E731
        a, b, w, pos_weight=p, reduction=reduction
    )
    graph = graph_of(build, a=(4, 3), b=(4, 3), w=(3,), p=(3,))
    tensors = {"a": random(4, 3), "b": random(4, 3, seed=1).sigmoid(), "w": random(3).abs(), "p": random(3).exp()}
    agree(graph, upstream(graph), **tensors)


@pytest.mark.parametrize("alpha", [-1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_focal_loss_of_any_focus(alpha: float, gamma: float) -> None:
    graph = graph_of(lambda a, b: tn.focal_loss(a, b, alpha=alpha, gamma=gamma), a=(4, 3), b=(4, 3))
    agree(graph, a=3 * random(4, 3), b=random(4, 3, seed=1).sigmoid())
    agree(graph, a=torch.zeros(4, 3), b=(random(4, 3) > 0).double())


# -- margins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hinge_loss", "squared_hinge_loss", "perceptron_loss"])
def test_hinge_at_its_margin_has_gradient_0(name: str) -> None:
    at = 0.0 if name == "perceptron_loss" else 1.0
    _, gradients = agree(graph_of(PAIRS[name], a=(2,), b=(2,)), a=[at, -at], b=[1.0, -1.0])
    assert not gradients["a"].any()


def test_soft_margin_does_not_overflow() -> None:
    graph = graph_of(tn.soft_margin_loss, a=(1,), b=(1,))
    values = formula_values(graph, {"a": torch.tensor([-1e4]).double(), "b": torch.tensor([1.0]).double()})
    assert values["y"] == 1e4


def test_zero_one_counts_what_is_not_right_and_has_no_gradient() -> None:
    graph = graph_of(lambda a, b: tn.zero_one_loss(a, b, reduction="none"), a=(5,), b=(5,))
    values, _ = agree(graph, a=[2.0, -1.0, 0.0, NAN, 1e-30], b=[1.0, 1.0, 1.0, 1.0, 1e-30])
    assert values["y"].tolist() == [0, 1, 1, 1, 0]
    assert set(gradient_graph(graph, ["a", "b"]).outputs) == {"y"}


# -- distributions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
def test_kl_div_of_every_reduction(reduction: str, log_target: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = graph_of(lambda a, b: tn.kl_div(a, b, log_target=log_target, reduction=reduction), a=(4, 3), b=(4, 3))
    b = random(4, 3, seed=1).log_softmax(1)
    agree(graph, upstream(graph), a=random(4, 3).log_softmax(1), b=b if log_target else b.exp())


def test_kl_div_of_target_0_is_0() -> None:
    graph = graph_of(lambda a, b: tn.kl_div(a, b, reduction="none"), a=(3,), b=(3,))
    values, gradients = agree(graph, a=[-1.0, -2.0, -3.0], b=[0.0, 1.0, 0.5])
    assert values["y"][0] == 0 and gradients["b"][0].isnan()


def test_kl_div_warns_of_the_mean() -> None:
    with pytest.warns(UserWarning, match="'batchmean' is the mathematical divergence"):
        graph_of(tn.kl_div, a=(4, 3), b=(4, 3))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_entropies_along_any_axis(dim: int, reduction: str) -> None:
    p, q = random(4, 3).softmax(dim), random(4, 3, seed=1).softmax(dim)
    graph = graph_of(lambda p: tn.entropy(p, dim=dim, reduction=reduction), p=(4, 3))
    agree(graph, upstream(graph), p=p)
    graph = graph_of(lambda p, q: tn.js_divergence(p, q, dim=dim, reduction=reduction), p=(4, 3), q=(4, 3))
    agree(graph, upstream(graph), p=p, q=q)


def test_what_cannot_happen_adds_nothing() -> None:
    sure = torch.tensor([[0.0, 1.0]]).double()
    assert formula_values(graph_of(tn.entropy, p=(1, 2)), {"p": sure})["y"] == 0
    assert formula_values(graph_of(tn.binary_entropy, p=(1, 2)), {"p": sure})["y"] == 0
    apart = formula_values(graph_of(tn.js_divergence, p=(1, 2), q=(1, 2)), {"p": sure, "q": 1 - sure})["y"]
    assert apart.item() == pytest.approx(math.log(2))


# -- classes -----------------------------------------------------------------------------------------------------------


def classes(build: Build, shape: tuple[int, ...], weight: bool, **attrs: Any) -> Graph:
    target = (shape[:1] + shape[2:] if len(shape) > 1 else (), "int64")
    if weight:
        count = (shape[1] if len(shape) > 1 else shape[0],)
        return graph_of(lambda x, t, w: build(x, t, w, **attrs), x=shape, t=target, w=count)
    return graph_of(lambda x, t: build(x, t, **attrs), x=shape, t=target)


def fed(graph: Graph, ignore: bool = True) -> dict[str, torch.Tensor]:
    x, t = graph["x"], graph["t"]
    count = x.shape[1] if len(x.shape) > 1 else x.shape[0]
    target = torch.randint(0, count, t.shape, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    if ignore and target.ndim:
        target.view(-1)[0] = -100
    feeds = {"x": random(*x.shape), "t": target}  # type: ignore[arg-type]
    return feeds | ({"w": random(count, seed=2).abs()} if any(v.name == "w" for v in graph.inputs) else {})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_and_smoothing(shape: tuple[int, ...], weight: bool, smoothing: float, reduction: str) -> None:
    graph = classes(tn.cross_entropy, shape, weight, label_smoothing=smoothing, reduction=reduction)
    agree(graph, upstream(graph), **fed(graph))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_of_every_reduction(shape: tuple[int, ...], weight: bool, reduction: str) -> None:
    graph = classes(tn.nll_loss, shape, weight, reduction=reduction)
    agree(graph, upstream(graph), **fed(graph))


@pytest.mark.parametrize("build", [tn.nll_loss, tn.cross_entropy])
@pytest.mark.parametrize("weight", [False, True])
def test_all_ignored_has_mean_nan_and_gradient_0(build: Build, weight: bool) -> None:
    graph = classes(build, (2, 3), weight)
    values, gradients = agree(graph, **{**fed(graph), "t": torch.tensor([-100, -100])})
    assert values["y"].isnan() and not gradients["x"].any()


def test_nll_loss_looks_at_the_target_alone() -> None:
    values, gradients = agree(
        classes(tn.nll_loss, (2, 3), False), x=[[NAN, -1.0, INF], [NAN] * 3], t=torch.tensor([1, -100])
    )
    assert values["y"] == 1 and same(gradients["x"].flatten().tolist(), 0, -1, 0, 0, 0, 0)


def test_nll_target_outside_the_classes_is_infinite() -> None:
    graph = classes(tn.nll_loss, (1, 3), False)
    assert formula_values(graph, {"x": torch.zeros(1, 3).double(), "t": torch.tensor([3])})["y"] == INF


def test_smoothing_makes_an_impossible_class_cost_infinity() -> None:
    graph = classes(tn.cross_entropy, (1, 3), False, label_smoothing=0.1)
    values, _ = agree(graph, x=[[-INF, 1.0, 2.0]], t=torch.tensor([1]))
    assert values["y"] == INF


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_probabilities_as_targets(shape: tuple[int, ...], smoothing: float, weight: bool, reduction: str) -> None:
    axis = 1 if len(shape) > 1 else 0
    inputs: dict[str, Any] = {"x": shape, "t": shape} | ({"w": (shape[axis],)} if weight else {})
    attrs: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
    graph = graph_of(lambda x, t, w=None: tn.cross_entropy(x, t, w, **attrs), **inputs)
    feeds = {"x": random(*shape), "t": random(*shape, seed=1).softmax(axis)}
    agree(graph, upstream(graph), **feeds, **({"w": random(shape[axis], seed=2).abs()} if weight else {}))


def test_weight_must_have_a_number_for_each_class() -> None:
    with pytest.raises(ShapeError, match="one number for each class"):
        graph_of(tn.cross_entropy, x=(4, 3), t=((4,), "int64"), w=(4,))
    with pytest.raises(DTypeError, match="class indices are int64"):
        graph_of(tn.nll_loss, x=(4, 3), t=(4,))


# -- kernels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attrs", [{"label_smoothing": 0.1}, {"reduction": "none"}, {"ignore_index": 1}], ids=str)
@pytest.mark.parametrize("weight", [False, True])
def test_kernel_of_cross_entropy_after_a_layer(attrs: dict[str, Any], weight: bool) -> None:
    graph = tn.Graph("small")
    logits = tn.linear(graph.input("x", (BATCH, 5)), 3, name="fc")
    w = graph.parameter("w", (3,), "uniform", low=0.5, high=2.0) if weight else None
    graph.output(y=tn.cross_entropy(logits, graph.input("t", (BATCH,), "int64"), w, **attrs))
    certificate = tn.check(graph)
    assert certificate.ok, certificate


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_kernel_of_a_loss_after_a_layer(name: str) -> None:
    graph = tn.Graph("small")
    score = tn.linear(graph.input("x", (BATCH, 5)), 3, name="fc")
    graph.output(y=PAIRS[name](score, graph.input("t", (BATCH, 3))))
    certificate = tn.check(graph)
    assert certificate.ok, certificate


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_kernel_of_probability_targets_and_binary_weights(reduction: str) -> None:
    graph = tn.Graph("small")
    logits = tn.linear(graph.input("x", (BATCH, 5)), 3, name="fc")
    p = graph.input("p", (BATCH, 3))
    graph.output(
        soft=tn.cross_entropy(logits, p, label_smoothing=0.1, reduction=reduction),
        yes=tn.binary_cross_entropy_with_logits(
            logits, p, graph.input("w", (3,)), graph.input("pw", (3,)), reduction=reduction
        ),
        kl=tn.kl_div(tn.log_softmax(logits, 1), tn.softmax(p, 1), reduction="batchmean"),
        sure=tn.entropy(tn.softmax(logits, 1), reduction=reduction),
    )
    certificate = tn.check(graph)
    assert certificate.ok, certificate
