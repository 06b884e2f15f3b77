"""What the user says is done, or refused with the remedy."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.certificate import check_graph
from tritonnotes.codegen.fusion.constraints import as_fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.passes.joint import joint_graph

B = tn.Dim("batch")


def mlp() -> tn.Graph:
    g = tn.Graph("mlp")
    h = tn.gelu(tn.layer_norm(tn.linear(g.input("x", (B, 6)), 8, name="fc"), name="ln"), name="act")
    g.output(loss=tn.mean(tn.square(tn.linear(h, 3, name="out"))))
    return g


def batch(seed: int = 0) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))


# -- compiled objects are of the graph as it was --


def test_editing_a_graph_changes_nothing_that_was_compiled() -> None:
    graph = mlp()
    model, step = tn.compile(graph), tn.compile_step(graph, optimizer=tn.sgd(lr=0.1))
    untouched_model, untouched_step = tn.compile(mlp()), tn.compile_step(mlp(), optimizer=tn.sgd(lr=0.1))
    more = graph.input("x2", (B, 6))
    graph.output(extra=tn.exp(more) * graph.parameter("w2", (6,)))
    graph.outputs["loss"] = graph.outputs["extra"]
    model.train()
    untouched_model.train()
    for mine, other in ((model, untouched_model), (step, untouched_step)):
        assert torch.equal(mine(x=batch())["loss"], other(x=batch())["loss"])
    assert list(model.state_dict()) == list(untouched_model.state_dict())
    assert str(step.graph) == str(mlp()) == str(model.graph)
    step.save_state = step.state_dict()  # type: ignore[attr-defined]
    step.load_state_dict(step.save_state)  # type: ignore[attr-defined]


# -- freezing --

FROZEN = ["fc.weight", "ln.bias"]


def state_of(step: tn.TrainingStep, names: list[str]) -> dict[str, Tensor]:
    state = step.state_dict()
    held = {n: t.clone() for n, t in state["model"].items() if n in names}
    return held | {n: t.clone() for n, t in state["slots"].items() if n.rpartition(".")[0] in names}


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2}, {"scaler": tn.GradScaler(init_scale=8.0)}],
    ids=["plain", "accumulate", "scaler"],
)
def test_a_frozen_parameter_and_its_state_stay_bit_for_bit_and_go_on_afterwards(options: dict[str, Any]) -> None:
    step = tn.compile_step(mlp(), optimizer=tn.clip(tn.adamw(lr=0.1, weight_decay=0.5), max_norm=1.0), **options)
    each = options.get("accumulate", 1)

    def updates(count: int) -> None:
        for seed in range(count * each):
            step(x=batch(seed))

    updates(1)
    for name in FROZEN:
        step.model.get_parameter(name).requires_grad_(False)
    before, others = state_of(step, FROZEN), state_of(step, ["out.weight"])
    updates(2)
    after = state_of(step, FROZEN)
    assert len(before) == (6 if each == 1 else 8)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert not any(torch.equal(others[n], t) for n, t in state_of(step, ["out.weight"]).items())
    for name in FROZEN:
        step.model.get_parameter(name).requires_grad_()
    updates(1)
    assert not any(torch.equal(before[n], t) for n, t in state_of(step, FROZEN).items())


def test_what_is_not_frozen_trains_as_in_torch() -> None:
    graph = mlp()
    step = tn.compile_step(graph, optimizer=tn.clip(tn.sgd(lr=0.1), max_norm=0.01))
    model = tn.compile(graph, training=True)
    for module in (step.model, model):
        module.get_parameter("fc.weight").requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    model(x=batch())["loss"].backward()
    torch.nn.utils.clip_grad_norm_(trained, 0.01)
    torch.optim.SGD(trained, lr=0.1).step()
    step(x=batch())
    for name, mine in step.model.state_dict().items():
        torch.testing.assert_close(mine, model.state_dict()[name], rtol=1e-6, atol=1e-7)


def test_all_frozen_and_freezing_amid_an_update_are_refused_before_anything_changes() -> None:
    step = tn.compile_step(mlp(), optimizer=tn.sgd(lr=0.1), accumulate=2)
    step(x=batch())
    step.model.get_parameter("fc.bias").requires_grad_(False)
    before = step.state_dict()
    with pytest.raises(tn.TritonNotesError, match="1 of 2 batches of an update are gathered"):
        step(x=batch())
    step.model.get_parameter("fc.bias").requires_grad_()
    step(x=batch())
    step.model.requires_grad_(False)
    with pytest.raises(tn.TritonNotesError, match="is frozen; call requires_grad_"):
        step(x=batch())
    step.model.requires_grad_()
    step(x=batch())
    assert (before["steps"], step.steps, step.gathered) == (0, 1, 1)


# -- fuse and forbid --


@pytest.mark.parametrize("kind", ["model", "step"])
def test_what_the_default_plan_fuses_is_never_refused(kind: str) -> None:
    graph = joint_graph(mlp(), "loss", tn.adam(lr=0.1))
    if kind == "model":
        plan = tn.compile(mlp()).plan
        graph = plan.graph
    plan = make_plan(graph)
    for launch in plan.launches:
        ops = [o for o in launch.ops if any(v.scope.name == o and v.scope.phase != "update" for v in graph.values)]
        for pair in itertools.combinations(dict.fromkeys(ops), 2):
            if _passes(graph, *pair) and _all_inside(plan, *pair):
                made = make_plan(graph, as_fusion("optimal", fuse=[pair]))
                assert _all_inside(made, *pair), pair


def _edges(graph: tn.Graph, one: str, other: str) -> list[tuple[Any, Any]]:
    return [
        (a, v)
        for v in graph.values
        for a in v.inputs
        if {a.scope.name, v.scope.name} == {one, other} and a.scope.phase == v.scope.phase
    ]


def _passes(graph: Any, one: str, other: str) -> bool:
    return bool(_edges(graph, one, other))


def _all_inside(plan: Any, one: str, other: str) -> bool:
    kernels = [{u.value for u in k.units} | {*k.recomputed} for k in plan.launches]
    edges = [e for e in _edges(plan.graph, one, other) if all(v.op.kind != "contraction" for v in e)]
    return bool(edges) and all(any({*edge} <= k for k in kernels) for edge in edges)


def test_a_step_fuses_what_a_model_fuses_with_a_product_before() -> None:
    for names in (("ln", "act"), ("fc", "ln")):
        step = tn.compile_step(mlp(), optimizer=tn.adam(lr=0.1), fuse=[names])
        for plan in (step.plan, tn.compile(mlp(), fuse=[names]).plan):
            # Of fc that is its bias, whatever computes the product.
            assert any({*names} <= {v.scope.name for v in k.values} for k in plan.launches if k.is_generated), names


@pytest.mark.parametrize("kind", ["model", "step"])
def test_a_wish_is_what_the_plan_does_or_it_is_refused(kind: str) -> None:
    """Every pair of ops, also those with a product between them that is a library call."""
    g = tn.Graph("large")
    h = tn.layer_norm(tn.linear(g.input("x", (tn.Dim("batch"), 600)), 512, name="fc"), name="ln")
    h = tn.softmax(tn.linear(tn.gelu(h, name="act"), 400, name="fc2"), -1, name="sm")
    g.output(loss=tn.mean(h))
    graph = joint_graph(g, "loss", tn.sgd(lr=0.1)) if kind == "step" else tn.compile(g).plan.graph
    refused = []
    for pair in itertools.combinations(("fc", "ln", "act", "fc2", "sm"), 2):
        try:
            plan = make_plan(graph, as_fusion("greedy", fuse=[pair]))
        except PlanError as error:
            assert f"fuse: {', '.join(pair)} cannot be fused, by the rule" in str(error)
            refused.append(pair)
        else:
            assert _all_inside(plan, *pair), pair
    assert {("fc", "fc2"), ("ln", "fc2"), ("ln", "sm"), ("act", "sm")} <= {*refused}
    assert ("ln", "act") not in refused


def masked_block() -> tn.Graph:
    """A norm that a masked softmax and a product with it read."""
    g = tn.Graph("block")
    t = tn.Dim("tokens")
    x, y, mask = g.input("x", (t, 64)), g.input("y", (t, 64)), g.input("mask", (t, 64), dtype="bool")
    h = tn.layer_norm(x, name="pre")
    w = tn.softmax(tn.where(mask, tn.linear(h, 64, name="score"), float("-inf")), -1, name="w")
    z = tn.rms_norm(x + tn.linear(tn.gelu(tn.linear(w * h, 96, name="up")), 64, name="down"), name="post")
    g.output(loss=tn.smooth_l1_loss(z, y))
    return g


LISTED = re.compile(r"^ +(\S+) → (\S+): ([+-]\d+) launch\w*, ([+-][\d,]+) bytes", re.MULTILINE)


@pytest.mark.parametrize("declare", [mlp, masked_block])
def test_fusions_that_explain_lists_are_made_at_their_cost_or_less(declare: Callable[[], tn.Graph]) -> None:
    step = tn.compile_step(declare(), optimizer=tn.adam(lr=0.1), target="gpu")
    _, _, listed = step.explain().partition("Fusing these by fuse=")
    found = LISTED.findall(listed.partition("Splitting these")[0])
    assert found or declare is mlp
    for producer, reader, launches, moved in found:
        forced = tn.compile_step(declare(), optimizer=tn.adam(lr=0.1), target="gpu", fuse=[(producer, reader)]).plan
        assert len(forced.launches) <= len(step.plan.launches) + int(launches), (producer, reader)
        assert forced.bytes_moved() <= step.plan.bytes_moved() + int(moved.replace(",", "")), (producer, reader)


def test_backward_does_without_a_wish_that_forward_alone_can_grant() -> None:
    g = tn.Graph("residual")
    x, beside, mask = g.input("x", (B, 256)), g.input("beside", (B, 256)), g.input("mask", (B, 256), dtype="bool")
    h = tn.layer_norm(x + beside, name="ln")
    s = tn.softmax(tn.where(mask, h * 0.125, float("-inf")), -1, name="sm")
    z = tn.gelu(tn.linear(s, 256, name="fc"), name="act") + h
    g.output(y=tn.rms_norm(z, name="rms"), means=tn.mean(z, 0))
    fed = {"x": torch.randn(4, 256), "beside": torch.randn(4, 256), "mask": torch.rand(4, 256) > 0.2}
    forced, usual = (tn.compile(g, fuse=fuse)(**fed)["y"] for fuse in ([("ln", "z")], []))
    torch.testing.assert_close(forced, usual)
    forced.sum().backward()


WITHOUT_EFFECT: dict[str, tuple[dict[str, Any], str]] = {
    "one name": ({"fuse": ["ln"]}, "'ln' is named alone.*fuse=\\[\\('ln', 'act1'\\)\\]"),
    "one name in a tuple": ({"fuse": [("ln",)]}, "'ln' is named alone"),
    "a name twice": ({"fuse": [("ln", "ln")]}, "names 'ln' twice; name each once"),
    "a wish twice": ({"fuse": [("ln", "act"), ("act", "ln")]}, "is given twice; give each once"),
    "forbidden twice": ({"forbid": ["ln", "ln"]}, "is given twice; give each once"),
    "forbidden with itself": ({"forbid": [("ln", "ln")]}, "names 'ln' twice"),
    "fused and forbidden": ({"fuse": [("ln", "act")], "forbid": [("act", "ln")]}, "contradict each other.*take one"),
    "fused and alone": ({"fuse": [("ln", "act")], "forbid": ["ln"]}, "contradict each other, by ln"),
    "alone, twice": ({"fuse": ["ln"], "forbid": ["ln"]}, "'ln' is named alone"),
    "nobody's name": ({"fuse": [("ln", "lm")]}, "no op and no value 'lm'.*ops are"),
    "forbidding nobody": ({"forbid": ["lm"]}, "no op and no value 'lm'"),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_a_wish_without_effect_is_refused_with_the_remedy(case: str) -> None:
    options, message = WITHOUT_EFFECT[case]
    with pytest.raises(PlanError, match=message):
        tn.compile(mlp(), **options)
    with pytest.raises(PlanError, match=message):
        tn.compile_step(mlp(), optimizer=tn.sgd(lr=0.1), **options)


# -- hyperparameters --

NAN = float("nan")
BAD: dict[str, Callable[[], Any]] = {
    "sgd lr nan": lambda: tn.sgd(lr=NAN),
    "sgd decay": lambda: tn.sgd(lr=0.1, weight_decay=-1),
    "sgd huge": lambda: tn.sgd(lr=10**400),
    "sgd momentum": lambda: tn.sgd(lr=0.1, momentum=-0.5),
    "sgd dampening": lambda: tn.sgd(lr=0.1, momentum=0.5, dampening=NAN),
    "sgd text": lambda: tn.sgd(lr="0.1"),  # type: ignore[arg-type]
    "adam lr": lambda: tn.adam(lr=-1e-3),
    "adam beta1": lambda: tn.adam(betas=(1.0, 0.9)),
    "adam beta2": lambda: tn.adam(betas=(0.9, NAN)),
    "adam one beta": lambda: tn.adam(betas=0.9),  # type: ignore[arg-type]
    "adam eps": lambda: tn.adam(eps=NAN),
    "adamw decay": lambda: tn.adamw(weight_decay=-0.1),
    "adagrad": lambda: tn.adagrad(lr_decay=-1.0),
    "adadelta": lambda: tn.adadelta(rho=1.5),
    "adadelta nan": lambda: tn.adadelta(rho=NAN),
    "rmsprop": lambda: tn.rmsprop(alpha=-0.1),
    "nadam": lambda: tn.nadam(momentum_decay=-1),
    "radam": lambda: tn.radam(lr=NAN),
    "adamax": lambda: tn.adamax(eps=-1.0),
    "lion": lambda: tn.lion(betas=(0.9, 1.0)),
    "ema": lambda: tn.ema(tn.sgd(), decay=NAN),
    "clip": lambda: tn.clip(tn.sgd(), max_norm=NAN),
    "clip value": lambda: tn.clip(tn.sgd(), max_value=-1.0),
    "rule": lambda: tn.update_rules.adam(lr=NAN) if hasattr(tn, "update_rules") else tn.adam(lr=NAN),
}


@pytest.mark.parametrize("case", BAD)
def test_hyperparameters_that_torch_refuses_are_refused(case: str) -> None:
    with pytest.raises(tn.TritonNotesError):
        BAD[case]()


@pytest.fixture(scope="module")
def adam_step() -> tn.TrainingStep:
    g = tn.Graph("one")
    g.output(loss=tn.sum(g.parameter("w", (3,), init=1.0) * g.input("x", (3,))))
    return tn.compile_step(g, optimizer=tn.clip(tn.adam(lr=0.1), max_norm=1.0))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", NAN, "lr is nan"),
        ("lr", -1.0, "lr is -1.0; it must be 0 or more"),
        ("lr", 10**400, "lr is an int beyond float64"),
        ("lr", "0.1", "lr is '0.1'; each of its hyperparameters is a number"),
        ("beta1", 1.0, "beta1 is 1.0; it must lie in"),
        ("beta2", -0.1, "beta2 is -0.1; it must lie in"),
        ("eps", -1e-8, "eps is -1e-08; it must be 0 or more"),
        ("max_norm", -1.0, "max_norm is -1.0; it must be 0 or more"),
        ("betas", (0.9, 0.99), "set beta1 and beta2 one by one"),
        ("rate", 0.1, "they must be"),
    ],
)
def test_hyperparameters_set_between_steps_are_checked_before_anything_changes(
    adam_step: tn.TrainingStep, name: str, value: Any, message: str
) -> None:
    before, usual = adam_step.state_dict(), dict(adam_step.hyperparameters)
    adam_step.hyperparameters[name] = value
    with pytest.raises(tn.TritonNotesError, match=message):
        adam_step(x=torch.ones(3))
    bad = {**before, "hyperparameters": dict(adam_step.hyperparameters)}
    adam_step.hyperparameters = usual
    with pytest.raises(tn.TritonNotesError, match=message):
        adam_step.load_state_dict(bad)
    assert torch.equal(adam_step.state_dict()["model"]["w"], before["model"]["w"])


# -- sizes and attributes --


def test_a_check_that_compares_nothing_does_not_say_ok() -> None:
    with pytest.raises(tn.TritonNotesError, match="Dim batch is 0, so nothing is compared; give it a size of 1"):
        tn.check(mlp(), sizes={"batch": 0})
    with pytest.raises(tn.TritonNotesError, match="Dim batch is 0"):
        tn.check(mlp(), feeds={"x": torch.ones(0, 6)})
    with pytest.raises(tn.TritonNotesError, match="has no Dim rows; it has batch"):
        tn.check(mlp(), sizes={"rows": 3})


def test_a_check_has_the_sizes_of_its_feeds() -> None:
    certificate = tn.check(mlp(), feeds={"x": torch.ones(5, 6)})
    assert certificate.sizes == {"batch": 5} and "at batch=5\n" in str(certificate)
    with pytest.raises(tn.TritonNotesError, match="Dim batch is 33 in sizes and 5 in feeds; leave it out of sizes"):
        tn.check(mlp(), sizes={"batch": 33}, feeds={"x": torch.ones(5, 6)})


def test_the_help_of_check_says_what_each_keyword_means() -> None:
    for keyword in inspect.signature(check_graph).parameters.keys() - {"subject"}:
        assert f"`{keyword}`" in str(tn.check.__doc__), keyword


def test_a_default_that_is_a_number_a_string_or_a_bool_makes_an_attribute() -> None:
    def reference(x: Tensor, w: Tensor | None = None, *, beta: float, how: str, more: bool, tail: float) -> Tensor:
        y = x * beta + (1.0 if how == "up" else -1.0) + tail
        return (y if w is None else y * w) * (2.0 if more else 1.0)

    @tn.op(reference=reference, domain=(-2, 2))
    def bent(x, beta=1.5, how="up", w=None, more=False, *, tail=0.0):  # type: ignore[no-untyped-def]
        """x · beta ± 1"""
        y = x * beta + (1.0 if how == "up" else -1.0) + tail
        y = y if w is None else y * w
        return y * 2.0 if more else y

    g = tn.Graph("bent")
    x, w = g.input("x", (4,)), g.input("w", (4,))
    g.output(a=bent(x), b=bent(x, 2.0), c=bent(x, 0.5, "down", w), d=bent(x, w=w, more=True, tail=3.0, name="last"))
    assert {v.name for v in g.values} >= {"last"}
    feeds = {"x": torch.arange(4.0), "w": torch.full((4,), 3.0)}
    x_fed, w_fed = feeds["x"], feeds["w"]
    found = tn.compile(g)(**feeds)
    wanted = [x_fed * 1.5 + 1, x_fed * 2 + 1, (x_fed * 0.5 - 1) * w_fed, (x_fed * 1.5 + 1 + 3) * w_fed * 2]
    for mine, want in zip(found.values(), wanted, strict=True):
        assert torch.equal(mine, want)
    assert tn.check(g).ok
