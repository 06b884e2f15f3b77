"""`with enabled():` kernels that are launched as `kernel[grid](...)` on CPU tensors run as machine code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from .launch import launch


@contextmanager
def enabled(*, sanitize: bool = False) -> Iterator[None]:
    """Until this ends, launches of any `triton.jit` kernel on CPU tensors, also those inside other packages, run as
    machine code, with `sanitize` such as checks its accesses. Launches on a GPU stay as they are. Of an autotuned
    kernel's configurations the first is taken: they were written for GPUs, and there is none here to time them on.
    """
    jit_run, tuned_run = JITFunction.run, Autotuner.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if warmup or not _is_on_cpu(args, kwargs):
            return jit_run(self, *args, grid=grid, warmup=warmup, **kwargs)
        return launch(self, grid, *args, sanitize=sanitize, **kwargs)

    def tuned(self: Autotuner, *args: Any, **kwargs: Any) -> Any:
        if not _is_on_cpu(args, kwargs):
            return tuned_run(self, *args, **kwargs)
        return self.fn.run(*args, **{**self.configs[0].all_kwargs(), **kwargs})

    JITFunction.run, Autotuner.run = run, tuned
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = jit_run, tuned_run


def _is_on_cpu(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return bool(tensors) and all(tensor.device.type == "cpu" for tensor in tensors)
