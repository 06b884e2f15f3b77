"""The joint graph: forward, gradients and the optimizer's update as one graph of primitives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .. import primitives as P
from ..core.apply import pass_scope
from ..core.errors import DeclarationError
from ..core.graph import TOP, Graph, Value
from ..core.optimizer import Optimizer, in_group
from ..core.rewrite import copy_value, optimize
from ..core.types import own_name, show_shape
from ..optim.update import append_update, clip_norm, hyperparameters
from .decompose import decompose
from .gradients import differentiate
from .scaling import (
    SCOPE,
    GradScaler,
    append_next_scale,
    counted_on_device,
    scale_slot,
    scaler_slot,
    skip_where_found,
    unscaled,
)

GATHERED, FIRST, WORLD_SIZE = "grad", "gather.is_first", "parallel.world_size"
"""The slot in which a parameter's gradients are gathered, the number that is 1 for the first batch of them, and the
number of processes, where these names are free. No hyperparameter has a dot in its name."""


def slot_name(parameter: str, state: str, given: Collection[str]) -> str:
    """What the slot of a parameter's `state` is called: `<parameter>.<state>`, unless the user, who has `given` names,
    calls something else so, or gradients are gathered there."""
    return own_name(f"{parameter}.{state}{'_state' if state == GATHERED else ''}", given)


def gathered_name(parameter: str, given: Collection[str]) -> str:
    """What the slot of a parameter's gathered gradients is called."""
    return own_name(f"{parameter}.{GATHERED}", given)


def number_key(scalar: str, given: Collection[str]) -> str:
    """What the host knows a number by that a program calls `scalar`: the last part, but for the two that are ours."""
    ours = {own_name(name, given): name for name in (FIRST, WORLD_SIZE)}
    return ours.get(scalar, scalar.rpartition(".")[2])


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
    given = joint.given_names
    if batches > 1:
        gradients = {p: _gathered(joint, p, given) + g for p, g in gradients.items()}
    return _updated(joint, gradients, optimizer, scaler, given)


def gathering_graph(
    graph: Graph, loss: str, batches: int, scaler: GradScaler | None = None, frozen: Collection[str] = ()
) -> Graph:
    """`graph` (declared) with the gradients of one of `batches` that share an update, added to the slots
    `<parameter>.grad`, or left there by the first, for which the host scalar `gather.is_first` is 1."""
    joint, gradients = _trained(graph, loss, batches, scaler, frozen)
    given = joint.given_names
    first = joint.host_scalar(own_name(FIRST, given)) if batches > 1 else None
    for parameter, gradient in gradients.items():
        slot = _gathered(joint, parameter, given)
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
    made, given = Graph(gathering.name, level="primitive"), gathering.given_names
    if scaler is not None:
        scale_slot(made, scaler, given)
    parameters = [copy_value(made, v, ()) for v in trained_parameters(gathering)]
    world_size = made.host_scalar(own_name(WORLD_SIZE, given))
    gradients = {}
    for parameter in parameters:
        slot = _gathered(made, parameter, given)
        gradients[parameter] = mean = slot / world_size
        mean.hint = "mean_gradient"
    return _updated(made, gradients, optimizer, scaler, given, owned)


def trained_parameters(gathering: Graph) -> list[Value]:
    """The parameters whose gradients `gathering` gathers, in order."""
    given = gathering.given_names
    return [v for v in gathering.parameters if gathered_name(v.name, given) in gathering.updates]


def _updated(
    joint: Graph,
    gradients: Mapping[Value, Value],
    optimizer: Optimizer,
    scaler: GradScaler | None,
    given: Collection[str],
    owned: Collection[str] | None = None,
) -> Graph:
    if scaler is None:
        _append_updates(joint, gradients, optimizer, {}, given, owned)
    else:
        _append_scaled_updates(joint, gradients, optimizer, scaler, given, owned)
    joint.scope = TOP
    return optimize(joint)


def _trained(
    graph: Graph, loss: str, batches: int, scaler: GradScaler | None, frozen: Collection[str] = ()
) -> tuple[Graph, dict[Value, Value]]:
    """The forward run in primitives, and the gradients of a part of the loss, scaled, by parameter."""
    joint = decompose(graph)
    scale = None if scaler is None else scale_slot(joint, scaler, joint.given_names)
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


def _gathered(joint: Graph, parameter: Value, given: Collection[str]) -> Value:
    """The slot of a parameter's gradients."""
    joint.scope = pass_scope(parameter.name, "gather")
    return joint.slot(gathered_name(parameter.name, given), parameter.shape, parameter.dtype)


