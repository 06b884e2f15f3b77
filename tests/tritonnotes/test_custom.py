"""A user's own op and update rule: a few lines, and everything else follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numerics import agree, assert_same, cotangents, draw, formula_gradients, reference_gradients, sample_graph
from torch import Tensor

from tritonnotes import custom
from tritonnotes.ir import Dim, Graph
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError, ShapeError
from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.core.op import OPS, Op, catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES, UpdateRule
from tritonnotes.ir.core.types import float32
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.judge import references as R
from tritonnotes.judge.executor import eager
from tritonnotes.judge.samples import draw_feeds

BATCH = Dim("batch")


@pytest.fixture(autouse=True)
def _own_registries() -> Iterator[None]:
    """What a test declares is gone after it."""
    live = (OPS, UPDATE_RULES, R.REFERENCES, R.UPDATE_REFERENCES)
    before = [dict(each) for each in live]
    yield
    for each, kept in zip(live, before, strict=True):
        each.clear()
        each.update(kept)  # type: ignore[arg-type]


def declare_mish() -> Op:
    @custom.op(reference=torch.nn.functional.mish, domain=(-100, 100))
    def mish(x):
        """x · tanh(softplus(x))"""
        softplus = P.maximum(x, 0) + P.log1p(P.exp(-abs(x)))
        return x * P.tanh(softplus)

    return mish


def lion_in_plain_torch(
    p: Tensor, g: Tensor, m: Tensor, *, lr: float, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0
) -> tuple[Tensor, Tensor]:
    direction = torch.lerp(g, m, beta1).sign()
    return p.mul(1 - lr * weight_decay).add(direction, alpha=-lr), torch.lerp(g, m, beta2)


def declare_lion() -> UpdateRule:
    @custom.update_rule(state=("m",), reference=lion_in_plain_torch)
    def lion(p, g, m, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
        """Step by the sign of an interpolated momentum, decoupled decay."""
        direction = P.sign(beta1 * m + (1 - beta1) * g)
        return p - lr * (direction + weight_decay * p), beta2 * m + (1 - beta2) * g

    return lion


# -- ops ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extremes", [False, True])
def test_mish_agrees_with_torch_forward_and_backward(extremes: bool) -> None:
    graph = sample_graph(declare_mish(), (BATCH, 7))
    tensors = draw(graph, 1, extremes, batch=33)
    agree(graph, cotangents(graph, tensors), **tensors)


def test_mish_fits_into_a_model() -> None:
    mish = declare_mish()
    graph = Graph("model")
    graph.output(y=mish(graph.input("x", (BATCH, 4)), name="act") + 1)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(eager(graph, {"x": x})["y"], torch.nn.functional.mish(x) + 1)
    assert mish.name == "custom.mish" and mish.summary == "x · tanh(softplus(x))"
    assert float(draw_feeds(graph, {"batch": 500})["x"].abs().max()) > 50  # its own domain


def test_attributes_optional_arguments_and_class_indices() -> None:
    def reference(x: Tensor, index: Tensor, scale: Tensor | None, *, power: int) -> Tensor:
        selected = x.gather(-1, index[..., None]).squeeze(-1) ** power
        return selected if scale is None else selected * scale

    @custom.op(reference=reference, domain={"x": (0.5, 2), "index": "class", "scale": (-1, 1)})
    def picked_power(x, index, scale=None, *, power=2):
        is_picked = P.index_along(x, -1) == P.reshape(index, (*index.shape, 1))
        selected = P.sum(P.where(is_picked, x, 0), -1) ** power
        return selected if scale is None else selected * scale

    graph = sample_graph(picked_power, (BATCH, 5))
    tensors = draw(graph, batch=9)
    assert tensors["x"].min() >= 0.5 and tensors["index"].max() < 5
    agree(graph, cotangents(graph, tensors), **tensors)
    graph = Graph("scaled")
    x, index = graph.input("x", (BATCH, 5), "float64"), graph.input("index", (BATCH,), "int64")
    graph.output(y=picked_power(x, index, graph.parameter("s", (), dtype="float64", init=0.5), power=3))
    agree(graph, x=tensors["x"], index=tensors["index"], s=torch.tensor(0.5))


def test_gradient_may_be_written_by_hand() -> None:
    @custom.op(reference=torch.nn.functional.softplus, domain=(-15, 15))
    def softplus(x):
        return P.maximum(x, 0) + P.log1p(P.exp(-abs(x)))

    @softplus.gradient
    def _(d_y, y, x):
        return (d_y / (1 + P.exp(-x)),)

    graph = sample_graph(softplus, (4, 5))
    tensors = draw(graph)
    d = cotangents(graph, tensors)
    assert_same(formula_gradients(graph, tensors, d), reference_gradients(graph, tensors, d))


def test_gradient_may_leave_out_axes_that_it_would_only_repeat() -> None:
    @custom.op(reference=lambda x: x.sum(1, keepdim=True), domain=(-5, 5))
    def row_total(x):
        return P.sum(x, 1, keepdim=True)

    @row_total.gradient
    def _(d_y, y, x):
        return (d_y,)

    graph = sample_graph(row_total, (BATCH, 5))
    tensors = draw(graph, batch=3)
    agree(graph, cotangents(graph, tensors), **tensors)


def test_declaring_again_replaces_the_op_and_old_graphs_say_so() -> None:
    old = Graph("old")
    old.output(y=declare_mish()(old.input("x", (3,))))
    new = Graph("new")
    new.output(y=declare_mish()(new.input("x", (3,))))
    eager(new, {"x": torch.zeros(3)})
    with pytest.raises(DeclarationError, match="custom.mish: was declared again after this graph was"):
        eager(old, {"x": torch.zeros(3)})


def test_custom_ops_stay_out_of_the_catalogue() -> None:
    declare_mish()
    assert not any(name.startswith("custom.") for name in catalogue())


def test_python_if_on_a_value_is_explained() -> None:
    @custom.op(reference=torch.relu, domain=(-1, 1))
    def branching(x):
        return x if x > 0 else 0 * x

    graph = Graph("branching")
    with pytest.raises(DeclarationError, match=r"custom.branching \(x: float32\[3\]\).*use tn.where, &, \| and ~"):
        branching(graph.input("x", (3,)))


def test_formula_that_returns_no_value_is_explained() -> None:
    @custom.op(reference=torch.relu, domain=(-1, 1))
    def forgetful(x):
        P.tanh(x)

    with pytest.raises(DeclarationError, match="custom.forgetful: its formula returned NoneType; return the one Value"):
        forgetful(Graph("forgetful").input("x", (3,)))


def test_error_inside_a_formula_keeps_its_class_and_names_the_op() -> None:
    @custom.op(reference=torch.add, domain=(-1, 1))
    def misfit(x, y):
        return x + y

    graph = Graph("misfit")
    with pytest.raises(ShapeError, match=r"custom.misfit \(x: float32\[3\], y: float32\[4\]\): add: shapes"):
        misfit(graph.input("x", (3,)), graph.input("y", (4,)))


BAD_DOMAINS: list[Any] = [(1, -1), (0, 0), (0, 1, 2), [0, 1], "positive", (0, float("inf")), (0, float("nan"))]
BAD_DOMAINS += [(False, True), None, {"x": (1, 0)}, {"y": (0, 1)}, {"x": "everything"}]


@pytest.mark.parametrize("domain", BAD_DOMAINS, ids=str)
def test_malformed_domain_is_refused(domain: Any) -> None:
    with pytest.raises(DeclarationError, match="op 'act': domain"):

        @custom.op(reference=torch.relu, domain=domain)
        def act(x):
            return x


@pytest.mark.parametrize("reference", [None, "torch.relu", 3])
def test_reference_that_cannot_be_called_is_refused(reference: Any) -> None:
    with pytest.raises(DeclarationError, match="reference is .*, which cannot be called"):

        @custom.op(reference=reference, domain=(-1, 1))
        def act(x):
            return x

    with pytest.raises(DeclarationError, match="reference is .*, which cannot be called"):

        @custom.update_rule(reference=reference)
        def rule(p, g, *, lr):
            return (p - lr * g,)


def test_reference_of_other_arguments_is_refused_at_once() -> None:
    with pytest.raises(DeclarationError, match=r"op 'act': its reference takes .*called with 1 tensors, slope="):

        @custom.op(reference=lambda x: x, domain=(-1, 1))
        def act(x, *, slope=0.1):
            return x * slope


def test_formula_must_be_a_function_of_named_arguments() -> None:
    decorate = custom.op(reference=torch.relu, domain=(-1, 1))
    with pytest.raises(DeclarationError, match="'<lambda>' is no name"):
        decorate(lambda x: x)
    with pytest.raises(DeclarationError, match="is no function"):
        decorate(torch.nn.ReLU())  # type: ignore[arg-type]

    def starred(*xs):
        return xs[0]

    def empty(*, slope=1):
        return slope

    with pytest.raises(DeclarationError, match=r"takes '\*xs'; name every argument"):
        decorate(starred)
    with pytest.raises(DeclarationError, match="takes no positional argument"):
        decorate(empty)


def test_example_of_an_op_whose_attribute_has_no_default_is_asked_for() -> None:
    @custom.op(reference=lambda x, *, slope: x * slope, domain=(-1, 1))
    def act(x, *, slope):
        return x * slope

    with pytest.raises(DeclarationError, match="custom.act: 'slope' has no default"):
        act.sample(Graph("sample"), (3,), float32)


# -- update rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion_agrees_with_its_reference_over_steps(weight_decay: float) -> None:
    lion = declare_lion()
    assert lion.name == "custom.lion" and R.UPDATE_REFERENCES["custom.lion"] is lion_in_plain_torch
    graph = Graph("fit")
    weight = graph.parameter("w", (4,), dtype="float64")
    graph.output(loss=P.sum(weight * graph.input("x", (4,), "float64")))
    joint = joint_graph(graph, "loss", lion(lr=0.1, weight_decay=weight_decay))
    generator = torch.Generator().manual_seed(0)
    p, m = torch.randn(4, generator=generator, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    (slot,) = joint.leaves("slot")
    current: dict[str, Any] = {"w": p.numpy(), slot.name: m.numpy()}
    given = lion(lr=0.1, weight_decay=weight_decay).hyperparameters
    scalars = {v.name: given[v.name.rpartition(".")[2]] for v in joint.leaves("scalar")}
    for _ in range(7):
        g = torch.randn(4, generator=generator, dtype=torch.float64)
        found = evaluate(joint, current | scalars | {"x": g.numpy()})
        current = {name: found[v] for name, v in joint.updates.items()}
        p, m = lion_in_plain_torch(p, g, m, lr=0.1, weight_decay=weight_decay)
        np.testing.assert_allclose(current["w"], p.numpy(), rtol=1e-12)
        np.testing.assert_allclose(current[slot.name], m.numpy(), rtol=1e-12)


def test_initial_state_of_a_rule() -> None:
    @custom.update_rule(state=("a", "b"), reference=lambda p, g, a, b, *, lr: (p, a, b), initial={"b": 0.5})
    def rule(p, g, a, b, *, lr):
        return p - lr * g, a, b

    assert rule.initial == {"a": 0.0, "b": 0.5}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"state": ("v",)}, r"takes \['p', 'g', 'm'\], declared state \['v'\]"),
        ({"state": "m"}, "name each tensor of state in a tuple"),
        ({"state": ("m.x",)}, "name each tensor of state in a tuple"),
        ({"state": ("m",), "initial": {"v": 0.0}}, r"initial 'v': 0.0; give numbers for state"),
        ({"state": ("m",), "initial": {"m": "zero"}}, "initial 'm': 'zero'; give numbers"),
    ],
)
def test_state_that_does_not_fit_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):

        @custom.update_rule(reference=lambda p, g, m, *, lr: (p, m), **how)
        def rule(p, g, m, *, lr):
            return p - lr * g, m


def test_reference_without_the_rules_hyperparameters_is_refused() -> None:
    with pytest.raises(DeclarationError, match="update rule 'rule': its reference takes .*lr="):

        @custom.update_rule(reference=lambda p, g: (p,))
        def rule(p, g, *, lr):
            return (p - lr * g,)
