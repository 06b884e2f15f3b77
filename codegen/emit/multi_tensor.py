"""What kernels over the tensors of many segments have in common: each program takes one block of one segment, whose
tensors it finds by a row of a table, and calls a function of the block.

Addresses lie anywhere, so there are two calls: one for blocks that can be moved 16 bytes at once, one for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tritonnotes.ir.core.types import DType

from ..support.expressions import Expression, Name, call
from ..support.statements import Assign, CallFunction, Comment, If, Line, Statement
from ..support.tables import Table
from ..support.text import wrapped
from .host import cell
from .kernel import FunctionText, jit_function
from .ops import load, tl

BLOCK = 1024
"""Elements of a program on a GPU: two 16-byte accesses a thread and tensor in float32, one in 16 bits."""


ROW = Name("row_ptr")


WHEN_WIDE = Comment("Sixteen bytes an access where the addresses and the end of the block allow it.")


@dataclass(frozen=True)
class Pointer:
    """A tensor of a segment in the function of a block: its name there, and where its address stands in the row."""

    name: str
    place: int
    dtype: DType


@dataclass(frozen=True)
class BlockFunction:
    """A function of one block of a segment. Between the row and the block it takes `arguments`; `numbers` are the
    statements that load numbers."""

    name: str
    about: str
    pointers: tuple[Pointer, ...]
    arguments: tuple[str, ...]
    numbers: tuple[Statement, ...]
    body: tuple[Statement, ...]

    @property
    def function(self) -> FunctionText:
        arguments = ["row_ptr", *self.arguments, "start", "inside", "BLOCK: tl.constexpr", "ALIGN: tl.constexpr"]
        tensors = [
            Assign(p.name, call("address", ROW + p.place, Name("start"), tl(p.dtype), Name("ALIGN")))
            for p in self.pointers
        ]
        lanes = [Line("offset = tl.arange(0, BLOCK)"), Line("mask = offset < inside // ALIGN * ALIGN")]
        return jit_function(self.name, arguments, wrapped(self.about), [*tensors, *self.numbers, *lanes, *self.body])

    def calls(self, arguments: Sequence[str], result: str = "") -> tuple[Statement, ...]:
        """The two calls, given what a kernel has for the arguments; `result` is what takes their result."""
        given = [ROW, *map(Name, arguments), Name("start"), Name("inside"), Name("BLOCK")]
        wide, narrow = (CallFunction(call(self.name, *given, ALIGN=align), result) for align in (16, 1))
        return If(Name("is_wide"), (wide,)), If(None, (narrow,))


def elements_inside() -> Statement:
    """The elements of a block that lie in its segment."""
    count = call("tl.minimum", load(ROW) - Name("start"), Name("BLOCK"))
    return Assign("inside", count.method("to", Name("tl.int32")))


def access_width(table: Table) -> Statement:
    """Whether the accesses of a block may be 16 bytes wide."""
    is_aligned = load(cell("row_ptr", table.place("aligned"))).differs(0)
    return Assign("is_wide", is_aligned & (Name("inside") % 16).equals(0))


def listed_block(pointer: str, width: int) -> list[Statement]:
    """How a program finds its block in a list of all blocks, and the row in a table of this width."""
    return [
        Line("program = tl.program_id(0)"),
        Line(f"row_ptr = {pointer} + tl.load(blocks_ptr + 2 * program) * {width}"),
        Line("start = tl.load(blocks_ptr + 2 * program + 1).to(tl.int64) * BLOCK"),
        elements_inside(),
    ]


def searched_block(pointer: str, width: int, mask: Expression | None, other: Expression | None) -> list[Statement]:
    """How a program finds its block by the sizes of all segments, in a table of this width."""
    rows, segment = Name(pointer), Name("segment")
    return [
        Line("program = tl.program_id(0)"),
        Line("segment = tl.arange(0, SEGMENTS)"),
        Assign("sizes", load(rows + segment * width, mask=mask, other=other)),
        Line("ends = tl.cumsum(tl.cdiv(sizes, BLOCK), axis=0)"),
        Line("is_before = ends <= program"),
        Line("own = tl.sum(is_before.to(tl.int32))"),
        Line("start = (program - tl.max(tl.where(is_before, ends, 0))) * BLOCK"),
        Assign("row_ptr", rows + Name("own") * width),
        elements_inside(),
    ]


def branches(conditions: Sequence[Expression], bodies: Sequence[tuple[Statement, ...]]) -> list[Statement]:
    """The bodies under their conditions, of which the last one holds where no other does."""
    if len(bodies) == 1:
        return list(bodies[0])
    last = len(bodies) - 1
    return [
        If(None if number == last else condition, body, "elif" if number else "if")
        for number, (condition, body) in enumerate(zip(conditions, bodies, strict=True))
    ]


def by_kind(table: Table, bodies: Sequence[tuple[Statement, ...]]) -> list[Statement]:
    """The bodies, chosen by what a row says of its segment's kind."""
    chosen = branches([Name("kind").equals(number) for number in range(len(bodies))], bodies)
    return chosen if len(bodies) == 1 else [Assign("kind", load(cell("row_ptr", table.place("kind")))), *chosen]
