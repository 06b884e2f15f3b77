"""Applying an op to values: numbers become constants, dtypes meet as torch promotes them, formulas run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .attributes import check_attr
from .errors import DeclarationError, DTypeError, ShapeError, TritonNotesError
from .graph import Graph, Region, Scope, Value, bind
from .local_names import capture_names
from .numbers import plain_number
from .op import DESCRIBED, Op, lookup
from .registry import Operator, Primitive
from .types import DType, Shape, as_shape, bool_, check_name, float32, host, int64, promote


def call(graph: Graph, op: Operator | str, /, *args: Any, name: str | None = None, **attrs: Any) -> Value:
    """Add `op` to `graph`: as one value, or, for an op in a graph of primitives, by running its formula."""
    if isinstance(op, str):
        op = lookup(op)
    if name is not None:
        check_name(name, op.name)
    checked = MappingProxyType({k: check_attr(v, f"{op.name}: {k}") for k, v in attrs.items()})
    if isinstance(op, Primitive):
        lifted = _lift(graph, op, args)
        shape, dtype = op.infer(lifted, checked)
        return graph.append(op, lifted, checked, as_shape(shape, op.name), dtype, name)
    assert isinstance(op, Op)
    for arg, arg_name in zip(args, op.arg_names, strict=True):
        if arg is not None and not (isinstance(arg, Value) and arg.graph is graph):
            raise DeclarationError(
                f"{op.name}: argument {arg_name!r} is {arg!r}, not a Value of graph {graph.name!r}; "
                "numbers become Values with g.constant(...)"
            )
    if graph.level == "declared":
        shape, dtype = infer_op(op, args, checked, name)
        return graph.append(op, args, checked, shape, dtype, name)
    return run_formula(graph, op, args, checked)


bind(Graph, call=call)


def infer_op(op: Op, args: Sequence[Value | None], attrs: Mapping[str, Any], name: str | None) -> tuple[Shape, DType]:
    """Shape and dtype of an op: those of its formula, run on placeholders."""
    scratch = Graph("infer", level="primitive")
    stand_ins = tuple(
        None if a is None else scratch.append("input", (), {}, a.shape, a.dtype, n)
        for a, n in zip(args, op.arg_names, strict=True)
    )
    try:
        refused = op.refusal(*(None if a is None else a.shape for a in args), **attrs) if op.refusal else None
        if refused:
            raise ShapeError(refused)
        out = op.formula(*stand_ins, **attrs)
    except TritonNotesError as error:
        where = f"{op.name} {name!r}" if name else op.name
        given = ", ".join(
            f"{n}: {a.dtype}{list(a.shape)}" for n, a in zip(op.arg_names, args, strict=True) if a is not None
        )
        raise type(error)(f"{where} ({given}): {error}") from None
    if not isinstance(out, Value):
        raise DeclarationError(
            f"{op.name}: its formula returned {type(out).__name__}; return the one Value it computes"
        )
    return out.shape, out.dtype


def run_formula(graph: Graph, op: Op, args: tuple[Value | None, ...], attrs: Mapping[str, Any]) -> Value:
    """Leave the primitives of one op in `graph`, named after the formula's local variables."""
    start = len(graph.values)
    with capture_names(graph, start):
        out = op.formula(*args, **attrs)
    if op.derive is not None and out.index >= start:
        graph.regions.append(Region(op, args, attrs, out, graph.scope))
    return out


def scope_of(value: Value) -> Scope:
    """The scope of the primitives that a declared op becomes."""
    return scope_from(value.name, value.op)


def scope_from(name: str, op: Operator) -> Scope:
    """The scope of an op instance: what its comments say comes from the op."""
    note = op.note if isinstance(op, Op) else getattr(DESCRIBED.get(op.name), "note", None)
    formula = op.summary if isinstance(op, Op) else note.formula if note else ""
    return Scope(name, op.name, formula, note.derivative if note else "")


def _lift(graph: Graph, op: Primitive, args: Sequence[Any]) -> tuple[Value, ...]:
    """Numbers become constants; elementwise arguments are cast to the dtype that they promote to."""
    for arg in args:
        if isinstance(arg, Value) and arg.graph is not graph:
            raise DeclarationError(
                f"{op.name}: {arg!r} belongs to graph {arg.graph.name!r}, not {graph.name!r}; declare both in one"
            )
    if op.kind != "elementwise":
        for arg in args:
            if not isinstance(arg, Value):
                raise DeclarationError(
                    f"{op.name}: takes a Value, got {arg!r}; numbers become Values with g.constant(...)"
                )
        return tuple(args)
    first = 1 if op.name == "where" else 0
    numbers = [a if isinstance(a, Value) else plain_number(a, op.name) for a in args]
    dtype = _common_dtype(op, numbers[first:])
    if first and dtype is host:
        # Nothing but numbers beside a condition: they are what torch makes of them.
        dtype = int64 if all(type(a) is int for a in numbers[first:]) else float32
    lifted = [_to(graph, a, dtype) for a in numbers[first:]]
    return tuple([*(_to(graph, a, bool_) for a in numbers[:first]), *lifted])


_CATEGORIES = {"bool": 0, "int": 1, "float": 2}


def _common_dtype(op: Primitive, args: Sequence[Any]) -> DType:
    if op.name.startswith("logical_"):
        return bool_
    values = [a for a in args if isinstance(a, Value)]
    dtypes = [a.dtype for a in values if a.shape or a.dtype is host]
    # 0-dim values and Python numbers are weak beside tensors, as in torch: only a higher category counts.
    category = max((_CATEGORIES[d.kind] for d in dtypes if d is not host), default=-1)
    dtypes += [a.dtype for a in values if not a.shape and _CATEGORIES[a.dtype.kind] > category]
    dtypes += [host for a in args if isinstance(a, float)]
    if set(dtypes) == {bool_} and any(type(a) is int for a in args):
        dtypes = [int64]  # of every other dtype that it meets, a whole number makes nothing else
    if not dtypes:
        dtypes = [bool_] if all(isinstance(a, bool) for a in args) else [host]
    return promote(dtypes)


def _to(graph: Graph, arg: Any, dtype: DType) -> Value:
    if not isinstance(arg, Value):
        if dtype is host:
            return graph.append("constant", (), {"value": float(arg)}, (), host)
        return graph.constant(arg, dtype)
    if arg.dtype is dtype or arg.dtype is host:
        return arg
    if dtype is bool_:
        raise DTypeError(f"{arg!r} is no condition; compare it first, as in x > 0")
    return graph.call("cast", arg, dtype=dtype)
