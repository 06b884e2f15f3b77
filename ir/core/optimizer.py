"""Update rules, and optimizers: a rule with its hyperparameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import DeclarationError
from .graph import Value
from .registry import Note, in_a_line
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

    def __repr__(self) -> str:
        formula = self.note.formula if self.note is not None else self.formula.__doc__ or ""
        return f"<update rule {self.name}: {in_a_line(formula)}>"

    @property
    def summary(self) -> str:
        """The formula of the note, or else the first line of the formula's docstring."""
        docstring = (self.formula.__doc__ or "").strip()
        return self.note.formula if self.note is not None else next(iter(docstring.splitlines()), "")

    @property
    def takes(self) -> tuple[str, ...]:
        """The hyperparameters that a user may give."""
        return tuple(h for h in self.defaults if h != "step" and h not in self.numbers)

    def __call__(self, /, **hyperparameters: float | bool) -> Optimizer:
        unknown = set(hyperparameters) - set(self.takes)
        missing = [h for h in self.takes if self.defaults[h] is inspect.Parameter.empty and h not in hyperparameters]
        if unknown or missing:
            wrong = f"does not take {sorted(unknown)}" if unknown else f"needs {missing}"
            raise DeclarationError(f"{self.name}: {wrong}; its hyperparameters are {', '.join(self.takes)}")
        given = {h: hyperparameters.get(h, self.defaults[h]) for h in self.takes}
        check_hyperparameters(self.name, given, () if self.custom else RANGES)
        return Optimizer(self, given)

    def __deepcopy__(self, memo: object) -> UpdateRule:
        return self

    def __reduce__(self) -> Any:
        # By name, from a closed set: a pickle holds no formula.
        return find_rule, (self.name,)


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An update rule with its hyperparameters, and what else is done to gradient and parameter.

    `maximize` turns the gradient round. `clip` may hold `max_norm`, the largest norm of all gradients together, and
    `max_value`, the largest size of each number in them. `then` are rules that go on from the updated parameter, such
    as `ema`. `groups` are parameters with numbers of their own; all others have these.
    """

    rule: UpdateRule
    hyperparameters: Mapping[str, float | bool]
    maximize: bool = False
    clip: Mapping[str, float] = field(default_factory=dict)
    then: tuple[Optimizer, ...] = ()
    groups: tuple[GroupOptimizer, ...] = ()

    @property
    def variants(self) -> tuple[Optimizer, ...]:
        """This one, then those of the groups: each has the number of its place."""
        return (self, *(group.optimizer for group in self.groups))

    def group_of(self, parameter: str) -> int:
        """The number of the variant that updates a parameter."""
        return next((k for k, group in enumerate(self.groups, 1) if parameter in group.parameters), 0)

    @property
    def all_settings(self) -> dict[str, float | bool]:
        """The hyperparameters of all variants, by the names that the host knows them by."""
        pairs = enumerate(self.variants)
        return {in_group(n, k): v for k, variant in pairs for n, v in variant.settings.items()}

    @property
    def all_numbers(self) -> dict[str, float]:
        """The numbers kept by all variants, by the names that the host knows them by."""
        return {in_group(n, k): v for k, variant in enumerate(self.variants) for n, v in variant.numbers.items()}

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


@dataclass(frozen=True, eq=False)
class GroupOptimizer:
    """The `parameters` of a group, by name, and the `optimizer` that updates them: the same rule with other numbers."""

    parameters: tuple[str, ...]
    optimizer: Optimizer


def in_group(name: str, group: int) -> str:
    """What the host calls a number of the variant of this place. That of the first, of no group, has its own name, if
    it does not read like another's."""
    return f"{name}_group_{group}" if group or _GROUPED.search(name) else name


_GROUPED = re.compile(r"_group_[0-9]+$")


RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(
        ("lr", "weight_decay", "eps", "momentum", "lr_decay", "initial_accumulator_value", "alpha", "momentum_decay")
        + ("max_norm", "max_value"),
        ("be 0 or more", lambda number: number >= 0),
    ),
    **dict.fromkeys(("beta1", "beta2"), ("lie in [0, 1)", lambda number: 0 <= number < 1)),
    **dict.fromkeys(("rho", "ema_decay"), ("lie in [0, 1]", lambda number: 0 <= number <= 1)),
}
"""What the hyperparameters of built-in rules must do, as torch asks it of its own."""


def check_hyperparameters(
    rule: str, given: Mapping[str, object], ranges: Container[str] = RANGES, what: str = "hyperparameters"
) -> None:
    """Raise `DeclarationError` where one of them is no number or bool, is NaN or no float64, or is not what `RANGES`
    says of those that `ranges` names."""
    for name, value in given.items():
        if not isinstance(value, bool | int | float):
            raise DeclarationError(f"{rule}: {name} is {value!r}; each of its {what} is a number or a bool")
        try:
            number = float(value)
        except OverflowError:
            raise DeclarationError(f"{rule}: {name} is an int beyond float64; make it smaller") from None
        if number != number:
            raise DeclarationError(f"{rule}: {name} is nan; it must be a number, as every product with nan is nan")
        if name in RANGES and name in ranges and not RANGES[name][1](number):
            raise DeclarationError(f"{rule}: {name} is {value}; it must {RANGES[name][0]}")


UPDATE_RULES: dict[str, UpdateRule] = {}


def find_rule(name: str) -> UpdateRule:
    """The update rule of this name. Raises `DeclarationError` where none is declared."""
    if name not in UPDATE_RULES:
        raise DeclarationError(f"there is no update rule {name!r}; declare it with @tn.update_rule first")
    return UPDATE_RULES[name]


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
