"""Steps that are counted on the device: what a captured step needs, in which the host takes no part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..codegen.optimizer.count import counted_numbers, device_settings
from ..runtime.executors.execution import Execution
from .launching import LoadedUpdate, Recorded, run
from .tables import upload


@dataclass(eq=False)
class CountPlan:
    """Tables for the launch that counts a step and works out the rows of numbers, one for each parameter.

    `settings` are the hyperparameters in float64, `counted` the tensors of the counts.
    """

    loaded: LoadedUpdate
    counts: Tensor
    counted: tuple[Tensor, ...]
    settings: Tensor
    numbers: Tensor
    how: Execution
    copied: list[float] = field(default_factory=list)
    recorded: Recorded = field(default_factory=lambda: Recorded(0))

    def launch(
        self,
        given: Mapping[str, float],
        on_device: Mapping[str, Tensor],
        found_inf: Tensor | None,
    ) -> Tensor:
        """Count a step, unless `found_inf` says that it is skipped, and return the table of numbers.

        `on_device` are hyperparameters that are tensors: they are copied on the device, whatever they hold by then.
        """
        names = device_settings(self.loaded.update)
        values = [float(given[name]) for name in names]
        if values != self.copied:
            self.settings.copy_(upload(torch.tensor(values, dtype=torch.float64, device="cpu"), self.settings.device))
            self.copied = values
        for place, name in enumerate(names):
            if name in on_device:
                self.settings[place].copy_(on_device[name].reshape(()))
        tensors = [self.counts, self.settings, self.numbers, *([] if found_inf is None else [found_inf])]
        arguments = [*tensors, len(self.counts)]
        run(
            self.loaded.module,
            "run_count_steps",
            self.counts.device,
            arguments,
            {},
            self.counted,
            self.how,
            self.recorded,
        )
        return self.numbers


def make_count_plan(loaded: LoadedUpdate, states: Sequence[Mapping[str, Tensor]], how: Execution) -> CountPlan:
    """Lay out the tables for parameters whose state holds float32 counts on one device."""
    update = loaded.update
    counted = [[state[name] for name in counted_numbers(update)] for state in states]
    device = counted[0][0].device
    rows = torch.tensor([[t.data_ptr() for t in row] for row in counted], dtype=torch.int64, device="cpu")
    settings = torch.zeros(len(device_settings(update)), dtype=torch.float64, device=device)
    numbers = torch.zeros(len(states), len(update.columns), dtype=torch.float64, device=device)
    return CountPlan(loaded, upload(rows, device), tuple(t for row in counted for t in row), settings, numbers, how)
