"""The numbers of a step's parameter groups under the names that torch.optim has for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError
from ..ir.core.optimizer import Optimizer
from .step_state import StepState, check_group_numbers

BETAS = ("beta1", "beta2")
"""The hyperparameters that torch holds together, as `betas`."""

HOW = ("foreach", "capturable", "differentiable", "fused")
"""Options of torch that say how a step is computed, and not what: a step keeps them for those that read its state."""


@dataclass(frozen=True)
class TorchRule:
    """The class of torch.optim that has a rule, with the options that choose it there. `counts`: each parameter's
    state has a `step`."""

    make: Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    counts: bool = True


TORCH_RULES: Mapping[str, TorchRule] = {
    "sgd": TorchRule(torch.optim.SGD, counts=False),
    "sgd_momentum": TorchRule(torch.optim.SGD, counts=False),
    "nesterov": TorchRule(torch.optim.SGD, {"nesterov": True}, counts=False),
    "adagrad": TorchRule(torch.optim.Adagrad),
    "adadelta": TorchRule(torch.optim.Adadelta),
    "rmsprop": TorchRule(torch.optim.RMSprop),
    "adam": TorchRule(torch.optim.Adam),
    "adamw": TorchRule(torch.optim.AdamW),
    "amsgrad": TorchRule(torch.optim.Adam, {"amsgrad": True}),
    "adamax": TorchRule(torch.optim.Adamax),
    "nadam": TorchRule(torch.optim.NAdam),
    "radam": TorchRule(torch.optim.RAdam),
}
"""The rules that torch has. The others keep the names that they have here."""


def torch_options(optimizer: Optimizer) -> dict[str, Any]:
    """All options of an optimizer, in torch's order where torch has the rule: what a group of it holds but `params`."""
    mine = _with_betas(optimizer.hyperparameters)
    rule = TORCH_RULES.get(optimizer.rule.name)
    beside = {n: v for n, v in optimizer.settings.items() if n not in optimizer.hyperparameters}
    if rule is None:
        return {**mine, "maximize": optimizer.maximize, **beside}
    made = rule.make([torch.empty(0)], **mine, **rule.options, maximize=optimizer.maximize)
    return {**made.defaults, **beside}


def _with_betas(numbers: Mapping[str, Any]) -> dict[str, Any]:
    if not numbers.keys() >= {*BETAS}:
        return dict(numbers)
    rest = {n: v for n, v in numbers.items() if n not in BETAS}
    return {**rest, "betas": tuple(numbers[n] for n in BETAS)}


class StepGroup(MutableMapping[str, Any]):
    """One group of `step.optimizer`: a group of torch.optim whose numbers are those of the step, read and written where
    they are. `params` are the model's parameters. What else is put into it, as schedulers do, it keeps."""

    def __init__(self, state: StepState, number: int, names: list[str]) -> None:
        self._state, self._number, self._names = state, number, names
        self._compiled = torch_options(self.optimizer)

    @property
    def optimizer(self) -> Optimizer:
        """The rule that updates the parameters of this group, as it was compiled."""
        return self._state.optimizer.variants[self._number]

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        return list(self._names)

    @property
    def number(self) -> int:
        """The place of the rule among those of the step."""
        return self._number

    @property
    def _others(self) -> dict[str, Any]:
        return self._state.beside[self._number]

    @property
    def _numbers(self) -> dict[str, Any]:
        return self._state.group_numbers(self._number)

    def __getitem__(self, name: str) -> Any:
        if name == "params":
            held = self._state.model.tensors()
            return [held[n] for n in self._names]
        if name in self._others:
            return self._others[name]
        return _with_betas(self._numbers)[name] if name in self._changeable else self._compiled[name]

    def __setitem__(self, name: str, value: Any) -> None:
        numbers, others = self.taken({name: value})
        self._numbers.update(numbers)
        self.keep(others)

    def keep(self, others: Mapping[str, Any]) -> None:
        """Keep these entries beside the step's numbers."""
        self._others.update(others)

    @property
    def _changeable(self) -> set[str]:
        return {*_with_betas(self.optimizer.settings)}

    def taken(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the numbers of this group become where it is `given` these entries, and what it keeps beside them.
        Raises `DeclarationError` for numbers out of range, and for what is compiled."""
        numbers: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in given.items():
            if name in self._changeable:
                parts = value if name == "betas" else [value]
                plain = [v.item() if isinstance(v, Tensor | np.generic) else v for v in parts]
                numbers |= zip(BETAS, plain, strict=True) if name == "betas" else {name: plain[0]}
            elif name in HOW or (name not in self._compiled and name != "params"):
                others[name] = value
            elif not self._is_compiled(name, value):
                raise DeclarationError(
                    f"{self.optimizer.rule.name}: {name} of a parameter group is compiled; compile the step with "
                    f"the {name} that you want"
                )
        check_group_numbers(self.optimizer, {**self._numbers, **numbers})
        return numbers, others

    def _is_compiled(self, name: str, value: Any) -> bool:
        if name == "params":
            mine = self["params"]
            return len(mine) == len(value) and all(p is q for p, q in zip(mine, value, strict=True))
        return bool(value == self._compiled[name])

    def __delitem__(self, name: str) -> None:
        if name not in self._others:
            raise DeclarationError(f"{name!r} of a parameter group is compiled; set it instead")
        del self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(("params", *self._compiled, *self._others)))

    def __len__(self) -> int:
        return len([*iter(self)])

    def __repr__(self) -> str:
        return repr({**self, "params": self.names})
