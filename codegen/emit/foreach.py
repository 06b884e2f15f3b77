"""The source of a launch of many updates: the rule on one block, the kernel that hands out blocks, and its launcher."""

from __future__ import annotations

from itertools import accumulate

from tritonnotes.ir.core.types import float64

from ..fusion.horizontal import SEGMENTS
from ..lower.foreach import BlockProgram, ForeachKernel
from ..support.expressions import ZERO, Name
from ..support.sizes import next_power_of_2
from ..support.statements import BLANK, Assign
from ..support.text import call_lines, python_function, wrapped
from .kernel import FunctionText, KernelSource, jit_function, joined
from .multi_tensor import BLOCK, WHEN_WIDE, BlockFunction, Pointer, access_width, branches, searched_block
from .ops import helpers_called, load
from .prelude import GIVEN_LAUNCH
from .scalars_in_memory import declared, number_loads, types
from .steps import tile_statements

MOST_NAMED = 8
"""Updates that a block's docstring names."""


def render_foreach(kernel: ForeachKernel, numbers_in_memory: bool = False) -> KernelSource:
    """Spell a launch of many updates, which takes the host's numbers as arguments or reads them from memory."""
    blocks = [_block(block) for block in kernel.blocks]
    functions = (*(block.function for block in blocks), _kernel(kernel, blocks, numbers_in_memory))
    signature = {"segments_ptr": "*i64"} | types(kernel.arguments, numbers_in_memory)
    return KernelSource(
        kernel.name,
        joined(functions),
        _launcher(kernel),
        frozenset().union(*(helpers_called(function.statements.values()) for function in functions)),
        signature,
        {"SEGMENTS": _segments(kernel), "BLOCK": _tile(kernel)[0]},
        _tile(kernel)[1],
        functions=functions,
        launcher_helpers=frozenset(["table_of"]),
    )


def _tile(kernel: ForeachKernel) -> tuple[int, int]:
    """Elements and warps of a program. Half as many elements on twice as many warps where one of the forms is twice as
    wide: its helpers, such as tanh, then stay clear of spilling."""
    is_wide = any(p.dtype is float64 for block in kernel.blocks for p in block.pointers)
    return (BLOCK // 2, 8) if is_wide else (BLOCK, 4)


def _segments(kernel: ForeachKernel) -> int:
    return next_power_of_2(len(kernel.rows))


def _block(block: BlockProgram) -> BlockFunction:
    numbers = [
        Assign(p.name.removesuffix("_ptr"), load(Name(p.name)))
        for p in block.arguments
        if p.role == "scalar" and p.is_pointer
    ]
    return BlockFunction(
        block.name,
        f"One block of {_tensors(block)}.",
        tuple(Pointer(p.name, place, p.dtype) for place, p in enumerate(block.pointers, SEGMENTS.addresses)),
        tuple(p.name for p in block.arguments),
        tuple(numbers),
        (BLANK, *tile_statements(block.kernel)),
    )


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
        f"{size} elements of one segment a program: {warps} warps, {each} elements a thread and tensor, which in "
        f"{accesses} of 16 bytes."
    )
    passed = [kernel.name, "(programs,)", "table_of(segments)", *numbers, f"SEGMENTS={_segments(kernel)}"]
    passed += ["BLOCK=BLOCK", f"num_warps={warps}"]
    lines = [
        "programs = sum(triton.cdiv(tensors[0].numel(), BLOCK) for tensors in segments)",
        *call_lines("launch(", passed, ")"),
    ]
    return python_function(
        f"run_{kernel.name}", ["segments", *numbers, f"BLOCK={size}", GIVEN_LAUNCH], wrapped(about), lines
    )
