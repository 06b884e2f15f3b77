"""The vocabulary: primitives (a closed set), ops (formulas over primitives) and update rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .errors import DeclarationError
from .types import DType, Shape, check_name

if TYPE_CHECKING:
    from .graph import Value

ANY_NUMBER = -1
"""The arity of a primitive that takes one argument or more."""

Domain = Mapping[str, tuple[float, float] | str]
"""For each argument the range of values it is tested and checked on, or 'class': an index into the classes,
or 'row': the number of a row of the last argument."""


@dataclass(frozen=True)
class Note:
    """What a reader should know of an op. `formula` and `derivative` are one line each, in plain mathematics."""

    formula: str
    derivative: str
    strengths: str
    weaknesses: str
    use: str
    source: str


@dataclass(frozen=True, eq=False)
class Primitive:
    """One of the closed set that every op is made of.

    `kind` is 'leaf', 'elementwise', 'cast', 'reduction', 'shape', 'gather' or 'contraction'; `arity` counts arguments,
    or is `ANY_NUMBER` (one or more). `infer(args, attrs)` gives shape and dtype,
    `evaluate(*arrays, **attrs)` the meaning in numpy, `vjp(d, y, *args, **attrs)` the cotangent of each argument given
    the result's, `d` (None: no gradient).
    """

    name: str
    kind: str
    infer: Callable[[tuple[Value, ...], Mapping[str, Any]], tuple[Shape, DType]]
    evaluate: Callable[..., Any]
    vjp: Callable[..., tuple[Value | None, ...]]
    arity: int = 0

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


class Op:
    """A named formula over primitives, with what its users and its tests must know.

    Calling it on Values adds it to their graph. Attributes: `formula(*args, **attrs)`, `derive` (the hand-written
    gradient `(d_y, y, *args, **attrs) -> cotangents`, or None), `front` (the declaring function, where that differs
    from the formula), `refusal` (says what is wrong with shapes that the formula would take, or None), `domain`,
    `note`, `sample(graph, shape) -> Value`.
    """

    kind = "op"

    def __init__(
        self,
        name: str,
        formula: Callable[..., Value],
        *,
        domain: Domain | tuple[float, float],
        note: Note | None,
        sample: Callable[..., Value] | None,
        custom: bool = False,
    ) -> None:
        self.name = name
        self.formula = formula
        self.parameters = list(inspect.signature(formula).parameters.values())
        self.arg_names = [p.name for p in self.parameters if p.kind is not p.KEYWORD_ONLY]
        self.attr_names = [p.name for p in self.parameters if p.kind is p.KEYWORD_ONLY]
        self.domain: Domain = domain if isinstance(domain, Mapping) else {self.arg_names[0]: domain}
        self.note = note
        self.sample = sample
        self.custom = custom
        self.derive: Callable[..., tuple[Value | None, ...]] | None = None
        self.front: Callable[..., Value] | None = None
        self.refusal: Callable[..., str | None] | None = None
        self.helpers: set[Any] = {formula.__code__}
        self.__doc__ = formula.__doc__
        self.__name__ = name
        self.__signature__ = inspect.signature(formula)

    @property
    def summary(self) -> str:
        """The formula in one line, for comments in kernels."""
        if self.note is not None:
            return self.note.formula
        return next(iter((self.__doc__ or "").strip().splitlines()), "")

    def gradient(self, derive: Callable[..., tuple[Value | None, ...]]) -> Callable[..., tuple[Value | None, ...]]:
        """Decorator: the hand-written gradient."""
        self.derive = derive
        return derive

    def refuses(self, refusal: Callable[..., str | None]) -> Callable[..., str | None]:
        """Decorator: sizes that the op does not take. It is called as the formula is, with a shape (or None) for each
        Value, and says what is wrong, or None: at declaration, and for the sizes of `Dim`s at each call."""
        self.refusal = refusal
        return refusal

    def declares(self, front: Callable[..., Value]) -> Callable[..., Value]:
        """Decorator: the function that users call, which declares parameters and turns torch's arguments into ours."""
        self.front = front
        self.__signature__ = self._call = inspect.signature(front)
        return front

    def __call__(self, *args: Any, **kwargs: Any) -> Value:
        if self.front is None:
            return self.apply(*args, **kwargs)
        try:
            self._call.bind(*args, **kwargs)
        except TypeError as error:
            raise DeclarationError(f"{self.name}: {error}; it takes {self.__signature__}") from None
        return self.front(*args, **kwargs)

    def apply(self, *args: Any, name: str | None = None, **kwargs: Any) -> Value:
        """Add the op as its formula takes it: Values for the arguments, keyword attributes."""
        from .apply import graph_of

        try:
            bound = inspect.signature(self.formula).bind(*args, **kwargs)
        except TypeError as error:
            raise DeclarationError(f"{self.name}: {error}; it takes {self.__signature__}") from None
        bound.apply_defaults()
        values = [bound.arguments[n] for n in self.arg_names]
        attrs = {p.name: _as_declared(bound.arguments[p.name], p) for p in self.parameters if p.kind is p.KEYWORD_ONLY}
        return graph_of(self.name, values).call(self, *values, name=name, **attrs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _as_declared(attr: object, parameter: inspect.Parameter) -> object:
    """An attribute as its formula declares it: 1 is as good as 1.0 to whoever calls an op, and one thing in a graph."""
    is_float = parameter.annotation in (float, "float")
    return float(attr) if is_float and type(attr) is int and abs(attr) <= 2**53 else attr


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


@dataclass(frozen=True, eq=False)
class Described:
    """A primitive that users call by name, with what its tests and its readers must know."""

    name: str
    build: Callable[..., Value]
    domain: Domain
    note: Note
    sample: Callable[..., Value]


PRIMITIVES: dict[str, Primitive] = {}
DESCRIBED: dict[str, Described] = {}
OPS: dict[str, Op] = {}
UPDATE_RULES: dict[str, UpdateRule] = {}


def describe(
    build: Callable[..., Value], *, domain: Domain | tuple[float, float], note: Note, sample: Callable[..., Value]
) -> None:
    """Give a primitive that users call the note, domain and sample that an op has."""
    name = build.__name__
    names = domain if isinstance(domain, Mapping) else {"x": domain}
    DESCRIBED[name] = Described(name, build, names, note, sample)


def catalogue() -> dict[str, Op | Described]:
    """Everything that has a note: ops and described primitives, by name."""
    return {**{n: o for n, o in OPS.items() if not o.custom}, **DESCRIBED}


def lookup(name: str) -> Primitive | Op:
    """The primitive or op of this name: a closed set, nothing is imported or evaluated to find it."""
    found = PRIMITIVES.get(name) or OPS.get(name)
    if found is None:
        raise DeclarationError(
            f"unknown op {name!r}; a custom op must be declared with @tn.op before its graph is read"
        )
    return found


def op(
    *,
    domain: Domain | tuple[float, float],
    note: Note | None = None,
    sample: Callable[..., Value] | None = None,
    custom: bool = False,
) -> Callable[[Callable[..., Value]], Op]:
    """Decorator: make an op of a formula. Its positional parameters are Values, its keyword-only ones attributes."""

    def make(formula: Callable[..., Value]) -> Op:
        name = check_name(formula.__name__, "op")
        name = f"custom.{name}" if custom else name
        if not custom and (name in OPS or name in PRIMITIVES):
            raise DeclarationError(f"op {name!r} is declared twice; choose another name")
        OPS[name] = made = Op(name, formula, domain=domain, note=note, sample=sample, custom=custom)
        return made

    return make


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
