"""Triton kernels on CPU tensors, run by Triton's interpreter and watched while they run.

`launch(kernel, grid, *args, strict=True, tensors=(), ownership=None, **kwargs)` runs one kernel, and within
`enabled()` all that are launched as `kernel[grid](...)` run so; `atomic_sums()` notes where they add floats by atomic
operations. TRITON_INTERPRET stays unset, so the same
`triton.jit` function still compiles ahead of time in the same process.

- `rewrite`   a jitted function becomes a Python function with the JIT's meaning
- `builder`   what each Triton operation computes: exact bfloat16 casts, the GPU's NaN rules
- `patches`   `triton.language` is redirected to that builder for as long as a launch lasts
- `memory`    every lane of every access is in bounds, aligned and not masked off unnoticed
- `ownership` no buffer of an arena reads what another left in its place
- `races`     no two programs of one launch meet at an address without an order between them
- `executor`  `launch` itself
- `everywhere` `enabled`, which has `kernel[grid](...)` run so

What it does not know: the order of the threads inside one program (barriers are ignored), `volatile`, cache
and eviction hints, memory scopes narrower than the GPU, the rounding of approximate GPU instructions (`a /
b`, `tl.sqrt`, `tl.exp`), tf32, and the operations of libdevice, which do not run here at all.
"""

from __future__ import annotations

from .everywhere import TooManyProgramsError, enabled
from .executor import atomic_sums, launch
from .ownership import Ownership

__all__ = ["Ownership", "TooManyProgramsError", "atomic_sums", "enabled", "launch"]
