"""Verification: what must hold of a graph, checked after every pass and of every graph read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

import networkx

from .apply import infer_op
from .attributes import MAX_RANK, check_attrs
from .compare import attr_key
from .errors import DeclarationError, DTypeError, ShapeError, TritonNotesError, VerificationError
from .graph import Graph, Region, Value, check_is_graph, is_seed
from .numbers import Attrs
from .op import Op
from .printer import value_line
from .registry import ANY_NUMBER, Operator, Primitive
from .rewrite import key_of
from .types import Dim, DType, Shape, as_shape, bindable, dims_in, host, int64, is_name, show_shape

LEVELS = ("declared", "primitive")
FED = ("input", "parameter", "buffer", "slot", "scalar")
STATE = ("parameter", "buffer", "slot")

Memo = dict[object, tuple[Shape, DType]]


def verify(graph: Graph) -> None:
    """Raise `VerificationError`, naming op and value and showing the lines around it, unless `graph` is well formed:

    arguments belong to the graph and come before their users; names are unique and valid; each shape and dtype is what
    the op infers; a graph of primitives holds nothing else; outputs, updates and regions belong and fit; every `Dim`
    is the size of something that is fed; and the same holds of each graph that is an attribute.
    """
    check_is_graph(graph)
    if graph.level not in LEVELS:
        raise VerificationError(f"graph {graph.name!r}: level is {graph.level!r}; it is one of {', '.join(LEVELS)}")
    _verify_membership(graph)
    _verify_names(graph)
    for subgraph in graph.subgraphs.values():
        verify(subgraph)
    memo: Memo = {}
    bound = bindable(v.shape for v in graph.values if v.op.name in FED)
    for value in graph.values:
        _verify_value(graph, value, memo)
        for dim in dims_of(value):
            if dim not in bound:
                _fail(
                    graph,
                    value,
                    f"uses {dim}, which is no size of any input, parameter or buffer; nothing can bind it",
                )
    _verify_roots(graph)
    for region in graph.regions:
        _verify_region(graph, region, memo)


def verify_joint(graph: Graph) -> None:
    """`verify`, and: only primitives, nothing dead, nothing computed twice. Raises `VerificationError`."""
    verify(graph)
    if graph.level != "primitive":
        raise VerificationError(f"graph {graph.name!r}: a joint graph has level 'primitive', not {graph.level!r}")
    flow = networkx.DiGraph((arg.index, value.index) for value in graph.values for arg in value.inputs)
    flow.add_edges_from((root.index, "run") for root in graph.roots)
    live = networkx.ancestors(flow, "run") if graph.roots else set()
    seen: dict[object, Value] = {}
    for value in graph.values:
        if value.op.name in FED:
            continue  # the graph's interface stays, used or not
        if value.index not in live:
            _fail(graph, value, "is dead: no output and no update needs it")
        twin = seen.setdefault(key_of(value, value.args), value)
        if twin is not value:
            _fail(graph, value, f"is computed twice: {twin.name!r} is the same")


def infer_call(
    op: Operator, args: Sequence[Value | None], attrs: Attrs, shape: Shape, dtype: DType, memo: Memo
) -> tuple[Shape, DType]:
    """Shape and dtype of `op` on `args`, once their number, dtypes and the attributes are seen to fit it.

    A leaf says its own `shape` and `dtype`. `memo` keeps what formulas gave. Raises `DeclarationError`.
    """
    check_arguments(op, args)
    check_attrs(op, args, attrs)
    if isinstance(op, Op):
        inputs = tuple(None if a is None else (a.shape, a.dtype) for a in args)
        key = (op.name, inputs, tuple((k, attr_key(v)) for k, v in sorted(attrs.items())))
        if key not in memo:
            memo[key] = infer_op(op, args, attrs, None)
        shape, dtype = memo[key]
    elif isinstance(op, Primitive) and (op.kind != "leaf" or op.name in ("iota", "uniform")):
        present = tuple(a for a in args if a is not None)
        _check_dtypes(op, present)
        shape, dtype = op.infer(present, attrs)
    else:
        _check_leaf(op.name, attrs, shape, dtype)
    return as_shape(shape, op.name), dtype


def check_arguments(op: Operator, args: Sequence[Value | None]) -> None:
    """Raise `DeclarationError` unless `op` takes this many arguments, and can do without the absent ones."""
    if isinstance(op, Op):
        takes = [p for p in op.parameters if p.kind is not p.KEYWORD_ONLY]
        optional = [p.default is None for p in takes]
        names = ", ".join(op.arg_names)
    else:
        assert isinstance(op, Primitive)
        least = 0 if op.name == "library" else 1  # a call of torch may make its result of numbers
        count = max(len(args), least) if op.arity == ANY_NUMBER else op.arity
        optional, names = [False] * count, f"{count} values"
    if len(args) != len(optional):
        raise DeclarationError(f"{op.name}: takes {len(optional)} arguments ({names}), got {len(args)}")
    for index, (arg, may_miss) in enumerate(zip(args, optional, strict=True)):
        if arg is None and not may_miss:
            raise DeclarationError(f"{op.name}: argument {index + 1} of ({names}) is absent; it must be a value")


# -- dtypes and leaves --


def _check_dtypes(op: Primitive, args: Sequence[Value]) -> None:
    """Elementwise arguments were cast to one dtype when they met; a number of the host joins floats only."""
    if op.kind != "elementwise":
        return
    if op.name == "where":
        if args[0].dtype.kind != "bool":
            raise DTypeError(f"where: condition {args[0].name!r} is {args[0].dtype}; it must be bool")
        args = args[1:]
    dtypes = {a.dtype for a in args}
    strong = dtypes - {host}
    if len(strong) > 1 or (host in dtypes and any(not d.is_float for d in strong)):
        given = ", ".join(f"{a.name!r} is {a.dtype}" for a in args)
        raise DTypeError(f"{op.name}: {given}; the arguments must have one dtype, cast them first")
    if op.name.startswith("logical_") and any(d.kind != "bool" for d in dtypes):
        raise DTypeError(f"{op.name}: {args[0].name!r} is {args[0].dtype}; the arguments must be bool")


def _check_leaf(kind: str, attrs: Attrs, shape: Shape, dtype: DType) -> None:
    if len(shape) > MAX_RANK:
        raise ShapeError(f"{kind}: a shape of {len(shape)} dims; at most {MAX_RANK} are possible")
    if kind in ("constant", "scalar", "dim_size") and shape != ():
        raise ShapeError(f"{kind}: has shape {show_shape(shape)}; it is one number, of shape []")
    fitting = {"constant": True, "dim_size": dtype is host, "scalar": dtype in (host, int64)}
    if not fitting.get(kind, dtype is not host):
        raise DTypeError(f"{kind}: has dtype {dtype}; host is for the numbers that the host knows, and for them alone")
    if kind == "parameter" and not dtype.is_float:
        raise DTypeError(f"parameter: has dtype {dtype}; only floats can be trained")
    if kind == "constant":
        value = attrs["value"]
        wanted = {"float": float, "int": int, "bool": bool}[dtype.kind]
        bits = 8 * dtype.itemsize - 1
        if type(value) is not wanted or (wanted is int and not -(2**bits) <= value < 2**bits):
            raise DTypeError(f"constant: value {value!r} is no {dtype}")


def dims_of(value: Value) -> Iterable[Dim]:
    """The `Dim`s that `value` needs the sizes of."""
    sizes: list[object] = [
        *value.shape,
        value.attrs.get("size"),
        value.attrs.get("rows"),
        *_as_tuple(value.attrs.get("shape")),
        *_parts_of(value.attrs.get("arguments")),
        *_parts_of(value.attrs.get("options")),
    ]
    found = list(dims_in(sizes))
    return [*found, Dim(value.attrs["dim"])] if value.op.name == "dim_size" else found


def _parts_of(value: object) -> Iterable[object]:
    """What a tuple holds, tuples in it opened."""
    for part in _as_tuple(value):
        yield from _parts_of(part) if isinstance(part, tuple) else (part,)


def _as_tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()


# -- what verify() asks, in turn --


def _verify_membership(graph: Graph) -> None:
    for index, value in enumerate(graph.values):
        if value.graph is not graph:
            _fail(graph, value, f"belongs to graph {value.graph.name!r}, yet is listed in {graph.name!r}", index)
        if value.index != index:
            _fail(graph, value, f"has index {value.index}, but stands at {index}", index)
        for arg in value.inputs:
            if not _belongs(graph, arg):
                _fail(graph, value, f"takes {getattr(arg, 'name', arg)!r}, which is no value of this graph", index)
    for value in graph.values:
        late = [arg for arg in value.inputs if arg.index >= value.index]
        if late:
            _fail(graph, value, f"takes {late[0].name!r}, which comes {_how_late(graph, value)}")


def _how_late(graph: Graph, value: Value) -> str:
    flow = networkx.DiGraph((arg.index, user.index) for user in graph.values for arg in user.inputs)
    try:
        cycle = networkx.find_cycle(flow, value.index)
    except networkx.NetworkXNoCycle:
        return "only after it; arguments stand before their users"
    return "from it: a cycle " + " → ".join(graph.values[i].name for i in (*(e[0] for e in cycle), cycle[0][0]))


def _verify_names(graph: Graph) -> None:
    seen: dict[str, Value] = {}
    for value in graph.values:
        name = value.name
        if not is_name(name):
            _fail(
                graph,
                value,
                f"has the name {name!r}; names are ASCII letters, digits and '_', parts joined by '.'",
            )
        if seen.setdefault(name, value) is not value:
            _fail(graph, value, f"has a name that value {seen[name].index} has already")
        if value.op.name in FED and value._name is None:
            _fail(graph, value, "is fed by name, but was given none")


def _verify_value(graph: Graph, value: Value, memo: Memo) -> None:
    if graph.level == "primitive" and not isinstance(value.op, Primitive):
        _fail(
            graph,
            value,
            f"is the op {value.op.name!r} in a graph of primitives; decompose() was to replace it",
        )
    try:
        shape, dtype = infer_call(value.op, value.args, value.attrs, value.shape, value.dtype, memo)
    except TritonNotesError as error:
        _fail(graph, value, f"is wrong: {error}")
    if value.op.name == "uniform" and not is_seed(value.inputs[0]):
        _fail(graph, value, f"draws from {value.inputs[0].name!r}, which is no number of the host")
    if shape != value.shape or dtype is not value.dtype:
        _fail(
            graph,
            value,
            f"has {value.dtype}{show_shape(value.shape)}, but its op infers {dtype}{show_shape(shape)}",
        )


def _verify_roots(graph: Graph) -> None:
    for what, roots in (("output", graph.outputs), ("update", graph.updates)):
        for name, value in roots.items():
            if not is_name(name):
                raise VerificationError(f"graph {graph.name!r}: {what} {name!r} has no valid name")
            if not _belongs(graph, value):
                raise VerificationError(f"graph {graph.name!r}: {what} {name!r} is {value!r}, no value of this graph")
    states = {v.name: v for v in graph.leaves(*STATE)}
    for name, value in graph.updates.items():
        state = states.get(name)
        if state is None:
            _fail(graph, value, f"updates {name!r}, which is no parameter, buffer or slot")
        if state.shape != value.shape or state.dtype is not value.dtype:
            _fail(
                graph,
                value,
                f"does not fit {name!r}, which it updates: {state.dtype}{show_shape(state.shape)}",
            )


def _verify_region(graph: Graph, region: Region, memo: Memo) -> None:
    what = f"graph {graph.name!r}: region of {region.op.name!r}"
    if graph.level != "primitive":
        raise VerificationError(f"{what}: a declared graph has no regions")
    for value in (region.out, *(a for a in region.args if a is not None)):
        if not _belongs(graph, value):
            raise VerificationError(f"{what}: {value!r} is no value of this graph")
        if value.index > region.out.index:
            _fail(
                graph,
                region.out,
                f"ends a region of {region.op.name!r} whose argument {value.name!r} comes later",
            )
    try:
        check_region(region.op, region.args, region.attrs, region.out, memo)
    except TritonNotesError as error:
        _fail(graph, region.out, f"ends a region of {region.op.name!r} that is wrong: {error}")


def check_region(op: Operator, args: Sequence[Value | None], attrs: Attrs, out: Value, memo: Memo) -> None:
    """Raise `DeclarationError` unless `op` has a gradient of its own and makes a value such as `out` of `args`."""
    if not isinstance(op, Op) or op.derive is None:
        raise DeclarationError(f"{op.name}: has no gradient of its own, so it forms no region")
    shape, dtype = infer_call(op, args, attrs, (), host, memo)
    if shape != out.shape or dtype is not out.dtype:
        raise ShapeError(
            f"{op.name}: {out.name!r} is {out.dtype}{show_shape(out.shape)}, but the op infers "
            f"{dtype}{show_shape(shape)}"
        )


def _belongs(graph: Graph, value: object) -> bool:
    return isinstance(value, Value) and 0 <= value.index < len(graph.values) and graph.values[value.index] is value


def _fail(graph: Graph, value: Value, problem: str, index: int | None = None) -> NoReturn:
    at = value.index if index is None else index
    shown = range(max(at - 2, 0), min(at + 3, len(graph.values)))
    lines = "\n".join(f"{'>' if i == at else ' '} {value_line(graph.values[i])}" for i in shown)
    raise VerificationError(f"graph {graph.name!r}: {value.op.name} {value.name!r} {problem}\n{lines}")
