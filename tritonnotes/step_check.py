"""What one update of a compiled step leaves, beside eager PyTorch's and float64's: its own programs are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .ir.core.optimizer import Optimizer, in_group
from .ir.passes.joint import slot_name
from .ir.passes.scaling import scaler_slot
from .judge.executor import eager, eager_updates, oracle, oracle_updates
from .judge.tolerance import Comparison, compare
from .judge.update_references import reference_step
from .tensors.seeds import step_seed
from .training.step import TrainingStep

Tensors = dict[str, Tensor]
NamedRow = tuple[str, str, Comparison]


@dataclass(frozen=True)
class _Judged:
    """What a judge makes of the batches of an update: the last outputs, the buffers, and the gradients. `overflows`
    says whether one of these is not finite while it is scaled."""

    outputs: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    overflows: bool


@dataclass(frozen=True)
class _Update:
    """The batches of one update on a draw: the state `before` and `after`, and what eager PyTorch and float64 make of
    it."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    outputs: Mapping[str, Tensor]
    eager: _Judged
    exact: _Judged

    @property
    def judges(self) -> tuple[_Judged, _Judged]:
        return self.eager, self.exact

    def error_of_eager(self, name: str) -> float:
        """How far eager's gradient of a parameter is from float64's, at most."""
        differences = self.eager.gradients[name].double() - self.exact.gradients[name]
        return float(differences.abs().max()) if differences.numel() else 0.0


def compared_step(step: TrainingStep, draws: Sequence[Mapping[str, Tensor]]) -> list[list[NamedRow]]:
    """Run the batches of one update on a copy of `step`, with its plans, chunks and budgets, from where it stands now,
    for each draw of feeds. Compare its outputs, its buffers, its parameters and their state, and what a scaler makes of
    it: the rows of each draw."""
    updates = [_updated(step, feeds) for feeds in draws]
    # Of few numbers eager may have rounded all luckily: what is allowed is what it makes of all draws.
    errors = {n: max(update.error_of_eager(n) for update in updates) for n in updates[0].eager.gradients}
    return [_rows(step, update, errors) for update in updates]


def _updated(step: TrainingStep, feeds: Mapping[str, Tensor]) -> _Update:
    made = deepcopy(step)
    made.load_state_dict({**made.state_dict(), "gathered": 0})
    before = made.state_dict()
    for _ in range(step.accumulate):  # first, as it says of feeds that do not fit what is wrong
        outputs = made(**feeds)
    eagerly = _judged(step, feeds, before, eager, eager_updates, exact=False)
    exactly = _judged(step, feeds, before, oracle, oracle_updates, exact=True)
    return _Update(before, made.state_dict(), outputs, eagerly, exactly)


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
    held = step.model.tensors()
    trained = [v.name for v in graph.parameters if held[v.name].requires_grad]
    scale = None if step.scaler is None else state["slots"][_scaler_slot(step, "scale")]
    totals: Tensors = {}
    outputs: Tensors = {}
    for batch in range(batches):
        seed = step_seed(state["seed"], state["steps"] * batches + batch)
        held = {n: t.detach().requires_grad_(n in trained) for n, t in held.items()}
        outputs = run(graph, fed, held, training=True, seed=seed)
        wanted = [held[n] for n in trained]
        loss = outputs[step.loss] / batches
        found = torch.autograd.grad(loss if scale is None else loss * scale, wanted, allow_unused=True)
        for name, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                totals[name] = totals[name] + gradient if name in totals else gradient
        held |= updates(graph, fed, held, seed=seed)
    overflows = scale is not None and not all(bool(g.isfinite().all()) for g in totals.values())
    if scale is not None:
        # In float64, then rounded, as torch.amp.GradScaler inverts it.
        inverse = scale.double().reciprocal()
        totals = {n: g * (inverse if exact else inverse.float().to(g.dtype)) for n, g in totals.items()}
    buffers = {n: held[n] for n in graph.updates}
    return _Judged({n: t.detach() for n, t in outputs.items()}, buffers, totals, overflows)


def _rows(step: TrainingStep, update: _Update, errors: Mapping[str, float]) -> list[NamedRow]:
    after = update.after
    rows = [("output", n, compare(t, *(j.outputs[n] for j in update.judges))) for n, t in update.outputs.items()]
    buffers = update.eager.buffers
    rows += [("buffer", n, compare(after["model"][n], *(j.buffers[n] for j in update.judges))) for n in buffers]
    is_skipped = step.scaler is not None and _is_skipped(step, update)
    if step.scaler is not None:
        rows += _scaler_rows(step, update, is_skipped)
    for name in update.eager.gradients:
        rows += _kept_rows(step, name, update) if is_skipped else _update_rows(step, name, update, errors[name])
    return rows


# -- what a scaler does ----------------------------------------------------------------------------------------------


def _scaler_slot(step: TrainingStep, name: str) -> str:
    return scaler_slot(name, step.graph.given_names)


def _is_skipped(step: TrainingStep, update: _Update) -> bool:
    """Whether the update was skipped, as the count of updates says."""
    count = _scaler_slot(step, "step")
    return bool(update.after["slots"][count] == update.before["slots"][count])


