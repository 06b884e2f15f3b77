"""Ahead-of-time compilation of a `triton.jit` function for an NVIDIA GPU that need not be there.

`compile_kernel` gives a `CompiledCard`: the code, and what it costs (registers, spills, shared memory, access
widths).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import cache as runtime_cache
from triton.runtime.jit import JITFunction

from tritonnotes.ir.core.errors import KernelError

from .call_sites import keeping_call_sites
from .language import triton_language
from .sass import LOADS, STORES, Instruction, instructions, widths, with_source

ARCHS = (80, 90, 100)


_RESOURCE = re.compile(r"\b([A-Z]+):(\d+)")


@dataclass(frozen=True)
class Spills:
    """What did not fit in registers: bytes of stack and local memory per thread, and accesses to them."""

    stack_bytes: int
    local_bytes: int
    loads: int
    stores: int

    def __bool__(self) -> bool:
        return any((self.stack_bytes, self.local_bytes, self.loads, self.stores))


@dataclass(frozen=True)
class CompiledReport:
    """One kernel compiled for one architecture.

    `registers`, `stack_bytes` and `local_bytes` are for each thread. `shared_bytes` are for each program:
    what the kernel asks for and what the hardware reserves (1 KiB from sm_90 on). `load_widths` and
    `store_widths` count the global memory instructions in the SASS by the bits that one thread moves; one in
    a loop counts once.
    """

    name: str
    arch: int
    num_warps: int
    num_stages: int
    ptx: str = field(repr=False)
    cubin: bytes = field(repr=False)
    registers: int
    shared_bytes: int
    stack_bytes: int
    local_bytes: int

    @cached_property
    def sass(self) -> str:
        """The machine code, disassembled by the nvdisasm that comes with Triton on first use."""
        return "".join(line for line in self._lined_sass.splitlines(keepends=True) if "//## File" not in line)

    def sass_with_source(self, source: str) -> str:
        """The machine code, with the lines of the generated file `source` above what came of them."""
        return with_source(self._lined_sass, source)

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The machine code as a list, each instruction with the line of source that it comes from."""
        return tuple(instructions(self._lined_sass))

    @cached_property
    def _lined_sass(self) -> str:
        return _run_on_cubin("nvdisasm", ["--print-code", "--print-line-info-inline"], self.cubin, self.name)

    @cached_property
    def spills(self) -> Spills:
        """Register spills; false when there are none. Without a stack there is nowhere to spill to, so nothing is
        disassembled."""
        if not self.stack_bytes and not self.local_bytes:
            return Spills(0, 0, 0, 0)
        loads, stores = (sum(i.name == name for i in self.instructions) for name in ("LDL", "STL"))
        return Spills(self.stack_bytes, self.local_bytes, loads, stores)

    @cached_property
    def load_widths(self) -> Counter[int]:
        """{bits: number of global load instructions of that width}, asynchronous copies included."""
        return widths(self.instructions, LOADS)

    @cached_property
    def store_widths(self) -> Counter[int]:
        """{bits: number of global store instructions of that width}."""
        return widths(self.instructions, STORES)


