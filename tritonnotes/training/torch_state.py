"""The state of a step as torch.optim keeps it, parameter by parameter, and the way back."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError, FeedError
from ..ir.core.optimizer import Optimizer, in_group
from .step_state import StepState
from .torch_options import TORCH_RULES, StepGroup

State = Mapping[str, Any]

EMA = "ema"
"""State that begins as its parameter where none is given."""


def torch_state(state: StepState, groups: Sequence[StepGroup]) -> dict[Tensor, dict[str, Any]]:
    """What torch.optim keeps for each parameter, as copies."""
    held = state.state_dict()
    count = state.count_in(held)
    made: dict[Tensor, dict[str, Any]] = {}
    for group in groups:
        for parameter, name in zip(group["params"], group.names, strict=True):
            if state.is_without_slots(name):
                continue
            own = _counts(state, held, group, count) if _is_counted(group.optimizer) else {}
            # Where nothing is counted, a buffer that is there says that a step was made.
            kept = state.slots_of(name) if own or count else {}
            entry = {**own, **{slot: held["slots"][full] for slot, full in kept.items()}}
            made |= {parameter: entry} if entry else {}
    return made


def _is_counted(optimizer: Optimizer) -> bool:
    rule = TORCH_RULES.get(optimizer.rule.name)
    return rule is None or rule.counts


def _counts(state: StepState, held: State, group: StepGroup, count: int) -> dict[str, Tensor]:
    """The numbers of a parameter, which torch keeps as tensors."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    own = {n: state.number_in(held, in_group(n, group.number)) for n in group.optimizer.numbers}
    return {n: torch.tensor(float(v), dtype=dtype, device="cpu") for n, v in {"step": count, **own}.items()}


def from_torch_state(
    state: StepState, groups: Sequence[StepGroup], given: Mapping[Tensor, State], options: Sequence[State]
) -> None:
    """Go on from what torch.optim keeps: `given` by parameter, and `options` of each group. Weights stay. Raises
    `FeedError` before anything is changed."""
    held = state.state_dict()
    try:
        taken = [group.taken(entries) for group, entries in zip(groups, options, strict=True)]
    except DeclarationError as error:
        raise FeedError(f"optimizer.load_state_dict: {error}") from None
    slots, counts = dict(held["slots"]), dict[str, int]()
    for group in groups:
        for parameter, name in zip(group["params"], group.names, strict=True):
            loaded = _Loaded(name, group.optimizer, given.get(parameter, {}))
            is_trained = parameter.requires_grad and not state.is_without_slots(name)
            counts |= {name: loaded.count(held["steps"])} if is_trained else {}
            slots |= {full: loaded.slot(slot, slots[full], parameter) for slot, full in state.slots_of(name).items()}
    count = _agreed("steps", counts, held["steps"])
    numbers = _numbers(groups, given, counts)
    settings = [dict(g) for g in state.all_numbers_of_groups()]
    for group, (changed, _) in zip(groups, taken, strict=True):
        settings[group.number] |= changed
    first, *others = settings
    made = {**held, "slots": slots, "hyperparameters": first, "gathered": 0}
    if others:
        made["param_groups"] = [{**g, "params": h["params"]} for g, h in zip(others, held["param_groups"], strict=True)]
    state.load_state_dict(state.with_counts(made, count, numbers))
    for group, (_, beside) in zip(groups, taken, strict=True):
        group.keep(beside)


class _Loaded:
    """What torch.optim kept for one parameter."""

    def __init__(self, name: str, optimizer: Optimizer, entry: State) -> None:
        self.name, self.optimizer = name, optimizer
        self.entry = {n: v for n, v in entry.items() if v is not None}
        known = {"step", *optimizer.numbers, *optimizer.state}
        unknown = sorted(set(self.entry) - known)
        if unknown:
            raise FeedError(
                f"optimizer.load_state_dict: {name!r} has {', '.join(unknown)}, which {optimizer.rule.name} does not "
                f"keep; it keeps {', '.join(optimizer.state) or 'nothing'}"
            )
        self.is_fresh = not any(n in self.entry for n in ("step", *optimizer.state))

    def count(self, steps: int) -> int:
        """The updates that this parameter had; where torch does not count, one where there is state of one."""
        if _is_counted(self.optimizer):
            return int(self.entry.get("step", 0))
        if not self.optimizer.state:
            return steps
        return 0 if self.is_fresh else max(1, steps)

    def slot(self, slot: str, like: Tensor, parameter: Tensor) -> Tensor:
        found = self.entry.get(slot)
        if found is None and slot == EMA:
            return parameter.detach().to(like.dtype)
        if found is None and self.is_fresh:
            return torch.full_like(like, self.optimizer.state[slot])
        if not isinstance(found, Tensor) or found.shape != like.shape:
            got = f"{list(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise FeedError(
                f"optimizer.load_state_dict: {slot} of {self.name!r} is {got}, wanted {list(like.shape)}; list the "
                "parameters in the order of step.model.parameters(), by groups as in step.optimizer.param_groups"
            )
        return found.detach().to(like)


def _numbers(groups: Sequence[StepGroup], given: Mapping[Tensor, State], trained: Container[str]) -> dict[str, float]:
    """The numbers that a rule keeps, of each group: torch keeps them for each parameter that is trained, and all had as
    many steps."""
    made: dict[str, float] = {}
    for group in groups:
        for number, first in group.optimizer.numbers.items():
            kept = zip(group.names, (given.get(p, {}).get(number, first) for p in group["params"]), strict=True)
            found = {n: float(v) for n, v in kept if n in trained}
            made[in_group(number, group.number)] = _agreed(number, found, first)
    return made


def _agreed(what: str, found: Mapping[str, Any], otherwise: Any) -> Any:
    """What all parameters say."""
    differ: dict[Any, str] = {}
    for name, value in found.items():
        differ.setdefault(value, name)
    if len(differ) > 1:
        (one, name), (other, other_name) = list(differ.items())[:2]
        raise FeedError(
            f"optimizer.load_state_dict: {what} is {one} for {name!r} and {other} for {other_name!r}, and a step "
            "counts all of its parameters alike; freeze those that were not trained with requires_grad_(False)"
        )
    return next(iter(differ), otherwise)
