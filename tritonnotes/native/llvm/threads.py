"""The entry points of a kernel: all its programs in order, or shared out over threads.

Each thread takes one range of the grid, by a fixed rule. A program computes the same whichever thread runs it, so the
bits are the same for any number of threads. The threads are those of the OpenMP runtime that torch has loaded.
"""

from __future__ import annotations

import ctypes
import glob
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

_NAMES = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")


@cache
def openmp() -> dict[str, int]:
    """The addresses of the functions that the entry points call; empty where there is no OpenMP runtime, so that
    kernels run on one thread."""
    libraries: list[ctypes.CDLL] = []
    for path in sorted(glob.glob(str(Path(torch.__file__).parent / "lib" / "lib*omp*.so*"))):
        libraries.append(ctypes.CDLL(path))
    libraries.append(ctypes.CDLL(None))
    for library in libraries:
        try:
            return {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in _NAMES}
        except AttributeError:
            continue
    return {}


DECLARATIONS = """declare void @GOMP_parallel(ptr, ptr, i32, i32)
declare void @GOMP_barrier()
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()
%Team = type { ptr, i64, i32, i32, i32, ptr, ptr }"""
"""Once in each module."""


def entry_points(symbol: str, arguments: Sequence[str], workspace: int) -> str:
    """`symbol` runs programs begin ≤ n < end of the grid; `symbol.parallel` runs all of them, on several threads.

    Both take the block of arguments, sizes of the grid, a workspace (one for each thread) and the sanitizer's guard.
    """
    unpack, given = [], []
    for number, type_ in enumerate(arguments):
        unpack.append(f"  %at{number} = getelementptr i8, ptr %arguments, i64 {8 * number}")
        unpack.append(f"  %arg{number} = load {type_}, ptr %at{number}")
        given.append(f"{type_} %arg{number}")
    given += ["i32 %pid0", "i32 %pid1", "i32 %pid2", "i32 %x", "i32 %y", "i32 %z", "ptr %workspace", "ptr %guard"]
    body = "\n".join(unpack)
    sizes = "i32 %x, i32 %y, i32 %z"
    return f"""
define void @{symbol}(ptr %arguments, i64 %begin, i64 %end, {sizes}, ptr %workspace, ptr %guard) nounwind {{
entry:
{body}
  %x64 = zext i32 %x to i64
  %y64 = zext i32 %y to i64
  %some = icmp slt i64 %begin, %end
  br i1 %some, label %loop, label %out
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %in_row = urem i64 %i, %x64
  %rows = udiv i64 %i, %x64
  %in_column = urem i64 %rows, %y64
  %planes = udiv i64 %rows, %y64
  %pid0 = trunc i64 %in_row to i32
  %pid1 = trunc i64 %in_column to i32
  %pid2 = trunc i64 %planes to i32
  call void @{symbol}.program({", ".join(given)})
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %out
out:
  ret void
}}
define internal void @{symbol}.share(ptr %team) nounwind {{
  %arguments = load ptr, ptr %team
  %at1 = getelementptr %Team, ptr %team, i32 0, i32 1
  %count = load i64, ptr %at1
  %at2 = getelementptr %Team, ptr %team, i32 0, i32 2
  %x = load i32, ptr %at2
  %at3 = getelementptr %Team, ptr %team, i32 0, i32 3
  %y = load i32, ptr %at3
  %at4 = getelementptr %Team, ptr %team, i32 0, i32 4
  %z = load i32, ptr %at4
  %at5 = getelementptr %Team, ptr %team, i32 0, i32 5
  %all_work = load ptr, ptr %at5
  %at6 = getelementptr %Team, ptr %team, i32 0, i32 6
  %guard = load ptr, ptr %at6
  %me32 = call i32 @omp_get_thread_num()
  %all32 = call i32 @omp_get_num_threads()
  %me = zext i32 %me32 to i64
  %all = zext i32 %all32 to i64
  %a = mul i64 %me, %count
  %begin = udiv i64 %a, %all
  %b = add i64 %a, %count
  %end = udiv i64 %b, %all
  %mine = mul i64 %me, {workspace}
  %workspace = getelementptr i8, ptr %all_work, i64 %mine
  call void @{symbol}(ptr %arguments, i64 %begin, i64 %end, {sizes}, ptr %workspace, ptr %guard)
  ret void
}}
define void @{symbol}.parallel(ptr %arguments, i64 %count, {sizes}, ptr %work, ptr %guard, i32 %threads) nounwind {{
  %team = alloca %Team
  store ptr %arguments, ptr %team
  %at1 = getelementptr %Team, ptr %team, i32 0, i32 1
  store i64 %count, ptr %at1
  %at2 = getelementptr %Team, ptr %team, i32 0, i32 2
  store i32 %x, ptr %at2
  %at3 = getelementptr %Team, ptr %team, i32 0, i32 3
  store i32 %y, ptr %at3
  %at4 = getelementptr %Team, ptr %team, i32 0, i32 4
  store i32 %z, ptr %at4
  %at5 = getelementptr %Team, ptr %team, i32 0, i32 5
  store ptr %work, ptr %at5
  %at6 = getelementptr %Team, ptr %team, i32 0, i32 6
  store ptr %guard, ptr %at6
  call void @GOMP_parallel(ptr @{symbol}.share, ptr %team, i32 %threads, i32 0)
  ret void
}}"""
