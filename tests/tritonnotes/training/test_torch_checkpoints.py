"""Checkpoints in both directions: a step's state in torch.optim, and torch.optim's in a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import FeedError, InterruptedStepError

Make = Callable[..., Any]

RULES: dict[str, tuple[Make, Make, dict[str, Any]]] = {
    "sgd": (tn.sgd, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "sgd_momentum": (tn.sgd, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "nesterov": (tn.sgd, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "adagrad": (tn.adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    "adadelta": (tn.adadelta, torch.optim.Adadelta, {"lr": 1.0, "rho": 0.8}),
    "rmsprop": (tn.rmsprop, torch.optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.8}),
    "adam": (tn.adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1, "betas": (0.8, 0.99)}),
    "adamw": (tn.adamw, torch.optim.AdamW, {"lr": 0.1}),
    "amsgrad": (tn.adamw, torch.optim.AdamW, {"lr": 0.1, "amsgrad": True}),
    "adamax": (tn.adamax, torch.optim.Adamax, {"lr": 0.1}),
    "nadam": (tn.nadam, torch.optim.NAdam, {"lr": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    "radam": (tn.radam, torch.optim.RAdam, {"lr": 0.1}),
}
Run = Callable[..., Any]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(5, 4, generator=generator), torch.randn(5, 2, generator=generator)


def step_of(module: nn.Module, optimizer: Any, **options: Any) -> tn.TrainingStep:
    return tn.compile_step(module, batch(0)[0], loss=nn.functional.mse_loss, optimizer=optimizer, **options)


def eagerly(module: nn.Module, optimizer: torch.optim.Optimizer) -> Run:
    def run(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        optimizer.step()

    return run


def run_all(run: Run, numbers: range) -> None:
    for number in numbers:
        run(*batch(number))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_across_the_switch_in_both_directions_and_states_have_torchs_keys(rule: str) -> None:
    declare, make, options = RULES[rule]
    module, eager = net(), net()
    optimizer = make(eager.parameters(), **options)
    step = step_of(module, declare(**options))
    assert step.declared_optimizer.rule.name == rule
    assert step.optimizer.defaults == optimizer.defaults
    optimizer.load_state_dict(step.optimizer.state_dict())  # before the first step, too
    step(*batch(9))
    step.optimizer.load_state_dict(make(eager.parameters(), **options).state_dict())
    run = eagerly(eager, optimizer)
    for begin, count in ((0, 2), (4, 1)):
        run_all(run, range(begin, begin + count))
        module.load_state_dict(eager.state_dict())  # from torch to the step
        step.optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        run_all(run, range(begin + 2, begin + 4))
        run_all(step, range(begin + 2, begin + 4))
        assert_same(module, eager)
        eager = copy.deepcopy(module)  # and back
        optimizer = make(eager.parameters(), **options)
        optimizer.load_state_dict(step.optimizer.state_dict())
        run = eagerly(eager, optimizer)
    run_all(run, range(8, 10))
    run_all(step, range(8, 10))
    assert_same(module, eager)
    assert described(step.optimizer.state_dict()) == described(optimizer.state_dict())


def described(state: Mapping[str, Any]) -> Any:
    """A state without its numbers."""
    tensors = {i: {n: (t.shape, t.dtype) for n, t in s.items() if t is not None} for i, s in state["state"].items()}
    return tensors, state["param_groups"]


def test_a_state_is_a_copy_that_torch_may_train_on(tmp_path: Path) -> None:
    module = net()
    step = step_of(module, tn.adamw(lr=0.1))
    run_all(step, range(2))
    kept = copy.deepcopy(step.state_dict()["slots"])
    torch.save(step.optimizer.state_dict(), tmp_path / "optimizer.pt")
    eager = copy.deepcopy(module)
    optimizer = torch.optim.AdamW(eager.parameters())
    optimizer.load_state_dict(step.optimizer.state_dict())
    run_all(eagerly(eager, optimizer), range(2, 4))
    assert all(torch.equal(t, kept[n]) for n, t in step.state_dict()["slots"].items())
    saved = torch.load(tmp_path / "optimizer.pt")
    again = step_of(module, tn.adamw(lr=0.3))
    again.optimizer.load_state_dict(saved)
    assert again.hyperparameters["lr"] == 0.1 and again.steps == 2
    run_all(again, range(2, 4))
    assert_same(module, eager)


def test_groups_go_across_with_their_numbers() -> None:
    groups = [{"params": "*.weight", "lr": 0.1}, {"params": "*.bias", "lr": 0.02, "weight_decay": 0.0}]
    module, eager = net(), net()
    step = step_of(module, tn.nadam(weight_decay=0.1), param_groups=groups)
    named = dict(eager.named_parameters())
    listed = [{**g, "params": [named[n] for n in g.names]} for g in step.optimizer.param_groups]
    optimizer = torch.optim.NAdam(listed)
    run_all(eagerly(eager, optimizer), range(3))
    module.load_state_dict(eager.state_dict())
    step.optimizer.load_state_dict(optimizer.state_dict())
    run_all(eagerly(eager, optimizer), range(3, 5))
    run_all(step, range(3, 5))
    assert_same(module, eager)


def test_what_a_scaler_counts_and_an_average_go_across() -> None:
    optimizer = tn.ema(tn.nadam(lr=0.1), 0.5)
    one, other = net(), net()
    scaled = step_of(one, optimizer, scaler=tn.GradScaler(init_scale=4.0))
    plain = step_of(other, optimizer)
    run_all(scaled, range(2))
    other.load_state_dict(one.state_dict())
    plain.optimizer.load_state_dict(scaled.optimizer.state_dict())
    run_all(scaled, range(2, 4))
    run_all(plain, range(2, 4))
    assert_same(one, other)
    scaled.optimizer.load_state_dict(plain.optimizer.state_dict())
    assert float(scaled.slots["scaler.step"]) == 4 == plain.steps
    for name in ("0.weight.ema", "2.bias.ema"):
        torch.testing.assert_close(scaled.slots[name], plain.slots[name])


def test_an_average_that_torch_does_not_keep_begins_at_the_weights() -> None:
    module = net()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    run_all(eagerly(module, optimizer), range(2))
    step = step_of(module, tn.ema(tn.adamw(lr=0.1), 0.5))
    step.optimizer.load_state_dict(optimizer.state_dict())
    for name, weight in module.named_parameters():
        assert torch.equal(step.slots[f"{name}.ema"], weight)


def test_a_rule_that_torch_does_not_have_goes_to_its_class_here() -> None:
    module = net()
    step = step_of(module, tn.lion(lr=0.05, weight_decay=0.1))
    run_all(step, range(2))
    eager = copy.deepcopy(module)
    optimizer = tn.optim.Lion(eager.parameters())
    optimizer.load_state_dict(step.optimizer.state_dict())
    run_all(eagerly(eager, optimizer), range(2, 4))
    run_all(step, range(2, 4))
    assert_same(module, eager)
    step.optimizer.load_state_dict(optimizer.state_dict())


def test_a_parameter_that_was_never_trained_stays_frozen() -> None:
    module, eager = net(), net()
    for made in (module, eager):
        made[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(eager.parameters(), lr=0.1)
    run_all(eagerly(eager, optimizer), range(2))
    step = step_of(module, tn.adam(lr=0.1))
    module.load_state_dict(eager.state_dict())
    step.optimizer.load_state_dict(optimizer.state_dict())
    run_all(eagerly(eager, optimizer), range(2, 4))
    run_all(step, range(2, 4))
    assert_same(module, eager)


class Partly(nn.Module):
    """A parameter that the loss does not depend on, one that is frozen, and one whose name is no name of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.fc = nn.Linear(3, 3), net()
        self.register_parameter("a-b", nn.Parameter(torch.ones(4)))
        self.fc[0].bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x * getattr(self, "a-b"))


