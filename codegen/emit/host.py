"""Numbers that the host works out before a launch, as Python text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Value

from ..lower.index_math import ATOM
from ..support.names import Names, describe, identifier
from ..support.text import number_text
from .ops import SPELLINGS, UNARY

Spell = Callable[[str, list[tuple[str, int]]], tuple[str, int]]
"""Spells an op on arguments, each a text with Python's precedence of it."""


@dataclass
class HostText:
    """Writes assignments for host numbers, each under its author's name, before their first use.

    `settings` are the names of the leaves' variables, by what `setting_of` calls them. `lines` are the assignments so
    far.
    """

    spell: Spell
    settings: Mapping[str, str]
    names: Names
    lines: list[str] = field(default_factory=list)
    assigned: dict[object, str] = field(default_factory=dict)

    def name(self, value: Value) -> str:
        """The variable that holds a number, or its literal."""
        text, _ = self._expression(value)
        if value.is_leaf or key_of(value) in self.assigned:
            return text
        words = [self._expression(a)[0] for a in value.inputs]
        name = self.names.claim(value.hint or "", describe(value.op.name, words), identifier(value.name))
        self.lines.append(f"{name} = {text}")
        self.assigned[key_of(value)] = name
        return name

    def _expression(self, value: Value) -> tuple[str, int]:
        """A number as text, and Python's precedence of it: what its author named stands on a line of its own."""
        if value.op.name == "constant":
            text = number_text(value.attrs["value"])
            return text, UNARY if text.startswith("-") else ATOM
        known = self.settings[setting_of(value)] if value.is_leaf else self.assigned.get(key_of(value))
        if known is not None:
            return known, ATOM
        inner = [(self.name(a), ATOM) if a.hint and not a.is_leaf else self._expression(a) for a in value.inputs]
        return self.spell(value.op.name, inner)


def cell_text(pointer: str, place: int) -> str:
    """The address of a cell."""
    return f"{pointer} + {place}" if place else pointer


def setting_of(leaf: Value) -> str:
    """What a host number is called by whoever gives it: `adam.lr` is `lr`."""
    return leaf.name.rpartition(".")[2]


def key_of(value: Value) -> object:
    """The same for the same number in two graphs."""
    if value.is_leaf:
        return value.attrs["value"] if value.op.name == "constant" else value.name
    return (value.op.name, *(key_of(a) for a in value.inputs))


def python_text(op: str, args: list[tuple[str, int]]) -> tuple[str, int]:
    """A host number in Python, in float64 as Python's floats are."""
    if op not in HOST_SPELLINGS:
        raise PlanError(f"{op} of numbers is worked out on the host, which has no {op}")
    template, binds = HOST_SPELLINGS[op]
    if binds == ATOM:
        return template.format(*(text for text, _ in args)), binds
    # Only the first operand of + and *, and the second of **, may bind as weakly as the operator itself.
    free = 1 if op == "pow" else 0
    shown = [f"({t})" if have < binds + (i != free) else t for i, (t, have) in enumerate(args)]
    return template.format(*shown), binds


@dataclass
class TritonText:
    """Spells host numbers in Triton, in float64; `helpers` are the functions it calls."""

    helpers: set[str] = field(default_factory=set)

    def __call__(self, op: str, args: list[tuple[str, int]]) -> tuple[str, int]:
        spelling = SPELLINGS[op]
        if spelling.helper:
            self.helpers.add(spelling.helper)
        if op == "pow" and not args[0][0].isidentifier():
            args = [(f"tl.full([], {args[0][0]}, tl.float64)", ATOM), args[1]]
        if "{}" in spelling.template:
            return spelling.template.replace("{}", ", ".join(text for text, _ in args)), spelling.binds
        needs = spelling.needs or (0,) * len(args)
        shown = [f"({text})" if have < need else text for (text, have), need in zip(args, needs, strict=True)]
        return spelling.template.format(*shown), spelling.binds


HOST_SPELLINGS = {
    "neg": ("-{0}", 13),
    "abs": ("abs({0})", 16),
    "exp": ("math.exp({0})", 16),
    "expm1": ("math.expm1({0})", 16),
    "log": ("math.log({0})", 16),
    "log1p": ("math.log1p({0})", 16),
    "sqrt": ("math.sqrt({0})", 16),
    "rsqrt": ("1.0 / math.sqrt({0})", 12),
    "sin": ("math.sin({0})", 16),
    "cos": ("math.cos({0})", 16),
    "tanh": ("math.tanh({0})", 16),
    "erf": ("math.erf({0})", 16),
    "floor": ("math.floor({0})", 16),
    "sign": ("math.copysign({0} != 0, {0})", 16),
    "add": ("{0} + {1}", 11),
    "sub": ("{0} - {1}", 11),
    "mul": ("{0} * {1}", 12),
    "div": ("{0} / {1}", 12),
    "pow": ("{0}**{1}", 14),
    "maximum": ("max({0}, {1})", 16),
    "minimum": ("min({0}, {1})", 16),
    "copy": ("{0}", 16),
}
"""Numbers that the host works out before a launch, in float64 as Python floats are."""
