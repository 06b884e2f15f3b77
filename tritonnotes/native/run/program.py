"""All launches of a program as one native call.

    recorder = Recorder()
    module.run(tensors, ..., launch=recorder)        # notes launches, runs nothing
    bundle = recorder.bundle()      # compiles what is new, packs all arguments once
    bundle.run()                    # one foreign call: all launches in order, on all threads

Threads stay together through launches that follow each other, with a barrier after each. A launch that is known to
take less than `LEAST_SHARED` runs on the calling thread alone: waiting for another thread costs a turn of the scheduler
where the processor has other work, thousands of times what it saves there.

Kernels are compiled and kept one by one, so programs share them, and the entry that calls them is the same for all
programs. What changes from run to run is set in place: by argument with `bind`, or through `words`, where the arguments
lie.
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ..llvm.engine import Loaded, Object, compile_object, kept_object, object_key
from ..llvm.threads import DECLARATIONS, openmp
from .arguments import face_of, grid_of, packable, split
from .compiled import NativeKernel, specialized, workspace

RECORD_WORDS = 4
"""Words of eight bytes that say of a launch where its code and its arguments lie, and the sizes of its grid."""

LEAST_SHARED = 2**21
"""The least work of a launch that is shared out over threads: about a tenth of a millisecond of one core. Two idle
cores gain from a tenth of that on (a barrier takes 2.5 microseconds where both threads are awake); busy ones lose 4 to
40 milliseconds at any size."""


@dataclass(frozen=True)
class Launch:
    """One launch: a kernel, its grid, and its arguments by name, compile-time constants among them. `work` is about how
    many elements it computes, where that is known."""

    kernel: JITFunction
    grid: tuple[int, int, int]
    values: Mapping[str, Any]
    fused: bool = True
    work: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether its programs are shared out over threads."""
        return math.prod(self.grid) > 1 and (self.work is None or self.work >= LEAST_SHARED)


class Recorder:
    """A stand-in for a generated module's `launch` that notes what is launched and runs nothing. `work` is that of each
    launch, where it is known."""

    def __init__(self, work: int | None = None) -> None:
        self.launches: list[Launch] = []
        self._work = work

    def __call__(
        self, kernel: JITFunction, grid: Sequence[int], *args: Any, enable_fp_fusion: bool = True, **options: Any
    ) -> None:
        face = face_of(kernel)
        values = face.bind(args, options)
        sizes = grid_of(face.name, grid, values)
        if 0 not in sizes:
            self.launches.append(Launch(kernel, sizes, values, enable_fp_fusion, self._work))

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
        size = RECORD_WORDS * len(self.launches)
        for launch in self.launches:
            face = face_of(launch.kernel)
            made, given = specialized(face, launch.kernel, launch.values, launch.fused)
            self.kernels.append(made)
            self._held.append(given)
            self._names.append(list(split(face, launch.values)[0]))
            self._at.append(size)
            size += len(given)
        self._block = (ctypes.c_uint64 * max(size, 1))()
        self.words = memoryview(self._block).cast("B").cast("Q")
        """The block of records and arguments, eight bytes each. An address may be written over another one."""
        for number in range(len(self.launches)):
            self._pack(number)
        self._workspace = max((made.workspace for made in self.kernels), default=0)
        self._stretches = _stretches(self.launches, ctypes.addressof(self._block), self._workspace)
        self._entry = _entry() if self.launches else None
        self._lock = threading.Lock()

    def _pack(self, number: int) -> None:
        at, made = self._at[number], self.kernels[number]
        arguments = ctypes.addressof(self._block) + 8 * at
        record = (made.address, arguments, *self.launches[number].grid)
        struct.pack_into("<QQiii", self._block, 8 * RECORD_WORDS * number, *record)
        made.struct.pack_into(self._block, 8 * at, *packable(self._held[number]))

    def tensors(self) -> list[tuple[int, Tensor]]:
        """Every tensor that is passed, and the place of its address in `words`."""
        return [
            (at + place, value)
            for at, given in zip(self._at, self._held, strict=True)
            for place, value in enumerate(given)
            if isinstance(value, Tensor)
        ]

    def bind(self, number: int, name: str, value: Any) -> None:
        """Passes another value for an argument of one launch: a tensor of the same dtype, or a number that the kernel
        was not specialized to."""
        place = self._names[number].index(name)
        self._held[number][place] = value
        elem = self.kernels[number].arguments[place]
        code = {"ptr": "Q", "f32": "f", "f64": "d", "i32": "i", "i64": "q", "i16": "h", "i8": "b", "i1": "B"}[elem]
        struct.pack_into("<" + code, self._block, 8 * (self._at[number] + place), *packable([value]))

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Passes another tensor wherever one was passed. The new one overlaps what the old one did."""
        for number, given in enumerate(self._held):
            for place, value in enumerate(given):
                if value is old:
                    self.bind(number, self._names[number][place], new)

    def run(self, threads: int | None = None) -> None:
        """Runs all launches in order. Of threads that run them at once one waits for the other."""
        entry = self._entry
        if entry is None:
            return
        size = self._workspace
        with self._lock:  # the entry reads what is written here
            for place, given, programs in self._stretches:
                sharing = 1
                if programs > 1 and openmp():
                    sharing = max(1, min(torch.get_num_threads() if threads is None else threads, programs))
                if size:
                    given[_WORK] = workspace(size * sharing)
                given[_THREADS] = sharing
                entry(place)


_WORK, _THREADS = 2, 4
"""The places of what is said anew in each run, among what the entry is given."""

Stretch = tuple[ctypes.c_void_p, "ctypes.Array[ctypes.c_uint64]", int]


def _stretches(launches: Sequence[Launch], block: int, workspace: int) -> tuple[Stretch, ...]:
    """Launches that follow each other and are shared out alike: what the entry is given of them, by its address, which
    a foreign call takes sooner than numbers, and how many threads may share them."""
    found = []
    place = block
    for is_shared, group in groupby(launches, key=lambda launch: launch.is_shared):
        together = [*group]
        most = max(math.prod(launch.grid) for launch in together) if is_shared else 1
        given = (ctypes.c_uint64 * 5)(place, len(together), 0, workspace, 1)
        found.append((ctypes.c_void_p(ctypes.addressof(given)), given, most))
        place += 8 * RECORD_WORDS * len(together)
    return tuple(found)


@cache
def _library() -> Loaded:
    key = object_key(entry=_ENTRY)
    made = kept_object(key, lambda: Object({}, compile_object(_ENTRY, "the entry of programs")))
    return Loaded((made.code,), ("program",))


@cache
def _entry() -> Any:
    """The function that runs a block of launches."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_library()["program"])