@pytest.mark.parametrize("rule", ["nadam", "adam", "sgd_momentum", "sgd"])
def test_parameters_that_are_not_trained_have_no_state(rule: str) -> None:
    declare, make, options = RULES[rule]
    torch.manual_seed(0)
    module = Partly()
    eager = copy.deepcopy(module)
    optimizer = make(eager.parameters(), **options)
    step = step_of(module, declare(**options))
    run = eagerly(eager, optimizer)
    for begin in (0, 4):
        run_all(run, range(begin, begin + 2))
        run_all(step, range(begin, begin + 2))
        assert_same(module, eager)
        theirs = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(step.optimizer.state_dict())
        step.optimizer.load_state_dict(theirs)
        run_all(run, range(begin + 2, begin + 4))
        run_all(step, range(begin + 2, begin + 4))
        assert_same(module, eager)
    unused = [place for place, (name, _) in enumerate(module.named_parameters()) if "unused" in name]
    assert not {*unused} & {*step.optimizer.state_dict()["state"]}


def test_what_does_not_fit_is_refused_and_nothing_is_changed() -> None:
    module = net()
    step = step_of(module, tn.adamw(lr=0.1))
    run_all(step, range(1))
    before = copy.deepcopy(step.state_dict())
    two = [{"params": [module[0].weight]}, {"params": [*module.parameters()][1:]}]
    part = torch.optim.AdamW(module.parameters())
    part.load_state_dict(step.optimizer.state_dict())
    part.state[module[0].weight]["step"] += 1
    turned = torch.optim.AdamW([*module.parameters()][::-1])
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    turned.step()
    wrong: list[tuple[torch.optim.Optimizer, str]] = [
        (torch.optim.AdamW(two), r"its groups have \[1, 3\] parameters, those of the step \[4\]"),
        (torch.optim.AdamW(module.parameters(), maximize=True), "maximize of a parameter group is compiled"),
        (torch.optim.AdamW(module.parameters(), amsgrad=True), "amsgrad of a parameter group is compiled"),
        (part, r"steps is 2 for '0.weight' and 1 for '0.bias'.*freeze those"),
        (turned, r"exp_avg of '0.weight' is \[2\], wanted \[3, 4\]; list the parameters in the order"),
    ]
    for optimizer, message in wrong:
        with pytest.raises(FeedError, match=message):
            step.optimizer.load_state_dict(optimizer.state_dict())
    after = step.state_dict()
    assert all(torch.equal(after["slots"][n], t) for n, t in before["slots"].items())
    assert after["hyperparameters"] == before["hyperparameters"] and after["steps"] == before["steps"]


def test_a_torn_step_gives_no_state() -> None:
    step = step_of(net(), tn.adamw(lr=0.1))
    step._state.begin()
    with pytest.raises(InterruptedStepError, match="load a state first"):
        step.optimizer.state_dict()
