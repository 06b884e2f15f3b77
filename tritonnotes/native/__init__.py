"""Triton kernels as machine code for the CPU.

`launch(kernel, grid, *args, **constexprs)` runs anybody's `triton.jit` kernel on CPU tensors; `compile` gives the code
for arguments of given types; within `enabled()`, `kernel[grid](...)` runs so too. docs/native.md says what is covered.
"""

from __future__ import annotations

from .errors import NativeError, UnsupportedError
from .everywhere import enabled
from .launch import NativeKernel, compile, launch

__all__ = ["NativeError", "NativeKernel", "UnsupportedError", "compile", "enabled", "launch"]
