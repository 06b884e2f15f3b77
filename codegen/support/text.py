"""Pieces of source text: indentation, wrapped calls and prose."""

from __future__ import annotations

from collections.abc import Iterable

INDENT = "    "


def counted(number: int, word: str) -> str:
    """`1 kernel`, `2 kernels`, `1,000 launches`."""
    ending = "" if number == 1 else "es" if word.endswith(("s", "ch")) else "s"
    return f"{number:,} {word}{ending}"


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


def python_function(name: str, arguments: list[str], about: str, lines: Iterable[str]) -> str:
    """A function that the host calls, with the docstring `about` and the lines of its body."""
    text = [
        *call_lines(f"def {name}(", arguments, "):"),
        f'{INDENT}"""{about}"""',
        *(INDENT + line for line in lines),
    ]
    return "\n".join(text) + "\n"


def wrapped(text: str, width: int = 110) -> str:
    """A docstring broken into lines."""
    return f"\n{INDENT}".join(wrapped_lines(text, width))


def wrapped_lines(text: str, width: int = 110) -> list[str]:
    """Prose in lines of at most so many characters."""
    if len(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line]
