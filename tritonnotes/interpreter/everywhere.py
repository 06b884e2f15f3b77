"""`with enabled():` kernels that are launched as `kernel[grid](...)` on CPU tensors run under the interpreter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from tritonnotes.ir.core.errors import KernelError

from .executor import bound_arguments, launch


class TooManyProgramsError(KernelError):
    """A launch has more programs than the interpreter was asked to run."""


@contextmanager
def enabled(strict: bool = True, most_programs: int | None = None) -> Iterator[list[str]]:
    """Until this ends, launches of any `triton.jit` kernel on CPU tensors, also those inside other packages, run under
    the interpreter. Gives the names of the kernels of which it ran a program, in order, as they are launched: an empty
    grid is not among them. Launches on a GPU stay as they are. Of an autotuned kernel's configurations the first is
    taken. A launch of more than `most_programs`, which takes long, raises `TooManyProgramsError`.
    """
    jit_run, tuned_run = JITFunction.run, Autotuner.run
    launched: list[str] = []

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if warmup or not _is_on_cpu(args, kwargs):
            return jit_run(self, *args, grid=grid, warmup=warmup, **kwargs)
        values = bound_arguments(self, args, kwargs)
        sizes = grid(values) if callable(grid) else grid
        sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        if 0 not in sizes:
            launched.append(self.__name__)
        if most_programs is not None and math.prod(sizes) > most_programs:
            raise TooManyProgramsError(
                f"kernel {self.__name__}: a launch of {math.prod(sizes):,} programs takes the interpreter long; "
                f"more than {most_programs:,} are left out"
            )
        return launch(self, sizes, *values.values(), strict=strict)

    def tuned(self: Autotuner, *args: Any, **kwargs: Any) -> Any:
        if not _is_on_cpu(args, kwargs):
            return tuned_run(self, *args, **kwargs)
        return self.fn.run(*args, **{**self.configs[0].all_kwargs(), **kwargs})

    JITFunction.run, Autotuner.run = run, tuned
    try:
        yield launched
    finally:
        JITFunction.run, Autotuner.run = jit_run, tuned_run


def _is_on_cpu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return bool(tensors) and all(tensor.device.type == "cpu" for tensor in tensors)
