"""The joint graph: forward, gradients and the optimizer's update as one graph of primitives."""

from __future__ import annotations

from collections.abc import Mapping

from .decompose import decompose
from .errors import DeclarationError
from .gradients import differentiate
from .graph import TOP, Graph, Scope, Value
from .local_names import capture_names
from .registry import Optimizer, UpdateRule
from .rewrite import optimize
from .types import DType, Shape, show_shape


def joint_graph(graph: Graph, loss: str, optimizer: Optimizer) -> Graph:
    """`graph` (declared) with the gradient of its output `loss` and the update of every parameter that it reaches.

    Optimizer state becomes slots named `<parameter>.<state>`, hyperparameters become host scalars named
    `<rule>.<name>`.
    """
    if loss not in graph.outputs:
        raise DeclarationError(
            f"compile_step: loss {loss!r} is no output of graph {graph.name!r}; it has {list(graph.outputs)}"
        )
    joint = decompose(graph)
    root = joint.outputs[loss]
    if root.shape != () or not root.dtype.is_float:
        raise DeclarationError(
            f"compile_step: loss {loss!r} is {root.dtype}{show_shape(root.shape)}; it must be one float, reduce "
            "it with "
            "reduction='mean' or tn.mean"
        )
    seed = joint.constant(1, root.dtype)
    gradients = differentiate(joint, {root: seed}, joint.parameters)
    if not gradients:
        raise DeclarationError(
            f"compile_step: no parameter of graph {graph.name!r} influences {loss!r}; nothing to train"
        )
    _append_updates(joint, gradients, optimizer)
    joint.scope = TOP
    return optimize(joint)


def gradient_graph(graph: Graph, wanted: list[str]) -> Graph:
    """`graph` (declared) with, for each float output, an input `d_<output>`, and outputs `d_<leaf>` for the leaves
    named.
    """
    joint = decompose(graph)
    cotangents: dict[Value, Value] = {}
    for name, out in list(joint.outputs.items()):
        if not out.dtype.is_float:
            continue
        cotangent = joint.append("input", (), {}, out.shape, out.dtype, cotangent_name(name))
        cotangents[out] = cotangents[out] + cotangent if out in cotangents else cotangent
    gradients = differentiate(joint, cotangents, [joint[name] for name in wanted])
    joint.scope = TOP
    for leaf, gradient in gradients.items():
        joint.outputs[cotangent_name(leaf.name)] = gradient
    return optimize(joint)


def cotangent_name(name: str) -> str:
    """What the gradient of a value is called."""
    return f"gradient.{name}"


def update_graph(optimizer: Optimizer, shape: Shape, dtype: DType) -> Graph:
    """One update alone: parameter `p`, input `g`, the rule's state as slots under its own names."""
    graph = Graph("update", level="primitive")
    p = graph.parameter("p", shape, dtype=dtype)
    g = graph.input("g", shape, dtype)
    slots = [graph.slot(s, shape, dtype, optimizer.rule.initial[s]) for s in optimizer.rule.state]
    _append_update(graph, optimizer.rule, p, g, slots, _hyperparameters(graph, optimizer))
    return optimize(graph)


def _append_updates(joint: Graph, gradients: Mapping[Value, Value], optimizer: Optimizer) -> None:
    rule = optimizer.rule
    hyper = _hyperparameters(joint, optimizer)
    for parameter, gradient in gradients.items():
        joint.scope = TOP
        slots = [
            joint.slot(f"{parameter.name}.{s}", parameter.shape, parameter.dtype, rule.initial[s]) for s in rule.state
        ]
        _append_update(joint, rule, parameter, gradient, slots, hyper)


def _hyperparameters(graph: Graph, optimizer: Optimizer) -> dict[str, object]:
    """Host scalars, but for bools and for a number left at a default of 0, which switches its term off."""
    hyper: dict[str, object] = {}
    for name, default in optimizer.rule.defaults.items():
        given = optimizer.hyperparameters.get(name)
        is_static = isinstance(given, bool) or (given == 0 and default == 0)
        hyper[name] = given if is_static else graph.host_scalar(f"{optimizer.rule.name}.{name}")
    return hyper


def _append_update(
    graph: Graph, rule: UpdateRule, parameter: Value, gradient: Value, slots: list[Value], hyper: Mapping[str, object]
) -> None:
    note = rule.note.formula if rule.note else next(iter((rule.formula.__doc__ or "").strip().splitlines()), "")
    graph.scope = Scope(parameter.name, rule.name, note, phase="update")
    with capture_names(graph, len(graph.values)):
        results = rule.formula(parameter, gradient, *slots, **hyper)
    if not isinstance(results, tuple) or len(results) != 1 + len(slots):
        count = len(results) if isinstance(results, tuple) else 1
        raise DeclarationError(
            f"update rule {rule.name}: returned {count} values for {1 + len(slots)}; return the new parameter, then "
            f"the new {', '.join(rule.state) or 'state (none)'}, as a tuple"
        )
    if results[0].hint is None:
        results[0].hint = "updated"
    for state, result in zip([parameter, *slots], results, strict=True):
        graph.update(state, result)
