"""The functions of a generated module that lay out what a run needs for itself, in one arena."""

from __future__ import annotations

import inspect

from tritonnotes.ir.core.types import element_count

from ..cost.matmul import split_k_expression, splits_of
from ..emit.prelude import IN_ARENA
from ..fusion.last_block import GROUP
from ..memory.arena import Arena, Life, place
from ..memory.buffers import Buffer
from ..support.arguments import RunArguments, SizeText
from ..support.repeats import with_loops
from ..support.sizes import known_size
from ..support.text import INDENT, call_lines


def arena_parts(arena: Arena, arguments: RunArguments) -> list[str]:
    """The functions that lay out what a run needs for itself; none where it needs nothing."""
    if not arena.lives:
        return []
    return [inspect.getsource(place), IN_ARENA, _temporaries(arena, arguments)]


def temporaries_call(arena: Arena, arguments: RunArguments) -> str:
    """What makes the tensors, for one program to each sum over rows."""
    dims = (arguments.dims[dim] for dim in arena.dims)
    return f"temporaries({', '.join(['device', *(f'{d}={d}' for d in dims)])})"


def _temporaries(arena: Arena, given: RunArguments) -> str:
    arguments = ["device", "*", *(given.dims[d] for d in arena.dims), *(["programs=1"] if arena.is_shared else [])]
    arguments = arguments if arguments[-1] != "*" else arguments[:-1]
    lines = [
        *call_lines("def temporaries(", arguments, "):"),
        f'{INDENT}"""The tensors that live inside a run, in one arena: memory is reused after the last launch that',
        f'{INDENT}needs it. Of each the shape, the dtype, and the first and last launch."""',
    ]
    known = {life.buffer.name: _life_text(life, given.sizes) for life in arena.lives}
    listed = [f'lives["{name}"] = {text}' for name, text in known.items()]
    looped = [f"{INDENT}{line}" for line, _ in with_loops(listed, "n")]
    if len(looped) < len(listed):
        lines += [f"{INDENT}lives = {{}}", *looped]
    else:
        entries = (f'{INDENT * 2}"{name}": {text},' for name, text in known.items())
        lines += [f"{INDENT}lives = {{", *entries, f"{INDENT}}}"]
    return "\n".join([*lines, f"{INDENT}return in_arena(lives, device)"]) + "\n"


def _life_text(life: Life, sizes: SizeText) -> str:
    return f"({_shape_text(life, sizes)}, torch.{life.buffer.dtype.name}, {life.first}, {life.last})"


def _shape_text(life: Life, spelled: SizeText) -> str:
    sizes = [str(spelled.size(size)) for size in life.buffer.shape]
    if life.buffer.role == "partial":
        sizes.insert(0, "programs")
    elif life.buffer.role == "arrivals":
        sizes.insert(0, f"1 + triton.cdiv(programs, {GROUP})")
    elif life.buffer.role == "split-K":
        sizes.insert(0, _split_k_text(life.buffer, spelled))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _split_k_text(buffer: Buffer, spelled: SizeText) -> str:
    if known_size(buffer.summed) is not None:
        return str(splits_of(element_count(buffer.summed, {}), buffer.most))
    return str(split_k_expression(spelled.product(buffer.summed), buffer.most))
