"""The source of a launch of many updates: the rule on one block, the kernel that hands out blocks, and its launcher."""

from __future__ import annotations

from itertools import accumulate

from tritonnotes.ir.core.types import float64

from ..fusion.horizontal import SEGMENTS
from ..lower.foreach import BlockProgram, ForeachKernel
from ..support.sizes import next_power_of_2
from ..support.text import call_lines, function_text, jit_function, wrapped
from .kernel import KernelSource, tile_lines
from .launcher import TRITON_TYPES
from .multi_tensor import BLOCK, WHEN_WIDE, BlockFunction, Pointer, branches, is_wide_line, searched_block

MOST_NAMED = 8
"""Updates that a block's docstring names."""


def render_foreach(kernel: ForeachKernel) -> KernelSource:
    """Spell a launch of many updates."""
    functions = [_function(block) for block in kernel.blocks]
    signature = {"segments_ptr": "*i64"}
    for name, parameter in kernel.arguments:
        signature[name] = ("*" if parameter.is_pointer else "") + TRITON_TYPES[parameter.dtype.name]
    return KernelSource(
        kernel.name,
        "\n\n".join([*(function.text for function in functions), _kernel(kernel, functions)]),
        _launcher(kernel),
        frozenset({"address"}).union(*(function.helpers for function in functions)),
        signature,
        {"SEGMENTS": _segments(kernel), "BLOCK": _tile(kernel)[0]},
        _tile(kernel)[1],
        launcher_helpers=frozenset(["table_of"]),
    )


def _tile(kernel: ForeachKernel) -> tuple[int, int]:
    """Elements and warps of a program. Half as many elements on twice as many warps where one of the forms is twice as
    wide: its helpers, such as tanh, then stay clear of spilling."""
    is_wide = any(p.dtype is float64 for block in kernel.blocks for p in block.pointers)
    return (BLOCK // 2, 8) if is_wide else (BLOCK, 4)


def _segments(kernel: ForeachKernel) -> int:
    return next_power_of_2(len(kernel.rows))


def _function(block: BlockProgram) -> BlockFunction:
    body, helpers = tile_lines(block.kernel)
    numbers = [
        f"{p.name.removesuffix('_ptr')} = tl.load({p.name})"
        for p in block.arguments
        if p.role == "scalar" and p.is_pointer
    ]
    return BlockFunction(
        block.name,
        f"One block of {_tensors(block)}.",
        tuple(Pointer(p.name, place, p.dtype) for place, p in enumerate(block.pointers, SEGMENTS.addresses)),
        tuple(p.name for p in block.arguments),
        tuple(numbers),
        ("", *body),
        helpers,
    )


def _tensors(block: BlockProgram) -> str:
    names = block.updated
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + rest


def _kernel(kernel: ForeachKernel, functions: list[BlockFunction]) -> str:
    names = {(p.value, p.dtype): name for name, p in kernel.arguments}
    arguments = ["segments_ptr", *names.values(), "SEGMENTS: tl.constexpr", "BLOCK: tl.constexpr"]
    about = (
        "Each program updates one block of one segment, which it finds by the sizes of all. A row of `segments` holds "
        f"its size, whether all addresses are multiples of 16, then the addresses of {_columns(kernel)}."
    )
    count = len(kernel.rows)
    mask = "" if count == _segments(kernel) else f", mask=segment < {count}, other=0"
    ends = accumulate(len(block.rows) for block in kernel.blocks)
    calls = [
        function.calls([names[p.value, p.dtype] for p in block.arguments])
        for function, block in zip(functions, kernel.blocks, strict=True)
    ]
    lines = [
        *searched_block("segments_ptr", kernel.width, mask),
        WHEN_WIDE,
        is_wide_line(SEGMENTS),
        *branches([f"own < {end}" for end in ends], calls),
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
    return function_text(f"run_{kernel.name}", ["segments", *numbers, f"BLOCK={size}"], wrapped(about), lines)
