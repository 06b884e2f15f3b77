"""The joint graph: forward, gradients and the optimizer's update as one graph of primitives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import TOP, Graph, Scope, Value
from ..core.optimizer import Optimizer, in_group
from ..core.rewrite import copy_value, optimize
from ..core.types import show_shape
from ..optim.update import append_update, clip_norm, hyperparameters
from .decompose import decompose
from .gradients import differentiate
from .scaling import SCOPE, GradScaler, append_next_scale, counted_on_device, scale_slot, skip_where_found, unscaled

GATHERED, FIRST, WORLD_SIZE = "grad", "gather.is_first", "parallel.world_size"
"""The slot in which a parameter's gradients are gathered, the number that is 1 for the first batch of them, and the
number of processes. No hyperparameter has a dot in its name."""


def joint_graph(
    graph: Graph,
    loss: str,
    optimizer: Optimizer,
    batches: int = 1,
    scaler: GradScaler | None = None,
    frozen: Collection[str] = (),
) -> Graph:
    """`graph` (declared) with the gradient of its output `loss` and the update of every parameter that it reaches, but
    for those that are `frozen`: they have neither gradient nor state.

    Optimizer state becomes slots named `<parameter>.<state>`, hyperparameters become host scalars named
    `<rule>.<name>`. With `batches` above 1 it is the last of so many batches that share an update: each counts for one
    part of the loss, and what the others left in the slots `<parameter>.grad` (see `gathering_graph`) is added.

    With a `scaler` the loss is multiplied by the slot `scaler.scale`, and where a gradient is not finite nothing is
    updated but that; the number of updates is then the slot `scaler.step`, since the host does not know it.
    """
    joint, gradients = _trained(graph, loss, batches, scaler, frozen)
    if batches > 1:
        gradients = {p: _gathered(joint, p) + g for p, g in gradients.items()}
    return _updated(joint, gradients, optimizer, scaler)


def gathering_graph(
    graph: Graph, loss: str, batches: int, scaler: GradScaler | None = None, frozen: Collection[str] = ()
) -> Graph:
    """`graph` (declared) with the gradients of one of `batches` that share an update, added to the slots
    `<parameter>.grad`, or left there by the first, for which the host scalar `gather.is_first` is 1."""
    joint, gradients = _trained(graph, loss, batches, scaler, frozen)
    first = joint.host_scalar(FIRST) if batches > 1 else None
    for parameter, gradient in gradients.items():
        slot = _gathered(joint, parameter)
        joint.update(slot, gradient if first is None else P.where(first == 1, gradient, slot + gradient))
    joint.scope = TOP
    return optimize(joint)


def apart_graph(
    gathering: Graph,
    optimizer: Optimizer,
    scaler: GradScaler | None = None,
    owned: Collection[str] | None = None,
) -> Graph:
    """The update alone, of gradients that several processes have added up in the slots of `gathering`: they are divided
    by the host scalar `parallel.world_size`. Where `owned` names parameters only these are updated, but all gradients
    count for the norm and for an overflow."""
    made = Graph(gathering.name, level="primitive")
    if scaler is not None:
        scale_slot(made, scaler)
    parameters = [copy_value(made, v, ()) for v in trained_parameters(gathering)]
    world_size = made.host_scalar(WORLD_SIZE)
    gradients = {}
    for parameter in parameters:
        slot = _gathered(made, parameter)
        gradients[parameter] = mean = slot / world_size
        mean.hint = "mean_gradient"
    return _updated(made, gradients, optimizer, scaler, owned)


def trained_parameters(gathering: Graph) -> list[Value]:
    """The parameters whose gradients `gathering` gathers, in order."""
    return [v for v in gathering.parameters if f"{v.name}.{GATHERED}" in gathering.updates]


def _updated(
    joint: Graph,
    gradients: Mapping[Value, Value],
    optimizer: Optimizer,
    scaler: GradScaler | None,
    owned: Collection[str] | None = None,
) -> Graph:
    if scaler is None:
        _append_updates(joint, gradients, optimizer, {}, owned)
    else:
        _append_scaled_updates(joint, gradients, optimizer, scaler, owned)
    joint.scope = TOP
    return optimize(joint)


def _trained(
    graph: Graph, loss: str, batches: int, scaler: GradScaler | None, frozen: Collection[str] = ()
) -> tuple[Graph, dict[Value, Value]]:
    """The forward run in primitives, and the gradients of a part of the loss, scaled, by parameter."""
    joint = decompose(graph)
    scale = None if scaler is None else scale_slot(joint, scaler)
    wanted = [p for p in joint.parameters if p.name not in frozen]
    gradients = _loss_gradients(graph, joint, loss, wanted, batches, scale)
    if not gradients and frozen:
        raise DeclarationError(
            f"step of {graph.name!r}: every parameter that influences {loss!r} is frozen; call requires_grad_() on one"
        )
    if not gradients:
        raise DeclarationError(
            f"compile_step: no parameter of graph {graph.name!r} influences {loss!r}; nothing to train"
        )
    return joint, gradients


def _gathered(joint: Graph, parameter: Value) -> Value:
    """The slot of a parameter's gradients."""
    joint.scope = Scope(parameter.name, "gather", f"{GATHERED} ← {GATHERED} + gradient", phase="update")
    return joint.slot(f"{parameter.name}.{GATHERED}", parameter.shape, parameter.dtype)


