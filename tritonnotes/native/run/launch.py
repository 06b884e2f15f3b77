"""Runs `triton.jit` kernels on CPU tensors as machine code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ..errors import NativeError
from ..lower.guard_block import GuardBlock
from .arguments import face_of, grid_of, packable
from .compiled import specialized


def launch(
    kernel: JITFunction,
    grid: Sequence[int] | Callable[[dict[str, Any]], Sequence[int]],
    *args: Any,
    sanitize: bool = False,
    enable_fp_fusion: bool = True,
    threads: int | None = None,
    tensors: Sequence[Tensor] = (),
    uninitialized: Sequence[Tensor] = (),
    **kwargs: Any,
) -> None:
    """Runs `kernel` once for each program of `grid` over CPU tensors, which are written in place.

    `args` and `kwargs` are what the JIT would take: tensors, ints (int32, or int64 where they do not fit), floats (as
    float32), bools, None, and values for constexpr parameters; `grid` up to three sizes, or a function of the
    arguments. `num_warps` and the like are ignored. Programs are shared out over `threads` (torch.get_num_threads());
    the bits are the same for any number. With `sanitize`, accesses are checked, at some cost; a fault raises
    NativeError and names the access. `tensors` are then those that the kernel reaches only through pointer tables, and
    `uninitialized` those whose content means nothing before the kernel stores it.
    """
    face = face_of(kernel)
    values = face.bind(args, kwargs)
    sizes = grid_of(face.name, grid, values)
    if 0 in sizes:
        return
    made, given = specialized(face, kernel, values, enable_fp_fusion, sanitize, uninitialized if sanitize else ())
    packed = made.struct.pack(*packable(given))
    threads = torch.get_num_threads() if threads is None else threads
    if not sanitize:
        made.run(sizes, packed, threads)
        return
    guard = GuardBlock([v for v in given if isinstance(v, Tensor)], tensors, made.shadows)
    made.run(sizes, packed, threads, guard.address)
    found = guard.fault
    if found is not None:
        named = [(name, value) for name, value in values.items() if isinstance(value, Tensor)]
        raise NativeError(made.faults[found.number - 1].said(found, named))
