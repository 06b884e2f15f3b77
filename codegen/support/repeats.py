"""Lines that repeat but for numbers in them, as a loop: what a person would write for the layers of a deep network.

run_linear_relu(t["relu_1"], t["linear_2.weight"], t["relu_2"])          for n in range(2, 200):
run_linear_relu(t["relu_2"], t["linear_3.weight"], t["relu_3"])    →         run_linear_relu(
...                                                                              t[f"relu_{n - 1}"], ...
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from .text import INDENT, call_lines

LEAST = 4
"""How often lines repeat that become a loop: fewer are read faster one by one."""

LONGEST = 64
"""The most lines that repeat together."""

BREAK = "\0"
"""Where a line may be broken that is too long: known only when it is in its loop."""

_QUOTED = re.compile(r'("[^"]*")')

_APART = re.compile(r"[{}\\']|^\s|[\[({:]$|^[\])}]")
"""What no loop may hold: part of a statement of several lines, or text that an f-string would read otherwise."""

_BRACES = re.compile("[{}]")

_INSIDE = re.compile(r"(?<!\d)(0|[1-9]\d*)(?!\d)")
"""A number in a name."""

_OUTSIDE = re.compile(r"(?<=, )(0|[1-9]\d*)(?=[,)])")
"""A number that stands alone among others."""


@dataclass(frozen=True)
class Repeat:
    """Lines that are written `count` times, each time with other numbers; once, where they are as they are. `first` is
    the place of the first of them in what was read, and `numbers` what the variable of the loop is, in Python."""

    lines: tuple[str, ...]
    first: int
    count: int = 1
    numbers: str = ""


@dataclass(frozen=True)
class _Line:
    """A line in pieces, every second of them a number. `quoted` says of each whether it stands inside quotes."""

    pieces: tuple[str, ...]
    quoted: tuple[bool, ...]

    @property
    def skeleton(self) -> tuple[str, ...]:
        return self.pieces[::2]

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(map(int, self.pieces[1::2]))


def repeats(texts: Sequence[str], variable: str, prose: bool = False) -> list[Repeat]:
    """The lines, in order, those that repeat as one. Their numbers are spelled by the `variable`: in f-strings, or in
    braces as in one where the lines are `prose`."""
    lines = [_prose(text) if prose else _code(text) for text in texts]
    kinds: dict[Hashable, int] = {}
    is_apart = _BRACES if prose else _APART
    apart = [place if is_apart.search(text) else None for place, text in enumerate(texts)]
    shapes = [kinds.setdefault((line.skeleton, a), len(kinds)) for line, a in zip(lines, apart, strict=True)]
    values = [line.values for line in lines]
    made: list[Repeat] = []
    at = 0
    while at < len(lines):
        period, count = _longest(shapes, values, at)
        if count == 1:
            made.append(Repeat((texts[at],), at))
        else:
            again = values[at + period : at + 2 * period]
            made.append(_loop(lines[at : at + period], again, at, count, variable, prose))
        at += period * count
    return made


def _prose(text: str) -> _Line:
    pieces = tuple(_INSIDE.split(text))
    return _Line(pieces, (True,) * len(pieces))


def _code(text: str) -> _Line:
    pieces: list[str] = [""]
    quoted: list[bool] = [False]
    for place, part in enumerate(_QUOTED.split(text)):
        head, *rest = (_INSIDE if place % 2 else _OUTSIDE).split(part)
        pieces[-1] += head
        pieces += rest
        quoted += [bool(place % 2)] * len(rest)
    return _Line(tuple(pieces), tuple(quoted))


def _longest(shapes: Sequence[int], values: Sequence[tuple[int, ...]], at: int) -> tuple[int, int]:
    """How many lines from here on repeat together, and how often: what saves most lines."""
    found = 1, 1
    for period in range(1, min(LONGEST, (len(shapes) - at) // LEAST) + 1):
        if shapes[at] == shapes[at + period]:
            count = _count(shapes, values, at, period)
            if count >= LEAST and (count - 1) * period > (found[1] - 1) * found[0]:
                found = period, count
    return found


def _count(shapes: Sequence[int], values: Sequence[tuple[int, ...]], at: int, period: int) -> int:
    """How often so many lines repeat, each number of them in equal steps."""
    if shapes[at : at + period] != shapes[at + period : at + 2 * period]:
        return 1
    steps = _steps(values[at : at + period], values[at + period : at + 2 * period])
    least = min((abs(step) for step in steps if step), default=0)
    if not least or any(step % least for step in steps):
        return 1
    count, place = 2, at + period
    while shapes[place : place + period] == shapes[place + period : place + 2 * period]:
        if _steps(values[place : place + period], values[place + period : place + 2 * period]) != steps:
            break
        count, place = count + 1, place + period
    return count


def _steps(before: Sequence[tuple[int, ...]], after: Sequence[tuple[int, ...]]) -> list[int]:
    return [b - a for mine, other in zip(before, after, strict=True) for a, b in zip(mine, other, strict=True)]


def _loop(
    lines: Sequence[_Line], after: Sequence[tuple[int, ...]], at: int, count: int, variable: str, prose: bool
) -> Repeat:
    """The lines in a loop over the first number that changes least."""
    changes = [
        (b - a, a) for line, other in zip(lines, after, strict=True) for a, b in zip(line.values, other, strict=True)
    ]
    step, start = min(((step, a) for step, a in changes if step), key=lambda change: abs(change[0]))
    steps = iter(changes)

    def written(line: _Line) -> str:
        pieces = list(line.pieces)
        for place in range(1, len(pieces), 2):
            change, value = next(steps)
            if change:
                spelled = _spelled(variable, change // step, value - change // step * start)
                pieces[place] = f"{{{spelled}}}" if line.quoted[place] else spelled
        text = "".join(pieces)
        return text if prose else _QUOTED_ANEW.sub(r"f\1", text)

    numbers = f"range({start}, {start + step * count}{f', {step}' if step != 1 else ''})"
    return Repeat(tuple(map(written, lines)), at, count, numbers)


_QUOTED_ANEW = re.compile(r'("[^"{]*\{[^"]*")')


def _spelled(variable: str, factor: int, rest: int) -> str:
    """`factor * variable + rest`, as one writes it."""
    scaled = variable if abs(factor) == 1 else f"{abs(factor)} * {variable}"
    if factor < 0:
        return f"{rest} - {scaled}"
    return scaled if not rest else f"{scaled} {'+' if rest > 0 else '-'} {abs(rest)}"


def broken(text: str) -> list[str]:
    """A line, or the lines of a call that is broken after as many arguments as fit."""
    if BREAK not in text:
        return [text]
    start, *arguments, end = text.split(BREAK)
    indent = start[: len(start) - len(start.lstrip())]
    return [indent + line for line in call_lines(start.lstrip(), arguments, end)]


def with_loops(texts: Sequence[str], variable: str, prose: bool = False) -> Iterator[tuple[str, int]]:
    """Statements, those that repeat in loops, as lines that are broken at each `BREAK`, if they must be. Each comes
    with the place of the statement that it stands for, the first of several."""
    for repeat in repeats(texts, variable, prose):
        if repeat.count > 1:
            yield f"for {variable} in {repeat.numbers}:", repeat.first
        inside = INDENT if repeat.count > 1 else ""
        for place, line in enumerate(repeat.lines, repeat.first):
            yield from ((part, place) for part in broken(inside + line))
