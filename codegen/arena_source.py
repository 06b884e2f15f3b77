"""The source of a program's own memory: how long each buffer lives, and the arena that holds them all."""

from __future__ import annotations

import inspect

from tritonnotes.ir.types import Dim, Shape, element_count

from .arena import Arena, Buffer, Life, place
from .finishing import GROUP
from .launcher import INDENT, call_lines
from .products import known_size, shares_of, shares_text

IN_ARENA = '''\
def in_arena(lives, device):
    """Tensors in one arena for (shape, dtype, first launch, last launch) by name; all begin as zeros."""
    spans = {n: (math.prod(shape) * dtype.itemsize, *span) for n, (shape, dtype, *span) in lives.items()}
    offsets, total = place(spans)
    arena = torch.zeros(total, dtype=torch.uint8, device=device)
    held = {n: arena[offsets[n] : offsets[n] + spans[n][0]] for n in lives}
    return {n: held[n].view(dtype).view(shape) for n, (shape, dtype, *_) in lives.items()}
'''


def arena_parts(arena: Arena) -> list[str]:
    """The functions that lay out what a run needs for itself; none where it needs nothing."""
    if not arena.lives:
        return []
    return [inspect.getsource(place), IN_ARENA, _temporaries(arena)]


def temporaries_call(arena: Arena) -> str:
    """What makes the tensors, for one program to each sum over rows."""
    return f"temporaries({', '.join(['device', *(f'{d.name}={d.name}' for d in arena.dims)])})"


def _temporaries(arena: Arena) -> str:
    arguments = ["device", "*", *(d.name for d in arena.dims), *(["programs=1"] if arena.is_shared else [])]
    arguments = arguments if arguments[-1] != "*" else arguments[:-1]
    lines = [
        *call_lines("def temporaries(", arguments, "):"),
        f'{INDENT}"""The tensors that live inside a run, in one arena: memory is used again after the last launch that',
        f'{INDENT}needs it. Of each the shape, the dtype, and the first and last launch."""',
        f"{INDENT}lives = {{",
    ]
    for life in arena.lives:
        shape = _shape_text(life)
        dtype = f"torch.{life.buffer.dtype.name}"
        lines.append(f'{INDENT * 2}"{life.buffer.name}": ({shape}, {dtype}, {life.first}, {life.last}),')
    return "\n".join([*lines, f"{INDENT}}}", f"{INDENT}return in_arena(lives, device)"]) + "\n"


def _shape_text(life: Life) -> str:
    sizes = [str(size) for size in _names(life.buffer.shape)]
    if life.buffer.role == "partial":
        sizes.insert(0, "programs")
    elif life.buffer.role == "arrivals":
        sizes.insert(0, f"1 + triton.cdiv(programs, {GROUP})")
    elif life.buffer.role == "shares":
        sizes.insert(0, _shares_text(life.buffer))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _shares_text(buffer: Buffer) -> str:
    if known_size(buffer.summed) is not None:
        return str(shares_of(element_count(buffer.summed, {}), buffer.most))
    factors = _names(buffer.summed)
    return shares_text(factors[0] if len(factors) == 1 else f"({' * '.join(factors)})", buffer.most)


def _names(shape: Shape) -> list[str]:
    return [s.name if isinstance(s, Dim) else str(s) for s in shape]
