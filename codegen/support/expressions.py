"""Expressions of generated source as trees, and the one printer that knows what binds more tightly.

Trees are built with Python's own operators, `row * 5 + col`, where numbers stand for themselves. Two trees are equal
where they are written alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

CONDITIONAL, COMPARISON, UNARY, POWER, ATOM = 1, 6, 13, 14, 16

PRECEDENCE = {
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), COMPARISON),
    **{"|": 7, "&": 9, "+": 11, "-": 11, "*": 12, "/": 12, "//": 12, "%": 12, "**": POWER},
}
"""How tightly Python's infix operators bind."""


class Expression:
    """Part of a line of source. `parts` are the expressions that it is made of, from left to right."""

    @property
    def parts(self) -> tuple[Expression, ...]:
        return ()

    def __str__(self) -> str:
        return _source(self)

    def __neg__(self) -> Expression:
        return Unary("-", self)

    def __add__(self, other: Operand) -> Expression:
        return Binary("+", self, operand(other))

    def __sub__(self, other: Operand) -> Expression:
        return Binary("-", self, operand(other))

    def __mul__(self, other: Operand) -> Expression:
        return Binary("*", self, operand(other))

    def __truediv__(self, other: Operand) -> Expression:
        return Binary("/", self, operand(other))

    def __floordiv__(self, other: Operand) -> Expression:
        return Binary("//", self, operand(other))

    def __mod__(self, other: Operand) -> Expression:
        return Binary("%", self, operand(other))

    def __pow__(self, other: Operand) -> Expression:
        return Binary("**", self, operand(other))

    def __and__(self, other: Operand) -> Expression:
        return Binary("&", self, operand(other))

    def __or__(self, other: Operand) -> Expression:
        return Binary("|", self, operand(other))

    def __lt__(self, other: Operand) -> Expression:
        return Binary("<", self, operand(other))

    def __le__(self, other: Operand) -> Expression:
        return Binary("<=", self, operand(other))

    def __gt__(self, other: Operand) -> Expression:
        return Binary(">", self, operand(other))

    def __ge__(self, other: Operand) -> Expression:
        return Binary(">=", self, operand(other))

    def equals(self, other: Operand) -> Expression:
        """`==` between two values; Python's own compares the trees."""
        return Binary("==", self, operand(other))

    def differs(self, other: Operand) -> Expression:
        """`!=` between two values."""
        return Binary("!=", self, operand(other))

    def method(self, name: str, *arguments: Operand) -> Expression:
        """A call of a method: `x.to(tl.float32)`."""
        return Call(Attribute(self, name), tuple(map(operand, arguments)))

    def subscript(self, index: str) -> Expression:
        """New axes of a tile: `x[:, None]`."""
        return Subscript(self, index)


Operand = Expression | int | float
"""What stands beside an operator: numbers are written as literals."""


@dataclass(frozen=True)
class Name(Expression):
    """A variable or function, dotted where it belongs to a module."""

    name: str


@dataclass(frozen=True)
class Literal(Expression):
    """A number as it is written, its sign included."""

    written: str


