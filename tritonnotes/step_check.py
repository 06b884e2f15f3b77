"""What one update of a compiled step leaves, beside eager PyTorch's and float64's: its own programs are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .ir.core.optimizer import Optimizer, in_group
from .ir.passes.joint import slot_name
from .judge.executor import eager, eager_updates, oracle, oracle_updates
from .judge.tolerance import Comparison, compare
from .judge.update_references import reference_step
from .tensors.seeds import step_seed
from .training.step import TrainingStep

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class _Judged:
    """What a judge makes of the batches of an update: the last outputs, the buffers, and the gradients."""

    outputs: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


def compared_step(step: TrainingStep, feeds: Mapping[str, Tensor]) -> list[tuple[str, str, Comparison]]:
    """Run the batches of one update on a copy of `step`, with its plans, chunks and budgets, and compare its outputs,
    its buffers, and (unless a scaler may skip the update) its parameters and their state, from where it stands now."""
    made = deepcopy(step)
    made.load_state_dict({**made.state_dict(), "gathered": 0})
    state = made.state_dict()
    judges = [_judged(step, feeds, state, eager, eager_updates, exact=False)]
    judges += [_judged(step, feeds, state, oracle, oracle_updates, exact=True)]
    for _ in range(step.accumulate):
        outputs = made(**feeds)
    after = made.state_dict()
    rows = [("output", n, compare(t, *(j.outputs[n] for j in judges))) for n, t in outputs.items()]
    rows += [("buffer", n, compare(after["model"][n], *(j.buffers[n] for j in judges))) for n in judges[0].buffers]
    if step.scaler is None:
        for name in judges[0].gradients:
            rows += _updates(step, name, state, after, judges)
    return rows


def _judged(
    step: TrainingStep,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Any],
    run: Callable[..., Tensors],
    updates: Callable[..., Tensors],
    *,
    exact: bool,
) -> _Judged:
    graph, batches = step.graph, step.accumulate
    fed, held = (
        {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in tensors.items()}
        for tensors in (feeds, state["model"])
    )
    trained = [v.name for v in graph.parameters if step.model.get_parameter(v.name).requires_grad]
    totals: Tensors = {}
    outputs: Tensors = {}
    for batch in range(batches):
        seed = step_seed(state["seed"], state["steps"] * batches + batch)
        held = {n: t.detach().requires_grad_(n in trained) for n, t in held.items()}
        outputs = run(graph, fed, held, training=True, seed=seed)
        wanted = [held[n] for n in trained]
        found = torch.autograd.grad(outputs[step.loss] / batches, wanted, allow_unused=True)
        for name, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                totals[name] = totals[name] + gradient if name in totals else gradient
        held |= updates(graph, fed, held, seed=seed)
    return _Judged({n: t.detach() for n, t in outputs.items()}, {n: held[n] for n in graph.updates}, totals)


def _updates(
    step: TrainingStep, name: str, before: Mapping[str, Any], after: Mapping[str, Any], judges: list[_Judged]
) -> list[tuple[str, str, Comparison]]:
    """A parameter and its state. Where a rule makes much of the rounding of a gradient, as Adam does near 0, so much is
    allowed as the gradient's own tolerance makes of it."""
    group = step.optimizer.group_of(name)
    variant = _as_it_is(step.optimizer.variants[group], step.hyperparameters if group == 0 else {})
    numbers = {n: before["numbers"][in_group(n, group)] for n in variant.numbers}
    eager_gradient, exact_gradient = (_clipped(judge.gradients, name, step.optimizer) for judge in judges)
    variant = replace(variant, clip={n: v for n, v in variant.clip.items() if n != "max_norm"})
    p = before["model"][name]
    given = step.graph.given_names
    held = {slot: slot_name(name, slot, given) for slot in variant.state}
    slots = {slot: before["slots"][full] for slot, full in held.items()}

    def updated(gradient: Tensor) -> Tensors:
        kept = {n: t.to(gradient.dtype) for n, t in slots.items()}
        new, state, _ = reference_step(variant, p.to(gradient.dtype), gradient, kept, before["steps"] + 1, numbers)
        return {name: new, **{held[n]: t for n, t in state.items()}}

    largest = exact_gradient.abs().max() if exact_gradient.numel() else torch.zeros(())
    tolerance = 2 * (eager_gradient.double() - exact_gradient).abs().max() if exact_gradient.numel() else largest
    # A gradient that cancels, such as that of a bias before batch norm, is rounded as the terms that it is made of are.
    beside = max(float(g.abs().max()) for g in judges[1].gradients.values() if g.numel())
    tolerance = tolerance + torch.finfo(p.dtype).eps * (4 * largest + beside)
    exact, eagerly = updated(exact_gradient), updated(eager_gradient)
    around = [updated(exact_gradient + sign * tolerance) for sign in (-1, 1)]
    fused = {name: after["model"][name], **{full: after["slots"][full] for full in held.values()}}
    rows = []
    for what, t in fused.items():
        slack = torch.stack([(a[what] - exact[what]).abs() for a in around]).amax(0)
        mine, theirs = (_within(x, exact[what], slack) for x in (t, eagerly[what]))
        rows.append(("update", what, compare(mine, theirs, exact[what])))
    return rows


def _within(result: Tensor, exact: Tensor, slack: Tensor) -> Tensor:
    """`result`, nearer to the exact one by what is allowed anyway."""
    error = result.double() - exact
    return (exact + error.sign() * (error.abs() - slack).clamp(min=0)).to(result.dtype)


def _clipped(gradients: Mapping[str, Tensor], name: str, optimizer: Optimizer) -> Tensor:
    if "max_norm" not in optimizer.clip:
        return gradients[name]
    norms = [torch.linalg.vector_norm(g.float() if g.dtype.itemsize < 4 else g) for g in gradients.values()]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return gradients[name] * (optimizer.clip["max_norm"] / (norm + 1e-6)).clamp(max=1.0).to(gradients[name].dtype)


def _as_it_is(optimizer: Optimizer, settings: Mapping[str, Any]) -> Optimizer:
    """The optimizer with the hyperparameters that a step has by now."""

    def part(made: Optimizer) -> Optimizer:
        now = {n: settings.get(n, v) for n, v in made.hyperparameters.items()}
        return replace(made, hyperparameters=now, clip={n: settings.get(n, v) for n, v in made.clip.items()})

    return replace(part(optimizer), then=tuple(map(part, optimizer.then)))
