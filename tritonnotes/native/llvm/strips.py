"""A strip: the lanes of a tile that one pass through a loop's body works on, and values over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..ttir.ttir import Value
from .writer import Writer, llvm_type, memory_type, numbers

WIDTH = 16
"""Lanes of a strip, for every type and processor, so that sums are taken in the same order everywhere."""


Kind = Literal["uniform", "affine", "vector"]


class At(NamedTuple):
    """Where a strip lies along one dimension. A "uniform" index is one number, an "affine" one grows by 1 from lane to
    lane and `reg` is that of lane 0, and a "vector" one holds an i64 for each lane."""

    kind: Kind
    reg: str


Index = tuple[At, ...]


ZERO = At("uniform", "0")


@dataclass(frozen=True)
class Lanes:
    """A value over a strip. "uniform": `reg` is a scalar, the same in all lanes. "affine": `reg` is the scalar of lane
    0, and the value grows by `step` from lane to lane. "vector": `reg` is a vector."""

    kind: Kind
    reg: str
    elem: str
    step: int = 0
    pointee: str = ""

    @property
    def is_contiguous(self) -> bool:
        """Whether this is a pointer to neighbours in memory."""
        return self.kind == "affine" and self.step == 1


@dataclass
class Strip:
    """An index for each dimension, how many lanes, and what is known there already."""

    index: Index
    width: int
    memo: dict[object, Lanes] = field(default_factory=dict)
    vectors: dict[Lanes, str] = field(default_factory=dict)
    computed: dict[Value, Lanes] = field(default_factory=dict)
    """The results of this nest's operations at this strip."""


def vector(w: Writer, lanes: Lanes, strip: Strip) -> str:
    """A value over a strip as a vector register."""
    if lanes.kind == "vector":
        return lanes.reg
    found = strip.vectors.get(lanes)
    if found is None:
        width, elem = strip.width, lanes.elem
        found = w.broadcast(lanes.reg, elem, width)
        if lanes.kind == "affine" and elem == "ptr":
            steps = numbers((lane * lanes.step for lane in range(width)), "i64")
            found = w.emit(
                f"getelementptr {memory_type(lanes.pointee)}, <{width} x ptr> {found}, <{width} x i64> {steps}"
            )
        elif lanes.kind == "affine":
            steps = numbers((lane * lanes.step for lane in range(width)), elem)
            found = w.emit(f"add {llvm_type(elem, width)} {found}, {steps}")
        strip.vectors[lanes] = found
    return found


def index_vector(w: Writer, at: At, width: int) -> str:
    """An index as an i64 for each lane."""
    if at.kind == "vector":
        return at.reg
    found = w.broadcast(at.reg, "i64", width)
    if at.kind == "affine":
        found = w.emit(f"add <{width} x i64> {found}, {numbers(range(width), 'i64')}")
    return found
