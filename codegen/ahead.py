"""Every kernel of a program compiled ahead of time, once for each content: no GPU is needed."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import fields

from .cache import KernelCache, key_of
from .compile import CompiledCard, compile_kernel, triton_version
from .load import load_source
from .program import Program
from .source import KernelSource


def compile_program(program: Program, arch: int, cache: KernelCache | None = None) -> tuple[CompiledCard, ...]:
    """The generated kernels of `program` for sm_`arch` (80, 90 or 100), in launch order, with the tiles that a GPU
    gets. Tensors are taken to be aligned to 16 bytes, as torch allocates them. Results are kept in `cache`."""
    return compile_sources(program.source, program.kernel_sources, arch, cache)


def compile_sources(
    source: str, kernels: Sequence[KernelSource], arch: int, cache: KernelCache | None = None
) -> tuple[CompiledCard, ...]:
    """The kernels of one generated file, as `compile_program` compiles those of a program."""
    cache = cache or KernelCache()
    return tuple(_compiled(source, kernel, arch, cache) for kernel in kernels)


def _compiled(source: str, kernel: KernelSource, arch: int, cache: KernelCache) -> CompiledCard:
    key = key_of(
        source=source,
        kernel=kernel.name,
        signature=kernel.signature,
        constexprs=kernel.constexprs,
        num_warps=kernel.num_warps,
        arch=arch,
        triton=triton_version(),
    )

    def build() -> bytes:
        card = compile_kernel(
            getattr(load_source(source, cache), kernel.name),
            kernel.signature,
            kernel.constexprs,
            arch=arch,
            num_warps=kernel.num_warps,
            divisible_by_16=[name for name, kind in kernel.signature.items() if kind.startswith("*")],
        )
        return _packed(card)

    return _unpacked(cache.get_or_build("card", key, build))


def _packed(card: CompiledCard) -> bytes:
    known = {f.name: getattr(card, f.name) for f in fields(card)}
    return json.dumps({**known, "cubin": base64.b64encode(card.cubin).decode("ascii")}).encode("utf-8")


def _unpacked(payload: bytes) -> CompiledCard:
    known = json.loads(payload)
    return CompiledCard(**{**known, "cubin": base64.b64decode(known["cubin"])})
