"""Generated modules for optimizers, made once for each formula, and run: by Triton on a GPU, on the CPU as machine code
or under the strict interpreter."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import native
from ..codegen.optimizer.emit import render_update
from ..codegen.optimizer.kinds import MultiTensorUpdate, make_multi_tensor_update
from ..codegen.optimizer.norm import render_norm
from ..codegen.target.cache import KernelCache
from ..codegen.target.load import load_source
from ..interpreter import launch as interpret
from ..ir.core.optimizer import Optimizer
from ..ir.core.types import DType
from ..ir.optim.update import Extras, Kind
from ..runtime.executors.execution import Execution


@dataclass(frozen=True, eq=False)
class LoadedUpdate:
    """A group's update and the module of its source."""

    update: MultiTensorUpdate
    module: ModuleType


_updates: dict[Hashable, LoadedUpdate] = {}


def load_update(optimizer: Optimizer, kinds: Sequence[Kind], extras: Extras) -> LoadedUpdate:
    """The update of a group. Numbers that may change between steps make no other module, fixed ones do."""
    key = (formula_of(optimizer), tuple(kinds), extras)
    found = _updates.get(key)
    if found is None:
        update = make_multi_tensor_update(optimizer, kinds, extras)
        _updates[key] = found = LoadedUpdate(update, load_source(render_update(update), KernelCache()))
    return found


def formula_of(optimizer: Optimizer) -> Hashable:
    """What the source of an optimizer's update depends on: its rules, and the hyperparameters that are part of them."""
    parts = tuple(
        (part.rule, tuple((n, v) for n, v in part.hyperparameters.items() if part.is_fixed(n)))
        for part in optimizer.parts
    )
    return parts, optimizer.maximize, tuple(sorted(optimizer.clip))


@lru_cache(maxsize=64)
def load_norm(dtypes: tuple[DType, ...], unscales: bool) -> ModuleType:
    """The module that takes the norm of gradients of these dtypes."""
    return load_source(render_norm(dtypes, unscales), KernelCache())


def run(
    module: Any,
    function: str,
    device: torch.device,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    reached: Sequence[Tensor],
    how: Execution,
) -> None:
    """Call a launcher of a generated module. `reached` are the tensors that its tables point to, `how` says what runs
    kernels on the CPU."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            getattr(module, function)(*arguments, **options)
        return

    def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **constants: Any) -> None:
        if how.strict:
            interpret(kernel, grid, given, constants, tensors=reached)
        else:
            native.launch(kernel, grid, *given, **constants, sanitize=how.sanitize, tensors=reached)

    getattr(module, function)(*arguments, **options, launch=launch)
