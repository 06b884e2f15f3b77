"""What a training step keeps from batch to batch, and its way to a file and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ..distributed.parallel import Reducer
from ..ir.core.errors import DeclarationError, FeedError, InterruptedStepError
from ..ir.core.optimizer import RANGES, Optimizer, check_hyperparameters, in_group
from ..ir.passes.joint import FIRST, WORLD_SIZE, slot_name
from ..ir.passes.scaling import scaler_slot
from ..runtime.model import Model
from ..tensors.dtypes import torch_dtype
from ..tensors.seeds import step_seed
from . import checkpoint
from .param_groups import ParamGroup
from .step_programs import StepGraphs

TENSORS = ("model", "slots")
"""The parts of a state that hold tensors by name."""

NUMBERS = ("steps", "gathered", "numbers", "seed", "hyperparameters")
"""The parts that the host knows."""

_PLAIN = (float, int, bool)


class StepState:
    """Weights and buffers (`model`), optimizer state (`slots`), and what the host counts and knows.

    `steps` counts updates, `gathered` the batches since the last one, of `accumulate`. `numbers` are those that the
    update rule keeps beside its slots. With a `reducer` processes share the step, and some slots may be held by others.
    """

    def __init__(
        self,
        graphs: StepGraphs,
        optimizer: Optimizer,
        model: Model,
        *,
        accumulate: int = 1,
        seed: int = 0,
        reducer: Reducer | None = None,
    ) -> None:
        self.optimizer, self.model, self.accumulate, self.reducer = optimizer, model, accumulate, reducer
        self.turns = model.turns
        self.is_whole = True
        """Whether no batch began to change the state without an end."""
        self.steps = 0
        self.gathered = 0
        self.hyperparameters: dict[str, float | bool] = optimizer.settings
        self.group_hyperparameters = [group.optimizer.settings for group in optimizer.groups]
        self.numbers = optimizer.all_numbers
        self.beside: list[dict[str, Any]] = [{} for _ in optimizer.variants]
        """What schedulers of torch put into the groups of `step.optimizer` beside numbers; no part of a state."""
        self._seen_settings: list[object] = []
        self._settings: dict[str, float] = {}
        self.seed = seed
        self.slots: dict[str, Tensor] = {
            s.name: torch.full(s.shape, s.attrs["init"], dtype=torch_dtype(s.dtype), device=model.device)  # type: ignore[arg-type]
            for s in graphs.update.leaves("slot")
        }
        if reducer is not None:
            self.slots |= reducer.tensors
        self._all_slots = graphs.whole.leaves("slot")
        self._slot_names = {slot.name for slot in self._all_slots}
        self._owners = graphs.owners
        self._given_names = graphs.declared.given_names
        self._slot_owners = {name: rank for p, rank in graphs.owners.items() for name in self.slots_of(p).values()}

    # -- whole or torn -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on weights or slots are changed: the state is torn until `end`."""
        self.is_whole = False

    def end(self) -> None:
        """All of a batch is in the state, or nothing of it."""
        self.is_whole = True

    def check_whole(self, doing: str) -> None:
        """Raise `InterruptedStepError` where a batch began to change the state and did not end."""
        if not self.is_whole:
            raise InterruptedStepError(
                f"{doing}: the step was interrupted between its launches after {self.steps} updates, so that some "
                "weights are those before the interruption and some those after it; load a state first, with "
                "load_state_dict() or load()"
            )

    # -- one batch -----------------------------------------------------------------------------------------------------

    @property
    def is_last(self) -> bool:
        """Whether the batch that comes is the last one before an update."""
        return self.gathered == self.accumulate - 1

    def host_numbers(self) -> dict[str, float]:
        """Every number that the host knows: hyperparameters, the rule's own numbers, and the step that comes. Raises
        `DeclarationError` for hyperparameters that are not what the step was compiled for."""
        found = {**self._checked_settings()}
        if self.numbers:
            found |= {n: float(v) for n, v in self.numbers.items()}
        found["step"], found[FIRST] = float(self.steps + 1), float(self.gathered == 0)
        if self.reducer is not None:
            found[WORLD_SIZE] = float(self.reducer.world_size)
        return found

    def _checked_settings(self) -> dict[str, float]:
        """The hyperparameters of all groups as floats, checked where one of them is another object than in the last
        batch: numbers do not change in themselves."""
        all_given = [self.hyperparameters, *self.group_hyperparameters]
        seen: list[object] = []
        for given in all_given:
            if type(given) is not dict:
                seen = []
                break
            seen += (len(given), *given, *given.values())
        if seen and len(seen) == len(self._seen_settings) and all(map(is_, seen, self._seen_settings)):
            return self._settings
        settings: dict[str, float] = {}
        for group, (variant, given) in enumerate(zip(self.optimizer.variants, all_given, strict=True)):
            check_group_numbers(variant, given)
            if group:
                _check_clip(self.optimizer, group, given)
            settings |= {in_group(name, group): float(value) for name, value in given.items()}
        self._seen_settings = seen if {*map(type, seen)} <= {str, *_PLAIN} else []
        self._settings = settings
        return settings

    def all_numbers_of_groups(self) -> list[dict[str, float | bool]]:
        """The hyperparameters of each variant of the optimizer."""
        return [self.hyperparameters, *self.group_hyperparameters]

    def group_numbers(self, group: int) -> dict[str, float | bool]:
        """The hyperparameters of the variant of this place."""
        return self.all_numbers_of_groups()[group]

    @property
    def param_groups(self) -> list[ParamGroup]:
        """As `TrainingStep.param_groups`."""
        grouped = {name for group in self.optimizer.groups for name in group.parameters}
        others = [v.name for v in self.model.graph.parameters if v.name not in grouped]
        names = [others, *(group.parameters for group in self.optimizer.groups)]
        return [ParamGroup(n, given) for n, given in zip(names, self.all_numbers_of_groups(), strict=True)]

    def batch_seed(self) -> int:
        """What random ops draw from in the batch that comes, on this process."""
        rank = self.reducer.rank if self.reducer is not None else 0
        return step_seed(self.seed + rank, self.steps * self.accumulate + self.gathered)

    def advance(self, is_last: bool, numbers: dict[str, float]) -> None:
        """A batch is over, all of it is in the state, and it left the update rule with these numbers."""
        self.steps += is_last
        self.gathered = 0 if is_last else self.gathered + 1
        self.numbers = numbers
        self.is_whole = True

    # -- by parameter --------------------------------------------------------------------------------------------------

    def slots_of(self, parameter: str) -> dict[str, str]:
        """The slots of a parameter, by the rule's names for its state; none of one that the loss does not depend on."""
        variant = self.optimizer.variants[self.optimizer.group_of(parameter)]
        named = {slot: slot_name(parameter, slot, self._given_names) for slot in variant.state}
        return {slot: name for slot, name in named.items() if name in self._slot_names}

    def is_without_slots(self, parameter: str) -> bool:
        """Whether a parameter has no state though its rule keeps some: the loss does not depend on it."""
        variant = self.optimizer.variants[self.optimizer.group_of(parameter)]
        return bool(variant.state) and not self.slots_of(parameter)

    def count_in(self, state: Mapping[str, Any]) -> int:
        """The updates that were made, of a `state_dict()`: the device knows where a scaler may skip some."""
        counted = state["slots"].get(self.scaler_slot("step"))
        return int(state["steps"] if counted is None else counted)

    def number_in(self, state: Mapping[str, Any], name: str) -> float:
        """A number that the rule keeps, of a `state_dict()`."""
        counted = state["slots"].get(self.scaler_slot(name))
        return float(state["numbers"][name] if counted is None else counted)

    def with_counts(self, state: Mapping[str, Any], steps: int, numbers: Mapping[str, float]) -> dict[str, Any]:
        """A state with another number of updates, and other numbers that the rule keeps."""
        counted = {self.scaler_slot(n): float(v) for n, v in {"step": steps, **numbers}.items()}
        slots = {n: torch.full_like(t, counted[n]) if n in counted else t for n, t in state["slots"].items()}
        return {**state, "slots": slots, "steps": steps, "numbers": {**state["numbers"], **numbers}}

    def scaler_slot(self, name: str) -> str:
        """The slot where a scaler keeps something, or counts what the host counts without one."""
        return scaler_slot(name, self._given_names)

    # -- slots that other processes hold -------------------------------------------------------------------------------

    def explain_sharing(self) -> list[str]:
        """What this process holds of optimizer state that is shared out; nothing where none is."""
        if not self._owners:
            return []
        wanted = {n: t for n, t in self._slots_wanted().items() if n in self._slot_owners}
        all_bytes = sum(t.nbytes for t in wanted.values())
        own_bytes = sum(t.nbytes for n, t in wanted.items() if n in self.slots)
        assert self.reducer is not None
        updated = ", ".join(n for n, owner in self._owners.items() if owner == self.reducer.rank)
        return [
            f"Optimizer state: {own_bytes:,} of {all_bytes:,} bytes, shared out over {self.reducer.world_size} "
            f"processes; this one updates {updated}."
        ]

    def _slots_wanted(self) -> dict[str, Tensor]:
        """What the slots of a state look like: this process' own, and those that others hold, which have no memory."""
        others = {s.name: s for s in self._all_slots if s.name not in self.slots}
        made = {
            n: torch.empty(s.shape, dtype=torch_dtype(s.dtype), device="meta")  # type: ignore[arg-type]
            for n, s in others.items()
        }
        return {**self.slots, **made}

    def _copied_slots(self) -> dict[str, Tensor]:
        """A copy of the slots of all processes, where each sends those that it holds."""
        held = {n: t.clone() for n, t in self.slots.items()}
        for name, like in self._slots_wanted().items():
            if name not in held:
                held[name] = torch.empty(like.shape, dtype=like.dtype, device=self.model.device)
        if self._slot_owners:
            assert self.reducer is not None
            self.reducer.share((held[name], rank) for name, rank in self._slot_owners.items())
        return held

    # -- to a dict or a file, and back ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As `TrainingStep.state_dict`."""
        with self.turns:
            self.check_whole("state_dict")
            return self._copied()

    def _copied(self) -> dict[str, Any]:
        return {
            "model": {n: t.detach().clone() for n, t in self.model.state_dict().items()},
            "slots": self._copied_slots(),
            "steps": self.steps,
            "gathered": self.gathered,
            "numbers": dict(self.numbers),
            "seed": self.seed,
            "hyperparameters": dict(self.hyperparameters),
            **({"param_groups": [dict(group) for group in self.param_groups[1:]]} if self.optimizer.groups else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `TrainingStep.load_state_dict`."""
        with self.turns:
            self._check(state)
            self._take_over(state)

    def _take_over(self, state: Mapping[str, Any]) -> None:
        self.begin()
        self.model.load_state_dict(state["model"])
        for name, slot in self.slots.items():
            slot.copy_(state["slots"][name])
        self.steps, self.gathered = state["steps"], state["gathered"]
        self.numbers = dict(state["numbers"])
        self.seed = state["seed"]
        self.hyperparameters = dict(state["hyperparameters"])
        for group, given in zip(self.group_hyperparameters, state.get("param_groups", ()), strict=True):
            group |= {name: given[name] for name in group}
        self.end()

    def _check(self, state: Mapping[str, Any]) -> None:
        """Raise `FeedError` unless this is a state of the same graph and optimizer."""
        wanted = {*TENSORS, *self._kept}
        if not isinstance(state, Mapping) or set(state) != wanted:
            raise FeedError(
                f"load_state_dict: holds {_keys(state)}, wanted {sorted(wanted)}; pass state_dict()'s result"
            )
        _check_tensors("model", self.model.state_dict(), state["model"])
        _check_tensors("slots", self._slots_wanted(), state["slots"])
        if type(state["steps"]) is not int or state["steps"] < 0:
            raise FeedError(f"load_state_dict: steps is {state['steps']!r}; it counts steps, so an int ≥ 0")
        if type(state["gathered"]) is not int or not 0 <= state["gathered"] < self.accumulate:
            raise FeedError(
                f"load_state_dict: gathered is {state['gathered']!r} of {self.accumulate} batches of an update; "
                "compile the step with the accumulate= that the state was saved with"
            )
        if type(state["seed"]) is not int:
            raise FeedError(f"load_state_dict: seed is {state['seed']!r}; pass the int that state_dict() gives")
        try:
            _check_numbers(self.optimizer, state["hyperparameters"])
            _check_numbers(self.optimizer, state["numbers"], self.optimizer.all_numbers, "numbers")
            self._check_groups(state.get("param_groups", []))
        except DeclarationError as error:
            raise FeedError(f"load_state_dict: {error}") from None

    @property
    def _kept(self) -> tuple[str, ...]:
        """The parts that the host knows."""
        return (*NUMBERS, *(("param_groups",) if self.optimizer.groups else ()))

    def _check_groups(self, given: Any) -> None:
        """Raise `DeclarationError` unless these are the step's groups, each with all its numbers."""
        groups = self.param_groups[1:]
        if not isinstance(given, list) or len(given) != len(groups) or not all(isinstance(g, Mapping) for g in given):
            raise DeclarationError(f"param_groups: wanted a list of {len(groups)} groups, as state_dict() gives it")
        for group, variant, other in zip(groups, self.optimizer.variants[1:], given, strict=True):
            if other.get("params") != group["params"]:
                raise DeclarationError(f"param_groups: holds {other.get('params')}, wanted {group['params']}")
            _check_numbers(variant, {name: value for name, value in other.items() if name != "params"})

    def save(self, path: str | os.PathLike[str]) -> None:
        """As `TrainingStep.save`."""
        state = self.state_dict()
        checkpoint.save(path, _flat(state), {n: state[n] for n in self._kept})

    def load(self, path: str | os.PathLike[str]) -> None:
        """As `TrainingStep.load`."""
        wanted = _flat({"model": self.model.state_dict(), "slots": self._slots_wanted()})
        tensors, numbers = checkpoint.load(path, wanted)
        if not isinstance(numbers, dict) or set(numbers) != set(self._kept):
            raise FeedError(f"load {path}: its numbers are {_keys(numbers)}, wanted {sorted(self._kept)}")
        self.load_state_dict({**_parted(tensors), **numbers})


def _flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {f"{what}/{name}": tensor for what in TENSORS for name, tensor in state[what].items()}


def _parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What `_flat` made one of."""
    return {what: {n[len(what) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{what}/")} for what in TENSORS}


def _check_numbers(
    optimizer: Optimizer, given: Any, wanted: Mapping[str, object] | None = None, what: str = "hyperparameters"
) -> None:
    """Raise `DeclarationError` unless these are the optimizer's hyperparameters (or its own numbers), each a number."""
    name = optimizer.rule.name
    known = set(optimizer.settings if wanted is None else wanted)
    if not isinstance(given, Mapping) or set(given) != known:
        remedy = "; set beta1 and beta2 one by one" if isinstance(given, Mapping) and "betas" in given else ""
        raise DeclarationError(f"{name}: {what} are {_keys(given)}; they must be {sorted(known)}{remedy}")
    if wanted is None:
        for part in optimizer.parts:
            mine = {n: given[n] for n in part.hyperparameters}
            check_hyperparameters(part.rule.name, mine, () if part.rule.custom else RANGES)
        check_hyperparameters("clip", {n: given[n] for n in optimizer.clip})
    else:
        check_hyperparameters(name, given, (), what)


def check_group_numbers(optimizer: Optimizer, given: Mapping[str, Any]) -> None:
    """Raise `DeclarationError` unless these are hyperparameters that the step was compiled for."""
    _check_numbers(optimizer, given)
    _check_fixed(optimizer, given)


def _check_fixed(optimizer: Optimizer, given: Mapping[str, float | bool]) -> None:
    """Raise `DeclarationError` where a number that is part of the formula is another one now."""
    fixed = {n: v for part in optimizer.parts for n, v in part.hyperparameters.items() if part.is_fixed(n)}
    for name, value in fixed.items():
        if given[name] != value:
            raise DeclarationError(
                f"{optimizer.rule.name}: {name} was {value!r} when the step was compiled, "
                "which switched its term off; compile the step anew to switch it on"
            )


def _check_clip(optimizer: Optimizer, group: int, given: Mapping[str, float | bool]) -> None:
    """Raise `DeclarationError` where a group is given a number of its own for what clips the gradients of all."""
    for name, value in optimizer.clip.items():
        if given[name] != value:
            raise DeclarationError(
                f"clip: param_groups[{group}][{name!r}] is {given[name]!r}, but gradients of all groups are clipped "
                f"alike; set hyperparameters[{name!r}]"
            )


def _check_tensors(what: str, have: Mapping[str, Tensor], given: Any) -> None:
    if not isinstance(given, Mapping):
        raise FeedError(f"load_state_dict: {what} is {type(given).__name__}; pass state_dict()'s result")
    missing, unknown = sorted(set(have) - set(given)), sorted(set(given) - set(have))
    if missing or unknown:
        raise FeedError(
            f"load_state_dict: {what} {checkpoint.differs(missing, unknown)}; load the state of the same graph"
        )
    for name, tensor in have.items():
        other = given[name]
        if not isinstance(other, Tensor) or other.shape != tensor.shape or other.dtype != tensor.dtype:
            got = f"{other.dtype}{list(other.shape)}" if isinstance(other, Tensor) else type(other).__name__
            raise FeedError(f"load_state_dict: {what} {name!r} is {got}, wanted {tensor.dtype}{list(tensor.shape)}")


def _keys(given: Any) -> object:
    return sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
