"""Generated modules for optimizers, made once for each formula, and run: by Triton on a GPU, on the CPU as machine code
or under the strict interpreter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(eq=False)
class Recorded:
    """The launches of a plan as one native call, which its first step records: later ones write over the addresses of
    the tensors that are others each time. `work` is about how many elements a launch computes."""

    work: int
    _bundle: native.Bundle | None = None
    _given: list[Any] = field(default_factory=list)

    def run(self, launcher: Callable[..., None], arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Call a launcher of a generated module, whose tables say where parameters and state lie."""
        if self._bundle is None or not self._follow(self._bundle, arguments):
            recorder = native.Recorder(self.work)
            launcher(*arguments, **options, launch=recorder)
            self._bundle = recorder.bundle()
        self._given = [*arguments]
        self._bundle.run()

    def _follow(self, bundle: native.Bundle, arguments: Sequence[Any]) -> bool:
        """Pass these in place of the last ones; False where that makes other launches."""
        if len(arguments) != len(self._given):
            return False
        changed = []
        for old, new in zip(self._given, arguments, strict=True):
            if isinstance(old, Tensor) and isinstance(new, Tensor):
                changed += [(old, new)] if old is not new else []
            elif type(old) is not type(new) or old != new:
                return False
        passed = {id(tensor) for _, tensor in bundle.tensors()} if changed else set()
        if any(id(old) not in passed or old.dtype != new.dtype or old.shape != new.shape for old, new in changed):
            return False
        for old, new in changed:
            bundle.replace(old, new)
        return True


def run(
    module: Any,
    function: str,
    device: torch.device,
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    reached: Sequence[Tensor],
    how: Execution,
    recorded: Recorded,
) -> None:
    """Call a launcher of a generated module. `reached` are the tensors that its tables point to, `how` says what runs
    kernels on the CPU, where `recorded` keeps what they are."""
    launcher = getattr(module, function)
    if device.type == "cuda":
        with torch.cuda.device(device):
            launcher(*arguments, **options)
        return
    if not how.strict and not how.sanitize:
        recorded.run(launcher, arguments, options)
        return

    def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **constants: Any) -> None:
        if how.strict:
            interpret(kernel, grid, *given, **constants, tensors=reached)
        else:
            native.launch(kernel, grid, *given, **constants, sanitize=True, tensors=reached)

    launcher(*arguments, **options, launch=launch)
