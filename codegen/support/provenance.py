"""Where lines of generated source come from: the value of the graph, its op and its phase, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tritonnotes.ir.core.graph import Scope, Value

ROLES = (
    "header", "import", "helper", "signature", "setup", "step", "comment", "blank", "launcher", "memory", "run", "main",
)  # fmt: skip
"""What a line is for. A `step` computes, loads or stores values; `setup` says where lanes lie, loops or branches for
them; a `comment` heads them; a `signature` is a function's decorator, name, arguments or docstring. `launcher`, `run`
and `memory` are Python of the host: it launches kernels, calls them in order, and lays out what they need."""


@dataclass(frozen=True)
class Origin:
    """What a line, or a part of it, is of.

    `step` is the variable in the tile program, `primitive` what it does there: load, store, or a primitive of the
    graph. `value` is the value of the joint graph that it computes or moves. `name` and `op` are the declared op that
    this belongs to (or the leaf and its kind), `formula` is the op's formula in a line, in the backward phase its
    derivative; `phase` is 'forward', 'backward' or 'update'.
    """

    step: str
    primitive: str
    value: str
    name: str
    op: str
    formula: str
    phase: str


def origin_of(value: Value, step: str = "", primitive: str = "", scope: Scope | None = None) -> Origin:
    """What a step is of that computes, loads or stores a value, in the `scope` of an op that is not the value's own."""
    found = scope or value.scope
    name, op = found.name, found.op.removeprefix("custom.")
    if not name and value.is_leaf:
        name, op = value.name, value.op.name
    said = found.derivative if found.phase == "backward" else found.formula
    return Origin(step, primitive or value.op.name, value.name, name, op, said, found.phase)


@dataclass(frozen=True)
class LineOrigin:
    """Where one line comes from: its role, the launch and the function that it stands in ('' outside of these), and
    what it is of. Of launches that share a function it is the first; `program.launches_of` has all. What an expression
    says inside is listed too: the line's own step comes first. A line of setup has what it is needed for."""

    role: str
    launch: str = ""
    function: str = ""
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class LineMap:
    """The lines of a generated module, each with where it comes from; `line_map[1]` is the first line."""

    lines: tuple[LineOrigin, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> LineOrigin:
        if not 1 <= number <= len(self.lines):
            raise IndexError(f"line {number} of {len(self.lines)}; lines are counted from 1")
        return self.lines[number - 1]

    def __iter__(self) -> Iterator[LineOrigin]:
        return iter(self.lines)

    @cached_property
    def _by_name(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        for number, line in enumerate(self.lines, 1):
            for name in dict.fromkeys(origin.name for origin in line.origins):
                found.setdefault(name, []).append(number)
        return {name: tuple(numbers) for name, numbers in found.items()}

    def of_op(self, name: str) -> tuple[int, ...]:
        """The numbers of the lines of an op, or of a leaf, by its name in the declared graph."""
        return self._by_name.get(name, ())


@dataclass(frozen=True)
class Part:
    """A piece of a generated module. `lines` says where its lines come from, as many as the text has; it is asked when
    that is wanted, since most programs run unread."""

    text: str
    lines: Callable[[], Sequence[LineOrigin]]


def part(text: str, role: str, launch: str = "", function: str = "") -> Part:
    """A piece all of whose lines have one origin."""
    line = LineOrigin(role, launch, function)
    return Part(text, lambda: [line if row else BLANK_LINE for row in text.splitlines()])


def in_launch(piece: Part, launch: str) -> Part:
    """The piece as one of a launch."""
    return Part(piece.text, lambda: [replace(line, launch=launch) for line in piece.lines()])


def line_map(parts: Sequence[Part]) -> LineMap:
    """Where the lines of a module come from that is made of these pieces, with two blank lines between them."""
    lines: list[LineOrigin] = []
    for piece in parts:
        lines += (BLANK_LINE, BLANK_LINE) if lines else ()
        lines += piece.lines()
    return LineMap(tuple(lines))


def united(origins: Iterable[Iterable[Origin]]) -> tuple[Origin, ...]:
    """All of several, each once, in order."""
    return tuple(dict.fromkeys(origin for some in origins for origin in some))


BLANK_LINE = LineOrigin("blank")
