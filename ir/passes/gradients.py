"""Reverse-mode differentiation of a graph of primitives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import Graph, Region, Scope, Value
from ..core.local_names import capture_names
from ..core.op import Op
from ..core.registry import Primitive
from ..core.types import broadcast

STEPS = ("sign", "floor")
"""The primitives of floats whose derivative is 0 wherever they have one."""


def differentiate(graph: Graph, cotangents: Mapping[Value, Value], wrt: Iterable[Value]) -> dict[Value, Value]:
    """Append to `graph` the gradients of Σ output · cotangent with respect to `wrt`, and return them by value.

    `cotangents` maps outputs to values of their shape. Where an op has a gradient of its own, that is used in place of
    the derivatives of its primitives. A value that no gradient reaches is left out of the result; one that is reached
    through steps alone (`sign`, `floor`) has zeros, as in torch.
    """
    # Later regions are outer ones where an op ends in another op: the outermost gradient is the author's word.
    regions: dict[Value, Region] = {r.out: r for r in graph.regions}
    wanted = list(wrt)
    on_path = _depends_on(graph, wanted)
    pending: dict[Value, list[Value]] = {}
    for out, d in cotangents.items():
        pending.setdefault(out, []).append(d)
    result: dict[Value, Value] = {}
    behind_steps: set[Value] = set()
    forward = list(graph.values)
    for value in reversed(forward):
        if value not in on_path or value not in pending:
            continue
        graph.scope = _backward(value.scope)
        d = _total(pending.pop(value))
        if d.hint is None and not d.is_leaf and (value.hint or value.is_leaf):
            d.hint = f"d_{_plain(value)}"
            if not value.is_leaf:
                d.scope = graph.scope
        result[value] = d
        if value.is_leaf:
            continue
        region = regions.get(value)
        if value.op.name in STEPS:
            behind_steps.update(value.inputs)
        for arg, contribution in _contributions(graph, value, region, d):
            if contribution is not None and arg in on_path:
                pending.setdefault(arg, []).append(P.sum_to(_expanded(contribution, arg), arg.shape))
    if behind_steps:
        for value in reversed(forward):
            if value in behind_steps:
                behind_steps.update(a for a in value.inputs if a.dtype.is_float and a in on_path)
        zeros = {v: P.broadcast_to(graph.constant(0.0, v.dtype), v.shape) for v in wanted if v in behind_steps}
        result = {**zeros, **result}
    return {value: result[value] for value in wanted if value in result}


def _contributions(graph: Graph, value: Value, region: Region | None, d: Value) -> list[tuple[Value, Value | None]]:
    if region is None:
        assert isinstance(value.op, Primitive)
        found = value.op.vjp(d, value, *value.args, **value.attrs)
        return [(a, c) for a, c in zip(value.args, found, strict=True) if a is not None]
    graph.scope = _backward(region.scope)
    assert isinstance(region.op, Op) and region.op.derive is not None
    derive = region.op.derive
    with capture_names(graph, len(graph.values)):
        found = derive(d, value, *region.args, **region.attrs)
    if len(found) != len(region.args):
        raise DeclarationError(
            f"{region.op.name}: its gradient returned {len(found)} cotangents for {len(region.args)} arguments; "
            "return one each, None where there is none"
        )
    # A formula may mix dtypes, as a bfloat16 row and a float32 weight; each cotangent has its argument's.
    pairs = [(a, c) for a, c in zip(region.args, found, strict=True) if a is not None]
    return [(a, c if c is None else P.cast(c, a.dtype)) for a, c in pairs]


def _expanded(contribution: Value, arg: Value) -> Value:
    """A derivative may leave out axes that it would only repeat; the cotangent has at least the argument's shape."""
    if contribution.shape == arg.shape:
        return contribution  # without asking for the argument's name, which a growing graph has to derive anew
    shape = broadcast([contribution.shape, arg.shape], f"gradient of {arg.name}")
    return P.broadcast_to(contribution, shape)


def _total(parts: list[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _depends_on(graph: Graph, sources: list[Value]) -> set[Value]:
    reached = set(sources)
    for value in graph.values:
        if any(a in reached for a in value.inputs):
            reached.add(value)
    return reached


def _backward(scope: Scope) -> Scope:
    return Scope(scope.name, scope.op, scope.formula, scope.derivative, "backward")


def _plain(value: Value) -> str:
    return (value.hint or value.name).replace(".", "_")
