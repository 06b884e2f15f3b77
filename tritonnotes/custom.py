"""Ops and update rules of the user's own: a formula and its torch reference, and everything else follows."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from .ir.core.errors import DeclarationError
from .ir.core.graph import Graph, Value
from .ir.core.op import Op
from .ir.core.op import op as _op
from .ir.core.optimizer import UpdateRule
from .ir.core.optimizer import update_rule as _update_rule
from .ir.core.registry import Domain, Note
from .ir.core.types import DType, Shape, check_name
from .judge.references import Reference, register_reference, register_update_reference
from .judge.samples import DEFAULT_RANGE

Range = tuple[float, float]
Sample = Callable[[Graph, Shape, DType], Value]


def op(
    *given: object,
    reference: Reference | None = None,
    domain: Range | Domain = DEFAULT_RANGE,
    note: Note | None = None,
    sample: Sample | None = None,
) -> Callable[[Callable[..., Value]], Op]:
    """Decorator: an op from a formula in primitives, with gradient, fusion, kernel and check.

    Positional parameters of the formula are Values (a default of None makes one optional). Keyword-only parameters, and
    those whose default is a number, a string or a bool, are attributes. `reference` has the same parameters as tensors
    and is written in plain torch. `domain` is the range (low, high) on which every argument is tested (by default −3 to
    3), or a mapping from arguments to ranges, with 'class' for an index into the classes.
    `sample(graph, shape, dtype)` declares an example; by default each required argument is an input of that shape.
    The name of the op is `custom.<name>`. A second op of the same name replaces the first one for graphs that are
    declared later. Raises `DeclarationError` for a reference or domain that does not fit the formula.
    """

    if given or reference is None:
        raise DeclarationError(
            "op: its reference is None, which cannot be called; it is checked against one in plain torch, so write "
            "@tn.op(reference=torch.nn.functional.mish) above the formula"
        )
    stands_for: Reference = reference

    def make(declared: Callable[..., Value]) -> Op:
        formula = _with_attributes(declared)
        name, arguments, attributes = _signature(formula, "op")
        if not arguments:
            raise DeclarationError(
                f"op {name!r}: its formula takes no positional argument; give it the Values it works on"
            )
        _check_reference(f"op {name!r}", reference, len(arguments), attributes)
        domains = _checked_domain(f"op {name!r}", domain, [p.name for p in arguments])
        made = _op(domain=domains, note=note, sample=sample, custom=True)(formula)
        if sample is None:
            made.sample = _default_sample(made)
        register_reference(made.name, stands_for)
        if formula is not declared:
            _in_declared_order(made, declared)
        return made

    return make


def update_rule(
    *,
    state: tuple[str, ...] = (),
    reference: Reference,
    initial: Mapping[str, float] | None = None,
    note: Note | None = None,
) -> Callable[[Callable[..., tuple[Value, ...]]], UpdateRule]:
    """Decorator: an update rule from a formula `(p, g, *state, **hyperparameters) -> (p, *state)` in primitives.

    `state` names the tensors kept for each parameter, `initial` their first values (0 unless given). `reference`
    takes and returns the same as tensors, in plain torch. A hyperparameter named `step` counts the steps from 1.
    Calling the rule gives an optimizer for `tn.compile_step`. Raises `DeclarationError` for what does not fit.
    """

    def make(formula: Callable[..., tuple[Value, ...]]) -> UpdateRule:
        name, arguments, hyperparameters = _signature(formula, "update rule")
        what = f"update rule {name!r}"
        if isinstance(state, str) or not all(isinstance(s, str) and s.isidentifier() for s in state):
            raise DeclarationError(
                f"{what}: state is {state!r}; name each tensor of state in a tuple, as in ('m', 'v')"
            )
        _check_reference(what, reference, 2 + len(state), hyperparameters)
        for key, value in (initial or {}).items():
            if key not in state or not _is_number(value):
                raise DeclarationError(
                    f"{what}: initial {key!r}: {value!r}; give numbers for state, which is {list(state)}"
                )
        made = _update_rule(state=tuple(state), initial=initial, note=note, custom=True)(formula)
        register_update_reference(made.name, reference)
        return made

    return make


Parameters = list[inspect.Parameter]


def _with_attributes(formula: Callable[..., Value]) -> Callable[..., Value]:
    """The formula with its attributes by keyword alone, as ops call it; where one stands among the Values, that is a
    function around it, to which its caller may still give them in their order."""
    if not inspect.isfunction(formula):
        return formula
    declared = inspect.signature(formula)
    found = list(declared.parameters.values())
    kinds = inspect.Parameter
    plain = [p for p in found if isinstance(p.default, bool | int | float | str)]
    moved = {p.name for p in plain if p.kind is not kinds.KEYWORD_ONLY}
    if not moved:
        return formula
    values = [p.name for p in found if p.kind is not kinds.KEYWORD_ONLY and p.name not in moved]

    @functools.wraps(formula)
    def called(*arguments: Any, **attributes: Any) -> Value:
        given = dict(zip(values, arguments, strict=False)) | attributes
        ordered = [given[p.name] for p in found if p.kind is not kinds.KEYWORD_ONLY]
        return formula(*ordered, **{p.name: given[p.name] for p in found if p.kind is kinds.KEYWORD_ONLY})

    last = [p.replace(kind=kinds.KEYWORD_ONLY) if p.name in moved else p for p in found]
    last.sort(key=lambda p: p.kind)
    called.__signature__ = declared.replace(parameters=last)  # type: ignore[attr-defined]
    return called


def _in_declared_order(made: Op, formula: Callable[..., Value]) -> None:
    """Let users pass Values and attributes of `made` by position, as its formula declares them."""
    name = inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    declared = inspect.signature(formula)
    signature = declared.replace(parameters=[*declared.parameters.values(), name])

    def front(*args: Any, **kwargs: Any) -> Value:
        bound = signature.bind(*args, **kwargs)
        values = [bound.arguments.pop(n, None) for n in made.arg_names]
        return made.apply(*values, **bound.arguments)

    front.__doc__ = made.__doc__
    front.__signature__ = signature  # type: ignore[attr-defined]
    made.declares(front)


def _signature(formula: object, kind: str) -> tuple[str, Parameters, Parameters]:
    if not inspect.isfunction(formula):
        raise DeclarationError(f"{kind}: {formula!r} is no function; decorate a def with the formula")
    name = check_name(formula.__name__, kind)
    parameters = list(inspect.signature(formula).parameters.values())
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise DeclarationError(f"{kind} {name!r}: its formula takes '{p}'; name every argument and attribute")
    return (
        name,
        [p for p in parameters if p.kind is not p.KEYWORD_ONLY],
        [p for p in parameters if p.kind is p.KEYWORD_ONLY],
    )


def _check_reference(what: str, reference: object, arguments: int, attributes: Parameters) -> None:
    """The reference takes what the formula takes, as far as its signature shows (torch's builtins hide theirs)."""
    if not callable(reference):
        raise DeclarationError(
            f"{what}: reference is {reference!r}, which cannot be called; pass a function in plain torch, as in "
            "reference=torch.nn.functional.mish"
        )
    try:
        signature = inspect.signature(reference)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * arguments, **{p.name: None for p in attributes})
    except TypeError as error:
        given = ", ".join([f"{arguments} tensors", *(f"{p.name}=" for p in attributes)])
        raise DeclarationError(
            f"{what}: its reference takes {signature}, the formula wants it called with {given} ({error}); wrap the "
            "reference in a function of the formula's arguments"
        ) from None


