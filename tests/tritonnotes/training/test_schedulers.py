"""Schedulers of torch.optim drive a step by `step.optimizer`, as they drive torch's own optimizers."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import lr_scheduler, swa_utils

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError

STEPS = 12
GROUPS = [{"params": "*.bias", "weight_decay": 0.0, "lr": 0.02}]
RULES: dict[str, tuple[Any, Any]] = {
    "adamw": (tn.adamw(lr=0.1), torch.optim.AdamW),
    "sgd": (tn.sgd(lr=0.1, momentum=0.9), torch.optim.SGD),
}

MAKERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1 / (n + 1)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.2, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 8)], [4]
    ),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10, 1e-3),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.ConstantLR(o, 0.5, 3)], o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.3, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.2, 0.1], total_steps=STEPS + 1),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.05, anneal_epochs=4),
}
BASES = {"LRScheduler", "_LRScheduler"}


def graph() -> tn.Graph:
    g = tn.Graph("small")
    x, y = g.input("x", (tn.Dim("batch"), 4)), g.input("y", (tn.Dim("batch"), 2))
    g.output(loss=tn.mse_loss(tn.linear(tn.tanh(tn.linear(x, 3, name="fc1")), 2, name="fc2"), y))
    return g


def batch(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"x": torch.randn(5, 4, generator=generator), "y": torch.randn(5, 2, generator=generator)}


_compiled: dict[str, tn.TrainingStep] = {}


def fresh(rule: str) -> tn.TrainingStep:
    """A step at its beginning; compiled once for all tests."""
    if rule not in _compiled:
        _compiled[rule] = tn.compile_step(graph(), optimizer=RULES[rule][0], param_groups=GROUPS, device="cpu")
    return copy.deepcopy(_compiled[rule])


class InTorch:
    """The same model, trained by the class of torch.optim with groups of the same numbers."""

    def __init__(self, step: tn.TrainingStep, make: Any) -> None:
        self.graph = step.graph
        self.held = {n: t.detach().clone().requires_grad_() for n, t in step.model.state_dict().items()}
        groups = [dict(group) for group in step.optimizer.param_groups]
        names = [group.names for group in step.optimizer.param_groups]
        self.optimizer = make(
            [{**g, "params": [self.held[n] for n in ns]} for g, ns in zip(groups, names, strict=True)]
        )

    def __call__(self, **feeds: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = tn.eager(self.graph, feeds, self.held)["loss"]
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def numbers(optimizer: Any) -> list[Any]:
    return [(g["lr"], g.get("betas"), g.get("momentum")) for g in optimizer.param_groups]


def train(step: tn.TrainingStep, make: Any, schedule: Callable[[Any], Any], count: int = STEPS) -> None:
    """Both side by side: the same numbers before each step, and the same weights in the end."""
    theirs = InTorch(step, make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where a scheduler goes before its optimizer
        pair = schedule(step.optimizer), schedule(theirs.optimizer)
        for number in range(count):
            assert numbers(step.optimizer) == numbers(theirs.optimizer)
            losses = step(**batch(number))["loss"], theirs(**batch(number))
            for scheduler, loss in zip(pair, losses, strict=True):
                scheduler.step(*([round(float(loss), 3)] if "metrics" in signature(scheduler) else []))
    assert pair[0].get_last_lr() == pair[1].get_last_lr()
    for name, value in step.model.state_dict().items():
        torch.testing.assert_close(value, theirs.held[name].detach(), msg=lambda t, n=name: f"{n}: {t}")


def signature(scheduler: Any) -> list[str]:
    return [*inspect.signature(scheduler.step).parameters]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_scheduler_drives_a_step_as_it_drives_torchs_optimizer(name: str, rule: str) -> None:
    train(fresh(rule), RULES[rule][1], MAKERS[name])


def test_every_scheduler_of_torch_is_tried() -> None:
    kinds = [k for k in vars(lr_scheduler).values() if isinstance(k, type) and issubclass(k, lr_scheduler.LRScheduler)]
    assert {k.__name__ for k in kinds} - BASES == {*MAKERS} - {"SWALR"}


FACTORS = st.lists(st.floats(0, 2), min_size=4, max_size=4)


@settings(max_examples=8)
@given(FACTORS, FACTORS)
def test_any_schedule_of_two_groups_is_followed(first: list[float], second: list[float]) -> None:
    """Property of the kind: whatever a scheduler sets, the next step uses, for each group its own."""
    factors = [lambda n: [*first, 1.0][n], lambda n: [*second, 1.0][n]]
    train(fresh("sgd"), torch.optim.SGD, lambda o: lr_scheduler.LambdaLR(o, factors), 4)


def test_a_schedule_goes_on_where_step_and_scheduler_are_loaded() -> None:
    runs = []
    for is_cut in (False, True):
        step = fresh("adamw")
        schedule = MAKERS["OneCycleLR"](step.optimizer)
        for number in range(8):
            if is_cut and number == 4:
                held = pickle.loads(pickle.dumps((step.optimizer.state_dict(), schedule.state_dict())))
                weights = step.model.state_dict()
                step = fresh("adamw")
                schedule = MAKERS["OneCycleLR"](step.optimizer)
                step.model.load_state_dict(weights)
                step.optimizer.load_state_dict(held[0])
                schedule.load_state_dict(held[1])
            step(**batch(number))
            schedule.step()
        runs.append(step.model.state_dict())
    for one, other in zip(*(run.values() for run in runs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", MAKERS)
def test_step_and_scheduler_are_copied_together(name: str) -> None:
    step = fresh("sgd")
    schedule = MAKERS[name](step.optimizer)
    pairs = [(step, schedule)]
    for number in range(6):
        for copied, its_schedule in pairs:
            loss = float(copied(**batch(number))["loss"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch asks whether the copied optimizer is wrapped
                its_schedule.step(*([round(loss, 3)] if "metrics" in signature(its_schedule) else []))
        if number == 2:
            pairs.append(copy.deepcopy(pairs[0]))
            if name == "OneCycleLR":
                pairs.append(pickle.loads(pickle.dumps(pairs[0])))
    for other, _ in pairs[1:]:
        assert [dict(g, params=0) for g in other.optimizer.param_groups] == [
            dict(g, params=0) for g in step.optimizer.param_groups
        ]
        assert other.optimizer is not step.optimizer
        torch.testing.assert_close(other.model.state_dict(), step.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, torch.tensor])
def test_numbers_of_other_libraries_are_numbers(kind: Callable[[int], Any]) -> None:
    step = fresh("adamw")
    group = step.optimizer.param_groups[0]
    group["lr"], group["betas"] = kind(1), (kind(0), 0.5)
    assert (group["lr"], group["betas"]) == (1, (0, 0.5)) and type(group["lr"]) in (int, float)
    step(**batch(0))


def test_groups_are_live_and_keep_what_schedulers_put_there() -> None:
    step = fresh("adamw")
    first, second = step.optimizer.param_groups
    step.hyperparameters["lr"] = 0.5
    step.param_groups[1]["beta1"] = 0.25
    assert first["lr"] == 0.5 and second["betas"] == (0.25, 0.999)
    second["betas"] = (0.5, 0.75)
    second["lr"] = torch.tensor(0.125)
    second["initial_lr"] = 3
    assert step.param_groups[1]["beta1"] == 0.5 and step.param_groups[1]["lr"] == 0.125
    assert second["initial_lr"] == 3 and "initial_lr" not in first and "initial_lr" in dict(second)
    del second["initial_lr"]
    assert "initial_lr" not in second
    assert [*first] == ["params", *torch.optim.AdamW([torch.ones(1)]).defaults] == ["params", *step.optimizer.defaults]
    again = pickle.loads(pickle.dumps(step)).optimizer
    assert numbers(again) == numbers(step.optimizer) and again is not step.optimizer
    assert all(p is step.model.get_parameter(n) for p, n in zip(first["params"], first.names, strict=True))


def test_what_is_compiled_is_refused_with_the_remedy() -> None:
    step = fresh("sgd")
    group = step.optimizer.param_groups[1]
    with pytest.raises(DeclarationError, match=r"nesterov of a parameter group is compiled; compile the step with"):
        group["nesterov"] = True
    with pytest.raises(DeclarationError, match=r"weight_decay was 0.0 when the step was compiled"):
        group["weight_decay"] = 0.1
    with pytest.raises(DeclarationError, match=r"lr is -1; it must be 0 or more"):
        group["lr"] = -1
    with pytest.raises(DeclarationError, match=r"'lr' of a parameter group is compiled; set it instead"):
        del group["lr"]
    with pytest.raises(DeclarationError, match=r"step.optimizer.step\(\): the step computes gradients and updates"):
        step.optimizer.step()
    with pytest.raises(DeclarationError, match=r"groups are compiled; give them to tn.compile_step"):
        step.optimizer.add_param_group({"params": []})
    assert group["weight_decay"] == 0.0 and group["lr"] == 0.02
    group["params"] = group["params"]
