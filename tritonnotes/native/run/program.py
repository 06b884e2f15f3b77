"""All launches of a program as one native call.

    recorder = Recorder()
    module.run(tensors, ..., launch=recorder)        # notes launches, runs nothing
    bundle = recorder.bundle()      # compiles what is new, packs all arguments once
    bundle.run()                    # one foreign call: all launches in order, on all threads

Threads stay together through all launches, with a barrier after each. Kernels are compiled and kept one by one, so
programs share them; only the entry is a program's own. What changes from run to run is set in place, with `bind`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ..llvm.engine import Loaded, Object, compile_object, kept_object, object_key
from ..llvm.threads import DECLARATIONS, openmp
from .arguments import face_of, grid_of, packable, split
from .compiled import NativeKernel, specialized, workspace

GRID_BYTES = 16
"""Three sizes of a grid in front of each launch's arguments, filled up to sixteen bytes."""


@dataclass(frozen=True)
class Launch:
    """One launch: a kernel, its grid, and its arguments by name, compile-time constants among them."""

    kernel: JITFunction
    grid: tuple[int, int, int]
    values: Mapping[str, Any]
    fused: bool = True


class Recorder:
    """A stand-in for a generated module's `launch` that notes what is launched and runs nothing."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def __call__(
        self, kernel: JITFunction, grid: Sequence[int], *args: Any, enable_fp_fusion: bool = True, **options: Any
    ) -> None:
        face = face_of(kernel)
        values = face.bind(args, options)
        sizes = grid_of(face.name, grid, values)
        if 0 not in sizes:
            self.launches.append(Launch(kernel, sizes, values, enable_fp_fusion))

    def bundle(self) -> Bundle:
        return Bundle(self.launches)


class Bundle:
    """Launches that run together, their arguments packed. It holds the tensors that it was made with, so that their
    memory stays theirs."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.launches = tuple(launches)
        self.kernels: list[NativeKernel] = []
        self._held: list[list[Any]] = []
        self._names: list[list[str]] = []
        self._at: list[int] = []
        size = 0
        for launch in self.launches:
            face = face_of(launch.kernel)
            made, given = specialized(face, launch.kernel, launch.values, launch.fused)
            self.kernels.append(made)
            self._held.append(given)
            self._names.append(list(split(face, launch.values)[0]))
            self._at.append(size)
            size += GRID_BYTES + made.struct.size
        self._block = ctypes.create_string_buffer(max(size, 1))
        for number in range(len(self.launches)):
            self._pack(number)
        self._workspace = max((made.workspace for made in self.kernels), default=0)
        self._most_programs = max((x * y * z for x, y, z in (launch.grid for launch in self.launches)), default=0)
        self._loaded, self._entry = _linked(self.kernels, self._at)

    def _pack(self, number: int) -> None:
        at, made = self._at[number], self.kernels[number]
        struct.pack_into("<iii", self._block, at, *self.launches[number].grid)
        made.struct.pack_into(self._block, at + GRID_BYTES, *packable(self._held[number]))

    def bind(self, number: int, name: str, value: Any) -> None:
        """Passes another value for an argument of one launch: a tensor of the same dtype, or a number that the kernel
        was not specialized to."""
        place = self._names[number].index(name)
        self._held[number][place] = value
        at = self._at[number] + GRID_BYTES
        elem = self.kernels[number].arguments[place]
        code = {"ptr": "Q", "f32": "f", "f64": "d", "i32": "i", "i64": "q", "i16": "h", "i8": "b", "i1": "B"}[elem]
        struct.pack_into("<" + code, self._block, at + 8 * place, *packable([value]))

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Passes another tensor wherever one was passed. The new one overlaps what the old one did."""
        for number, given in enumerate(self._held):
            for place, value in enumerate(given):
                if value is old:
                    self.bind(number, self._names[number][place], new)

    def run(self, threads: int | None = None) -> None:
        """Runs all launches in order."""
        if not self.launches:
            return
        threads = torch.get_num_threads() if threads is None else threads
        threads = max(1, min(threads, self._most_programs)) if openmp() else 1
        self._entry(self._block, workspace(self._workspace * threads), self._workspace, threads)


def _linked(kernels: Sequence[NativeKernel], places: Sequence[int]) -> tuple[Loaded, Any]:
    """The library of all kernels with an entry that runs them, and the entry."""
    symbols = [made.symbol for made in kernels]

    def build() -> Object:
        return Object({}, compile_object(_entry_text(symbols, places), "the entry of a program"))

    entry = kept_object(object_key(symbols=symbols, places=list(places)), build)
    codes = {made.symbol: made.code for made in kernels}
    loaded = Loaded((entry.code, *codes.values()), ("program",))
    pointer, size, word = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    return loaded, ctypes.CFUNCTYPE(None, pointer, pointer, size, word)(loaded["program"])


def _entry_text(symbols: Sequence[str], places: Sequence[int]) -> str:
    declared = "\n".join(
        f"declare void @{symbol}(ptr, i64, i64, i32, i32, i32, ptr, ptr)" for symbol in dict.fromkeys(symbols)
    )
    calls = "\n".join(_call(n, symbol, place) for n, (symbol, place) in enumerate(zip(symbols, places, strict=True)))
    return f"""{DECLARATIONS}
{declared}
%Together = type {{ ptr, ptr, i64 }}
define internal void @share(ptr %together) nounwind {{
entry:
  %block = load ptr, ptr %together
  %at1 = getelementptr %Together, ptr %together, i32 0, i32 1
  %all_work = load ptr, ptr %at1
  %at2 = getelementptr %Together, ptr %together, i32 0, i32 2
  %stride = load i64, ptr %at2
  %me32 = call i32 @omp_get_thread_num()
  %all32 = call i32 @omp_get_num_threads()
  %me = zext i32 %me32 to i64
  %all = zext i32 %all32 to i64
  %mine = mul i64 %me, %stride
  %work = getelementptr i8, ptr %all_work, i64 %mine
  call void @range(ptr %block, ptr %work, i64 %me, i64 %all)
  ret void
}}
define internal void @range(ptr %block, ptr %work, i64 %me, i64 %all) nounwind {{
entry:
  %together = icmp ugt i64 %all, 1
{calls}
  ret void
}}
define void @program(ptr %block, ptr %work, i64 %stride, i32 %threads) nounwind {{
entry:
  %together = alloca %Together
  store ptr %block, ptr %together
  %at1 = getelementptr %Together, ptr %together, i32 0, i32 1
  store ptr %work, ptr %at1
  %at2 = getelementptr %Together, ptr %together, i32 0, i32 2
  store i64 %stride, ptr %at2
  %several = icmp sgt i32 %threads, 1
  br i1 %several, label %parallel, label %alone
parallel:
  call void @GOMP_parallel(ptr @share, ptr %together, i32 %threads, i32 0)
  ret void
alone:
  call void @range(ptr %block, ptr %work, i64 0, i64 1)
  ret void
}}"""


def _call(number: int, symbol: str, place: int) -> str:
    """One launch of the entry: this thread's range of its grid, then a barrier where there are other threads."""
    n = number
    grid = f"i32 %x{n}, i32 %y{n}, i32 %z{n}"
    return f"""  %grid{n} = getelementptr i8, ptr %block, i64 {place}
  %x{n} = load i32, ptr %grid{n}, align 4
  %at_y{n} = getelementptr i8, ptr %grid{n}, i64 4
  %y{n} = load i32, ptr %at_y{n}, align 4
  %at_z{n} = getelementptr i8, ptr %grid{n}, i64 8
  %z{n} = load i32, ptr %at_z{n}, align 4
  %arguments{n} = getelementptr i8, ptr %grid{n}, i64 {GRID_BYTES}
  %wide_x{n} = zext i32 %x{n} to i64
  %wide_y{n} = zext i32 %y{n} to i64
  %wide_z{n} = zext i32 %z{n} to i64
  %plane{n} = mul i64 %wide_x{n}, %wide_y{n}
  %count{n} = mul i64 %plane{n}, %wide_z{n}
  %below{n} = mul i64 %me, %count{n}
  %begin{n} = udiv i64 %below{n}, %all
  %above{n} = add i64 %below{n}, %count{n}
  %end{n} = udiv i64 %above{n}, %all
  call void @{symbol}(ptr %arguments{n}, i64 %begin{n}, i64 %end{n}, {grid}, ptr %work, ptr null)
  br i1 %together, label %wait{n}, label %done{n}
wait{n}:
  call void @GOMP_barrier()
  br label %done{n}
done{n}:"""
