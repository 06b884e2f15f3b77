"""Passes over graphs of primitives: copy, simplify, share common subexpressions, drop dead values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from .compare import attr_key
from .graph import Graph, Region, Value, needed_for
from .numbers import Attrs
from .registry import Primitive
from .types import broadcast, float64

GraphT = TypeVar("GraphT", bound=Graph)

Rule = Callable[[Value], Value | None]


def copy_graph(
    graph: Graph, *, values: Iterable[Value] | None = None, level: str | None = None
) -> tuple[Graph, dict[Value, Value]]:
    """A copy holding `values` (default: all) in order, and the map from old to new. Outputs and updates come along."""
    made = Graph(graph.name, level=level or graph.level)
    return made, _copy_into(made, graph, graph.values if values is None else values)


def snapshot(graph: GraphT) -> GraphT:
    """The graph as it is now, whatever is declared in it later."""
    made = type(graph)(graph.name, level=graph.level)
    made.first = dict(graph.first)
    _copy_into(made, graph, graph.values)
    return made


def _copy_into(made: Graph, graph: Graph, values: Iterable[Value]) -> dict[Value, Value]:
    new: dict[Value, Value] = {}
    for value in values:
        new[value] = copy_value(made, value, tuple(None if a is None else new[a] for a in value.args))
    made.outputs = {name: new[v] for name, v in graph.outputs.items() if v in new}
    made.updates = {name: new[v] for name, v in graph.updates.items() if v in new}
    made.regions = [
        map_region(r, new) for r in graph.regions if r.out in new and all(a is None or a in new for a in r.args)
    ]
    return new


def copy_value(graph: Graph, value: Value, args: tuple[Value | None, ...], attrs: Attrs | None = None) -> Value:
    """Append to `graph` what `value` is, on other arguments (and, if given, `attrs`), with its scope, hint and, for
    leaves, name."""
    graph.scope = value.scope
    made = graph.append(value.op, args, value.attrs if attrs is None else attrs, value.shape, value.dtype, value._name)
    made.hint = value.hint
    return made


def map_region(region: Region, new: dict[Value, Value]) -> Region:
    """The region in terms of the values that `new` maps its values to."""
    args = tuple(None if a is None else new[a] for a in region.args)
    return Region(region.op, args, region.attrs, new[region.out], region.scope)


def key_of(value: Value, args: Iterable[Value | None]) -> tuple[Any, ...]:
    """Equal for two values that compute the same thing from the same arguments."""
    attrs = tuple((k, type(v).__name__, _attr_key(v)) for k, v in sorted(value.attrs.items()))
    ids = tuple(None if a is None else id(a) for a in args)
    if value.op.name in COMMUTATIVE:
        ids = tuple(sorted(ids, key=str))
    return (value.op.name, ids, attrs, value.dtype.name, value._name if value.is_leaf else None)


def _attr_key(attr: object) -> object:
    return attr_key(attr) if isinstance(attr, float | tuple | Graph) else attr


COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or"})


def optimize(graph: Graph) -> Graph:
    """The same outputs and updates with simple algebra done, nothing computed twice and nothing dead.

    Leaves other than constants stay even where nothing uses them: they are the graph's interface.
    """
    live = _live(graph)
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    seen: dict[tuple[Any, ...], Value] = {}
    for value in graph.values:
        if value not in live:
            continue
        args = tuple(None if a is None else new[a] for a in value.args)
        before = len(made.values)
        simpler = _simplify(made, value, args, seen)
        if simpler is not None and simpler.index >= before:
            simpler = _merged(made, before, seen)[simpler]
        if simpler is None:
            key = key_of(value, args)
            simpler = seen.get(key)
            if simpler is None:
                seen[key] = simpler = copy_value(made, value, args)
        if simpler.hint is None and not simpler.is_leaf:
            simpler.hint = value.hint
            if value.hint is not None:
                simpler.scope = value.scope
        new[value] = simpler
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    # Simplification strands values (the 1 of x · 1).
    return drop_dead(made)


def _merged(made: Graph, before: int, seen: dict[tuple[Any, ...], Value]) -> dict[Value, Value]:
    """What stands for each value from index `before` on: a simplification may make what there is already."""
    stands: dict[Value, Value] = {}
    for value in tuple(made.values[before:]):
        args = tuple(a if a is None else stands.get(a, a) for a in value.args)
        key = key_of(value, args)
        if key not in seen:
            same = all(a is b for a, b in zip(args, value.args, strict=True))
            seen[key] = value if same else copy_value(made, value, args)
        stands[value] = seen[key]
    return stands


def drop_dead(graph: Graph) -> Graph:
    """`graph` without the values that no output or update needs; leaves other than constants stay."""
    keep = _live(graph)
    if len(keep) == len(graph.values):
        return graph
    return copy_graph(graph, values=[v for v in graph.values if v in keep])[0]


def _live(graph: Graph) -> set[Value]:
    leaves = {v for v in graph.values if v.op.name in ("input", "parameter", "buffer", "slot", "scalar")}
    return leaves | needed_for(graph.roots)


# -- algebra: each rule takes a primitive's new arguments and returns what it is instead, or None
# ------------------------------


def constant_of(value: Value | None) -> Any:
    """The number that a constant holds, else None."""
    return value.attrs["value"] if value is not None and value.op.name == "constant" else None


def _is(value: Value | None, number: float) -> bool:
    held = constant_of(value)
    return held is not None and not isinstance(held, bool) and held == number


def _simplify(
    graph: Graph, value: Value, args: tuple[Value | None, ...], seen: dict[tuple[Any, ...], Value]
) -> Value | None:
    rule = _RULES.get(value.op.name)
    found = rule(value, args) if rule else None
    found = _folded(graph, value, args) if found is None else found
    if found is None:
        return _without_broadcasts(graph, value, args, seen)
    if isinstance(found, Value):
        return found if found.shape == value.shape and found.dtype is value.dtype else None
    return None


def _folded(graph: Graph, value: Value, args: tuple[Any, ...]) -> Value | None:
    """Arithmetic on numbers alone is done here and now, in float64."""
    if value.op.kind not in ("elementwise", "cast") or value.shape or not value.dtype.is_float:
        return None
    if not args or not all(a is not None and a.op.name == "constant" for a in args):
        return None
    assert isinstance(value.op, Primitive)
    with np.errstate(all="ignore"):
        number = value.op.evaluate(*(np.asarray(a.attrs["value"]) for a in args), **value.attrs)
    return graph.append("constant", (), {"value": float(number)}, (), value.dtype)


def _mul(value: Value, args: tuple[Any, ...]) -> Value | None:
    a, b = args
    return a if _is(b, 1) else b if _is(a, 1) else None


def _div(value: Value, args: tuple[Any, ...]) -> Value | None:
    return args[0] if _is(args[1], 1) else None


def _sub(value: Value, args: tuple[Any, ...]) -> Value | None:
    # −0 − −0 is 0.
    return args[0] if _is(args[1], 0) and math.copysign(1, constant_of(args[1])) > 0 else None


def _copy(value: Value, args: tuple[Any, ...]) -> Value | None:
    return args[0]  # what gradients do not pass is told apart only until they are taken


def _neg(value: Value, args: tuple[Any, ...]) -> Value | None:
    return args[0].args[0] if args[0].op.name == "neg" else None


def _pow(value: Value, args: tuple[Any, ...]) -> Value | None:
    """Powers that torch takes by other means keep more digits so, and the sign of zero."""
    x, exponent = args[0], constant_of(args[1])
    if value.dtype.name == "host" or not value.dtype.is_float or exponent not in _POWERS or x.shape != value.shape:
        return None
    x.graph.scope = value.scope

    def made(op: str, *inputs: Value) -> Value:
        return x.graph.append(op, inputs, {}, value.shape, value.dtype)

    return _POWERS[exponent](made, x)


_POWERS: dict[float, Callable[[Callable[..., Value], Value], Value]] = {
    0.5: lambda made, x: made("sqrt", x),
    -0.5: lambda made, x: made("rsqrt", x),
    1.0: lambda made, x: x,
    2.0: lambda made, x: made("mul", x, x),
    3.0: lambda made, x: made("mul", made("mul", x, x), x),
    -1.0: lambda made, x: made("div", x.graph.append("constant", (), {"value": 1.0}, (), x.dtype), x),
}


def _floor(value: Value, args: tuple[Any, ...]) -> Value | None:
    return None if value.dtype.is_float else args[0]  # whole numbers are their own


def _same_shape(value: Value, args: tuple[Any, ...]) -> Value | None:
    return args[0] if args[0].shape == value.shape else None


def _reduction(value: Value, args: tuple[Any, ...]) -> Value | None:
    """Over axes of size 1 there is nothing to reduce."""
    (x,) = args
    axes = tuple(a for a in value.attrs["axes"] if x.shape[a] != 1)
    if not axes or axes == value.attrs["axes"]:
        return None if axes else x
    x.graph.scope = value.scope
    return x.graph.append(value.op, args, MappingProxyType({**value.attrs, "axes": axes}), value.shape, value.dtype)


def _reshape(value: Value, args: tuple[Any, ...]) -> Value | None:
    (x,) = args
    while x.op.name == "reshape":
        if x.shape == value.shape:
            return x
        x = x.args[0]
    return x if x.shape == value.shape else None


def _transpose(value: Value, args: tuple[Any, ...]) -> Value | None:
    axes = value.attrs["axes"]
    (x,) = args
    if axes == tuple(range(len(axes))):
        return x
    if x.op.name == "transpose" and tuple(x.attrs["axes"][a] for a in axes) == tuple(range(len(axes))):
        return x.args[0]
    return None


def _cast(value: Value, args: tuple[Any, ...]) -> Value | None:
    return args[0] if args[0].dtype is value.dtype else None


def _round_to(value: Value, args: tuple[Any, ...]) -> Value | None:
    (x,) = args
    numbers = [constant_of(a) for a in x.args[1:]] if x.op.name == "where" else []
    if value.dtype is float64 and numbers and None not in numbers:
        # A choice between numbers, which are as exact in float64 as they were written.
        x.graph.scope = value.scope
        branches = [x.graph.append("constant", (), {"value": float(n)}, (), float64) for n in numbers if n is not None]
        return x.graph.append("where", (x.args[0], *branches), {}, value.shape, float64)
    return x if x.dtype is value.dtype and _is_rounded(x) else None


def _is_rounded(value: Value) -> bool:
    """Whether a value is at numbers of its dtype already, as what comes from memory is."""
    while value.op.name in ("reshape", "transpose", "broadcast_to", "narrow"):
        (value,) = value.inputs
    return value.op.name in ("input", "parameter", "buffer", "slot", "round_to")


def _where(value: Value, args: tuple[Any, ...]) -> Value | None:
    condition, a, b = args
    held = constant_of(condition)
    if held is not None:
        return a if held else b
    return a if a is b else None


def _narrow(value: Value, args: tuple[Any, ...]) -> Value | None:
    """A part of a part is one part; a part that lies in one of the tensors joined is a part of that one."""
    (x,) = args
    axis, start, length = (value.attrs[k] for k in ("axis", "start", "length"))
    if x.op.name not in ("narrow", "cat") or x.attrs["axis"] != axis:
        return x if x.shape == value.shape else None
    if x.op.name == "narrow":
        return _part(x.inputs[0], axis, x.attrs["start"] + start, length)
    for piece, first, last in _pieces(x):
        if first <= start and start + length <= last:
            return _part(piece, axis, start - first, length)
    return None


def _part(x: Value, axis: int, start: int, length: int) -> Value:
    if x.shape[axis] == length:
        return x
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    attrs = MappingProxyType({"axis": axis, "start": start, "length": length})
    return x.graph.append("narrow", (x,), attrs, shape, x.dtype)


def _pieces(joined: Value) -> list[tuple[Value, int, int]]:
    """The tensors that a `cat` joins, with the range of its axis that each fills."""
    found, start = [], 0
    for piece in joined.inputs:
        end = start + piece.shape[joined.attrs["axis"]]  # type: ignore[operator]
        found.append((piece, start, end))
        start = end
    return found


def _is_zero(value: Value) -> bool:
    while value.op.name == "broadcast_to":
        (value,) = value.inputs
    return _is(value, 0)


def _add(value: Value, args: tuple[Any, ...]) -> Value | None:
    """Tensors joined with zeros, added up, are the tensors joined, as long as they do not lie upon each other.

    That is how the gradients of several parts of one tensor meet.
    """
    a, b = args
    if a.op.name != "cat" or b.op.name != "cat" or a.attrs != b.attrs or a.shape != b.shape:
        return None
    kept = [p for joined in args for p in _pieces(joined) if not _is_zero(p[0])]
    kept.sort(key=lambda piece: piece[1])
    if any(before[2] > after[1] for before, after in zip(kept, kept[1:], strict=False)):
        return None
    zeros = [piece for joined in args for piece in joined.inputs if _is_zero(piece)]
    joined, end = [], 0
    axis = a.attrs["axis"]
    for piece, first, last in (*kept, (None, a.shape[axis], 0)):
        if first > end:
            joined.append(_zeros(zeros[0], axis, first - end))
        joined += [] if piece is None else [piece]
        end = last
    if len(joined) == 1:
        return joined[0]
    return a.graph.append("cat", tuple(joined), a.attrs, a.shape, a.dtype)


def _zeros(like: Value, axis: int, length: int) -> Value:
    zero = like
    while zero.op.name == "broadcast_to":
        (zero,) = zero.inputs
    shape = (*like.shape[:axis], length, *like.shape[axis + 1 :])
    return like.graph.append("broadcast_to", (zero,), MappingProxyType({"shape": shape}), shape, like.dtype)


_RULES: dict[str, Callable[[Value, tuple[Any, ...]], Value | None]] = {
    "add": _add,
    "copy": _copy,
    "mul": _mul,
    "div": _div,
    "sub": _sub,
    "neg": _neg,
    "floor": _floor,
    "pow": _pow,
    "broadcast_to": _same_shape,
    "sum": _reduction,
    "max": _reduction,
    "min": _reduction,
    "reshape": _reshape,
    "transpose": _transpose,
    "cast": _cast,
    "round_to": _round_to,
    "narrow": _narrow,
    "where": _where,
}


def _without_broadcasts(
    graph: Graph, value: Value, args: tuple[Value | None, ...], seen: dict[tuple[Any, ...], Value]
) -> Value | None:
    """Elementwise primitives broadcast by themselves: `x · broadcast_to(s)` is `x · s` where x has the full shape."""
    if value.op.kind != "elementwise" or not any(a is not None and a.op.name == "broadcast_to" for a in args):
        return None
    present = [a for a in args if a is not None]
    stripped = [a.args[0] if a.op.name == "broadcast_to" else a for a in present]
    for i, a in enumerate(present):
        if stripped[i] is a or stripped[i] is None:
            continue
        trial = [*present[:i], stripped[i], *present[i + 1 :]]
        if broadcast([t.shape for t in trial if t is not None], value.op.name) == value.shape:
            present = [t for t in trial if t is not None]
    if all(p is a for p, a in zip(present, args, strict=True)):
        return None
    shrunk = tuple(present)
    key = key_of(value, shrunk)
    if key not in seen:
        seen[key] = copy_value(graph, value, shrunk)
    return seen[key]
