"""The state of parameters as torch keeps it, completed where it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ir.core.optimizer import Optimizer
from ..ir.optim.update import MASTER

EMA = "ema"
LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class FusedOptions:
    """What a step does besides the rule, in the same launch. The norm for `max_norm` takes a launch of its own."""

    max_norm: float | None = None
    max_value: float | None = None
    ema_decay: float | None = None
    zero_grads: bool = False
    state_dtype: torch.dtype | None = None
    master_weights: bool = False

    def has_master(self, p: Tensor) -> bool:
        """Whether a float32 copy of this parameter is what is updated."""
        return self.master_weights and p.dtype in LOW_PRECISION

    def dtype_beside(self, p: Tensor) -> torch.dtype:
        """The dtype of this parameter's state: its own, as torch has it, unless something else was asked for."""
        if p.dtype not in LOW_PRECISION:
            return p.dtype
        return self.state_dtype or (torch.float32 if self.master_weights else p.dtype)


def complete_state(
    state: dict[str, Any], p: Tensor, optimizer: Optimizer, options: FusedOptions, *, counts: bool, on_device: bool
) -> bool:
    """Add what the rule keeps and `state` lacks. `counts`: steps are counted, on the device if `on_device`.

    Returns whether all of it was missing: whether this is the first step of the parameter.
    """
    if counts:
        for name, first in {"step": 0.0, **optimizer.numbers}.items():
            _complete_count(state, name, first, p, on_device)
    missing = [name for name in optimizer.state if state.get(name) is None]
    for name in missing:
        state[name] = _first(name, optimizer.state[name], p, options.dtype_beside(p))
    if options.has_master(p) and MASTER not in state:
        state[MASTER] = p.detach().to(torch.float32)
    return len(missing) == len(optimizer.state)


def restore_dtypes(
    states: Iterable[tuple[Tensor, dict[str, Any], Mapping[str, Any]]], optimizer: Optimizer, options: FusedOptions
) -> None:
    """Undo what torch's `load_state_dict` does to float32 state of 16-bit parameters: it rounds it to theirs.

    `states` are parameters, their state, and what it was loaded from.
    """
    for p, state, saved in states:
        wanted = dict.fromkeys(optimizer.numbers, scalar_dtype()) | {MASTER: torch.float32}
        wanted |= dict.fromkeys(optimizer.state, options.dtype_beside(p))
        for name, dtype in wanted.items():
            have, was = state.get(name), saved.get(name)
            if isinstance(have, Tensor) and isinstance(was, Tensor) and have.dtype != dtype and not p.is_complex():
                state[name] = was.detach().to(device=have.device, dtype=dtype, copy=True)


def scalar_dtype() -> torch.dtype:
    """What torch counts in."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _complete_count(state: dict[str, Any], name: str, first: float, p: Tensor, on_device: bool) -> None:
    device = p.device if on_device else torch.device("cpu")
    have = state.get(name)
    if have is None:
        dtype = torch.float32 if on_device else scalar_dtype()
        state[name] = torch.tensor(first, dtype=dtype, device=device)
    elif not isinstance(have, Tensor):
        state[name] = torch.tensor(float(have), dtype=scalar_dtype(), device=device)
    elif on_device and (have.dtype != torch.float32 or have.device != device):
        state[name] = have.to(device=device, dtype=torch.float32)


def _first(name: str, value: float, p: Tensor, dtype: torch.dtype) -> Tensor:
    if name == EMA:
        return p.detach().to(dtype, copy=True)
    filled = complex(value, value) if p.is_complex() else value
    return torch.full_like(p, filled, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