@dataclass(frozen=True)
class Unary(Expression):
    sign: str
    value: Expression

    @property
    def parts(self) -> tuple[Expression, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Binary(Expression):
    sign: str
    left: Expression
    right: Expression

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.left, self.right


@dataclass(frozen=True)
class Attribute(Expression):
    value: Expression
    name: str

    @property
    def parts(self) -> tuple[Expression, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Subscript(Expression):
    value: Expression
    index: str

    @property
    def parts(self) -> tuple[Expression, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Call(Expression):
    function: Expression
    arguments: tuple[Expression, ...] = ()
    keywords: tuple[tuple[str, Expression], ...] = ()

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.function, *self.arguments, *(value for _, value in self.keywords)


@dataclass(frozen=True)
class Conditional(Expression):
    """`then if condition else otherwise`."""

    then: Expression
    condition: Expression
    otherwise: Expression

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.then, self.condition, self.otherwise


@dataclass(frozen=True)
class Display(Expression):
    """A list of expressions: `[ROWS, BLOCK]`."""

    items: tuple[Expression, ...]

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.items


ZERO, ONE = Literal("0"), Literal("1")


# -- building ----------------------------------------------------------------------------------------------------------


def operand(value: Operand) -> Expression:
    """A number as a literal; a tree as it is."""
    return value if isinstance(value, Expression) else number(value)


def number(value: bool | int | float) -> Literal:
    """A number in its shortest exact form; infinities and NaN are calls of `float`."""
    if isinstance(value, int):
        return Literal(str(value))
    if not isfinite(value):
        return Literal(f'float("{value}")')
    mantissa, e, exponent = repr(float(value)).partition("e")
    return Literal(f"{mantissa}{e}{int(exponent)}" if e else mantissa)


def call(function: str, *arguments: Operand, **keywords: Operand) -> Call:
    """A call of a function by its name."""
    named = tuple((name, operand(value)) for name, value in keywords.items())
    return Call(Name(function), tuple(map(operand, arguments)), named)


def total(*terms: Operand) -> Expression:
    """The sum of integers, without those that are 0 and without parentheses: `a + b + c`."""
    return _chain("+", terms, ZERO)


def product(*factors: Operand) -> Expression:
    """The product of integers, without those that are 1 and without parentheses: `a * b * c`."""
    return _chain("*", factors, ONE)


def both(*conditions: Expression | None) -> Expression | None:
    """What holds where all conditions do, None of which hold everywhere."""
    found = None
    for condition in filter(None, conditions):
        found = condition if found is None else found & condition
    return found


def _chain(sign: str, values: tuple[Operand, ...], neutral: Expression) -> Expression:
    kept = [part for value in values for part in chained(sign, operand(value)) if part != neutral]
    if not kept:
        return neutral
    made = kept[0]
    for part in kept[1:]:
        made = Binary(sign, made, part)
    return made


# -- reading -----------------------------------------------------------------------------------------------------------


def chained(sign: str, expression: Expression) -> list[Expression]:
    """The terms of a sum, or the factors of a product: `a`, `b` and `c` of `a + b + c`."""
    if isinstance(expression, Binary) and expression.sign == sign:
        return [*chained(sign, expression.left), expression.right]
    return [expression]


def walk(expression: Expression) -> Iterator[Expression]:
    """An expression and all that it is made of, from left to right."""
    left = [expression]
    while left:
        part = left.pop()
        yield part
        left += reversed(part.parts)


def names_in(expression: Expression) -> set[str]:
    """The variables and functions that an expression names."""
    return {part.name for part in walk(expression) if isinstance(part, Name)}


def holds(expression: Expression, sign: str) -> bool:
    """Whether an infix operator stands somewhere in an expression."""
    return any(isinstance(part, Binary) and part.sign == sign for part in walk(expression))


def leftmost(expression: Expression) -> Expression:
    """What an expression begins with."""
    return leftmost(expression.parts[0]) if expression.parts else expression


# -- printing ----------------------------------------------------------------------------------------------------------


def precedence(expression: Expression) -> int:
    """How tightly an expression binds, as Python has it."""
    match expression:
        case Binary(sign):
            return PRECEDENCE[sign]
        case Unary():
            return UNARY
        case Conditional():
            return CONDITIONAL
        case Literal(written) if written[0] == "-":
            return UNARY
    return ATOM


def _source(expression: Expression) -> str:
    match expression:
        case Name(name):
            return name
        case Literal(written):
            return written
        case Unary(sign, value):
            return f"{sign}{_inside(value, UNARY)}"
        case Binary(sign, left, right):
            binds = PRECEDENCE[sign]
            if sign == "**":
                return f"{_inside(left, binds + 1)}**{_inside(right, binds)}"
            # Comparisons do not associate. Products of quotients have parentheses for the reader's sake.
            before = binds + (binds == COMPARISON or _mixes(sign, left))
            return f"{_inside(left, before)} {sign} {_inside(right, binds + 1)}"
        case Attribute(value, name):
            return f"({value}).{name}" if isinstance(value, Literal) else f"{_inside(value, ATOM)}.{name}"
        case Subscript(value, index):
            return f"{_inside(value, ATOM)}[{index}]"
        case Call(function, arguments, keywords):
            shown = [*map(str, arguments), *(f"{name}={value}" for name, value in keywords)]
            return f"{_inside(function, ATOM)}({', '.join(shown)})"
        case Conditional(then, condition, otherwise):
            first, second = (_inside(part, CONDITIONAL + 1) for part in (then, condition))
            return f"{first} if {second} else {_inside(otherwise, CONDITIONAL)}"
        case Display(items):
            return f"[{', '.join(map(str, items))}]"
    raise TypeError(f"{type(expression).__name__} has no source")


def _inside(expression: Expression, least: int) -> str:
    """An operand, in parentheses unless it binds at least so tightly."""
    return f"({expression})" if precedence(expression) < least else str(expression)


def _mixes(sign: str, left: Expression) -> bool:
    """Whether a product is divided with a remainder, or the other way round."""
    signs = {sign, left.sign} if isinstance(left, Binary) else {sign}
    return "*" in signs and not signs.isdisjoint(("//", "%"))
