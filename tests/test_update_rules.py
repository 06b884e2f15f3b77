"""Update rules: the formula in numpy float64 against torch.optim itself, and against the plain torch reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tritonnotes.ir import Graph
from tritonnotes.ir.errors import DeclarationError
from tritonnotes.ir.evaluate import evaluate
from tritonnotes.ir.joint import joint_graph
from tritonnotes.ir.ops.regression import mse_loss
from tritonnotes.ir.registry import UPDATE_RULES, Optimizer, UpdateRule
from tritonnotes.ir.types import float64
from tritonnotes.references import UPDATE_REFERENCES
from tritonnotes.state import initial_state

STEPS = 7
CASES: list[tuple[str, dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.3}, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
]
for _how in (
    {},
    {"weight_decay": 0.3},
    {"dampening": 0.4},
    {"nesterov": True},
    {"nesterov": True, "weight_decay": 0.3},
    {"momentum": 0.0, "dampening": 0.4},
):
    _how = {"lr": 0.1, "momentum": 0.9} | _how
    CASES.append(("sgd_momentum", _how, torch.optim.SGD, _how))
for _how in ({}, {"weight_decay": 0.3}, {"beta1": 0.0}, {"beta1": 0.5, "beta2": 0.7}, {"eps": 1e-2}):
    _how = {"lr": 1e-2} | _how
    _theirs = {k: v for k, v in _how.items() if not k.startswith("beta")}
    _theirs["betas"] = (_how.get("beta1", 0.9), _how.get("beta2", 0.999))
    CASES.append(("adam", _how, torch.optim.Adam, _theirs))

every_case = pytest.mark.parametrize(
    ("name", "how", "theirs", "their_how"),
    CASES,
    ids=[f"{c[0]}-{'-'.join(map(str, c[1]))}-{i}" for i, c in enumerate(CASES)],
)


def gradients(shape: tuple[int, ...] = (3, 4)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def first_parameter(shape: tuple[int, ...] = (3, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_formula(optimizer: Optimizer, p: Tensor, all_g: list[Tensor]) -> list[list[np.ndarray]]:
    """Parameter and state after each step. As in a joint graph, bools and zeros are fixed, other numbers the host's."""
    rule = optimizer.rule
    graph = Graph("update", level="primitive")
    leaves = [graph.input(n, p.shape, float64) for n in ("p", "g", *rule.state)]
    given = dict(optimizer.hyperparameters)
    hyper: dict[str, Any] = {n: v for n, v in given.items() if isinstance(v, bool) or v == 0}
    hyper |= {n: graph.host_scalar(f"hyper.{n}") for n in rule.defaults if n not in hyper}
    results = rule.formula(*leaves, **hyper)
    current = [p.numpy(), *(np.full(p.shape, rule.initial[s]) for s in rule.state)]
    history = []
    for step, g in enumerate(all_g, 1):
        numbers = {f"hyper.{n}": v for n, v in (given | {"step": step}).items()}
        found = evaluate(graph, dict(zip(("p", *rule.state), current, strict=True)) | {"g": g.numpy()} | numbers)
        current = [found[result] for result in results]
        history.append(current)
    return history


def by_reference(
    name: str, how: dict[str, Any], p: Tensor, all_g: list[Tensor], rule: UpdateRule
) -> list[list[np.ndarray]]:
    current = [p, *(torch.full_like(p, rule.initial[s]) for s in rule.state)]
    history = []
    for step, g in enumerate(all_g, 1):
        counted = {"step": step} if "step" in rule.defaults else {}
        current = list(UPDATE_REFERENCES[name](current[0], g, *current[1:], **how, **counted))
        history.append([t.numpy() for t in current])
    return history


def by_torch(
    make: type[torch.optim.Optimizer], how: dict[str, Any], p: Tensor, all_g: list[Tensor], rule: UpdateRule
) -> Any:
    p = p.clone().requires_grad_()
    optimizer = make([p], **how)
    history = []
    for g in all_g:
        p.grad = g.clone()
        optimizer.step()
        kept = [optimizer.state[p].get(s) for s in rule.state]
        history.append([None if t is None else t.detach().clone().numpy() for t in (p, *kept)])
    return history


def assert_histories_agree(got: Any, want: Any) -> None:
    for step, (mine, theirs) in enumerate(zip(got, want, strict=True), 1):
        for which, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if b is not None:  # torch keeps no buffer without momentum
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=f"step {step}, tensor {which}")


