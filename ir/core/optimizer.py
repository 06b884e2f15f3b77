"""Update rules, and optimizers: a rule with its hyperparameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import DeclarationError
from .graph import Value
from .registry import Note
from .types import check_name


@dataclass(frozen=True, eq=False)
class UpdateRule:
    """How an optimizer changes one parameter: `formula(p, g, *state, **hyperparameters) -> (p, *state, *numbers)`.

    A hyperparameter named `step` is the count of steps, from 1. `initial` gives the state's first values, a number or
    the name of a hyperparameter. `only_with` names, for state that is not always kept, the hyperparameter that must be
    set: without it the formula gets None there, and returns None. `numbers` are kept beside the state, one for each
    parameter and worked out by the host: their first values; the formula takes them by keyword and returns the next
    ones last. Calling the rule with hyperparameters gives an `Optimizer`.
    """

    name: str
    formula: Callable[..., tuple[Value | None, ...]]
    state: tuple[str, ...]
    initial: Mapping[str, float | str]
    defaults: Mapping[str, Any]
    note: Note | None
    custom: bool = False
    only_with: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def takes(self) -> tuple[str, ...]:
        """The hyperparameters that a user may give."""
        return tuple(h for h in self.defaults if h != "step" and h not in self.numbers)

    def __call__(self, **hyperparameters: float | bool) -> Optimizer:
        unknown = set(hyperparameters) - set(self.takes)
        missing = [h for h in self.takes if self.defaults[h] is inspect.Parameter.empty and h not in hyperparameters]
        if unknown or missing:
            wrong = f"does not take {sorted(unknown)}" if unknown else f"needs {missing}"
            raise DeclarationError(f"{self.name}: {wrong}; its hyperparameters are {', '.join(self.takes)}")
        given = {h: hyperparameters.get(h, self.defaults[h]) for h in self.takes}
        for name, value in given.items():
            if not isinstance(value, bool | int | float):
                raise DeclarationError(f"{self.name}: {name} is {value!r}; a hyperparameter is a number or a bool")
        return Optimizer(self, given)

    def __repr__(self) -> str:
        return f"<update rule {self.name}>"


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An update rule with its hyperparameters, and what else is done to gradient and parameter.

    `maximize` turns the gradient round. `clip` may hold `max_norm`, the largest norm of all gradients together, and
    `max_value`, the largest size of each number in them. `then` are rules that go on from the updated parameter, such
    as `ema`.
    """

    rule: UpdateRule
    hyperparameters: Mapping[str, float | bool]
    maximize: bool = False
    clip: Mapping[str, float] = field(default_factory=dict)
    then: tuple[Optimizer, ...] = ()

    @property
    def parts(self) -> tuple[Optimizer, ...]:
        """This one, then those that follow it."""
        return (self, *self.then)

    @property
    def settings(self) -> dict[str, float | bool]:
        """All hyperparameters, those of clipping and of the rules that follow included."""
        made: dict[str, float | bool] = dict(self.clip)
        for part in self.parts:
            made |= part.hyperparameters
        return made

    @property
    def state(self) -> dict[str, float]:
        """The tensors kept for each parameter, with the number that each is filled with at first."""
        made: dict[str, float] = {}
        for part in self.parts:
            for name in part.rule.state:
                condition = part.rule.only_with.get(name)
                if condition is None or part.hyperparameters[condition]:
                    first = part.rule.initial[name]
                    made[name] = float(part.hyperparameters[first] if isinstance(first, str) else first)
        return made

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers kept for each parameter, with their first values."""
        return {n: v for part in self.parts for n, v in part.rule.numbers.items()}

    def is_fixed(self, hyperparameter: str) -> bool:
        """Whether a hyperparameter is part of the formula: a bool, or a 0, which switches its term off. Not the rate:
        schedules start from 0."""
        given = self.hyperparameters[hyperparameter]
        return isinstance(given, bool) or (given == 0 and hyperparameter != "lr")

    def followed_by(self, other: Optimizer) -> Optimizer:
        """The same, then `other` on the updated parameter. Raises `DeclarationError` where their names clash."""
        mine = {*self.settings, *self.state, *self.numbers}
        clashes = sorted(mine & {*other.settings, *other.state, *other.numbers})
        if clashes:
            raise DeclarationError(
                f"{other.rule.name} after {self}: both have {', '.join(clashes)}; rename it in one of the rules"
            )
        return replace(self, then=(*self.then, *other.parts))

    def __repr__(self) -> str:
        extra = {"maximize": True} if self.maximize else {}
        shown = ", ".join(f"{k}={v}" for k, v in {**self.hyperparameters, **extra, **self.clip}.items())
        return " then ".join([f"{self.rule.name}({shown})", *map(repr, self.then)])


UPDATE_RULES: dict[str, UpdateRule] = {}


def update_rule(
    *,
    state: tuple[str, ...] = (),
    initial: Mapping[str, float | str] | None = None,
    only_with: Mapping[str, str] | None = None,
    numbers: Mapping[str, float] | None = None,
    note: Note | None = None,
    custom: bool = False,
) -> Callable[[Callable[..., tuple[Value | None, ...]]], UpdateRule]:
    """Decorator: make an update rule of a formula; see `UpdateRule`."""

    def make(formula: Callable[..., tuple[Value | None, ...]]) -> UpdateRule:
        parameters = inspect.signature(formula).parameters.values()
        positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        if positional[2:] != list(state):
            raise DeclarationError(
                f"update rule {formula.__name__!r}: takes {positional}, declared state {list(state)}; "
                "its positional parameters are the parameter, its gradient, then the state in that order"
            )
        defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        name = check_name(formula.__name__, "update rule")
        name = f"custom.{name}" if custom else name
        first = {s: 0.0 for s in state} | dict(initial or {})
        UPDATE_RULES[name] = rule = UpdateRule(
            name, formula, tuple(state), first, defaults, note, custom, dict(only_with or {}), dict(numbers or {})
        )
        return rule

    return make
