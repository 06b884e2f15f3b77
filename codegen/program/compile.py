"""Every kernel of a program compiled ahead of time, once for each content: no GPU is needed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from tritonnotes.ir.core.types import element_count

from ..emit.kernel import KernelSource
from ..support.sizes import NOMINAL_SIZES
from ..target.cache import KernelCache, key_of
from ..target.compile import CompiledReport, compile_kernel, triton_version
from ..target.load import load_source
from .program import Program

WIDEST = 16
"""What Triton asks of a pointer or an int before it relies on it: that it is a multiple of this. Its JIT looks at the
arguments of each launch and compiles anew where the answer is another."""


def compile_program(
    program: Program, arch: int, cache: KernelCache | None = None, sizes: Mapping[str, int] = NOMINAL_SIZES
) -> tuple[CompiledReport, ...]:
    """The generated kernels of `program` for sm_`arch` (80, 90 or 100), in launch order, with the tiles that a GPU
    gets. Tensors are taken to be aligned to 16 bytes, as torch allocates them; `sizes` are those of the `Dim`s, of
    which no more is used than whether the int arguments are multiples of 16. Results are kept in `cache`."""
    return tuple(compile_each(program, arch, cache, sizes))


def compile_each(
    program: Program, arch: int, cache: KernelCache | None = None, sizes: Mapping[str, int] = NOMINAL_SIZES
) -> Iterator[CompiledReport]:
    """As `compile_program`, one kernel after the other. Launches that share one share its report."""
    cache = cache or KernelCache()
    made: dict[tuple[str, ...], CompiledReport] = {}
    for kernel, spelled in zip(program.kernels, program.kernel_sources, strict=True):
        divisible = divisible_by_16(spelled, program.sizes_in(kernel.name, sizes))
        key = spelled.name, *divisible
        if key not in made:
            made[key] = _compiled(program.source, spelled, arch, cache, divisible)
        yield made[key]


def compile_sources(
    source: str,
    kernels: Sequence[KernelSource],
    arch: int,
    cache: KernelCache | None = None,
    sizes: Mapping[str, int] = NOMINAL_SIZES,
) -> tuple[CompiledReport, ...]:
    """The kernels of one generated file, as `compile_program` compiles those of a program."""
    cache = cache or KernelCache()
    return tuple(_compiled(source, kernel, arch, cache, divisible_by_16(kernel, sizes)) for kernel in kernels)


def divisible_by_16(kernel: KernelSource, sizes: Mapping[str, int] = NOMINAL_SIZES) -> list[str]:
    """The arguments of a kernel that are multiples of 16: all pointers, and the ints that are where the `Dim`s have
    these `sizes`."""
    ints = [name for name, shape in kernel.sizes.items() if element_count(shape, sizes) % WIDEST == 0]
    return [name for name, kind in kernel.signature.items() if kind.startswith("*") or name in ints]


def _compiled(
    source: str, kernel: KernelSource, arch: int, cache: KernelCache, divisible: Sequence[str]
) -> CompiledReport:
    key = key_of(
        source=source,
        kernel=kernel.name,
        signature=kernel.signature,
        constexprs=kernel.constexprs,
        num_warps=kernel.num_warps,
        maxnreg=kernel.maxnreg,
        divisible=list(divisible),
        arch=arch,
        triton=triton_version(),
        lines="call sites",
    )

    def build() -> bytes:
        report = compile_kernel(
            getattr(load_source(source, cache), kernel.name),
            kernel.signature,
            kernel.constexprs,
            arch=arch,
            num_warps=kernel.num_warps,
            maxnreg=kernel.maxnreg,
            divisible_by_16=divisible,
        )
        return _packed(report)

    return _unpacked(cache.get_or_build("report", key, build))


def _packed(report: CompiledReport) -> bytes:
    known = {f.name: getattr(report, f.name) for f in fields(report)}
    return json.dumps({**known, "cubin": base64.b64encode(report.cubin).decode("ascii")}).encode("utf-8")


def _unpacked(payload: bytes) -> CompiledReport:
    known = json.loads(payload)
    return CompiledReport(**{**known, "cubin": base64.b64decode(known["cubin"])})
