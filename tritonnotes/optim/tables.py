"""The tables of a launch: where the tensors of every parameter lie, and which program takes which block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codegen.emit.foreach import BLOCK
from ..codegen.support.sizes import next_power_of_2
from ..ir.core.errors import FeedError
from ..ir.core.types import DTYPES, DType
from ..runtime.executors.execution import Execution

INTERPRETED_BLOCK = 2**16
"""Under the interpreter a program costs the same whatever it does, so there are few and large ones."""

NATIVE_BLOCKS = (64, 512, 4096)
"""The blocks that native code is compiled for, of which a parameter should fill one."""

ALIGNMENT = 16


@dataclass(frozen=True)
class Blocks:
    """`table` has a row for each program: parameter, and which of its blocks of `size` elements."""

    table: Tensor
    size: int


def block_table(sizes: Sequence[int], device: torch.device, how: Execution, block: int = BLOCK) -> Blocks:
    """Cuts parameters of these sizes into blocks of equal size, so that one large parameter fills a GPU as well as
    many small ones do. `block` is that of a GPU."""
    if device.type == "cpu":
        block = _cpu_block(max(sizes, default=1), how)
    counts = torch.tensor([-(-size // block) for size in sizes], dtype=torch.int64, device="cpu")
    parameter = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rows = torch.stack([parameter, torch.arange(len(parameter), device="cpu") - first], dim=1).to(torch.int32)
    return Blocks(upload(rows, device), block)


def _cpu_block(largest: int, how: Execution) -> int:
    if how.strict:
        return min(next_power_of_2(largest), INTERPRETED_BLOCK)
    return next((size for size in NATIVE_BLOCKS if size >= largest), NATIVE_BLOCKS[-1])


def upload(table: Tensor, device: torch.device) -> Tensor:
    """A table on the device, copied there without waiting for it."""
    if device.type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)


def is_aligned(tensors: Sequence[Tensor]) -> bool:
    """Whether a thread may take sixteen bytes at once of each of these."""
    return all(t.data_ptr() % ALIGNMENT == 0 for t in tensors)


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as the pairs of numbers that it is; another as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def dtype_of(tensor: Tensor, what: str) -> DType:
    """The dtype of its numbers. Raises `FeedError` where kernels do not compute in it."""
    name = str(tensor.dtype).removeprefix("torch.")
    found = DTYPES.get({"complex64": "float32", "complex128": "float64"}.get(name, name))
    if found is None or not found.is_float:
        raise FeedError(
            f"{what} is {name}; updates work on float16, bfloat16, float32, float64, complex64 and complex128"
        )
    return found


def is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, each once, in some order of the dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def has_overlap(tensor: Tensor) -> bool:
    """Whether two of its elements may share memory, as those of an expanded tensor do."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def has_layout(tensor: Tensor, like: Tensor) -> bool:
    """Whether elements of both that belong together lie at the same offset."""
    if tensor.is_contiguous() and like.is_contiguous():
        return True
    pairs = zip(tensor.stride(), like.stride(), like.shape, strict=True)
    return tensor.shape == like.shape and all(a == b or size <= 1 for a, b, size in pairs)
