"""The machine code of a program's kernels on the CPU, to read: nothing runs. And the page that shows a program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ... import native
from ...codegen.program.program import Program
from ...codegen.support.sizes import NOMINAL_SIZES
from ...codegen.target.cache import KernelCache
from ...codegen.target.load import load_source
from ...codegen.target.targets import CPU
from ...explorer.numerics import Certificate
from ...ir.core.graph import is_seed
from ...ir.core.types import Shape, element_count
from .machine_code import NativeExecutor


def native_listings(program: Program) -> tuple[native.Listing, ...]:
    """The kernels of a program as the CPU gets them where every `Dim` is 256, in the order of their first launch.
    Tensors are on the meta device: they take no memory. Raises `NativeError` for what native code does not cover."""
    executor, module = NativeExecutor(program), load_source(program.source, KernelCache())
    sizes = {dim.name: NOMINAL_SIZES[dim.name] for dim in program.dims}
    programs = executor.programs(sizes)
    found: dict[str, native.Listing] = {}

    def note(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        if kernel.__name__ not in found and all(grid):
            _, _, options = executor.adapted(kernel, grid, options, sizes)
            found[kernel.__name__] = native.listing(kernel, *arguments, **options)

    tensors = {b.name: _meta(b.shape, b.dtype.name, sizes) for b in program.buffers if b.role in ("leaf", "output")}
    if program.arena.lives:
        shared = {"programs": programs} if program.arena.is_shared else {}
        given = program.arguments.given_sizes(sizes, program.arena.dims)
        tensors |= module.temporaries("meta", **given, **shared)
    numbers = {value.name: 0 if is_seed(value) else 0.5 for value in program.arguments.scalars}
    module.run(tensors, **program.arguments.given(sizes, numbers), programs=programs, launch=note)
    return tuple(found.values())


def explored(
    path: str | os.PathLike[str],
    program: Program,
    title: str,
    arch: int | str = 90,
    certificate: Certificate | None = None,
    machine_code: bool = True,
    progress: bool = True,
) -> Path:
    """Write the explorer's page of a program, with machine code for sm_`arch`, or of "cpu" for this machine's. Raises
    `KernelError` for another architecture."""
    # Its template and its lexer are wanted here alone.
    from ...explorer.page import explore_page

    listings = native_listings(program) if machine_code and arch == CPU else ()
    file = Path(path)
    page = explore_page(program, title, arch, certificate, machine_code, progress, listings)
    file.write_text(page, encoding="utf-8")
    return file


def _meta(shape: Shape, dtype: str, sizes: dict[str, int]) -> torch.Tensor:
    return torch.empty([element_count((s,), sizes) for s in shape], dtype=getattr(torch, dtype), device="meta")
