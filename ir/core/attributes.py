"""Attributes of values: plain Python values, or a graph. Which ones an op takes, and what they may be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache

from .errors import DeclarationError, ShapeError
from .graph import Graph, Value
from .numbers import Attrs, checked_init
from .op import Op
from .registry import Operator, Primitive
from .types import DTYPES, Dim, DimProduct, DType, check_plain, host, is_name

MAX_RANK = 64


def check_attr(value: object, what: str) -> object:
    """An attribute as `check_plain` has it, or a graph that nothing changes any more."""
    return value if isinstance(value, Graph) else check_plain(value, what)


LIBRARY_ATTRS = {
    "library": ("call", "arguments", "options", "which", "shape", "dtype"),
    "library_gradient": ("call", "arguments", "options", "result", "which"),
}
"""The attributes of calls of torch, whose meaning `primitives/library.py` tells."""

_ANNOTATED = {"bool": bool, "int": int, "float": float, "str": str, "tuple[int, ...]": tuple}


@cache
def attr_names(op: Operator) -> tuple[str, ...]:
    """The attributes of an op: its formula's keyword-only parameters; of a primitive: what follows its arrays."""
    if isinstance(op, Op):
        return tuple(op.attr_names)
    assert isinstance(op, Primitive)
    if op.kind == "elementwise" or op.name in ("input", "scalar"):
        return ()
    own = {
        "slot": ("init",),
        "dim_size": ("dim",),
        "cat": ("axis",),
        "chunked": ("region", "which", "rows"),
    } | LIBRARY_ATTRS
    return own.get(op.name) or tuple(inspect.signature(op.evaluate).parameters)[op.arity :]


def check_attrs(op: Operator, args: Sequence[Value | None], attrs: Attrs) -> None:
    """Raise `DeclarationError` unless the attributes are those of `op`, and of the types and values it takes."""
    if op.name in ("parameter", "buffer"):
        _check_init_attrs(op.name, attrs)
        return
    wanted = attr_names(op)
    if set(attrs) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(attrs)), sorted(set(attrs) - set(wanted))
        wrong = f"lacks {', '.join(missing)}" if missing else f"does not take {', '.join(unknown)}"
        raise DeclarationError(f"{op.name}: {wrong}; its attributes are {', '.join(wanted) or 'none'}")
    for name, value in attrs.items():
        if type(check_attr(value, f"{op.name}: {name}")) is not type(value):
            raise DeclarationError(f"{op.name}: {name} is a {type(value).__name__}; attributes are plain Python values")
    if isinstance(op, Op):
        _check_op_attrs(op, attrs)
    elif isinstance(op, Primitive):
        _check_primitive_attrs(op, args, attrs)


def _check_op_attrs(op: Op, attrs: Attrs) -> None:
    for parameter in op.parameters:
        wanted = _ANNOTATED.get(getattr(parameter.annotation, "__name__", str(parameter.annotation)))
        value = attrs.get(parameter.name)
        if parameter.name in attrs and wanted is not None and type(value) is not wanted:
            raise DeclarationError(
                f"{op.name}: {parameter.name} is {value!r}, a {type(value).__name__}; it must be a {wanted.__name__}"
            )
    if op.custom:
        return
    # A formula trusts what its declaring function has checked; a file comes without that function.
    dims = attrs.get("dims", 1)
    if type(dims) is int and not 1 <= dims <= MAX_RANK:
        raise ShapeError(f"{op.name}: dims is {dims}; it counts axes, from 1 to {MAX_RANK}")


def _check_primitive_attrs(op: Primitive, args: Sequence[Value | None], attrs: Attrs) -> None:
    rank = len(args[0].shape) if args and args[0] is not None else 0
    for name, value in attrs.items():
        fits, wanted = {
            "axes": (
                _are_axes(value, rank, ordered=op.kind == "reduction"),
                f"axes of a value with {rank} dims, each once",
            ),
            "shape": (
                isinstance(value, tuple) and len(value) <= MAX_RANK,
                f"a tuple of at most {MAX_RANK} sizes",
            ),
            "dtype": (isinstance(value, DType) and value is not host, f"one of {', '.join(DTYPES)}"),
            "transpose_b": (type(value) is bool, "a bool"),
            "size": (isinstance(value, Dim | DimProduct) or (type(value) is int and value >= 0), "an int ≥ 0 or a Dim"),
            "stream": (type(value) is int and 0 <= value < 2**32, "an int of 32 bits"),
            "before": (type(value) is int and 0 <= value < MAX_RANK, "a count of axes"),
            "after": (type(value) is int and 0 <= value < MAX_RANK, "a count of axes"),
            "axis": (type(value) is int and 0 <= value < rank, f"an axis of a value with {rank} dims"),
            "start": (type(value) is int and value >= 0, "a count of elements"),
            "length": (type(value) is int and value >= 0, "a count of elements"),
            "rows": (type(value) is int and value >= 0, "a count of rows"),
            "region": (isinstance(value, Graph), "a graph"),
            "which": (type(value) is int, "the number of a result"),
            "result": (type(value) is int, "the number of a result"),
            "call": (type(value) is str, "the name of an overload"),
            "arguments": (type(value) is tuple, "a tuple"),
            "options": (type(value) is tuple, "a tuple"),
            "dim": (type(value) is str and is_name(value), "the name of a Dim"),
        }.get(name, (type(value) in (bool, int, float), "a number"))
        if not fits:
            raise DeclarationError(f"{op.name}: {name} is {value!r}; it must be {wanted}")


def _are_axes(axes: object, rank: int, *, ordered: bool) -> bool:
    if not isinstance(axes, tuple) or not all(type(a) is int and 0 <= a < rank for a in axes):
        return False
    distinct = sorted(set(axes))
    return distinct == (list(axes) if ordered else sorted(axes))


def _check_init_attrs(kind: str, attrs: Attrs) -> None:
    for name, value in attrs.items():
        check_attr(value, f"{kind}: {name}")
    how = {k: v for k, v in attrs.items() if k != "init"}
    init = attrs.get("init")
    if not isinstance(init, str) or not all(type(v) is float for v in how.values()):
        raise DeclarationError(f"{kind}: init is {init!r} with {how!r}; it is a name, with its numbers as floats")
    checked_init(kind, init, how)
