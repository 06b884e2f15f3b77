"""Statements of generated source as trees: assignments, calls, loops and branches around expressions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .expressions import Call, Expression, names_in
from .text import INDENT, call_lines


class Statement:
    """One or more lines of source. `expressions` are those on its own lines, `body` are the statements inside it."""

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return ()

    @property
    def body(self) -> tuple[Statement, ...]:
        return ()

    def lines(self) -> list[str]:
        """Its own lines, without those of its body."""
        raise NotImplementedError


@dataclass(frozen=True)
class Blank(Statement):
    def lines(self) -> list[str]:
        return [""]


@dataclass(frozen=True)
class Comment(Statement):
    text: str

    def lines(self) -> list[str]:
        return [f"# {self.text}"]


@dataclass(frozen=True)
class Line(Statement):
    """A line that is the same wherever it stands."""

    text: str

    def lines(self) -> list[str]:
        return [self.text]


@dataclass(frozen=True)
class Assign(Statement):
    """`target = value`, or `target += value` by another `sign`."""

    target: str
    value: Expression
    sign: str = "="

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return (self.value,)

    def lines(self) -> list[str]:
        return [f"{self.target} {self.sign} {self.value}"]


@dataclass(frozen=True)
class Evaluate(Statement):
    """An expression for what it does: a store."""

    value: Expression

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return (self.value,)

    def lines(self) -> list[str]:
        return [str(self.value)]


@dataclass(frozen=True)
class CallFunction(Statement):
    """A call of another generated function, broken over lines where it is long, and what takes its result."""

    call: Call
    target: str = ""

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return (self.call,)

    def lines(self) -> list[str]:
        given = [*map(str, self.call.arguments), *(f"{name}={value}" for name, value in self.call.keywords)]
        return call_lines(
            f"{self.target} = {self.call.function}(" if self.target else f"{self.call.function}(", given, ")"
        )


@dataclass(frozen=True)
class Return(Statement):
    value: Expression

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return (self.value,)

    def lines(self) -> list[str]:
        return [f"return {self.value}"]


@dataclass(frozen=True)
class For(Statement):
    target: str
    over: Expression
    inside: tuple[Statement, ...]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return (self.over,)

    @property
    def body(self) -> tuple[Statement, ...]:
        return self.inside

    def lines(self) -> list[str]:
        return [f"for {self.target} in {self.over}:"]


@dataclass(frozen=True)
class If(Statement):
    """A branch; an `elif` by another `word`, an `else` without a condition."""

    condition: Expression | None
    inside: tuple[Statement, ...]
    word: str = "if"

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return () if self.condition is None else (self.condition,)

    @property
    def body(self) -> tuple[Statement, ...]:
        return self.inside

    def lines(self) -> list[str]:
        return ["else:"] if self.condition is None else [f"{self.word} {self.condition}:"]


BLANK = Blank()


def written(statements: Iterable[Statement]) -> list[tuple[str, Statement]]:
    """The lines of a body, each with its statement: no blank line at the start, none after another, none after the head
    of a loop."""
    kept: list[tuple[str, Statement]] = []
    for line, statement in _lines(statements, ""):
        if line or (kept and kept[-1][0] and not kept[-1][1].body):
            kept.append((line, statement))
    return kept


def _lines(statements: Iterable[Statement], indent: str) -> Iterator[tuple[str, Statement]]:
    for statement in statements:
        for line in statement.lines():
            yield (indent + line if line else ""), statement
        yield from _lines(statement.body, indent + INDENT)


def every(statements: Iterable[Statement]) -> Iterator[Statement]:
    """Statements and those inside them."""
    for statement in statements:
        yield statement
        yield from every(statement.body)


def names_of(statements: Iterable[Statement]) -> set[str]:
    """The variables and functions that statements name, but for those that they assign to."""
    return set[str]().union(*(names_in(e) for s in every(statements) for e in s.expressions))
