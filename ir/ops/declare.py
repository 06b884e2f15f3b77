"""What declaring functions share: parameters declared unless given, and arguments in torch's order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError, ShapeError
from ..core.graph import Graph, Value
from ..core.numbers import Number
from ..core.op import Op
from ..core.types import DType, Shape, check_name, float32, show_shape


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
    return _of_shape(given, shape, what)


def buffer_or(
    given: Parameter, graph: Graph, name: str, shape: Shape, dtype: DType, init: Number, what: str
) -> Value | None:
    """`given`, or a new buffer `name` of `shape` where `given` is DECLARE."""
    if isinstance(given, Declare):
        return graph.buffer(name, shape, init=init, dtype=dtype)
    return _of_shape(given, shape, what)


def _of_shape(given: Value | None, shape: Shape, what: str) -> Value | None:
    if given is not None and given.shape != shape:
        raise ShapeError(
            f"{what}: {given.name!r} has shape {show_shape(given.shape)}, but {show_shape(shape)} is wanted; "
            "pass a value of that shape, or None to do without"
        )
    return given


def as_float(x: Value) -> Value:
    """`x`, integers and truth values as float32: what elementary functions of torch make of them."""
    return x if not isinstance(x, Value) or x.dtype.is_float else P.cast(x, float32)


def needs_float(x: Value) -> None:
    """Raise `DTypeError` for integers, which comparisons and products alone would let pass."""
    if not x.dtype.is_float:
        raise DTypeError(f"needs a float dtype, got {x.dtype} for {x.name!r}; cast it first")


def needs_number(x: Value) -> None:
    """Raise `DTypeError` for bools, which comparisons and `where` alone would let pass."""
    if x.dtype.kind == "bool":
        raise DTypeError(f"works on numbers, got bool for {x.name!r}; cast it first, as in tn.cast(x, 'float32')")


def torch_order(made: Op) -> None:
    """Let users pass the attributes of `made` by position too, in the order of its formula, as torch does."""
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    name = inspect.Parameter("name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    signature = inspect.Signature([*(p.replace(kind=either) for p in made.parameters), name])

    def front(*args: Any, **kwargs: Any) -> Value:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise DeclarationError(f"{made.name}: {error}; it takes {signature}") from None
        values = [bound.arguments.pop(n) for n in made.arg_names if n in bound.arguments]
        return made.apply(*values, **bound.arguments)

    front.__doc__ = made.__doc__
    front.__signature__ = signature  # type: ignore[attr-defined]
    made.declares(front)
