"""The source of a launch of many updates: the rule on one block, the kernel that hands out blocks, and its launcher."""

from __future__ import annotations

from tritonnotes.ir.core.types import float64

from ..fusion.horizontal import ADDRESSES, ALIGNED
from ..lower.foreach import BlockProgram, ForeachKernel
from ..support.expressions import ZERO, Name, call
from ..support.sizes import next_power_of_2
from ..support.statements import BLANK, Assign, CallFunction, Comment, If, Line, Statement
from ..support.text import INDENT, call_lines, wrapped
from .kernel import FunctionText, KernelSource, function_text, joined
from .ops import helpers_called, load, tl
from .scalars_in_memory import declared, number_loads, types
from .steps import tile_statements

BLOCK = 1024
"""Elements of a program on a GPU: two 16-byte accesses a thread and tensor in float32, one in 16 bits."""


MOST_NAMED = 8
"""Updates that a block's docstring names."""


def render_foreach(kernel: ForeachKernel, numbers_in_memory: bool = False) -> KernelSource:
    """Spell a launch of many updates, which takes the host's numbers as arguments or reads them from memory."""
    functions = (*(_block(block) for block in kernel.blocks), _kernel(kernel, numbers_in_memory))
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
    )


def _tile(kernel: ForeachKernel) -> tuple[int, int]:
    """Elements and warps of a program. Half as many elements on twice as many warps where one of the forms is twice as
    wide: its helpers, such as tanh, then stay clear of spilling."""
    is_wide = any(p.dtype is float64 for block in kernel.blocks for p in block.pointers)
    return (BLOCK // 2, 8) if is_wide else (BLOCK, 4)


def _segments(kernel: ForeachKernel) -> int:
    return next_power_of_2(len(kernel.rows))


def _block(block: BlockProgram) -> FunctionText:
    row, start = Name("row_ptr"), Name("start")
    lines: list[Statement] = [
        Assign(p.name, call("address", row + place, start, tl(p.dtype), Name("ALIGN")))
        for place, p in enumerate(block.pointers, ADDRESSES)
    ]
    for parameter in block.arguments:
        if parameter.role == "scalar" and parameter.is_pointer:
            lines.append(Assign(parameter.name.removesuffix("_ptr"), load(Name(parameter.name))))
    lines += [Line("offset = tl.arange(0, BLOCK)"), Line("mask = offset < inside // ALIGN * ALIGN")]
    arguments = ["row_ptr", *(p.name for p in block.arguments), "start", "inside"]
    arguments += ["BLOCK: tl.constexpr", "ALIGN: tl.constexpr"]
    header = [
        "@triton.jit",
        *call_lines(f"def {block.name}(", arguments, "):"),
        f'{INDENT}"""{wrapped(f"One block of {_tensors(block)}.")}"""',
    ]
    return function_text(block.name, header, [*lines, BLANK, *tile_statements(block.kernel)])


def _tensors(block: BlockProgram) -> str:
    names = block.updated
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + rest


def _kernel(kernel: ForeachKernel, numbers_in_memory: bool) -> FunctionText:
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
    segments, segment, row, own = map(Name, ("segments_ptr", "segment", "row_ptr", "own"))
    mask = None if count == _segments(kernel) else segment < count
    sizes = load(segments + segment * kernel.width, mask=mask, other=ZERO if mask else None)
    size = call("tl.minimum", load(row) - Name("start"), Name("BLOCK")).method("to", Name("tl.int32"))
    is_wide = load(row + ALIGNED).differs(0) & (Name("inside") % 16).equals(0)
    lines: list[Statement] = [
        *number_loads(kernel.arguments, numbers_in_memory),
        Line("program = tl.program_id(0)"),
        Line("segment = tl.arange(0, SEGMENTS)"),
        Assign("sizes", sizes),
        Line("ends = tl.cumsum(tl.cdiv(sizes, BLOCK), axis=0)"),
        Line("is_before = ends <= program"),
        Line("own = tl.sum(is_before.to(tl.int32))"),
        Line("start = (program - tl.max(tl.where(is_before, ends, 0))) * BLOCK"),
        Assign("row_ptr", segments + own * kernel.width),
        Assign("inside", size),
        Comment("Sixteen bytes an access where the addresses and the end of the block allow it."),
        Assign("is_wide", is_wide),
    ]
    end = 0
    for block in kernel.blocks:
        is_first, end = end == 0, end + len(block.rows)
        called = _calls(kernel, block)
        if len(kernel.blocks) == 1:
            lines += called
        else:
            lines.append(If(own < end if end < count else None, called, "if" if is_first else "elif"))
    header = [
        "@triton.jit",
        *call_lines(f"def {kernel.name}(", arguments, "):"),
        f'{INDENT}"""{wrapped(about)}"""',
    ]
    return function_text(kernel.name, header, lines)


def _columns(kernel: ForeachKernel) -> str:
    columns = [", ".join(p.name.removesuffix("_ptr") for p in block.pointers) for block in kernel.blocks]
    return " or ".join(dict.fromkeys(columns))


def _calls(kernel: ForeachKernel, block: BlockProgram) -> tuple[Statement, ...]:
    names = {(p.value, p.dtype): name for name, p in kernel.arguments}
    given = ["row_ptr", *(names[p.value, p.dtype] for p in block.arguments), "start", "inside", "BLOCK"]

    def called(align: int) -> tuple[Statement, ...]:
        return (CallFunction(call(block.name, *map(Name, given), ALIGN=align)),)

    return If(Name("is_wide"), called(16)), If(None, called(1))


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
        *call_lines(f"def run_{kernel.name}(", ["segments", *numbers, f"BLOCK={size}"], "):"),
        f'{INDENT}"""{wrapped(about)}"""',
        f"{INDENT}programs = sum(triton.cdiv(tensors[0].numel(), BLOCK) for tensors in segments)",
        *(INDENT + line for line in call_lines("launch(", passed, ")")),
    ]
    return "\n".join(lines) + "\n"
