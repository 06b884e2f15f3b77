"""Programs on a GPU, and launches that go round Triton's dispatch on the host: what it would work out anew each time
is kept.

`kernel[grid](...)` binds arguments, asks of each what compiled code may take for granted of it (whether a pointer or a
size is a multiple of 16, whether a number is 1), makes a key of all that, and looks the compiled kernel up. Here a
launch does so once for each key, made in a few operations at least as fine as Triton's; from then on the compiled
kernel is called with the arguments as they come. Tensors and numbers may be others each time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import Parameter
from triton import knobs
from triton.runtime.driver import driver

from ...codegen.program.program import Program
from ...codegen.target.gpus import PROGRAMS_PER_SM
from ...codegen.target.language import triton_language
from ...ir.core.errors import KernelError
from .executor import Around

VERSIONS = ((3, 6), (3, 7))
"""The versions of Triton whose dispatch hands compiled kernels the arguments that are handed here."""

ALIGNMENT = 16

MOST_COLUMNS = 65_535
"""Programs along the second and the third axis of a grid."""


class GpuExecutor:
    """Launches a program on a GPU."""

    def __init__(self, program: Program, device: torch.device, *, programs: int | None = None) -> None:
        self._program = program
        self._device = device
        self._most_programs = programs or _default_programs(device)
        self._launch = BakedLaunch()

    def programs(self, sizes: Mapping[str, int]) -> int:
        return self._program.programs(sizes, self._most_programs)

    def launch_all(
        self,
        module: Any,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        given: Mapping[str, Any],
        around: Around | None = None,
    ) -> None:
        with torch.cuda.device(self._device):
            module.run(tensors, **given, launch=self._launch if around is None else around(self._launch))


def _default_programs(device: torch.device) -> int:
    return PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count


class BakedLaunch:
    """Stands in for `launch` of a generated module, on the current GPU. `reason` says why launches go through Triton's
    dispatch all the same, and is None where they do not."""

    def __init__(self) -> None:
        self.reason = None if _version() in VERSIONS else f"Triton {triton.__version__} dispatches in its own way"
        self._known: dict[Hashable, tuple[Any, tuple[str, ...]]] = {}

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """Launch a kernel with arguments for its first parameters and the compile-time ones by name; an empty grid
        launches nothing."""
        if not all(grid):
            return
        if max(grid[1:], default=0) > MOST_COLUMNS:
            many = " by ".join(f"{size:,}" for size in grid)
            raise KernelError(
                f"{kernel.__name__}: a grid of {many} programs, and CUDA launches at most {MOST_COLUMNS:,} along its "
                "second axis; declare the size of the columns as an int, not as a Dim: tiles are then wide enough"
            )
        device = driver.active.get_current_device()
        key = None if self.reason or _is_watched(kernel) else _key(kernel, device, arguments, options)
        known = None if key is None else self._known.get(key)
        if known is None:
            with triton_language:
                compiled = kernel[grid](*arguments, enable_fp_fusion=True, **options)
            names = kernel.arg_names[len(arguments) :]
            # A hook of Triton's cache may have had nothing compiled.
            if compiled is not None and key is not None and all(name in options for name in names):
                self._known[key] = compiled, tuple(names)
            return
        compiled, names = known
        columns = grid[1] if len(grid) > 1 else 1
        shares = grid[2] if len(grid) > 2 else 1
        compiled.run(
            grid[0], columns, shares, driver.active.get_current_stream(device), compiled.function,
            compiled.packed_metadata, None, None, None, *arguments, *(options[name] for name in names),
        )  # fmt: skip


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in triton.__version__.split(".")[:2])


def _is_watched(kernel: Any) -> bool:
    """Whether somebody wants to know of launches, such as a profiler, or has kernels compiled in another way."""
    asked = knobs.runtime
    hooks = (asked.launch_enter_hook, asked.launch_exit_hook)
    if any(hook is not None and getattr(hook, "calls", True) for hook in hooks) or kernel.pre_run_hooks:
        return True
    return bool(asked.debug or asked.add_stages_inspection_hook or knobs.compilation.instrumentation_mode)


def _key(kernel: Any, device: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Hashable:
    """What a compiled kernel depends on; None for arguments that generated launchers do not pass."""
    made: list[Hashable] = [id(kernel), device]
    for argument in arguments:
        kind = type(argument)
        if kind is Tensor or kind is Parameter:
            made += (argument.dtype, argument.data_ptr() % ALIGNMENT)
        elif kind is int:
            made += (argument == 1, argument % ALIGNMENT == 0, -(2**31) <= argument < 2**31, argument < 2**63)
        elif kind is float:
            made.append(float)
        else:
            return None
    return (*made, *options.items())
