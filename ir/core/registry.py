"""What a graph is made of: operators, of which the primitives are a closed set, and what a reader should know of one.

It stands below the graph, so the functions of a primitive take its values as anything with a shape, a dtype and a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from inspect import cleandoc
from typing import Any

from .types import DType, Shape

ANY_NUMBER = -1
"""The arity of a primitive that takes one argument or more."""

Domain = Mapping[str, tuple[float, float] | str]
"""For each argument the range of values it is tested and checked on, or 'class': an index into the classes,
or 'row': the number of a row of the last argument."""


@dataclass(frozen=True)
class Note:
    """What a reader should know of an op. `formula` and `derivative` are one line each, in plain mathematics."""

    formula: str
    derivative: str
    strengths: str
    weaknesses: str
    use: str
    source: str

    def below(self, doc: str | None) -> str:
        """A docstring with the note under it, as `help` shows it."""
        said = "\n".join(f"{heading}: {text}" for heading, text in asdict(self).items() if text)
        return f"{cleandoc(doc)}\n\n{said}" if doc else said


def in_a_line(text: str, most: int = 80) -> str:
    """Anybody's text as part of a line: nothing unprintable, and not too long."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line if len(line) <= most else f"{line[: most - 1]}…"


class Operator:
    """What makes a value of its arguments: a `Primitive`, or an `Op` with a formula over primitives."""

    name: str
    kind: str


@dataclass(frozen=True, eq=False)
class Primitive(Operator):
    """One of the closed set that every op is made of.

    `kind` is 'leaf', 'elementwise', 'cast', 'reduction', 'shape', 'gather', 'contraction' or 'collective'; `arity`
    counts arguments, or is `ANY_NUMBER` (one or more); `takes` says of which dtypes an elementwise one computes:
    'float', 'number' or 'any'. `infer(args, attrs)` gives shape and dtype,
    `evaluate(*arrays, **attrs)` the meaning in numpy, `vjp(d, y, *args, **attrs)` the cotangent of each argument given
    the result's, `d` (None: no gradient).
    """

    name: str
    kind: str
    infer: Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[Shape, DType]]
    evaluate: Callable[..., Any]
    vjp: Callable[..., tuple[Any, ...]]
    arity: int = 0
    takes: str = "any"

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def __reduce__(self) -> Any:
        # By name, from a closed set: a pickle holds no function.
        return _primitive_of, (self.name,)


PRIMITIVES: dict[str, Primitive] = {}


def _primitive_of(name: str) -> Primitive:
    return PRIMITIVES[name]
