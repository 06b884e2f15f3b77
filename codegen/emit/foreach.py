"""Kernels over the tensors of many segments: each program takes one block of one segment, whose tensors it finds by a
row of a table, and calls a function of the block. Addresses lie anywhere, so there are two calls: one for blocks that
can be moved 16 bytes at once, one for all others.

The foreach launches of a plan are written here, with what the launches of optimizers share with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, float64

from ..fusion.horizontal import SEGMENTS
from ..lower.foreach import BlockProgram, ForeachKernel
from ..support.expressions import ZERO, Expression, Name, call
from ..support.provenance import Origin, origin_of, united
from ..support.sizes import next_power_of_2
from ..support.statements import BLANK, Assign, CallFunction, Comment, If, Line, Statement, every
from ..support.tables import Table
from ..support.text import call_lines, counted, python_function, wrapped
from .host import cell
from .kernel import FunctionText, KernelSource, jit_function
from .ops import helpers_called, load, tl
from .prelude import GIVEN_LAUNCH, GIVEN_TABLES
from .scalars_in_memory import declared, number_loads, types
from .steps import tile_statements

BLOCK = 1024
"""Elements of a program on a GPU: two 16-byte accesses a thread and tensor in float32, one in 16 bits."""


MOST_NAMED = 8
"""Updates that a block's docstring names."""


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

    @property
    def origins(self) -> tuple[Origin, ...]:
        """All that its lines are of."""
        return united(statement.origins for statement in every(self.body))

    def calls(self, arguments: Sequence[str], result: str = "") -> tuple[Statement, ...]:
        """The two calls, given what a kernel has for the arguments; `result` is what takes their result."""
        given = [ROW, *map(Name, arguments), Name("start"), Name("inside"), Name("BLOCK")]
        wide, narrow = (
            CallFunction(call(self.name, *given, ALIGN=align), result, origins=self.origins) for align in (16, 1)
        )
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
        Line("index = tl.sum(is_before.to(tl.int32))"),
        Line("start = (program - tl.max(tl.where(is_before, ends, 0))) * BLOCK"),
        Assign("row_ptr", rows + Name("index") * width),
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


# -- the foreach launches of a plan --


def render_foreach(kernel: ForeachKernel, numbers_in_memory: bool = False) -> KernelSource:
    """Spell a launch of many updates, which takes the host's numbers as arguments or reads them from memory."""
    blocks = [_block(block) for block in kernel.blocks]
    functions = (*(block.function for block in blocks), _kernel(kernel, blocks, numbers_in_memory))
    signature = {"segments_ptr": "*i64"} | types(kernel.arguments, numbers_in_memory)
    return KernelSource(
        kernel.name,
        functions,
        _launcher(kernel),
        frozenset().union(*(helpers_called(function.statements.values()) for function in functions)),
        signature,
        {"SEGMENTS": _segments(kernel), "BLOCK": _tile(kernel)[0]},
        _tile(kernel)[1],
        launcher_helpers=frozenset(["table_of"]),
    )


def _tile(kernel: ForeachKernel) -> tuple[int, int]:
    """Elements and warps of a program. Half as many elements on twice as many warps where one of the variants is twice
    as wide: its helpers, such as tanh, then stay clear of spilling."""
    is_wide = any(p.dtype is float64 for block in kernel.blocks for p in block.pointers)
    return (BLOCK // 2, 8) if is_wide else (BLOCK, 4)


def _segments(kernel: ForeachKernel) -> int:
    return next_power_of_2(len(kernel.rows))


def _block(block: BlockProgram) -> BlockFunction:
    numbers = [
        Assign(p.name.removesuffix("_ptr"), load(Name(p.name)), origins=p.origin)
        for p in block.arguments
        if p.role == "scalar" and p.is_pointer
    ]
    return BlockFunction(
        block.name,
        f"One block of {_tensors(block)}.",
        tuple(Pointer(p.name, place, p.dtype) for place, p in enumerate(block.pointers, SEGMENTS.addresses)),
        tuple(p.name for p in block.arguments),
        tuple(numbers),
        (BLANK, *_of_all(block, tile_statements(block.kernel))),
    )


def _of_all(block: BlockProgram, statements: Iterable[Statement]) -> Iterator[Statement]:
    """The statements of the update that stands for all, as being of each of them."""
    known: dict[tuple[Origin, ...], tuple[Origin, ...]] = {}
    for statement in statements:
        origins = statement.origins
        if origins not in known:
            known[origins] = united(_of_row(row, origins) for row in block.alike)
        yield replace(statement, origins=known[origins]) if origins else statement


def _of_row(row: Mapping[str, Value], origins: Iterable[Origin]) -> Iterator[Origin]:
    for origin in origins:
        same = row.get(origin.value)
        yield origin if same is None else origin_of(same, origin.step, origin.primitive)


def _tensors(block: BlockProgram) -> str:
    names = block.updated
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + rest


def _kernel(kernel: ForeachKernel, blocks: list[BlockFunction], numbers_in_memory: bool) -> FunctionText:
    arguments = [
        "segments_ptr",
        *declared(kernel.arguments, numbers_in_memory),
        "SEGMENTS: tl.constexpr",
        "BLOCK: tl.constexpr",
    ]
    about = (
        "Each program updates one block of one segment, which it finds by the sizes of all. A row of `segments` holds "
        f"its size, whether all addresses are multiples of 16, then the addresses of {_columns(kernel)}."
    )
    count = len(kernel.rows)
    mask = None if count == _segments(kernel) else Name("segment") < count
    names = {(p.value, p.dtype): name for name, p in kernel.arguments}
    calls = [
        function.calls([names[p.value, p.dtype] for p in block.arguments])
        for function, block in zip(blocks, kernel.blocks, strict=True)
    ]
    ends = accumulate(len(block.rows) for block in kernel.blocks)
    lines = [
        *number_loads(kernel.arguments, numbers_in_memory),
        *searched_block("segments_ptr", kernel.width, mask, ZERO if mask else None),
        WHEN_WIDE,
        access_width(SEGMENTS),
        *branches([Name("index") < end for end in ends], calls),
    ]
    return jit_function(kernel.name, arguments, wrapped(about), lines)


def _columns(kernel: ForeachKernel) -> str:
    columns = [", ".join(p.name.removesuffix("_ptr") for p in block.pointers) for block in kernel.blocks]
    return " or ".join(dict.fromkeys(columns))


def _launcher(kernel: ForeachKernel) -> str:
    numbers = [name.removesuffix("_ptr") for name, _ in kernel.arguments]
    size, warps = _tile(kernel)
    each = size // (32 * warps)
    accesses = "float32 are 2 accesses" if each == 8 else "float64 is one access"
    about = (
        f"{size} elements of one segment a program: {counted(warps, 'warp')}, {counted(each, 'element')} a thread "
        f"and tensor, which in {accesses} of 16 bytes."
    )
    passed = [kernel.name, "(programs,)", "table_of(segments, tables)", *numbers, f"SEGMENTS={_segments(kernel)}"]
    passed += ["BLOCK=BLOCK", f"num_warps={warps}"]
    lines = [
        "programs = sum(triton.cdiv(tensors[0].numel(), BLOCK) for tensors in segments)",
        *call_lines("launch(", passed, ")"),
    ]
    return python_function(
        f"run_{kernel.name}",
        ["segments", *numbers, f"BLOCK={size}", GIVEN_TABLES, GIVEN_LAUNCH],
        wrapped(about),
        lines,
    )