def _scaler_rows(step: TrainingStep, update: _Update, is_skipped: bool) -> list[NamedRow]:
    """Whether the update is rightly skipped, and what becomes of the scale. Where eager and float64 do not agree on
    what overflows, either is right."""
    scaler = step.scaler
    assert scaler is not None
    overflows = {judge.overflows for judge in update.judges}
    found = is_skipped if len(overflows) > 1 else overflows.pop()
    scale, tracker, count = (update.before["slots"][_scaler_slot(step, n)] for n in ("scale", "growth_tracker", "step"))
    is_time = not found and int(tracker) + 1 == scaler.growth_interval
    grown = scale * scaler.growth_factor
    held_back = grown if is_time and bool(grown.isfinite()) else scale
    wanted = {
        "scale": scale * scaler.backoff_factor if found else held_back,
        "growth_tracker": torch.zeros_like(tracker) if found or is_time else tracker + 1,
        "step": count if found else count + 1,
    }
    rows = []
    for name, t in wanted.items():
        left = update.after["slots"][_scaler_slot(step, name)]
        rows.append(("scaler", name, compare(left, t, t.double() if t.is_floating_point() else t)))
    return rows


def _kept_rows(step: TrainingStep, name: str, update: _Update) -> list[NamedRow]:
    """A parameter and its state after an update that is skipped: what they were, bit for bit."""
    rows = []
    for part, full in (("model", name), *(("slots", full) for full in _slots(step, name).values())):
        differs = update.after[part][full].ne(update.before[part][full])
        rows.append(("update", full, compare(differs, torch.zeros_like(differs), torch.zeros_like(differs))))
    return rows


# -- updates -----------------------------------------------------------------------------------------------------------


def _slots(step: TrainingStep, name: str) -> dict[str, str]:
    """The slots of a parameter's state, by the rule's names for it."""
    variant = step.declared_optimizer.variants[step.declared_optimizer.group_of(name)]
    given = step.graph.given_names
    return {slot: slot_name(name, slot, given) for slot in variant.state}


def _update_rows(step: TrainingStep, name: str, update: _Update, error_of_eager: float) -> list[NamedRow]:
    """A parameter and its state. Where a rule makes much of the rounding of a gradient, as Adam does near 0, so much is
    allowed as the gradient's own tolerance makes of it."""
    before, after = update.before, update.after
    group = step.declared_optimizer.group_of(name)
    # What clips is of all groups together.
    settings = {**step.param_groups[group], **{n: step.hyperparameters[n] for n in step.declared_optimizer.clip}}
    variant = _as_it_is(step.declared_optimizer.variants[group], settings)
    numbers = {n: _number(step, before, in_group(n, group)) for n in variant.numbers}
    count = before["steps"] if step.scaler is None else int(before["slots"][_scaler_slot(step, "step")])
    eager_gradient, exact_gradient = (_clipped(judge.gradients, name, variant) for judge in update.judges)
    variant = replace(variant, clip={n: v for n, v in variant.clip.items() if n != "max_norm"})
    p = before["model"][name]
    held = _slots(step, name)
    slots = {slot: before["slots"][full] for slot, full in held.items()}

    def updated(gradient: Tensor) -> Tensors:
        kept = {n: t.to(gradient.dtype) for n, t in slots.items()}
        new, state, _ = reference_step(variant, p.to(gradient.dtype), gradient, kept, count + 1, numbers)
        return {name: new, **{held[n]: t for n, t in state.items()}}

    largest = float(exact_gradient.abs().max()) if exact_gradient.numel() else 0.0
    # A gradient that cancels, such as that of a bias before batch norm, is rounded as the terms that it is made of are.
    beside = max(float(g.abs().max()) for g in update.exact.gradients.values() if g.numel())
    tolerance = 2 * error_of_eager + torch.finfo(p.dtype).eps * (4 * largest + beside)
    exact, eagerly = updated(exact_gradient), updated(eager_gradient)
    around = [updated(exact_gradient + sign * tolerance) for sign in (-1, 1)]
    fused = {name: after["model"][name], **{full: after["slots"][full] for full in held.values()}}
    rows = []
    for what, t in fused.items():
        slack = torch.stack([(a[what] - exact[what]).abs() for a in around]).amax(0)
        mine, theirs = (_within(x, exact[what], slack) for x in (t, eagerly[what]))
        rows.append(("update", what, compare(mine, theirs, exact[what])))
    return rows


def _number(step: TrainingStep, state: Mapping[str, Any], name: str) -> float:
    """A number that a rule keeps: the host has it, or with a scaler the device."""
    return state["numbers"][name] if step.scaler is None else float(state["slots"][_scaler_slot(step, name)])


def _within(result: Tensor, exact: Tensor, slack: Tensor) -> Tensor:
    """`result`, nearer to the exact one by what is allowed anyway."""
    error = result.double() - exact
    return (exact + error.sign() * (error.abs() - slack).clamp(min=0)).to(result.dtype)


def _clipped(gradients: Mapping[str, Tensor], name: str, variant: Optimizer) -> Tensor:
    if "max_norm" not in variant.clip:
        return gradients[name]
    norms = [torch.linalg.vector_norm(g.float() if g.dtype.itemsize < 4 else g) for g in gradients.values()]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return gradients[name] * (variant.clip["max_norm"] / (norm + 1e-6)).clamp(max=1.0).to(gradients[name].dtype)


def _as_it_is(optimizer: Optimizer, settings: Mapping[str, Any]) -> Optimizer:
    """The optimizer with the hyperparameters that a step has by now."""

    def part(made: Optimizer) -> Optimizer:
        now = {n: settings.get(n, v) for n, v in made.hyperparameters.items()}
        return replace(made, hyperparameters=now, clip={n: settings.get(n, v) for n, v in made.clip.items()})

    return replace(part(optimizer), then=tuple(map(part, optimizer.then)))
