"""Pieces of source text: indentation, wrapped calls, numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

INDENT = "    "


def call_lines(start: str, arguments: list[str], end: str, width: int = 110) -> list[str]:
    """A call or signature on one line, or broken after as many arguments as fit."""
    whole = f"{start}{', '.join(arguments)}{end}"
    if len(whole) <= width:
        return [whole]
    lines, line = [start], ""
    for argument in arguments:
        if line and len(line) + len(argument) + 2 > width - len(INDENT):
            lines.append(INDENT + line.rstrip())
            line = ""
        line += f"{argument}, "
    return [*lines, INDENT + line.rstrip(" "), end]


def wrapped(text: str, width: int = 110) -> str:
    """A docstring broken into lines."""
    if len(text) <= width:
        return text
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return f"\n{INDENT}".join([*lines, line])


def function_text(name: str, arguments: list[str], about: str, lines: Iterable[str], decorator: str = "") -> str:
    """A function with the docstring `about` and the lines of a body."""
    text = [
        *([decorator] if decorator else []),
        *call_lines(f"def {name}(", arguments, "):"),
        f'{INDENT}"""{about}"""',
        *(INDENT + line if line else "" for line in lines),
    ]
    return "\n".join(text) + "\n"


def jit_function(name: str, arguments: list[str], about: str, lines: Iterable[str]) -> str:
    """A function that Triton compiles."""
    return function_text(name, arguments, about, lines, "@triton.jit")


def number_text(number: Any) -> str:
    """A number as Triton source: shortest exact form, infinities and NaN spelled out."""
    if isinstance(number, bool):
        return str(number)
    if isinstance(number, int):
        return str(number)
    if number != number:
        return 'float("nan")'
    if number in (float("inf"), float("-inf")):
        return f'float("{number}")'
    mantissa, e, exponent = repr(float(number)).partition("e")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


def factor(text: str) -> str:
    """A product's factor, in parentheses where it needs them."""
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def words_of(text: str) -> set[str]:
    """Every identifier and number in a text."""
    return set("".join(c if c.isidentifier() or c.isdigit() else " " for c in text).split())


def single_blanks(lines: list[str]) -> list[str]:
    """No blank line at the start, none after another, none after the head of a loop."""
    kept: list[str] = []
    for line in lines:
        if line.strip() or (kept and kept[-1].strip() and not kept[-1].endswith(":")):
            kept.append(line)
    return kept
