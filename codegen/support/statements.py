"""Statements of generated source as trees: assignments, calls, loops and branches around expressions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from .expressions import Call, Expression, names_in
from .provenance import LineOrigin, Origin, united
from .text import INDENT, call_lines


@dataclass(frozen=True)
class Statement:
    """One or more lines of source. `expressions` are those on its own lines, `body` are the statements inside it,
    `origins` say what its own lines are of."""

    origins: tuple[Origin, ...] = field(default=(), kw_only=True, compare=False, repr=False)

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


def marked(statements: Iterable[Statement], origins: Iterable[Origin]) -> list[Statement]:
    """The statements, and those inside them, as being of these origins where they have none of their own."""
    given = tuple(origins)
    made: list[Statement] = []
    for statement in statements:
        if isinstance(statement, For | If):
            statement = replace(statement, inside=tuple(marked(statement.inside, given)))
        known = statement.origins or isinstance(statement, Blank)
        made.append(statement if known else replace(statement, origins=given))
    return made


def line_origins(function: str, lines: Sequence[Statement]) -> list[LineOrigin]:
    """Where the lines of a function's body come from, given the statement of each. What has no origin of its own is
    setup, and has those of what needs it: of the statements that name what it assigns, or that stand inside it; else of
    the whole function."""
    flat = list({id(s): s for s in lines}.values())
    whole = united(s.origins for s in flat)
    found: dict[int, tuple[Origin, ...]] = {}
    users: dict[str, list[tuple[Origin, ...]]] = {}
    following: tuple[Origin, ...] = ()
    for statement in reversed(flat):
        origins = statement.origins
        if not origins:
            inside = [found.get(id(s), ()) for s in statement.body]
            named = users.get(statement.target, []) if isinstance(statement, Assign) else []
            origins = following if isinstance(statement, Comment) else united([*inside, *named])
        found[id(statement)] = origins = () if isinstance(statement, Blank) else origins or whole
        following = origins or following
        for name in {name for e in statement.expressions for name in names_in(e)}:
            users.setdefault(name, []).append(origins)
    return [LineOrigin(_role(s), "", function, found[id(s)]) for s in lines]


def _role(statement: Statement) -> str:
    if isinstance(statement, Blank | Comment):
        return "blank" if isinstance(statement, Blank) else "comment"
    return "step" if statement.origins else "setup"


def every(statements: Iterable[Statement]) -> Iterator[Statement]:
    """Statements and those inside them."""
    for statement in statements:
        yield statement
        yield from every(statement.body)


def names_of(statements: Iterable[Statement]) -> set[str]:
    """The variables and functions that statements name, but for those that they assign to."""
    return set[str]().union(*(names_in(e) for s in every(statements) for e in s.expressions))
