"""Triton kernels as machine code for the CPU.

`launch(kernel, grid, *args, **constexprs)` runs anybody's `triton.jit` kernel on CPU tensors; `compile` gives the code
for arguments of given types; within `enabled()`, `kernel[grid](...)` runs so too. docs/native.md says what is covered.
"""

from __future__ import annotations

from .errors import NativeError, UnsupportedError
from .run.compiled import NativeKernel, compile
from .run.everywhere import enabled
from .run.launch import launch
from .run.listing import Instruction, Listing, listing
from .run.program import Bundle, Launch, Recorder

__all__ = [
    "Bundle", "Instruction", "Launch", "Listing", "NativeError", "NativeKernel", "Recorder", "UnsupportedError",
    "compile", "enabled", "launch", "listing",
]  # fmt: skip