@every_case
def test_formula_agrees_with_torch_optim(name: str, how: Any, theirs: Any, their_how: Any) -> None:
    rule = UPDATE_RULES[name]
    mine = by_formula(rule(**how), first_parameter(), gradients())
    assert_histories_agree(mine, by_torch(theirs, their_how, first_parameter(), gradients(), rule))


@every_case
def test_formula_agrees_with_plain_torch_reference(name: str, how: Any, theirs: Any, their_how: Any) -> None:
    rule = UPDATE_RULES[name]
    mine = by_formula(rule(**how), first_parameter(), gradients())
    assert_histories_agree(mine, by_reference(name, how, first_parameter(), gradients(), rule))


def test_every_rule_is_covered_here() -> None:
    assert {case[0] for case in CASES} == {n for n, rule in UPDATE_RULES.items() if not rule.custom}


@pytest.mark.parametrize("shape", [(), (1,), (0, 3)], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sgd_momentum", "adam"])
def test_zero_dim_and_empty_parameters_work(name: str, shape: tuple[int, ...]) -> None:
    rule = UPDATE_RULES[name]
    mine = by_formula(rule(lr=0.1), first_parameter(shape), gradients(shape))
    assert_histories_agree(mine, by_reference(name, {"lr": 0.1}, first_parameter(shape), gradients(shape), rule))


def test_nan_stays_in_its_element() -> None:
    all_g = gradients()
    all_g[2][1, 1] = float("nan")
    for step, (p, *_) in enumerate(by_formula(UPDATE_RULES["adam"](lr=0.1), first_parameter(), all_g), 1):
        assert np.isnan(p).sum() == (step >= 3)


def test_adam_with_eps_0_and_gradient_0_is_nan_as_in_torch() -> None:
    zero = [torch.zeros(2, dtype=torch.float64)]
    rule = UPDATE_RULES["adam"]
    p = torch.ones(2, dtype=torch.float64)
    mine = by_formula(rule(lr=0.1, eps=0.0), p, zero)
    theirs = by_torch(torch.optim.Adam, {"lr": 0.1, "eps": 0.0}, p, zero, rule)
    assert np.isnan(mine[0][0]).all() and np.isnan(theirs[0][0]).all()


def test_hyperparameters_that_do_not_exist_or_lack_are_named() -> None:
    with pytest.raises(DeclarationError, match="does not take.*momentum"):
        UPDATE_RULES["sgd"](lr=0.1, momentum=0.9)
    with pytest.raises(DeclarationError, match="needs.*lr"):
        UPDATE_RULES["adam"]()
    with pytest.raises(DeclarationError, match="a number or a bool"):
        UPDATE_RULES["sgd"](lr="0.1")  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="step"):
        UPDATE_RULES["adam"](lr=0.1, step=3)


@every_case
def test_joint_graph_trains_as_torch_does(name: str, how: Any, theirs: Any, their_how: Any) -> None:
    """Forward, derived gradient and update in one graph, against autograd and torch.optim."""
    graph = Graph("fit")
    x = graph.input("x", (5, 3), "float64")
    weight = graph.parameter("weight", (3,), init="uniform", low=-1, high=1, dtype="float64")
    graph.output(loss=mse_loss(x * weight, graph.input("y", (5, 3), "float64")))
    rule = UPDATE_RULES[name]
    joint = joint_graph(graph, "loss", rule(**how))
    data = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    current: dict[str, Any] = {n: t.numpy() for n, t in initial_state(graph, 3).items()}
    current |= {v.name: np.full(v.shape, v.attrs["init"]) for v in joint.leaves("slot")}
    theirs_weight = torch.tensor(current["weight"], requires_grad=True)
    optimizer = theirs([theirs_weight], **their_how)
    for step in range(1, STEPS + 1):
        numbers = {f"{name}.{n}": v for n, v in (rule(**how).hyperparameters | {"step": step}).items()}
        scalars = {v.name: numbers[v.name] for v in joint.leaves("scalar")}
        found = evaluate(joint, current | scalars | {"x": data[0].numpy(), "y": data[1].numpy()})
        current = {n: found[v] for n, v in joint.updates.items()}
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(data[0] * theirs_weight, data[1]).backward()
        optimizer.step()
        np.testing.assert_allclose(current["weight"], theirs_weight.detach().numpy(), rtol=1e-11, atol=1e-14)
