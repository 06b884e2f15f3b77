"""Triton IR as frozen data: types, values, operations, blocks, functions, and who uses what.

Values and operations are compared by identity. Nothing here changes once it is parsed; a pass builds new blocks and
keeps the values, so that what refers to them stays right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Uncovered

BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "ptr": 8, "index": 8, "i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8}
"""Bytes of one element in memory, for every element type that native code knows."""


FLOATS = frozenset({"f16", "bf16", "f32", "f64"})


SMALL_FLOATS = frozenset({"f16", "bf16"})


@dataclass(frozen=True)
class Type:
    """A scalar (`shape` is None) or a tile. `elem` is a key of BYTES; that of a pointer is "ptr", and `pointee` says
    what it points to."""

    elem: str
    shape: tuple[int, ...] | None = None
    pointee: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.shape or ())

    @property
    def is_tile(self) -> bool:
        return self.shape is not None

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape; that of a scalar is empty."""
        return self.shape or ()

    @property
    def is_float(self) -> bool:
        return self.elem in FLOATS

    @property
    def element(self) -> Type:
        return Type(self.elem, None, self.pointee)


@dataclass(frozen=True, eq=False)
class Value:
    """The result of an operation, or the argument of a block."""

    type: Type
    name: str


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. `words` are what stands in front of and between its operands. `line` is the line of the text that
    says where in the source it stands: its own, or that behind its regions."""

    name: str
    operands: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    regions: tuple[Block, ...] = ()
    line: int | None = None

    @property
    def result(self) -> Value:
        return self.results[0]

    def integer(self, name: str) -> int:
        """An integer attribute, printed as `axis = 1 : i32`."""
        return int(str(self.attrs[name]).split(":")[0])

    @property
    def order(self) -> tuple[int, ...]:
        """The attribute `order = array<i32: 1, 0>` of a transposition."""
        return tuple(int(d) for d in re.findall(r"\d+", str(self.attrs["order"]).split(":", 1)[1]))


@dataclass(frozen=True, eq=False)
class Block:
    """Operations in order. `label` is the name by which branches call it; the last operation ends it."""

    args: tuple[Value, ...]
    ops: tuple[Op, ...]
    label: str = ""

    @property
    def terminator(self) -> Op | None:
        return self.ops[-1] if self.ops else None

    def walk(self) -> Iterator[Op]:
        """All operations, those of regions after the one that holds them."""
        for op in self.ops:
            yield op
            for region in op.regions:
                yield from region.walk()


@dataclass(frozen=True, eq=False)
class Function:
    """A function. Its arguments are those of its first block; only `cf` branches lead to any other."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def args(self) -> tuple[Value, ...]:
        return self.blocks[0].args

    def walk(self) -> Iterator[Op]:
        for block in self.blocks:
            yield from block.walk()


class Uses:
    """Who defines and who uses each value of a function, and where."""

    def __init__(self, function: Function) -> None:
        self.definition: dict[Value, Op] = {}
        self.users: dict[Value, list[Op]] = {}
        self.block: dict[Op, Block] = {}
        self.parent: dict[Block, Op | None] = {}
        self.owner: dict[Value, Block] = {}
        for block in function.blocks:
            self._enter(block, None)

    def _enter(self, block: Block, parent: Op | None) -> None:
        self.parent[block] = parent
        self.owner |= dict.fromkeys(block.args, block)
        for op in block.ops:
            self.block[op] = block
            for result in op.results:
                self.definition[result] = op
            for operand in op.operands:
                self.users.setdefault(operand, []).append(op)
            for region in op.regions:
                self._enter(region, op)

    def of(self, value: Value) -> list[Op]:
        return self.users.get(value, [])

    def constant(self, value: Value) -> Any:
        """The number that a value is known to be, seen through views; None where it is not known."""
        op = self.definition.get(value)
        while op is not None and op.name in ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape"):
            op = self.definition.get(op.operands[0])
        return op.attrs["value"] if op is not None and op.name == "arith.constant" else None


_TILE = re.compile(r"tensor<((?:\d+x)*)(.*)>$")


def parse_type(text: str) -> Type:
    """A type as MLIR prints it: `f32`, `!tt.ptr<f32>`, `tensor<4x8xi64>`, `tensor<16x!tt.ptr<f32>>`."""
    text = text.strip()
    found = _TILE.match(text)
    if found:
        inner = parse_type(found.group(2))
        return Type(inner.elem, tuple(int(d) for d in found.group(1).split("x") if d), inner.pointee)
    if text.startswith("!tt.ptr<"):
        pointee = parse_type(text[len("!tt.ptr<") : -1].split(",")[0])
        if pointee.is_tile:
            raise Uncovered("a pointer to a tile")
        return Type("ptr", None, pointee.elem)
    if text not in BYTES:
        raise Uncovered(f"the type {text}")
    return Type(text)