def loss_gradient_graph(graph: Graph, loss: str, wanted: list[str]) -> Graph:
    """`graph` (declared) with outputs `d_<leaf>`, the gradients of its output `loss`, for the leaves named. The loss is
    the root: what flows into it is 1, known while the forward run is made."""
    joint = decompose(graph)
    gradients = _loss_gradients(graph, joint, loss, [joint[name] for name in wanted])
    return _with_gradients(joint, gradients)


def _loss_gradients(
    graph: Graph, joint: Graph, loss: str, wanted: list[Value], batches: int = 1, scale: Value | None = None
) -> dict[Value, Value]:
    if loss not in graph.outputs:
        raise DeclarationError(f"loss {loss!r} is no output of graph {graph.name!r}; it has {list(graph.outputs)}")
    root = joint.outputs[loss]
    if root.shape != () or not root.dtype.is_float:
        raise DeclarationError(
            f"loss {loss!r} of graph {graph.name!r} is {root.dtype}{show_shape(root.shape)}; it must be one float, "
            "reduce it with reduction='mean' or tn.mean"
        )
    part = joint.constant(1 / batches, root.dtype)
    return differentiate(joint, {root: part if scale is None else P.cast(scale, root.dtype) * part}, wanted)


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
    return _with_gradients(joint, differentiate(joint, cotangents, [joint[name] for name in wanted]))


def _with_gradients(joint: Graph, gradients: Mapping[Value, Value]) -> Graph:
    joint.scope = TOP
    for leaf, gradient in gradients.items():
        joint.outputs[cotangent_name(leaf.name)] = gradient
    return optimize(joint)


def cotangent_name(name: str) -> str:
    """What the gradient of a value is called."""
    return f"gradient.{name}"


def _append_updates(
    joint: Graph,
    gradients: Mapping[Value, Value],
    optimizer: Optimizer,
    counted: Mapping[str, Any],
    owned: Collection[str] | None,
) -> dict[str, Value]:
    """Append every update, or those of the parameters `owned`. `counted` are numbers that the device knows. Returns the
    next of the rule's numbers."""
    hyper = {0: _group_numbers(joint, optimizer, 0, counted)}
    shared = {name: number for name, number in hyper[0].items() if name in ("step", *optimizer.clip)}
    for group in sorted({optimizer.group_of(p.name) for p in gradients} - {0}):
        hyper[group] = _group_numbers(joint, optimizer, group, {**counted, **shared})
    if "max_norm" in optimizer.clip:
        gradients = clip_norm(joint, gradients, hyper[0])
    numbers: dict[str, Value] = {}
    for parameter, gradient in gradients.items():
        if owned is not None and parameter.name not in owned:
            continue
        joint.scope = TOP
        group = optimizer.group_of(parameter.name)
        variant = optimizer.variants[group]
        slots = {
            name: joint.slot(f"{parameter.name}.{name}", parameter.shape, parameter.dtype, first)
            for name, first in variant.state.items()
        }
        found = append_update(joint, variant, parameter, gradient, slots, hyper[group])
        numbers |= {in_group(name, group): number for name, number in found.items()}
    return numbers


def _group_numbers(joint: Graph, optimizer: Optimizer, group: int, counted: Mapping[str, Any]) -> dict[str, Any]:
    """What the formula of a variant is given: numbers of the host, and those that the device has `counted`."""
    variant = optimizer.variants[group]
    names = {name: in_group(name, group) for name in variant.numbers}
    names |= {name: name for name in ("step", *variant.clip)}
    known = {name: counted[held] for name, held in names.items() if held in counted}
    return {**hyperparameters(joint, variant, known, group), **known}


def _append_scaled_updates(
    joint: Graph,
    gradients: Mapping[Value, Value],
    optimizer: Optimizer,
    scaler: GradScaler,
    owned: Collection[str] | None,
) -> None:
    scale = joint["scaler.scale"]
    unscaled_gradients, found_inf = unscaled(joint, gradients, scale)
    before = set(joint.updates)
    counted = counted_on_device(joint, optimizer)
    joint.scope = SCOPE
    step = counted["step"] + 1
    step.hint = "step"
    numbers = _append_updates(joint, unscaled_gradients, optimizer, {**counted, "step": step}, owned)
    for name, number in {"step": step, **numbers}.items():
        joint.update(counted[name], number)
    skip_where_found(joint, [n for n in joint.updates if n not in before], found_inf)
    append_next_scale(joint, scaler, scale, found_inf)