def _checked_domain(what: str, domain: object, arguments: list[str]) -> Domain:
    ranges: dict[str, Any] = dict(domain) if isinstance(domain, Mapping) else dict.fromkeys(arguments, domain)
    for name, given in ranges.items():
        if name not in arguments:
            raise DeclarationError(f"{what}: domain names {name!r}, the formula takes {arguments}; use those names")
        if given == "class":
            continue
        well_formed = (
            isinstance(given, tuple) and len(given) == 2 and all(map(_is_number, given)) and given[0] < given[1]
        )
        if not well_formed:
            raise DeclarationError(
                f"{what}: domain {given!r} for {name!r}; give (low, high) with low < high, both finite, or 'class' "
                "for an index into the classes"
            )
    return ranges


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _default_sample(made: Op) -> Sample:
    def sample(graph: Graph, shape: Shape, dtype: DType) -> Value:
        required = [p.name for p in made.parameters if p.kind is not p.KEYWORD_ONLY and p.default is p.empty]
        unset = [p.name for p in made.parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        if unset:
            raise DeclarationError(
                f"{made.name}: {unset[0]!r} has no default, so no example can be made; give it one, or sample="
            )
        args = [
            graph.input(name, shape[:-1], "int64")
            if made.domain.get(name) == "class"
            else graph.input(name, shape, dtype)
            for name in required
        ]
        return made.apply(*args)

    return sample
