"""Memory over time: which buffers a run holds at each launch, and where in its arena they lie."""

from __future__ import annotations

from dataclasses import dataclass

from ..codegen.memory.buffers import Buffer
from ..codegen.program.program import Program
from ..codegen.support.sizes import NOMINAL, NOMINAL_SIZES
from .figures import Figure, Figures
from .things import Things


@dataclass(frozen=True)
class Held:
    """A buffer of the arena: from which launch to which it lives, its bytes, and its offset at the nominal batch."""

    name: str
    role: str
    ops: str
    values: str
    first: int
    last: int
    size: Figure
    offset: int


@dataclass(frozen=True)
class Timeline:
    """The arena over the launches of a run. The bytes of the arena are no formula: the script places the buffers, as
    `place` in `codegen/memory/arena.py` does. `arena` and `peak` are bytes at the nominal batch, of the arena and of
    all that a run holds beside its leaves; `beside` is what it holds beside its leaves and the arena, `apart` the bytes
    of the buffers did each have its own memory."""

    launches: tuple[str, ...]
    held: tuple[Held, ...]
    arena: int
    peak: int
    beside: Figure
    apart: Figure


def timeline(program: Program, things: Things, figures: Figures) -> Timeline:
    """The buffers of a program."""
    placement = program.arena.placement(NOMINAL_SIZES, program.programs(NOMINAL_SIZES))
    by_name = {value.name: value for value in program.graph.values}

    def size(buffer: Buffer) -> Figure:
        return figures.of(lambda sizes: buffer.bytes(sizes, program.programs(sizes)))

    held = []
    for life in program.arena.lives:
        buffer = life.buffer
        value = by_name.get(buffer.name, by_name.get(buffer.name.partition(":")[0]))
        ops = things.ops([things.of_value(value).name]) if value is not None else ""
        values = things.values_of([value.name]) if value is not None else ""
        offset = placement.offsets[buffer.name]
        held.append(Held(buffer.name, buffer.role, ops, values, life.first, life.last, size(buffer), offset))
    return Timeline(
        tuple(program.places),
        tuple(held),
        placement.bytes,
        program.peak_bytes(NOMINAL),
        figures.of(program.bytes_beside_arena),
        figures.of(program.buffer_bytes),
    )
