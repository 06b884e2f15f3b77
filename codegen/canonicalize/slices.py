"""Before planning: parts are taken of what lies in memory, so that kernels compute no more than the part."""

from __future__ import annotations

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import copy_value, drop_dead

from ..analysis.views import is_alias, is_free, is_squeeze, is_view
from ..support.names import identifier

Cut = tuple[int, int, int]
"""An axis, the first element along it, and how many."""


def narrow_early(graph: Graph) -> Graph:
    """`graph` with each `narrow` moved up through views, and through elementwise values of which only parts are wanted:
    a gate computed on half a layer's output reads half of it."""
    users: dict[Value, list[Value]] = {}
    for value in graph.values:
        for arg in value.inputs:
            users.setdefault(arg, []).append(value)
    whole = set(graph.roots) | {v for v, by in users.items() if any(u.op.name != "narrow" for u in by)}
    whole -= _made_of_numbers(graph)
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    parts: dict[tuple[Value, Cut], Value] = {}

    def part(x: Value, cut: Cut, word: str | None) -> Value:
        """Elements of an old value, as a new one; `word` is what the author calls the part."""
        if x.shape[cut[0]] == cut[2]:
            return new[x]
        if (x, cut) not in parts:
            parts[x, cut] = made_part = _take(x, cut, word)
            known = x.hint or (identifier(x.name) if is_alias(made_part) and word else None)
            made_part.hint = "_".join(filter(None, (known, word))) or None
        return parts[x, cut]

    def _take(x: Value, cut: Cut, word: str | None) -> Value:
        axis, _, length = cut
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        args = _cut_arguments(x, cut) if x not in whole or _is_free_view(x) else None
        made.scope = x.scope
        if args is None:
            return _narrowed(new[x], cut)
        taken = tuple(new[a] if c is None else part(a, c, word) for a, c in args)
        attrs = {**x.attrs, "shape": shape} if "shape" in x.attrs else dict(x.attrs)
        return made.append(x.op, taken, attrs, shape, x.dtype)

    for value in graph.values:
        if value.op.name == "narrow":
            axis, start, length = (value.attrs[k] for k in ("axis", "start", "length"))
            new[value] = found = part(value.inputs[0], (axis, start, length), value.hint)
            if value.hint is not None and not found.is_leaf:
                found.hint = value.hint
        else:
            new[value] = copy_value(made, value, tuple(None if a is None else new[a] for a in value.args))
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    return drop_dead(made)


def _narrowed(x: Value, cut: Cut) -> Value:
    """Elements of a value, taken below the views that it is: a kernel finds a part of a part by their places in one
    memory, with no view between."""
    axis, start, length = cut
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    args = _cut_arguments(x, cut) if is_view(x) else None
    if args is None:
        return x.graph.append("narrow", (x,), {"axis": axis, "start": start, "length": length}, shape, x.dtype)
    ((arg, inner),) = args
    attrs = {**x.attrs, "shape": shape} if "shape" in x.attrs else dict(x.attrs)
    return x.graph.append(x.op, (arg if inner is None else _narrowed(arg, inner),), attrs, shape, x.dtype)


def _made_of_numbers(graph: Graph) -> set[Value]:
    """Values made of numbers, indices and random numbers alone: a part of one is made without the rest."""
    found: set[Value] = set()
    for value in graph.values:
        if is_free(value) or (value.op.kind in ("elementwise", "cast") and all(a in found for a in value.inputs)):
            found.add(value)
    return found


def _is_free_view(x: Value) -> bool:
    """Whether a part of a view costs no more than the view: all views do, even if others read them."""
    return x.op.name in ("transpose", "broadcast_to") or (x.op.name == "reshape" and is_squeeze(x))


def _cut_arguments(x: Value, cut: Cut) -> list[tuple[Value, Cut | None]] | None:
    """The arguments of which a part of `x` is made, each with its own cut (None: whole); None if there is no such."""
    axis, start, length = cut
    if x.op.kind in ("elementwise", "cast") or x.op.name == "broadcast_to":
        found: list[tuple[Value, Cut | None]] = []
        for arg in x.inputs:
            axis_there = axis - (len(x.shape) - len(arg.shape))
            is_repeated = axis_there < 0 or (arg.shape[axis_there] == 1 and x.shape[axis] != 1)
            found.append((arg, None if is_repeated else (axis_there, start, length)))
        return found
    if x.op.name == "transpose":
        return [(x.inputs[0], (x.attrs["axes"][axis], start, length))]
    if x.op.name == "reshape" and is_squeeze(x) and x.shape[axis] != 1:
        (arg,) = x.inputs
        nth = sum(size != 1 for size in x.shape[:axis])
        axis_there = [i for i, size in enumerate(arg.shape) if size != 1][nth]
        return [(arg, (axis_there, start, length))]
    return None
