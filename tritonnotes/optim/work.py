"""The parameters that a launch updates, and the rows of numbers that the host works out for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..ir.registry import Optimizer
from ..ir.update import G_NAME, MASTER, P_NAME
from .launching import LoadedUpdate
from .tables import real, upload

Row = tuple[float, ...]
"""What a row of numbers is worked out from besides the hyperparameters: the step, and the rule's own numbers."""


@dataclass(frozen=True, eq=False)
class Work:
    """The parameters of one group on one device that have a gradient, and the rule that they follow.

    `on_device` are hyperparameters that lie there; `counts` says whether steps are counted there. `fresh` says of each
    parameter whether this is its first step, as far as its state tells.
    """

    group: int
    optimizer: Optimizer
    on_device: Mapping[str, Tensor]
    counts: bool
    params: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.params[0].device

    def columns(self) -> dict[str, list[Tensor | None]]:
        """Every tensor of every parameter, complex ones as pairs of numbers."""
        made: dict[str, list[Tensor | None]] = {
            P_NAME: [real(p.detach()) for p in self.params],
            G_NAME: [real(g.detach().resolve_conj().resolve_neg()) for g in self.gradients],
        }
        if any(MASTER in state for state in self.states):
            made[MASTER] = [state.get(MASTER) for state in self.states]
        return made | {name: [real(state[name]) for state in self.states] for name in self.optimizer.state}

    def host_rows(self) -> tuple[list[int], list[Row]]:
        """Count a step of each parameter; then, for each, the row of numbers that it takes, and all rows. Parameters
        that have taken equally many steps share one."""
        if self.states and "step" in self.states[0]:
            steps = [state["step"] for state in self.states]
            torch._foreach_add_(steps, 1)
            counted = [step.item() for step in steps]
        else:
            counted = [1.0 if is_fresh else 2.0 for is_fresh in self.fresh]
        own = self.optimizer.numbers
        found: dict[Row, int] = {}
        rows = []
        for step, state in zip(counted, self.states, strict=True):
            row = (step, *(state[name].item() for name in own))
            rows.append(found.setdefault(row, len(found)))
        return rows, list(found)

    def host_numbers(self, loaded: LoadedUpdate, rows: Sequence[int], distinct: Sequence[Row]) -> Tensor:
        """The table of numbers, float64; the rule's own are left in the state."""
        settings, own = self.optimizer.settings, tuple(self.optimizer.numbers)
        table = []
        for row in distinct:
            given = {**settings, **dict(zip(("step", *own), row, strict=True))}
            table.append(loaded.module.number_row(*(float(given[name]) for name in loaded.update.settings)))
        for place, name in enumerate(own, -len(own)):
            for state, row_number in zip(self.states, rows, strict=True):
                state[name].fill_(table[row_number][place])
        return upload(torch.tensor(table, dtype=torch.float64), self.device)
