"""`step.optimizer`: a step as an optimizer of torch.optim, for schedulers and for checkpoints in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError, FeedError
from .step_state import StepState
from .torch_options import StepGroup
from .torch_state import from_torch_state, torch_state


class StepOptimizer(torch.optim.Optimizer):
    """The optimizer of a training step, for all that takes a torch.optim.Optimizer.

    `param_groups` and `defaults` have torch's names. Groups are live: what a scheduler sets there, the next step uses.
    A first group without parameters, where the groups of the step name all of them, is left out.

    `state_dict()` is what the class of torch.optim has for the rule, as a copy: it loads there, and `load_state_dict`
    takes theirs. Parameters are in the order of `step.model.parameters()`, by groups. Weights are no part of it.

    The step updates when it is called with a batch: `step()` raises `DeclarationError`.
    """

    _is_made = False

    def __init__(self, owner: Any, state: StepState) -> None:
        self._owner, self._step_state = owner, state
        listed = [StepGroup(state, k, group["params"]) for k, group in enumerate(state.param_groups)]
        groups = [group for group in listed if group.names]
        super().__init__([{"params": groups[0]["params"]}], {n: v for n, v in listed[0].items() if n != "params"})
        self.param_groups: list[Any] = groups
        self._is_made = True

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """What is kept for each parameter, as copies in torch's form."""
        return defaultdict(dict, torch_state(self._step_state, self.param_groups))

    @state.setter
    def state(self, given: object) -> None:
        """torch's own classes begin with an empty one."""

    def note_update(self) -> None:
        """Schedulers ask whether the optimizer stepped before they do."""
        self._opt_called = True

    def step(self, closure: object = None) -> NoReturn:
        """Raises `DeclarationError`."""
        raise DeclarationError(
            "step.optimizer.step(): the step computes gradients and updates in one when it is called with a batch, as "
            "in step(x=x, y=y); leave backward(), optimizer.step() and zero_grad() out"
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises `DeclarationError`: which parameters are in a group is compiled."""
        if self._is_made:
            raise DeclarationError(
                "step.optimizer: groups are compiled; give them to tn.compile_step, as param_groups="
            )
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state of an optimizer of torch.optim for the same rule. Raises `FeedError` for what does
        not fit, before anything is changed."""
        mine = [len(group.names) for group in self.param_groups]
        theirs = [len(group["params"]) for group in state_dict["param_groups"]]
        if mine != theirs:
            raise FeedError(
                f"optimizer.load_state_dict: its groups have {theirs} parameters, those of the step {mine}; give the "
                "groups to tn.compile_step, as param_groups="
            )
        super().load_state_dict(dict(state_dict))

    def __setstate__(self, state: dict[str, Any]) -> None:
        from_torch_state(self._step_state, self.param_groups, state["state"], state["param_groups"])

    def __reduce__(self) -> Any:
        return getattr, (self._owner, "optimizer")