def loss_gradient_graph(graph: Graph, loss: str, wanted: list[str]) -> Graph:
    """`graph` (declared) with the gradients of its output `loss` for the leaves named. The loss is the root:
    what flows into it is 1, known while the forward run is made."""
    joint = decompose(graph)
    gradients = _loss_gradients(graph, joint, loss, [joint[name] for name in wanted])
    return _with_gradients(joint, gradients, _named_in(graph))


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
    """`graph` (declared) with, for each float output, an input that takes its gradient, and with the gradients of the
    leaves named as outputs. Both are called as `cotangent_names` says.
    """
    joint, given = decompose(graph), _named_in(graph)
    cotangents: dict[Value, Value] = {}
    for name, out in list(joint.outputs.items()):
        if not out.dtype.is_float:
            continue
        cotangent = joint.append("input", (), {}, out.shape, out.dtype, _cotangent(name, given))
        cotangents[out] = cotangents[out] + cotangent if out in cotangents else cotangent
    return _with_gradients(joint, differentiate(joint, cotangents, [joint[name] for name in wanted]), given)


def _with_gradients(joint: Graph, gradients: Mapping[Value, Value], given: Collection[str]) -> Graph:
    joint.scope = TOP
    for leaf, gradient in gradients.items():
        joint.outputs[_cotangent(leaf.name, given)] = gradient
    return optimize(joint)


def cotangent_names(graph: Graph, names: Iterable[str]) -> dict[str, str]:
    """What the gradients of outputs and leaves of `graph` (declared) are called, by the names of these."""
    given = _named_in(graph)
    return {name: _cotangent(name, given) for name in names}


def _named_in(graph: Graph) -> frozenset[str]:
    """The names of a declared graph that those of gradients give way to."""
    return graph.given_names | {*graph.outputs}


def _cotangent(name: str, given: Collection[str]) -> str:
    return own_name(f"gradient.{name}", given)


def _append_updates(
    joint: Graph,
    gradients: Mapping[Value, Value],
    optimizer: Optimizer,
    counted: Mapping[str, Any],
    given: Collection[str],
    owned: Collection[str] | None,
) -> dict[str, Value]:
    """Append every update, or those of the parameters `owned`. `counted` are numbers that the device knows. Returns the
    next of the rule's numbers."""
    hyper = {0: _group_numbers(joint, optimizer, 0, counted, given)}
    shared = {name: number for name, number in hyper[0].items() if name in ("step", *optimizer.clip)}
    for group in sorted({optimizer.group_of(p.name) for p in gradients} - {0}):
        hyper[group] = _group_numbers(joint, optimizer, group, {**counted, **shared}, given)
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
            name: joint.slot(slot_name(parameter.name, name, given), parameter.shape, parameter.dtype, first)
            for name, first in variant.state.items()
        }
        found = append_update(joint, variant, parameter, gradient, slots, hyper[group])
        numbers |= {in_group(name, group): number for name, number in found.items()}
    return numbers


def _group_numbers(
    joint: Graph, optimizer: Optimizer, group: int, counted: Mapping[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """What the formula of a variant is given: numbers of the host, and those that the device has `counted`."""
    variant = optimizer.variants[group]
    names = {name: in_group(name, group) for name in variant.numbers}
    names |= {name: name for name in ("step", *variant.clip)}
    known = {name: counted[held] for name, held in names.items() if held in counted}
    return {**hyperparameters(joint, variant, known, group, given), **known}


def _append_scaled_updates(
    joint: Graph,
    gradients: Mapping[Value, Value],
    optimizer: Optimizer,
    scaler: GradScaler,
    given: Collection[str],
    owned: Collection[str] | None,
) -> None:
    scale = joint[scaler_slot("scale", given)]
    unscaled_gradients, found_inf = unscaled(joint, gradients, scale)
    before = set(joint.updates)
    counted = counted_on_device(joint, optimizer, given)
    joint.scope = SCOPE
    step = counted["step"] + 1
    step.hint = "step"
    numbers = _append_updates(joint, unscaled_gradients, optimizer, {**counted, "step": step}, given, owned)
    for name, number in {"step": step, **numbers}.items():
        joint.update(counted[name], number)
    skip_where_found(joint, [n for n in joint.updates if n not in before], found_inf)
    append_next_scale(joint, scaler, scale, found_inf, given)
