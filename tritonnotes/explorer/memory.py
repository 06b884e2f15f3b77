"""Memory over time: which buffers a run holds at each launch, and where in its arena they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..codegen.program.program import Program
from ..codegen.support.sizes import Sizes
from .things import Things


@dataclass(frozen=True)
class Held:
    """A buffer of the arena: from which launch to which it lives, and at each batch size its offset and its bytes."""

    name: str
    role: str
    ops: str
    values: str
    first: int
    last: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Timeline:
    """The arena over the launches of a run; `arena`, `peak` and `apart` are bytes at each batch size: of the arena, of
    all that a run holds beside its leaves, and of the buffers did each have its own memory."""

    launches: tuple[str, ...]
    held: tuple[Held, ...]
    arena: tuple[int, ...]
    peak: tuple[int, ...]
    apart: tuple[int, ...]


def timeline(program: Program, things: Things, batches: Sequence[int]) -> Timeline:
    """The buffers at these batch sizes, of every `Dim` alike."""
    bound = [Sizes(batch) for batch in batches]
    shared = [program.programs(sizes) for sizes in bound]
    places = [program.arena.placement(sizes, programs) for sizes, programs in zip(bound, shared, strict=True)]
    by_name = {value.name: value for value in program.graph.values}
    held = []
    for life in program.arena.lives:
        buffer = life.buffer
        value = by_name.get(buffer.name, by_name.get(buffer.name.partition(":")[0]))
        ops = things.ops([things.of_value(value).name]) if value is not None else ""
        values = things.values_of([value.name]) if value is not None else ""
        offsets = tuple(place.offsets[buffer.name] for place in places)
        sizes = tuple(buffer.bytes(at, programs) for at, programs in zip(bound, shared, strict=True))
        held.append(Held(buffer.name, buffer.role, ops, values, life.first, life.last, offsets, sizes))
    return Timeline(
        tuple(program.places),
        tuple(held),
        tuple(place.bytes for place in places),
        tuple(program.peak_bytes(batch) for batch in batches),
        tuple(program.buffer_bytes(batch) for batch in batches),
    )
