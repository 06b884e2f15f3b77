"""What two graphs have in common: whether they say the same."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph, Value
from .numbers import Attrs
from .registry import Operator


def same_graph(a: Graph, b: Graph) -> bool:
    """Whether two graphs say the same: names, ops, arguments, attributes to the bit, shapes, dtypes, scopes, roots."""
    return facts(a) == facts(b)


def facts(graph: Graph) -> tuple[object, ...]:
    """All that a graph says, as plain values: equal for two graphs that say the same."""

    def call(op: Operator, args: Sequence[Value | None], attrs: Attrs) -> tuple[object, ...]:
        shown = tuple((name, attr_key(attr)) for name, attr in sorted(attrs.items()))
        return op.name, tuple(None if a is None else a.name for a in args), shown

    values = tuple((v.name, call(v.op, v.args, v.attrs), v.shape, v.dtype, v.scope) for v in graph.values)
    regions = tuple((r.out.name, call(r.op, r.args, r.attrs), r.scope) for r in graph.regions)
    roots = tuple(tuple((n, v.name) for n, v in named.items()) for named in (graph.outputs, graph.updates))
    return graph.name, graph.level, values, regions, roots


def attr_key(attr: object) -> object:
    """Equal for two attributes that are the same to the bit."""
    return facts(attr) if isinstance(attr, Graph) else repr(attr)
