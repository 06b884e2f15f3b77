"""A gradient graph cut in two: what the forward run computes and keeps, and what the backward run makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.rewrite import copy_graph, copy_value, optimize
from ..core.types import dims_in, element_count, float32, own_name

SAVED = "saved."

SAVED_BY_TORCH = frozenset({"softmax", "softmin", "log_softmax", "tanh", "sigmoid", "exp", "sqrt", "rsqrt"})
"""Ops whose results torch's autograd keeps for their gradients. Other results may be written over before backward runs,
and are not kept in the place of what they are made of; but operands of products, which torch keeps as well, may be."""

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
    elementwise between them is computed again in the backward run. Where a bias is all that is done to a product, and
    both runs multiply the sum, the sum is kept in place of the product: the forward run has it in memory anyway. An
    output of an op in `SAVED_BY_TORCH` is in memory anyway; it is read where that takes no more bytes than computing it
    again. A buffer that the forward run overwrites is kept as it was.
    """
    late = {joint[name] for name in cotangents}
    for value in joint.values:
        if any(a in late for a in value.inputs):
            late.add(value)
    gradients = {name: v for name, v in joint.outputs.items() if name not in outputs}
    overwritten = {joint[name] for name in joint.updates}
    needed = [a for v in late for a in v.inputs if a not in late] + [g for g in gradients.values() if g not in late]
    statistics = _statistics(joint)
    whole = statistics | _sums_in_memory(joint, late)
    kept, recomputed = _frontier(needed, overwritten, whole)
    found = {joint.outputs[name]: name for name in outputs}
    held = {v: n for v, n in found.items() if v in recomputed and v.scope.op in SAVED_BY_TORCH}
    kept, recomputed = _with_outputs(held, needed, kept, recomputed)
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
                # Statistics of 16-bit values are kept in float32, as they are inside one kernel.
                if value in statistics and value.dtype.itemsize == 2:
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


def _frontier(needed: Collection[Value], overwritten: set[Value], whole: set[Value]) -> tuple[set[Value], set[Value]]:
    """The values to keep, and those to compute again from them; of what is `whole`, nothing is."""
    kept: set[Value] = set()
    recomputed: set[Value] = set()
    todo = [*needed]
    while todo:
        value = todo.pop()
        if (value.is_leaf and value not in overwritten) or value in kept or value in recomputed:
            continue
        if value in overwritten or value.op.kind in ("contraction", "reduction") or value in whole:
            kept.add(value)
        else:
            recomputed.add(value)
            todo += value.inputs
    return kept, recomputed


def _with_outputs(
    held: Collection[Value], needed: Collection[Value], kept: set[Value], recomputed: set[Value]
) -> tuple[set[Value], set[Value]]:
    """The same with those of the values `held` kept that take no more bytes than what need not be read then."""
    kept, recomputed = set(kept), set(recomputed)
    uses = Counter([*needed, *(a for v in recomputed for a in v.inputs)])
    for value in held:
        if value not in recomputed:
            continue
        left: Counter[Value] = Counter()
        freed, todo = [], [value]
        while todo:
            for a in todo.pop().inputs:
                left[a] += 1
                if left[a] == uses[a]:
                    freed.append(a)
                    todo += [a] if a in recomputed else []
        if _bytes([value]) <= _bytes(a for a in freed if a not in recomputed):
            uses -= left
            kept = kept.difference(freed) | {value}
            recomputed = recomputed.difference(freed, [value])
    return kept, recomputed


def _bytes(values: Iterable[Value]) -> int:
    return sum(element_count(v.shape, {d.name: MANY for d in dims_in(v.shape)}) * v.dtype.itemsize for v in values)


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


def _sums_in_memory(graph: Graph, late: Collection[Value]) -> set[Value]:
    """The sums of a product, which nothing else reads, and a bias of one axis, that both runs multiply: torch too keeps
    them."""
    uses = Counter([*graph.outputs.values(), *(a for v in graph.values for a in v.inputs)])
    products = [v for v in graph.values if v.op.kind == "contraction"]
    early, backward = (
        {_base(a) for v in products if (v in late) is is_late for a in v.inputs} for is_late in (False, True)
    )
    return {v for v in early & backward if _adds_bias(v, uses)}


def _adds_bias(value: Value, uses: Mapping[Value, int]) -> bool:
    """Whether a value is a product of one use, with a leaf of one axis added."""
    if value.op.name != "add":
        return False
    return any(
        product.op.kind == "contraction"
        and product.shape == value.shape
        and uses[product] == 1
        and bias.is_leaf
        and bias.shape == value.shape[-1:]
        for product, bias in (value.inputs, value.inputs[::-1])
    )


def _count(value: Value) -> tuple[object, ...]:
    return tuple(s for s in value.shape if s != 1)
