"""Declared graph to graph of primitives: every op's formula runs and leaves its primitives, named as its author did."""

from __future__ import annotations

from ..core.apply import run_formula, scope_of
from ..core.graph import TOP, Graph, Value
from ..core.op import Op
from ..core.rewrite import copy_value


def decompose(graph: Graph) -> Graph:
    """The same inputs and outputs, in primitives. Ops with a hand-written gradient are remembered as regions."""
    made = Graph(graph.name, level="primitive")
    new: dict[Value, Value] = {}
    for value in graph.values:
        args = tuple(None if a is None else new[a] for a in value.args)
        if isinstance(value.op, Op):
            made.scope = scope_of(value)
            start = len(made.values)
            out = run_formula(made, value.op, args, value.attrs)
            # What the op returns bears the op's own name, unless the formula returned an argument.
            if out.index >= start:
                out.hint = value.name.replace(".", "_")
                out.scope = made.scope
            new[value] = out
        else:
            new[value] = copied = copy_value(made, value, args)
            if not value.is_leaf:
                copied.scope = scope_of(value)
                copied.hint = value.name.replace(".", "_")
    made.scope = TOP
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    return made
