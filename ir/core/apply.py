"""Applying an op to values: numbers become constants, dtypes meet as torch promotes them, formulas run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .attributes import check_attr
from .errors import DeclarationError, DTypeError, ShapeError, TritonNotesError
from .graph import Graph, Region, Scope, Value, bind
from .local_names import capture_names
from .numbers import Number, plain_number
from .op import DESCRIBED, Op, lookup
from .registry import Operator, Primitive
from .types import (
    Dim,
    DimProduct,
    DType,
    Shape,
    as_dtype,
    as_shape,
    bool_,
    check_name,
    dims_in,
    float32,
    host,
    int64,
    known_factor,
    promote,
)


def call(graph: Graph, op: Operator | str, /, *args: Any, name: str | None = None, **attrs: Any) -> Value:
    """Add `op` to `graph`: as one value, or, for an op in a graph of primitives, by running its formula."""
    if isinstance(op, str):
        op = lookup(op)
    if name is not None:
        check_name(name, op.name)
    checked = MappingProxyType({k: check_attr(v, f"{op.name}: {k}") for k, v in attrs.items()})
    if isinstance(op, Primitive):
        if isinstance(attrs.get("dtype"), str):
            checked = MappingProxyType({**checked, "dtype": as_dtype(attrs["dtype"])})
        if op.name == "pow" and graph.level == "declared" and all(map(_is_whole, args)):
            return _whole_power(graph, *args, name=name)
        op, lifted = _lift(graph, op, args)
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


PASS_FORMULAS = {
    "gather": "grad ← grad + gradient",
    "grad_scaler": "found_inf: scale ← scale · backoff_factor, the update is skipped",
    "chunk": "total ← total + sum over the rows of a chunk",
}
"""The formulas of what passes add to an update, which is no op, by the `op` of its scope."""


def pass_scope(name: str, added: str) -> Scope:
    """The scope of what a pass adds to an update: `added` is one of `PASS_FORMULAS`."""
    return Scope(name, added, PASS_FORMULAS[added], phase="update")


_OF_BOOLS = {"add": "logical_or", "mul": "logical_and", "maximum": "logical_or", "minimum": "logical_and"}
"""What arithmetic of truth values is, as torch has it."""


def _lift(graph: Graph, op: Primitive, args: Sequence[Any]) -> tuple[Primitive, tuple[Value, ...]]:
    """Numbers become constants; elementwise arguments are cast to the dtype that they promote to. Also the primitive
    that computes it in this dtype."""
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
        return op, tuple(args)
    first = 1 if op.name == "where" else 0
    numbers = [a if isinstance(a, Value) else _number(graph, a, op, args) for a in args]
    dtype = _common_dtype(op, numbers[first:])
    if first and dtype is host:
        # Nothing but numbers beside a condition: they are what torch makes of them.
        dtype = int64 if all(type(a) is int for a in numbers[first:]) else float32
    if graph.level == "declared":
        op, dtype = _as_torch_computes(op, dtype, numbers)
    lifted = [_to(graph, a, dtype) for a in numbers[first:]]
    return op, tuple([*(_to(graph, a, bool_) for a in numbers[:first]), *lifted])


def _number(graph: Graph, given: Any, op: Primitive, args: Sequence[Any]) -> Number | Value:
    """A number, or for a symbolic size, as in `x * x.shape[0]`, what it is when tensors are fed."""
    if not isinstance(given, Dim | DimProduct):
        return plain_number(given, op.name)
    whole = [a for a in args if isinstance(a, Value) and not a.dtype.is_float]
    if whole:
        raise DTypeError(
            f"{op.name}: the size {given} meets {whole[0].name!r}, which is {whole[0].dtype}; a size that is known "
            "only when tensors are fed is a float, so cast the other with tn.cast"
        )
    count: Any = known_factor((given,))
    for dim in dims_in((given,)):
        value = graph.append("dim_size", (), {"dim": dim.name}, (), host)
        count = value if not isinstance(count, Value) and count == 1 else value * count
    return count


def _as_torch_computes(op: Primitive, dtype: DType, args: Sequence[Any]) -> tuple[Primitive, DType]:
    """The primitive and the dtype of what a user wrote: true division and elementary functions of integers are float32,
    and truth values are added by 'or'. Formulas say themselves which dtypes they take."""
    if dtype is bool_ and op.name in _OF_BOOLS:
        made = lookup(_OF_BOOLS[op.name])
        assert isinstance(made, Primitive)
        return made, bool_
    return op, float32 if op.takes == "float" and dtype.kind in ("int", "bool") else dtype


def _whole_power(graph: Graph, base: Value | int, exponent: Value | int, *, name: str | None) -> Value:
    """Integers to a whole power, by repeated squaring: exact, as integers of torch are."""
    if not isinstance(base, Value) or isinstance(exponent, Value):
        raise DTypeError(
            "pow: of integers takes an exponent that is a number; cast the base, as in tn.cast(x, 'float32')"
        )
    if not 0 <= exponent < MAX_POWER:
        raise DTypeError(
            f"pow: integers to the power {exponent}; use 0 to {MAX_POWER - 1}, or cast the base, as in "
            "tn.cast(x, 'float32')"
        )
    if base.dtype is bool_ and not isinstance(exponent, bool):
        base = graph.call("cast", base, dtype=int64)
    power = graph.constant(True if base.dtype is bool_ else 1, base.dtype)
    left = int(exponent)
    while left > 1:
        power = power * base if left % 2 else power
        base, left = base * base, left // 2
    # Also the zeroth power has the shape of its base.
    last = base if left else (base == base if base.dtype is bool_ else 0 * base + 1)
    return graph.call("mul", power, last, name=name)


def _is_whole(arg: Any) -> bool:
    return arg.dtype.kind != "float" if isinstance(arg, Value) else not isinstance(arg, float)


MAX_POWER = 64
"""Powers of integers beyond this leave int64 but for 0, 1 and −1."""

_CATEGORIES = {"bool": 0, "int": 1, "float": 2}


def _common_dtype(op: Primitive, args: Sequence[Any]) -> DType:
    if op.name.startswith("logical_"):
        odd = [a for a in args if not isinstance(a, Value | bool)]
        if odd:
            raise DTypeError(f"{op.name}: {odd[0]!r} is no truth value; compare first, as in x > 0")
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
