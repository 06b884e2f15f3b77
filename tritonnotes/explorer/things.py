"""What a page shows in several panes at once: ops and leaves, values and launches, each with a number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..codegen.program.program import Program
from ..codegen.support.provenance import Origin, origin_of
from ..ir.core.graph import Graph, Value
from ..ir.core.types import show_shape

MOST_LINKED = 12
"""Ops of one element that lights others up: a signature is of all that its function does, and shows nothing by that."""


@dataclass(frozen=True)
class Thing:
    """An op of the declared graph, a leaf, or something that training adds; `formula` and `derivative` are those of its
    note, `shape` is what it gives, with its dtype, `is_declared` whether its author wrote it."""

    number: int
    name: str
    op: str
    shape: str
    formula: str = ""
    derivative: str = ""
    is_declared: bool = True
    is_leaf: bool = False


@dataclass
class Numbers:
    """A number for each name, in the order in which they are asked for."""

    known: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        return self.known.setdefault(name, len(self.known))


class Things:
    """The things of a program: its declared ops first, then what its lines and its values belong to."""

    def __init__(self, program: Program) -> None:
        self.values = Numbers()
        self.launches = Numbers()
        self.by_name: dict[str, Thing] = {}
        for value in shown_values(program.declared):
            self._add(origin_of(value), value, declared=True)
        for value in _all_values(program):
            self._add(origin_of(value), value, declared=False)
        for launch in program.places:
            self.launches[launch]

    def __iter__(self) -> Iterator[Thing]:
        return iter(self.by_name.values())

    def _add(self, origin: Origin, value: Value, declared: bool) -> None:
        name = origin.name or value.name
        if name not in self.by_name:
            shape = f"{value.dtype}{show_shape(value.shape)}"
            scope, is_op = value.scope, not value.is_leaf
            note = getattr(value.op, "note", None) if declared else None
            formula = getattr(note, "formula", "") or scope.formula
            derivative = getattr(note, "derivative", "") or scope.derivative
            number, kind = len(self.by_name), origin.op or value.op.name
            self.by_name[name] = Thing(number, name, kind, shape, formula, derivative, declared, not is_op)

    def of_value(self, value: Value) -> Thing:
        """What a value belongs to."""
        return self.by_name[origin_of(value).name or value.name]

    def ops(self, names: Iterable[str]) -> str:
        """The numbers of things by name, as an attribute lists them; none where they are too many to tell anything."""
        found = sorted({self.by_name[name].number for name in names if name in self.by_name})
        return " ".join(map(str, found)) if len(found) <= MOST_LINKED else ""

    def values_of(self, names: Iterable[str]) -> str:
        """The numbers of values by name."""
        found = sorted({self.values[name] for name in names if name})
        return " ".join(map(str, found)) if len(found) <= MOST_LINKED else ""

    def launch(self, name: str) -> str:
        return str(self.launches[name]) if name else ""


def shown_values(graph: Graph) -> list[Value]:
    """The values that are drawn: all but numbers that somebody wrote."""
    return [value for value in graph.values if value.op.name != "constant"]


def _all_values(program: Program) -> Iterator[Value]:
    yield from shown_values(program.graph)
    for region in program.regions.values():
        yield from shown_values(region.graph)
