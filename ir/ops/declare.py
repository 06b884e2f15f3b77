"""What ops with parameters share: declaring a parameter unless one is given."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from ..errors import ShapeError
from ..graph import Graph, Value
from ..types import DType, Shape, check_name, show_shape


class Declare(Enum):
    """The default of a parameter argument: declare it."""

    PARAMETER = "declared by the op"

    def __repr__(self) -> str:
        return "<declared>"


DECLARE = Declare.PARAMETER
Parameter = Value | None | Declare


def instance_name(graph: Graph, op: str, name: str | None) -> str:
    """The name of an op instance that has parameters: the given one, else the op's and a counter."""
    return check_name(name, op) if name is not None else graph.fresh_name(op)


def parameter_or(
    given: Parameter, graph: Graph, name: str, shape: Shape, dtype: DType, init: Mapping[str, Any], what: str
) -> Value | None:
    """`given`, or a new parameter `name` of `shape` where `given` is DECLARE."""
    if isinstance(given, Declare):
        return graph.parameter(name, shape, dtype=dtype, **init)
    if given is not None and given.shape != shape:
        raise ShapeError(
            f"{what}: {given.name!r} has shape {show_shape(given.shape)}, but {show_shape(shape)} is wanted; "
            "pass a parameter of that shape, or None to do without"
        )
    return given
