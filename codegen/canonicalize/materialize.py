"""Before planning: values that must lie in memory in their own order get a copy where they are only views."""

from __future__ import annotations

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import copy_value
from tritonnotes.ir.primitives.library import LIBRARY_OPS

from ..analysis.axes import Axes, label_axes
from ..analysis.views import APART, base_of, is_alias, is_drawn, is_free, is_host, is_number, is_view
from .slices import narrow_early

CHUNKED = "chunked"


def materialize(graph: Graph) -> Graph:
    """`graph` with a `copy` before each reshape of a transposed, expanded or narrowed value, of each tensor that is
    joined to others, and at each output that is a view of another order, a mere number, or what the run overwrites,
    and at each update that reads what it overwrites in another order."""
    graph = narrow_early(graph)
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    copies: dict[Value, Value] = {}
    for value in graph.values:
        args = tuple(None if a is None else new[a] for a in value.args)
        made.scope = value.scope
        needs_order = value.op.name == "take_rows" or (is_alias(value) and value.op.name != "narrow")
        if needs_order and args[0] is not None and not _in_order(args[0]):
            args = (made.call("copy", args[0]), *args[1:])
        if is_alias(value) and args[0] is not None and not (is_number(args[0]) or is_drawn(args[0])):
            args = (_in_memory(made, args[0], copies), *args[1:])
        if value.op.kind in ("contraction", "collective", "gather") and value.op.name != CHUNKED:
            # Read from memory, but for the row numbers of a gather: what has none, as a number, gets it, once.
            read = args[:1] if value.op.kind == "gather" else args
            args = (*(a if a is None else _in_memory(made, a, copies) for a in read), *args[len(read) :])
        if value.op.name == CHUNKED:
            # Rows are taken of each argument as it lies in memory; all results of a region read one and the same.
            for a in args:
                if a is not None and a not in copies:
                    copies[a] = a if _lies_in_memory(a) else made.call("copy", a)
            args = tuple(None if a is None else copies[a] for a in args)
        if value.op.name == "cat":
            # Each part is written straight to its place, by the kernel that computes it.
            args = tuple(made.call("copy", a) for a in args)
        new[value] = made_value = copy_value(made, value, args)
        if is_view(made_value) and made_value.hint is not None:
            # What is computed has the name that its author gave to a view of it.
            (shown,) = made_value.inputs
            if shown.hint is None and not shown.is_leaf and not is_view(shown):
                shown.hint = made_value.hint

    taken: set[Value] = set()

    def root(value: Value, is_update: bool) -> Value:
        shown = _shown(value)
        plain = _in_order(value) and not is_free(shown)
        changes = shown.is_leaf and shown.name in graph.updates
        changes |= is_update and shown.op.name in (
            CHUNKED,
            *LIBRARY_OPS,
        )  # sums begin at 0; torch gives tensors of its own
        if plain and not (changes or is_update and (shown.is_leaf or shown in taken)):
            if is_update:
                taken.add(shown)
            return value
        made.scope = value.scope
        copied = made.call("copy", value)
        copied.hint = value.hint
        return copied

    made.outputs = {name: root(new[v], False) for name, v in graph.outputs.items()}
    made.updates = {name: root(new[v], True) for name, v in graph.updates.items()}
    return _written_last(*_separate(made))


def _separate(graph: Graph) -> tuple[Graph, Axes]:
    """`graph` with an argument read from memory apart wherever one axis would be two of a value, as in x + xᵀ; and the
    axes of what it became."""
    while clashes := (axes := label_axes(graph)).clashes:
        made = Graph(graph.name, level=graph.level)
        new: dict[Value, Value] = {}
        for value in graph.values:
            args = [None if a is None else new[a] for a in value.args]
            for i in clashes.get(value, ()):
                arg = args[i]
                assert arg is not None
                made.scope = value.scope
                arg = arg if _in_order(arg) else made.call("copy", arg)
                args[i] = made.append("reshape", (arg,), {"shape": arg.shape, APART: True}, arg.shape, arg.dtype)
            new[value] = copy_value(made, value, tuple(args))
        made.outputs = {name: new[v] for name, v in graph.outputs.items()}
        made.updates = {name: new[v] for name, v in graph.updates.items()}
        graph = made
    return graph, axes


def _written_last(graph: Graph, axes: Axes) -> Graph:
    """`graph` with a `copy` at each update that reads what it overwrites in another order, as p ← pᵀ does: all of it is
    read before any of it is written."""
    for name, new in list(graph.updates.items()):
        shown = _shown(new)
        order = axes.iterated(axes.labels[shown])
        read = [base_of(a) for a in shown.inputs if _shown(a) is graph[name]]
        if any(axes.iterated(axes.labels[v]) != order for v in read):
            graph.scope = new.scope
            graph.updates[name] = graph.call("copy", new)
    return graph


def _in_memory(made: Graph, value: Value, copies: dict[Value, Value]) -> Value:
    """`value`, of which what it shows is copied to memory where a kernel makes that anew wherever it reads it."""
    shown = _shown(value)
    if not is_free(shown):
        return value
    if value not in copies:
        copy = copies.setdefault(shown, made.call("copy", shown))
        copies[value] = _with_shown(made, value, copy)
    return copies[value]


def _with_shown(made: Graph, value: Value, shown: Value) -> Value:
    """The views of `value`, of something else."""
    if not (is_view(value) or is_alias(value)):
        return shown
    # A name is that of the view that stays beside this one.
    inner = _with_shown(made, value.inputs[0], shown)
    made.scope = value.scope
    again = made.append(value.op, (inner,), value.attrs, value.shape, value.dtype)
    again.hint = value.hint
    return again


def _lies_in_memory(value: Value) -> bool:
    return is_host(value) or (_in_order(value) and not is_free(_shown(value)))


def _in_order(value: Value) -> bool:
    """Whether a value's elements lie in memory one after the other, in its own order."""
    while is_view(value) or is_alias(value):
        if value.op.name in ("transpose", "broadcast_to", "narrow"):
            return False
        (value,) = value.inputs
    return True


def _shown(value: Value) -> Value:
    while is_view(value) or is_alias(value):
        (value,) = value.inputs
    return value
