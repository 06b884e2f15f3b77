"""Graphs in pickles, and copies, made by way of what a pickle holds: each value as it is, with all that passes gave it."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, TypeVar

from ..core.graph import Graph, Region, Scope, Value, bind

GraphT = TypeVar("GraphT", bound=Graph)


def _copied(graph: GraphT, memo: object = None) -> GraphT:
    """The same graph with values of its own. Ops are shared: they are what they are."""
    make, held = _reduced(graph)
    made: GraphT = make(*held)
    return made


def _reduced(graph: Graph) -> Any:
    # Not as text or JSON, which hold what users may say: passes of the compiler add more.
    def call(of: Value | Region) -> tuple[Any, ...]:
        return of.op, tuple(None if a is None else a.index for a in of.args), dict(of.attrs)

    values = [(*call(v), v.shape, v.dtype, v.scope, v._name, v.hint) for v in graph.values]
    regions = [(*call(r), r.out.index, r.scope) for r in graph.regions]
    outputs, updates = ({name: v.index for name, v in named.items()} for named in (graph.outputs, graph.updates))
    held = (values, regions, outputs, updates, graph.scope, dict(graph._counters), dict(graph.first))
    return _graph_of, (type(graph), graph.name, graph.level, *held)


def _graph_of(
    kind: type[Graph],
    name: str,
    level: str,
    values: list[Any],
    regions: list[Any],
    outputs: dict[str, int],
    updates: dict[str, int],
    inside: Scope,
    counters: dict[str, int],
    first: dict[str, Any],
) -> Graph:
    made = kind(name, level=level)

    def args_of(places: Iterable[int | None]) -> tuple[Value | None, ...]:
        return tuple(None if i is None else made.values[i] for i in places)

    for op, args, attrs, shape, dtype, scope, known_as, hint in values:
        made.scope = scope
        made.append(op, args_of(args), MappingProxyType(attrs), shape, dtype, known_as).hint = hint
    made.scope = inside
    for op, args, attrs, out, scope in regions:
        made.regions.append(Region(op, args_of(args), MappingProxyType(attrs), made.values[out], scope))
    made.outputs = {said: made.values[i] for said, i in outputs.items()}
    made.updates = {said: made.values[i] for said, i in updates.items()}
    made._counters, made.first = counters, first
    return made


bind(Graph, __copy__=_copied, __deepcopy__=_copied, __reduce__=_reduced)