_ENTRY = f"""{DECLARATIONS}
%Record = type {{ ptr, ptr, i32, i32, i32, i32 }}
%Together = type {{ ptr, i64, ptr, i64, i64 }}
define internal void @share(ptr %together) nounwind {{
entry:
  %records = load ptr, ptr %together
  %at1 = getelementptr %Together, ptr %together, i32 0, i32 1
  %count = load i64, ptr %at1
  %at2 = getelementptr %Together, ptr %together, i32 0, i32 2
  %all_work = load ptr, ptr %at2
  %at3 = getelementptr %Together, ptr %together, i32 0, i32 3
  %stride = load i64, ptr %at3
  %me32 = call i32 @omp_get_thread_num()
  %all32 = call i32 @omp_get_num_threads()
  %me = zext i32 %me32 to i64
  %all = zext i32 %all32 to i64
  %mine = mul i64 %me, %stride
  %work = getelementptr i8, ptr %all_work, i64 %mine
  call void @range(ptr %records, i64 %count, ptr %work, i64 %me, i64 %all)
  ret void
}}
define internal void @range(ptr %records, i64 %count, ptr %work, i64 %me, i64 %all) nounwind {{
entry:
  %together = icmp ugt i64 %all, 1
  br label %launch
launch:
  %n = phi i64 [0, %entry], [%following, %done]
  %record = getelementptr %Record, ptr %records, i64 %n
  %code = load ptr, ptr %record
  %at1 = getelementptr %Record, ptr %record, i32 0, i32 1
  %arguments = load ptr, ptr %at1
  %at2 = getelementptr %Record, ptr %record, i32 0, i32 2
  %x = load i32, ptr %at2
  %at3 = getelementptr %Record, ptr %record, i32 0, i32 3
  %y = load i32, ptr %at3
  %at4 = getelementptr %Record, ptr %record, i32 0, i32 4
  %z = load i32, ptr %at4
  %wide_x = zext i32 %x to i64
  %wide_y = zext i32 %y to i64
  %wide_z = zext i32 %z to i64
  %plane = mul i64 %wide_x, %wide_y
  %programs = mul i64 %plane, %wide_z
  %below = mul i64 %me, %programs
  %begin = udiv i64 %below, %all
  %above = add i64 %below, %programs
  %end = udiv i64 %above, %all
  call void %code(ptr %arguments, i64 %begin, i64 %end, i32 %x, i32 %y, i32 %z, ptr %work, ptr null)
  br i1 %together, label %wait, label %done
wait:
  call void @GOMP_barrier()
  br label %done
done:
  %following = add i64 %n, 1
  %more = icmp ult i64 %following, %count
  br i1 %more, label %launch, label %out
out:
  ret void
}}
define void @program(ptr %together) nounwind {{
entry:
  %records = load ptr, ptr %together
  %at1 = getelementptr %Together, ptr %together, i32 0, i32 1
  %count = load i64, ptr %at1
  %at2 = getelementptr %Together, ptr %together, i32 0, i32 2
  %work = load ptr, ptr %at2
  %at4 = getelementptr %Together, ptr %together, i32 0, i32 4
  %wide_threads = load i64, ptr %at4
  %threads = trunc i64 %wide_threads to i32
  %several = icmp sgt i32 %threads, 1
  br i1 %several, label %parallel, label %alone
parallel:
  call void @GOMP_parallel(ptr @share, ptr %together, i32 %threads, i32 0)
  ret void
alone:
  call void @range(ptr %records, i64 %count, ptr %work, i64 0, i64 1)
  ret void
}}"""