def compile_kernel(
    kernel: JITFunction,
    signature: Mapping[str, str],
    constexprs: Mapping[str, object],
    *,
    arch: int,
    num_warps: int = 4,
    num_stages: int = 3,
    maxnreg: int | None = None,
    divisible_by_16: Collection[str] = (),
    enable_fp_fusion: bool = True,
) -> CompiledReport:
    """Compiles `kernel` for sm_80, sm_90 or sm_100 (`arch` 80, 90, 100). No GPU or driver is needed.

    `signature` gives a Triton type for each runtime parameter, such as "*fp32", "*bf16", "i32", "fp32";
    `constexprs` gives a value for each constexpr parameter. Together they name every parameter once;
    parameters with a default may be left out. `divisible_by_16` names pointers and integers that are
    multiples of 16: without it on the pointers *and* on the row length, accesses stay narrow.

    Raises KernelError for names that do not fit, and for a kernel that Triton or ptxas refuses.
    """
    if arch not in ARCHS:
        raise KernelError(f"kernel {kernel.__name__}: arch must be one of {ARCHS}, not {arch}")
    types, values = _complete(kernel, signature, constexprs)
    strangers = [name for name in divisible_by_16 if types.get(name, "constexpr") == "constexpr"]
    if strangers:
        raise KernelError(
            f"kernel {kernel.__name__}: divisible_by_16 names {', '.join(strangers)}, not a runtime parameter"
        )
    places = {name: index for index, name in enumerate(kernel.arg_names)}
    attributes = {(places[name],): [["tt.divisibility", 16]] for name in divisible_by_16}
    source = ASTSource(fn=kernel, signature=types, constexprs=values, attrs=attributes)
    options: dict[str, object] = {
        "num_warps": num_warps,
        "num_stages": num_stages,
        "enable_fp_fusion": enable_fp_fusion,
    }
    if maxnreg is not None:
        options["maxnreg"] = maxnreg
    try:
        with triton_language, _named_by_version(), keeping_call_sites(triton.knobs.runtime):
            compiled: Any = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    except Exception as error:
        raise KernelError(
            f"kernel {kernel.__name__} does not compile for sm_{arch} with {types} and {values}: "
            f"{type(error).__name__}: {_root(error)}"
        ) from error
    cubin = compiled.asm["cubin"]
    usage = _resource_usage(cubin, kernel.__name__)
    return CompiledReport(
        name=kernel.__name__,
        arch=arch,
        num_warps=num_warps,
        num_stages=num_stages,
        ptx=compiled.asm["ptx"],
        cubin=cubin,
        registers=usage["REG"],
        shared_bytes=usage["SHARED"] + compiled.metadata.shared,
        stack_bytes=usage["STACK"],
        local_bytes=usage["LOCAL"],
    )


@contextmanager
def _named_by_version() -> Iterator[None]:
    """Triton names what it keeps on disk after a hash of all its own files, half a second of reading in each process.
    What is compiled ahead of time is kept by its version, so that is all that Triton is told too."""
    known = getattr(runtime_cache, "triton_key", None)
    if known is None:
        yield
        return
    runtime_cache.triton_key = lambda: f"tritonnotes with {triton_version()}"
    try:
        yield
    finally:
        runtime_cache.triton_key = known


def triton_version() -> str:
    """The version of Triton that compiles here."""
    return str(triton.__version__)


def _complete(
    kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, object]
) -> tuple[dict[str, str], dict[str, object]]:
    """The type of every parameter in order ("constexpr" for constants) and the value of every constant."""
    name = kernel.__name__
    unknown = (set(signature) | set(constexprs)) - set(kernel.arg_names)
    if unknown:
        raise KernelError(f"kernel {name} has no parameter {', '.join(sorted(unknown))}")
    both = set(signature) & set(constexprs)
    if both:
        raise KernelError(f"kernel {name}: {', '.join(sorted(both))} cannot be both in signature and a constexpr")
    types: dict[str, str] = {}
    values: dict[str, object] = {}
    for parameter in kernel.params:
        if parameter.name in signature:
            if parameter.is_constexpr:
                raise KernelError(f"kernel {name}: {parameter.name} is constexpr and needs a value, not a type")
            types[parameter.name] = signature[parameter.name]
            continue
        if parameter.name in constexprs:
            value = constexprs[parameter.name]
        elif parameter.has_default:
            value = parameter.default
        else:
            raise KernelError(f"kernel {name}: parameter {parameter.name} has neither a type nor a value")
        types[parameter.name] = "constexpr"
        values[parameter.name] = value
    return types, values


def _root(error: BaseException) -> str:
    """The innermost message: Triton wraps an error once for every helper function it was in."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip() or type(error).__name__


def _run_on_cubin(tool: str, options: list[str], cubin: bytes, name: str) -> str:
    """Output of one of the tools that come with Triton, which read their input from a file only."""
    path = getattr(triton.knobs.nvidia, tool).path
    with tempfile.TemporaryDirectory(prefix="tritonnotes-") as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        result = subprocess.run([path, *options, str(file)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise KernelError(f"kernel {name}: {tool} failed: {result.stderr.strip()}")
    return result.stdout


def _resource_usage(cubin: bytes, name: str) -> dict[str, int]:
    text = _run_on_cubin("cuobjdump", ["--dump-resource-usage"], cubin, name)
    # " Function NAME:" and on the next line " REG:24 STACK:0 SHARED:16 LOCAL:0 CONSTANT[0]:592 ..."
    for line in text.splitlines():
        found = dict(_RESOURCE.findall(line))
        if "REG" in found:
            return {key: int(found.get(key, 0)) for key in ("REG", "STACK", "SHARED", "LOCAL")}
    raise KernelError(f"kernel {name}: cuobjdump printed no resource usage")
