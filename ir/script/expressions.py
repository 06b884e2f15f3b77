"""Python expressions with how tightly they bind, and numbers, sizes and names as Python writes them."""

from __future__ import annotations

import json
import keyword
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core.errors import DeclarationError
from ..core.types import Dim, DimProduct, DType

COMPARISON, OR, AND, SUM, PRODUCT, SIGN, POWER, ATOM = range(1, 9)
"""How tightly operators of Python bind, in its own order."""


@dataclass(frozen=True)
class Expr:
    """Source of an expression, and how tightly its outermost operator binds."""

    text: str
    binds: int = ATOM

    def within(self, binds: int) -> str:
        """The source as an operand of an operator that binds as much."""
        return self.text if self.binds >= binds else f"({self.text})"


def infix(symbol: str, binds: int) -> Callable[[Expr, Expr], Expr]:
    """`a + b`: from left to right, but for powers, whose base is an atom."""

    def make(a: Expr, b: Expr) -> Expr:
        left = ATOM if binds == POWER else OR if binds == COMPARISON else binds
        right = SIGN if binds == POWER else binds + 1
        return Expr(f"{a.within(left)} {symbol} {b.within(right)}", binds)

    return make


def prefix(symbol: str) -> Callable[[Expr], Expr]:
    return lambda x: Expr(f"{symbol}{x.within(SIGN)}", SIGN)


def called(function: str, args: Sequence[str], **named: str) -> Expr:
    """A call of a function by its name."""
    return Expr(f"{function}({', '.join([*args, *(f'{key}={value}' for key, value in named.items())])})")


def number(value: float, *, short: bool) -> Expr:
    """A number; with `short` a float that is whole as an int, which is the same beside a Value of floats."""
    if isinstance(value, float) and not math.isfinite(value):
        shown = f'float("{abs(value)}")'
        return Expr(f"-{shown}", SIGN) if value < 0 else Expr(shown)
    whole = short and isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    if whole and not (value == 0 and math.copysign(1, value) < 0):
        value = int(value)
    return Expr(repr(value), SIGN if repr(value).startswith("-") else ATOM)


def literal(value: object, dims: dict[str, str]) -> str:
    """An attribute as Python writes it; `dims` are the variables of `Dim`s. Raises `DeclarationError` for what has no
    literal, such as a dtype."""
    if isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, float):
        return number(value, short=False).text
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Dim):
        return dims[value.name]
    if isinstance(value, DimProduct):
        return size(value, dims).text
    if isinstance(value, tuple):
        return f"({', '.join(literal(part, dims) for part in value)}{',' if len(value) == 1 else ''})"
    shown = f"the dtype {value}" if isinstance(value, DType) else f"a {type(value).__name__}"
    raise DeclarationError(f"to_python: {shown} as an attribute has no literal in Python; use str(graph) or to_json()")


def size(value: DimProduct, dims: dict[str, str]) -> Expr:
    """A product of `Dim`s."""
    factors = [*map(str, [value.known] if value.known != 1 else []), *(dims[dim.name] for dim in value.dims)]
    return Expr(" * ".join(factors), PRODUCT)


def identifier(name: str, kind: str) -> str:
    """A variable for a value of this name, `kind` in front where it begins with a digit."""
    joined = name.replace(".", "_")
    joined = f"{kind}_{joined}" if joined[0].isdigit() else joined
    return f"{joined}_" if keyword.iskeyword(joined) else joined
