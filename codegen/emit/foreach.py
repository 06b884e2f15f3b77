"""The source of a launch of many updates: the rule on one block, the kernel that hands out blocks, and its launcher."""

from __future__ import annotations

from tritonnotes.ir.core.types import float64

from ..fusion.horizontal import ADDRESSES, ALIGNED
from ..lower.foreach import BlockProgram, ForeachKernel
from ..support.sizes import next_power_of_2
from ..support.text import INDENT, call_lines, wrapped
from .kernel import KernelSource, tile_lines
from .launcher import TRITON_TYPES

BLOCK = 1024
"""Elements of a program on a GPU: two 16-byte accesses a thread and tensor in float32, one in 16 bits."""


MOST_NAMED = 8
"""Updates that a block's docstring names."""


def render_foreach(kernel: ForeachKernel) -> KernelSource:
    """Spell a launch of many updates."""
    blocks = [_block(kernel, block) for block in kernel.blocks]
    signature = {"segments_ptr": "*i64"}
    for name, parameter in kernel.arguments:
        signature[name] = ("*" if parameter.is_pointer else "") + TRITON_TYPES[parameter.dtype.name]
    return KernelSource(
        kernel.name,
        "\n\n".join([*(text for text, _ in blocks), _kernel(kernel)]),
        _launcher(kernel),
        frozenset({"address"}).union(*(helpers for _, helpers in blocks)),
        signature,
        {"SEGMENTS": _segments(kernel), "BLOCK": _tile(kernel)[0]},
        _tile(kernel)[1],
    )


def _tile(kernel: ForeachKernel) -> tuple[int, int]:
    """Elements and warps of a program. Half as many elements on twice as many warps where one of the forms is twice as
    wide: its helpers, such as tanh, then stay clear of spilling."""
    is_wide = any(p.dtype is float64 for block in kernel.blocks for p in block.pointers)
    return (BLOCK // 2, 8) if is_wide else (BLOCK, 4)


def _segments(kernel: ForeachKernel) -> int:
    return next_power_of_2(len(kernel.rows))


def _block(kernel: ForeachKernel, block: BlockProgram) -> tuple[str, frozenset[str]]:
    body, helpers = tile_lines(block.kernel)
    lines = [
        f"{p.name} = address(row_ptr + {place}, start, tl.{p.dtype}, ALIGN)"
        for place, p in enumerate(block.pointers, ADDRESSES)
    ]
    for parameter in block.arguments:
        if parameter.role == "scalar" and parameter.is_pointer:
            lines.append(f"{parameter.name.removesuffix('_ptr')} = tl.load({parameter.name})")
    lines += ["offset = tl.arange(0, BLOCK)", "mask = offset < inside // ALIGN * ALIGN"]
    arguments = ["row_ptr", *(p.name for p in block.arguments), "start", "inside"]
    arguments += ["BLOCK: tl.constexpr", "ALIGN: tl.constexpr"]
    text = [
        "@triton.jit",
        *call_lines(f"def {block.name}(", arguments, "):"),
        f'{INDENT}"""{wrapped(f"One block of {_tensors(block)}.")}"""',
        *(INDENT + line if line else "" for line in (*lines, "", *body)),
    ]
    return "\n".join(text) + "\n", helpers


def _tensors(block: BlockProgram) -> str:
    names = block.updated
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + rest


def _kernel(kernel: ForeachKernel) -> str:
    arguments = [
        "segments_ptr",
        *(name for name, _ in kernel.arguments),
        "SEGMENTS: tl.constexpr",
        "BLOCK: tl.constexpr",
    ]
    about = (
        "Each program updates one block of one segment, which it finds by the sizes of all. A row of `segments` holds "
        f"its size, whether all addresses are multiples of 16, then the addresses of {_columns(kernel)}."
    )
    count = len(kernel.rows)
    mask = "" if count == _segments(kernel) else f", mask=segment < {count}, other=0"
    lines = [
        "program = tl.program_id(0)",
        "segment = tl.arange(0, SEGMENTS)",
        f"sizes = tl.load(segments_ptr + segment * {kernel.width}{mask})",
        "ends = tl.cumsum(tl.cdiv(sizes, BLOCK), axis=0)",
        "is_before = ends <= program",
        "own = tl.sum(is_before.to(tl.int32))",
        "start = (program - tl.max(tl.where(is_before, ends, 0))) * BLOCK",
        f"row_ptr = segments_ptr + own * {kernel.width}",
        "inside = tl.minimum(tl.load(row_ptr) - start, BLOCK).to(tl.int32)",
        "# Sixteen bytes an access where the addresses and the end of the block allow it.",
        f"is_wide = (tl.load(row_ptr + {ALIGNED}) != 0) & (inside % 16 == 0)",
    ]
    end, chosen = 0, list[str]()
    for number, block in enumerate(kernel.blocks):
        end += len(block.rows)
        called = _calls(kernel, block)
        if len(kernel.blocks) > 1:
            word = "if" if number == 0 else "elif"
            chosen.append("else:" if end == len(kernel.rows) else f"{word} own < {end}:")
            called = [INDENT + line for line in called]
        chosen += called
    text = [
        "@triton.jit",
        *call_lines(f"def {kernel.name}(", arguments, "):"),
        f'{INDENT}"""{wrapped(about)}"""',
        *(INDENT + line for line in (*lines, *chosen)),
    ]
    return "\n".join(text) + "\n"


def _columns(kernel: ForeachKernel) -> str:
    columns = [", ".join(p.name.removesuffix("_ptr") for p in block.pointers) for block in kernel.blocks]
    return " or ".join(dict.fromkeys(columns))


def _calls(kernel: ForeachKernel, block: BlockProgram) -> list[str]:
    names = {(p.value, p.dtype): name for name, p in kernel.arguments}
    given = ["row_ptr", *(names[p.value, p.dtype] for p in block.arguments), "start", "inside", "BLOCK"]
    call = f"{block.name}("
    return [
        "if is_wide:",
        *(INDENT + line for line in call_lines(call, [*given, "ALIGN=16"], ")")),
        "else:",
        *(INDENT + line for line in call_lines(call, [*given, "ALIGN=1"], ")")),
    ]


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
