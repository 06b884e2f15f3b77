"""Where tiles lie between the nests that write and read them: on the stack, or in the workspace if they are large."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .strips import At, Index, index_vector
from .writer import Writer, memory_type, numbers, splat


@dataclass(frozen=True)
class Buffer:
    """A tile in memory. `minor` is the dimension that lies contiguous where it is not the last; `pad` are elements
    between rows, so that not all rows fall into the same few sets of the cache."""

    reg: str
    elem: str
    shape: tuple[int, ...]
    minor: int | None = None
    pad: int = 0
    pointee: str = ""

    @property
    def strides(self) -> tuple[int, ...]:
        last = len(self.shape) - 1 if self.minor is None else self.minor
        order = [d for d in range(len(self.shape)) if d != last] + [last]
        strides, count = [0] * len(order), 1
        for dim in reversed(order):
            strides[dim] = count
            count = count * self.shape[dim] + (self.pad if dim == last else 0)
        return tuple(strides)

    @property
    def elements(self) -> int:
        rows = math.prod(self.shape) // self.shape[len(self.shape) - 1 if self.minor is None else self.minor]
        return math.prod(self.shape) + self.pad * rows


PADDING = 16


def padding(row: int) -> int:
    """Elements to leave between the rows of an operand of a product: rows a power of two apart share the sets of a
    cache."""
    return PADDING if row >= 64 else 0


def scaled_sum(w: Writer, index: Index, strides: tuple[int, ...], shape: tuple[int, ...], width: int) -> tuple[At, int]:
    """Σ index · stride: where lane 0 lies and the step from lane to lane, or a vector of all."""
    vectors = [
        (at, stride) for at, stride, size in zip(index, strides, shape, strict=True) if at.kind == "vector" and size > 1
    ]
    base, step = "0", 0
    for at, stride, size in zip(index, strides, shape, strict=True):
        if size == 1 or at.kind == "vector":
            continue
        if at.kind == "affine":
            step += stride
        if at.reg != "0":
            term = at.reg if stride == 1 else w.emit(f"mul nuw nsw i64 {at.reg}, {stride}")
            base = term if base == "0" else w.emit(f"add nuw nsw i64 {base}, {term}")
    if not vectors:
        return At("affine" if step else "uniform", base), step
    type_ = f"<{width} x i64>"
    total = index_vector(w, At("uniform", base), width)
    if step:
        steps = numbers((lane * step for lane in range(width)), "i64")
        total = w.emit(f"add {type_} {total}, {steps}")
    for at, stride in vectors:
        term = w.emit(f"mul {type_} {at.reg}, {splat(str(stride), 'i64', width)}")
        total = w.emit(f"add {type_} {total}, {term}")
    return At("vector", total), 0


def element_pointer(w: Writer, base: str, elem: str, offset: At, width: int) -> str:
    """The address of an element of a buffer, or a vector of addresses."""
    if offset.kind == "vector":
        return w.emit(f"getelementptr {memory_type(elem)}, ptr {base}, <{width} x i64> {offset.reg}")
    if offset.reg == "0":
        return base
    return w.emit(f"getelementptr inbounds {memory_type(elem)}, ptr {base}, i64 {offset.reg}")
