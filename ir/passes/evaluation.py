"""The evaluation form of a declared graph: what it computes once training is over."""

from __future__ import annotations

from ..core.graph import Graph, Value, is_seed
from ..core.rewrite import copy_value

TRAINING = "training"
"""The attribute of an op that does another thing in training: declared True, False in the evaluation form."""


def evaluation_form(graph: Graph) -> Graph:
    """`graph` (declared) with every op's `training` attribute False, without updates, and without what only they need.

    Leaves stay, used or not: they are the graph's interface, and what a state dict holds; but for the seed, since
    nothing is random in evaluation. A graph that is the same in
    training and in evaluation is returned as it is.
    """
    if not graph.updates and not any(v.attrs.get(TRAINING) is True for v in graph.values):
        return graph
    needed = {*graph.outputs.values()}
    for value in reversed(graph.values):
        if value in needed:
            needed.update(value.inputs)
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    for value in graph.values:
        if (value in needed or value.is_leaf) and not is_seed(value):
            attrs = {**value.attrs, TRAINING: False} if value.attrs.get(TRAINING) is True else value.attrs
            args = tuple(None if a is None or is_seed(a) else new[a] for a in value.args)
            new[value] = copy_value(made, value, args, attrs)
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    return made
