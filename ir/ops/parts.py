"""Parts of tensors, and tensors end to end: views where they can be, written to their places where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import ShapeError
from ..core.graph import Graph, Value
from ..core.op import describe
from ..core.registry import Note
from ..core.types import normalize_axes, show_shape
from ..primitives.slices import cat, narrow

FAMILY = "tensors"


def chunk(x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """`x` cut into `chunks` parts along `dim`, all but the last of one size, as in torch.chunk: fewer where the axis
    is too short. Views."""
    size, axis = _known_size("chunk", x, dim)
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
        raise ShapeError(f"chunk: chunks is {chunks!r}; give a count of parts, from 1")
    return split(x, max(1, -(-size // chunks)), axis) if size else (x,) * chunks


def split(x: Value, split_size: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    """`x` cut along `dim` into parts of `split_size` (the last may be smaller), or of the sizes listed, which add up to
    the axis, as in torch.split. Views."""
    size, axis = _known_size("split", x, dim)
    if isinstance(split_size, int):
        if split_size < 1:
            raise ShapeError(f"split: split_size is {split_size}; give a size from 1")
        listed = [min(split_size, size - start) for start in range(0, size, split_size)] or [0]
    else:
        listed = list(split_size)
        if sum(listed) != size or min(listed, default=0) < 0:
            raise ShapeError(f"split: sizes {listed} of axis {axis} of {x.name!r}, which has {size}; they must add up")
    starts = [sum(listed[:i]) for i in range(len(listed))]
    return tuple(narrow(x, axis, start, length) for start, length in zip(starts, listed, strict=True))


def _known_size(what: str, x: Value, dim: int) -> tuple[int, int]:
    (axis,) = normalize_axes(dim, len(x.shape), what)
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ShapeError(
            f"{what}: axis {axis} of {x.name!r}, {show_shape(x.shape)}, is the Dim {size}, whose size is known only "
            "when tensors are fed; cut an axis that is an int"
        )
    return size, axis


def _sample_narrow(graph: Graph, shape: tuple[Any, ...], dtype: Any) -> Value:
    x = graph.input("x", shape, dtype)
    return narrow(x, -1, shape[-1] // 3, shape[-1] - shape[-1] // 2) if shape else narrow(x, -1, 0, 1)


describe(
    narrow,
    domain=(-100, 100),
    note=Note(
        formula="x[start : start + length] along dim",
        derivative="1 inside, 0 outside",
        strengths="A view: kernels read the part from the memory of the whole.",
        weaknesses="Needs an axis of known size; of what a kernel has just computed, a part must be computed apart.",
        use="The halves of a gate, the heads of a projection.",
        source="torch.narrow",
    ),
    sample=_sample_narrow,
)


def _sample_cat(graph: Graph, shape: tuple[Any, ...], dtype: Any) -> Value:
    a, b = graph.input("a", shape, dtype), graph.input("b", (*shape[:-1], 3) if shape else (), dtype)
    return cat([a, b], -1)


describe(
    cat,
    domain={"a": (-100, 100), "b": (-100, 100)},
    note=Note(
        formula="a and b end to end along dim",
        derivative="the part of d that each fills",
        strengths="The kernel that computes a part writes it directly to its place.",
        weaknesses="Parts that are already in memory are copied.",
        use="Joining features, and the gradients of a tensor's parts.",
        source="torch.cat",
    ),
    sample=_sample_cat,
)
