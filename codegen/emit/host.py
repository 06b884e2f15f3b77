"""Numbers worked out before a launch, in float64: by the host in Python, or by a kernel of its own in Triton."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Value

from ..analysis.views import is_host
from ..support.expressions import Conditional, Display, Expression, Literal, Name, call, number, total
from ..support.facets import FACETS, triton
from ..support.names import Names, describe, uncounted
from ..support.provenance import LineOrigin, origin_of
from ..support.statements import Assign, Statement, names_of, written

Spell = Callable[[Value, list[Expression]], Expression]
"""Spells a value of its arguments."""


@dataclass
class HostNumbers:
    """Writes assignments for host numbers, each under its author's name, before their first use.

    `known` are the variables that hold some of them, by what `key` calls a value, and `sizes` those that hold the size
    of a `Dim`, by its name. `statements` are the assignments so far.
    """

    spell: Spell
    key: Callable[[Value], Hashable]
    names: Names
    known: dict[Any, str] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)

    def name(self, value: Value) -> str:
        """The variable that holds a number, or its literal."""
        expression = self._expression(value)
        if isinstance(expression, Name | Literal):
            return str(expression)
        if self.spell is python_number and _is_int(value):
            expression = call("float", expression)  # a kernel that was compiled for a float is given one
        words = [str(self._expression(a)) for a in value.inputs]
        name = self.names.claim(value.hint or "", describe(value.op.name, words), uncounted(value))
        self.statements.append(Assign(name, expression, origins=(origin_of(value, name),)))
        self.known[self.key(value)] = name
        return name

    @property
    def lines(self) -> list[str]:
        """The assignments so far."""
        return [line for line, _ in written(self.statements)]

    def line_origins(self, function: str) -> list[LineOrigin]:
        """What the lines are of, in a function of the host."""
        return [LineOrigin("run", "", function, statement.origins) for _, statement in written(self.statements)]

    def _expression(self, value: Value) -> Expression:
        """A number: what its author named stands on a line of its own."""
        if value.op.name == "constant":
            return number(value.attrs["value"])
        if value.op.name == "dim_size":
            return Name(self.sizes[value.attrs["dim"]])
        known = self.known.get(self.key(value))
        if known is not None:
            return Name(known)
        if value.is_leaf:
            raise PlanError(f"nobody gives the number {value.name!r}")
        return self.spell(value, [self._argument(a) for a in value.inputs])

    def _argument(self, value: Value) -> Expression:
        return Name(self.name(value)) if value.hint and not value.is_leaf else self._expression(value)


def _is_int(value: Value) -> bool:
    """Whether Python may work a number out as an int, which the size of a `Dim` is."""
    match value.op.name:
        case "dim_size" | "floor":
            return True
        case "maximum" | "minimum":
            return any(map(_is_int, value.inputs))
        case "neg" | "abs" | "add" | "sub" | "mul" | "pow" | "copy":
            return all(map(_is_int, value.inputs))
    return False


def python_number(value: Value, arguments: list[Expression]) -> Expression:
    """A host number in Python, in float64 as Python's floats are."""
    op = value.op.name
    build = FACETS[op].host if op in FACETS else None
    if build is None or not all(map(is_host, value.inputs)):
        raise PlanError(f"{op} of {value.name!r} is worked out on the host, which has no {op}")
    made = build(*arguments)
    if op == "div" and _has_size(value.inputs[1]):
        return Conditional(made, arguments[1], _over_zero(value, arguments))
    return made


def _over_zero(quotient: Value, arguments: list[Expression]) -> Expression:
    """What floats make of a quotient where the divisor is a size of 0, for which Python raises."""
    numerator = quotient.inputs[0]
    if numerator.op.name == "constant":
        return number(numerator.attrs["value"] * inf)
    return arguments[0] * inf


def _has_size(value: Value) -> bool:
    return value.op.name == "dim_size" or any(map(_has_size, value.inputs))


def triton_number(value: Value, arguments: list[Expression]) -> Expression:
    """A host number in Triton, in float64."""
    if value.op.name == "pow" and not isinstance(arguments[0], Name):
        # The helper asks its base for a dtype, which a mere number has not.
        arguments = [call("tl.full", Display(()), arguments[0], Name("tl.float64")), *arguments[1:]]
    return triton(value.op.name, *arguments)


def uses_math(statements: Iterable[Statement]) -> bool:
    """Whether statements call functions of Python's `math`."""
    return any(name.startswith("math.") for name in names_of(statements))


def cell(pointer: str, place: int) -> Expression:
    """The address of a cell."""
    return total(Name(pointer), place)


def setting_of(leaf: Value) -> str:
    """What a host number is called by the caller: `adam.lr` is `lr`."""
    return leaf.name.rpartition(".")[2]


def key_of(value: Value) -> Hashable:
    """The same for the same number in two graphs."""
    if value.is_leaf:
        return value.attrs["value"] if value.op.name == "constant" else value.name
    return (value.op.name, *(key_of(a) for a in value.inputs))


def setting_or_key(value: Value) -> Hashable:
    """What a number is known by where settings are known by their names."""
    return setting_of(value) if value.is_leaf else key_of(value)
