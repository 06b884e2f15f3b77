"""What the rules for ONNX's operators are written in: rows of the table, nodes, and what a file says in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.core.errors import DeclarationError
from ...ir.core.graph import Graph, Value
from ...ir.core.types import Size

Array = Any
"""A numpy array. One of dtype object holds ints and `Dim`s."""


@dataclass(frozen=True, eq=False)
class Known:
    """Numbers that the file has, or that follow from shapes: those of the value `name`. What is `trained` is a
    parameter wherever an operator computes with it."""

    name: str
    array: Array
    trained: bool = False

    @property
    def dtype(self) -> str:
        return "int64" if self.array.dtype == object else self.array.dtype.name

    @property
    def is_plain(self) -> bool:
        """Whether it holds numbers alone, no `Dim`s."""
        return self.array.dtype != object


@dataclass(frozen=True)
class Parts:
    """A sequence of tensors, which operators take apart again."""

    values: tuple[Value, ...]


Found = Value | Known | Parts | None
"""What a name of a file stands for."""


@dataclass(frozen=True)
class Node:
    """What a rule may ask about the node that it is applied to. `read` says of each result whether anybody reads it,
    `training` whether dropout and batch norm are to be trained whatever the file says."""

    graph: Graph
    op_type: str
    opset: int
    name: str
    read: tuple[bool, ...]
    training: bool = False

    def reads(self, result: int) -> bool:
        return result < len(self.read) and self.read[result]


@dataclass(frozen=True)
class Row:
    """How a node becomes a call of ours from operator set `since` on: `make(*inputs, **attributes)`, None for an input
    that is left out. It returns a `Value`, `Known` numbers, or a tuple with one for each result (None for those that
    nobody reads).

    `known` are the places of inputs that decide what is computed, such as a shape: `make` is given them as arrays, and
    the file has to say them. Those of `numbers` are given as arrays where the file says them, and as Values where not.
    Initializers in the places of `buffers` are state that is not trained. With `takes_node` the `Node` comes first.
    """

    make: Callable[..., Any]
    since: int = 1
    known: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    buffers: tuple[int, ...] = ()
    takes_node: bool = False


Table = Mapping[str, Sequence[Row]]
"""By the operator's name: its rows, the oldest first."""


def of_one(*names_and_makes: tuple[str, Callable[..., Any]]) -> dict[str, tuple[Row, ...]]:
    """Rows of operators that never changed what they take."""
    return {name: (Row(make),) for name, make in names_and_makes}


class RefusedError(DeclarationError):
    """A rule does not hold for a node. The definition of its operator by others may."""


def refuse(holds: object, why: str) -> None:
    """Raise `RefusedError` with the reason where a rule does not hold."""
    if not holds:
        raise RefusedError(why)


def number(given: Array | float | None) -> Any:
    """A bound, a ratio or a switch as a Python number."""
    return given.reshape(()).item() if isinstance(given, np.ndarray) else given


def listed(given: Array | Sequence[Any] | None) -> list[Any] | None:
    """Axes, sizes or pads as Python's ints and `Dim`s."""
    if given is None:
        return None
    return [
        part if not isinstance(part, np.generic) else part.item() for part in np.asarray(given).reshape(-1).tolist()
    ]


def ints(sizes: Sequence[Size], what: str) -> list[int]:
    """Sizes that have to be known."""
    found = [size for size in sizes if isinstance(size, int)]
    refuse(len(found) == len(sizes), f"{what} is {tuple(sizes)}, of which {len(sizes) - len(found)} are known only "
           "when tensors are fed; fix them with sizes={}")  # fmt: skip
    return found


def rank_of(x: Value) -> int:
    return len(x.shape)
