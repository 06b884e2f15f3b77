"""Declared graph to graph of primitives: every op's formula runs and leaves its primitives, named as its author did."""

from __future__ import annotations

from .. import primitives as P
from ..core.apply import run_formula, scope_of
from ..core.graph import TOP, Graph, Value
from ..core.numbers import is_exact, rounded
from ..core.op import Op
from ..core.rewrite import copy_value
from ..core.types import bool_
from .merge_rows import merge_rows


def decompose(graph: Graph) -> Graph:
    """The same inputs and outputs, in primitives. Ops with a hand-written gradient are remembered as regions."""
    graph = merge_rows(graph)
    made = Graph(graph.name, level="primitive")
    new: dict[Value, Value] = {}
    for value in graph.values:
        args = tuple(None if a is None else _operand(made, value, new[a]) for a in value.args)
        if isinstance(value.op, Op):
            made.scope = scope_of(value)
            start = len(made.values)
            out = run_formula(made, value.op, args, value.attrs)
            # What the op returns bears the op's own name, unless the formula returned an argument.
            if out.index >= start:
                out.hint = value.name.replace(".", "_")
                out.scope = made.scope
            new[value] = out
        elif _is_rounding(value):
            made.scope = scope_of(value)
            new[value] = nearest = made.call("round_to", *args, dtype=value.dtype)
            nearest.hint = value.name.replace(".", "_")
        else:
            new[value] = copied = copy_value(made, value, args)
            if not value.is_leaf:
                copied.scope = scope_of(value)
                copied.hint = value.name.replace(".", "_")
    made.scope = TOP
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    return made


def _operand(made: Graph, reader: Value, arg: Value) -> Value:
    """An argument as its reader takes it: a number beside a tensor, as in x · 0.1, is as exact as it was written; what
    is compared with 16 bits, or becomes a tensor of them, is the nearest number that there is, as in torch."""
    number = arg.attrs["value"] if arg.op.name == "constant" and arg.dtype.is_float else 0.0
    keeps = reader.op.kind in ("elementwise", "cast") and not P.is_comparison(reader.op.name)
    if keeps or arg.dtype.itemsize != 2 or is_exact(number, arg.dtype):
        return arg
    return made.constant(float(rounded(number, arg.dtype)), arg.dtype)


def _is_rounding(value: Value) -> bool:
    """Whether a value is a cast that an author or autocast declared: it rounds. Casts in formulas keep what float32
    has."""
    return value.op.name == "cast" and value.dtype.is_float and value.inputs[0].dtype is not bool_
