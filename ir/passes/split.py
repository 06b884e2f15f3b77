"""A gradient graph cut in two: what the forward run computes and keeps, and what the backward run makes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.rewrite import copy_graph, copy_value, optimize
from ..core.types import dims_in, element_count, float32, own_name

SAVED = "saved."

MANY = 1024
"""What each `Dim` counts as where it is asked what takes fewer bytes: one is large beside most sizes that are known."""


@dataclass(frozen=True)
class Split:
    """`forward` has the graph's outputs and what else `backward` takes as inputs, named `saved.…`, beside the same
    leaves and the cotangents. `saved` says of each of these inputs which output of `forward` is fed for it."""

    forward: Graph
    backward: Graph
    saved: Mapping[str, str]


def split_gradient(joint: Graph, outputs: list[str], cotangents: list[str]) -> Split:
    """Cut `joint`, the result of `gradient_graph`: everything that depends on an input named in `cotangents` is
    backward.

    Kept are results of matrix products and of reductions, and statistics made of those alone (mean, rstd); all that is
    elementwise between them is computed again in the backward run. An output, which whoever asked for it holds anyway,
    is read where that takes no more bytes than computing it again: softmax and tanh are. A buffer that the forward run
    overwrites is kept as it was.
    """
    late = {joint[name] for name in cotangents}
    for value in joint.values:
        if any(a in late for a in value.inputs):
            late.add(value)
    gradients = {name: v for name, v in joint.outputs.items() if name not in outputs}
    overwritten = {joint[name] for name in joint.updates}
    needed = [a for v in late for a in v.inputs if a not in late] + [g for g in gradients.values() if g not in late]
    statistics = _statistics(joint)
    # Statistics of 16-bit values are kept in float32, as they are inside one kernel.
    wide = {v for v in statistics if v.dtype.itemsize == 2}
    held = {v: n for n, v in joint.outputs.items() if n in outputs and not v.is_leaf and v not in wide}
    kept, recomputed = _kept(joint, needed, overwritten, held)
    forward, new = copy_graph(joint, values=[v for v in joint.values if v not in late])
    forward.outputs = {name: new[joint.outputs[name]] for name in outputs}
    shown = {_base(joint.outputs[name]) for name in outputs}
    saved: dict[str, str] = {}
    given = joint.given_names | {*joint.outputs}
    backward = Graph(joint.name, level="primitive")
    known: dict[Value, Value] = {}
    for value in joint.values:
        if value in kept:
            name = own_name(f"{SAVED}{value.name}", given)
            out = new[value]
            if value in held:
                saved[name] = held[value]
            else:
                if value in wide:
                    forward.scope = out.scope
                    out = forward.call("cast", out, dtype=float32)
                forward.outputs[name] = out
                saved[name] = name
            fed = backward.append("input", (), {}, out.shape, out.dtype, name)
            backward.scope = value.scope
            known[value] = fed if fed.dtype is value.dtype else backward.call("cast", fed, dtype=value.dtype)
            known[value].hint = value.hint
        elif value not in overwritten and (value in late or value in recomputed or value.is_leaf):
            known[value] = copied = copy_value(
                backward, value, tuple(None if a is None else known[a] for a in value.args)
            )
            if value in shown and not value.is_leaf:
                # Whoever reads an output reads what memory holds of it.
                copied.hint = None
                known[value] = P.narrowed(copied)
                known[value].hint = value.hint
    backward.outputs = {name: known[v] for name, v in gradients.items()}
    return Split(optimize(forward), optimize(backward), saved)


def _base(value: Value) -> Value:
    """What has the elements that a view shows, all of them."""
    while value.op.name in ("reshape", "transpose", "broadcast_to"):
        (value,) = value.inputs
    return value


def _kept(
    joint: Graph, needed: Collection[Value], overwritten: set[Value], held: Collection[Value]
) -> tuple[set[Value], set[Value]]:
    """The values to keep, `held` ones among them, and those to compute again from what is kept and from leaves."""
    chosen: set[Value] = set()
    kept, recomputed = _frontier(joint, needed, overwritten, chosen)
    for value in held:
        if value in recomputed or value in kept:
            others = _frontier(joint, needed, overwritten, chosen | {value})
            if _bytes_read(needed, *others) <= _bytes_read(needed, kept, recomputed):
                chosen.add(value)
                kept, recomputed = others
    return kept, recomputed


def _frontier(
    joint: Graph, needed: Collection[Value], overwritten: set[Value], chosen: set[Value]
) -> tuple[set[Value], set[Value]]:
    """The values to keep where those `chosen` are, and those to compute again from them."""
    kept: set[Value] = set()
    recomputed: set[Value] = set()
    statistics = _statistics(joint)
    todo = [*needed]
    while todo:
        value = todo.pop()
        if (value.is_leaf and value not in overwritten) or value in kept or value in recomputed:
            continue
        is_costly = value.op.kind in ("contraction", "reduction") or value in statistics
        if value in overwritten or value in chosen or is_costly:
            kept.add(value)
        else:
            recomputed.add(value)
            todo += value.inputs
    return kept, recomputed


def _bytes_read(needed: Collection[Value], kept: set[Value], recomputed: set[Value]) -> int:
    """The bytes of what is kept, and of the leaves that are read as they are or to compute the rest again."""
    read = kept | {a for a in needed if a.is_leaf} | {a for v in recomputed for a in v.inputs if a.is_leaf}
    return sum(element_count(v.shape, {d.name: MANY for d in dims_in(v.shape)}) * v.dtype.itemsize for v in read)


def _statistics(graph: Graph) -> set[Value]:
    """The values that are a reduction's result, or made elementwise of such results of their own shape."""
    found: set[Value] = set()
    for value in graph.values:
        is_local = value.op.kind in ("elementwise", "cast") or value.op.name == "reshape"
        if value.op.kind == "reduction" or (
            is_local and any(a in found and _count(a) == _count(value) for a in value.inputs)
        ):
            found.add(value)
    return found


def _count(value: Value) -> tuple[object, ...]:
    return tuple(s for s in value.shape if s != 1)
