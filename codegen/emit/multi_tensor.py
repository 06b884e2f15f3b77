"""What kernels over the tensors of many segments have in common: each program takes one block of one segment, whose
tensors it finds by a row of a table, and calls a function of the block.

Addresses lie anywhere, so there are two calls: one for blocks that can be moved 16 bytes at once, one for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tritonnotes.ir.core.types import DType

from ..support.tables import Table
from ..support.text import INDENT, call_lines, jit_function, wrapped
from .host import cell_text

BLOCK = 1024
"""Elements of a program on a GPU: two 16-byte accesses a thread and tensor in float32, one in 16 bits."""


INSIDE = "inside = tl.minimum(tl.load(row_ptr) - start, BLOCK).to(tl.int32)"
"""The elements of a block that lie in its segment."""


WHEN_WIDE = "# Sixteen bytes an access where the addresses and the end of the block allow it."


@dataclass(frozen=True)
class Pointer:
    """A tensor of a segment in the function of a block: its name there, and where its address stands in the row."""

    name: str
    place: int
    dtype: DType


@dataclass(frozen=True)
class BlockFunction:
    """A function of one block of a segment, with the helpers that its `body` calls. Between the row and the block it
    takes `arguments`; `numbers` are lines that load numbers."""

    name: str
    about: str
    pointers: tuple[Pointer, ...]
    arguments: tuple[str, ...]
    numbers: tuple[str, ...]
    body: tuple[str, ...]
    helpers: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        arguments = ["row_ptr", *self.arguments, "start", "inside", "BLOCK: tl.constexpr", "ALIGN: tl.constexpr"]
        lines = [f"{p.name} = address(row_ptr + {p.place}, start, tl.{p.dtype}, ALIGN)" for p in self.pointers]
        lanes = ["offset = tl.arange(0, BLOCK)", "mask = offset < inside // ALIGN * ALIGN"]
        return jit_function(self.name, arguments, wrapped(self.about), [*lines, *self.numbers, *lanes, *self.body])

    def calls(self, arguments: Sequence[str], result: str = "") -> list[str]:
        """The two calls, given what a kernel has for the arguments; `result` is what it assigns them to."""
        call = f"{result} = {self.name}(" if result else f"{self.name}("
        given = ["row_ptr", *arguments, "start", "inside", "BLOCK"]
        return [
            "if is_wide:",
            *(INDENT + line for line in call_lines(call, [*given, "ALIGN=16"], ")")),
            "else:",
            *(INDENT + line for line in call_lines(call, [*given, "ALIGN=1"], ")")),
        ]


def is_wide_line(table: Table) -> str:
    """Whether the accesses of a block may be 16 bytes wide."""
    return f"is_wide = (tl.load({cell_text('row_ptr', table.place('aligned'))}) != 0) & (inside % 16 == 0)"


def listed_block(pointer: str, width: int) -> list[str]:
    """How a program finds its block in a list of all blocks, and the row in a table of this width."""
    return [
        "program = tl.program_id(0)",
        f"row_ptr = {pointer} + tl.load(blocks_ptr + 2 * program) * {width}",
        "start = tl.load(blocks_ptr + 2 * program + 1).to(tl.int64) * BLOCK",
        INSIDE,
    ]


def searched_block(pointer: str, width: int, mask: str) -> list[str]:
    """How a program finds its block by the sizes of all segments."""
    return [
        "program = tl.program_id(0)",
        "segment = tl.arange(0, SEGMENTS)",
        f"sizes = tl.load({pointer} + segment * {width}{mask})",
        "ends = tl.cumsum(tl.cdiv(sizes, BLOCK), axis=0)",
        "is_before = ends <= program",
        "own = tl.sum(is_before.to(tl.int32))",
        "start = (program - tl.max(tl.where(is_before, ends, 0))) * BLOCK",
        f"row_ptr = {pointer} + own * {width}",
        INSIDE,
    ]


def branches(conditions: Sequence[str], bodies: Sequence[Sequence[str]]) -> list[str]:
    """The bodies under their conditions, of which the last one holds where no other does."""
    if len(bodies) == 1:
        return list(bodies[0])
    lines = []
    for number, (condition, body) in enumerate(zip(conditions, bodies, strict=True)):
        is_last = number == len(bodies) - 1
        lines.append("else:" if is_last else f"{'elif' if number else 'if'} {condition}:")
        lines += [INDENT + line for line in body]
    return lines


def by_kind(table: Table, bodies: Sequence[Sequence[str]]) -> list[str]:
    """The bodies, chosen by what a row says of its segment's kind."""
    chosen = branches([f"kind == {number}" for number in range(len(bodies))], bodies)
    return chosen if len(bodies) == 1 else [f"kind = tl.load({cell_text('row_ptr', table.place('kind'))})", *chosen]
