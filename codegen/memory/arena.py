"""Where the buffers of a program lie: how long each lives, and one arena in which memory is used again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tritonnotes.ir.core.errors import VerificationError
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Dim, dims_in

from ..analysis.views import memory_of
from ..lower.foreach import ForeachKernel
from ..lower.lower import GeneratedKernel
from ..plan.chunk_loops import ChunkLoop
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import LibraryCall, TorchCall
from .buffers import Buffer, buffer_of, outer_names, scratch_name, scratch_names


@dataclass(frozen=True)
class Uses:
    """What a launch reads and writes, by the names of buffers, and what it `holds`: others go on reading and writing
    it."""

    reads: frozenset[str]
    writes: frozenset[str]
    holds: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Memory:
    """The buffers of a program, and what each of its launches reads and writes."""

    buffers: tuple[Buffer, ...]
    uses: tuple[Uses, ...]


@dataclass(frozen=True)
class Life:
    """A buffer, and the first and the last launch of a program that touch it."""

    buffer: Buffer
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """The arena at some sizes: the offset of each buffer, and the bytes of it all."""

    offsets: Mapping[str, int]
    bytes: int


@dataclass(frozen=True)
class Arena:
    """The lives of all buffers that a run makes for itself. Leaves and outputs are not among them."""

    lives: tuple[Life, ...]

    def placement(self, sizes: Mapping[str, int], programs: int = 1) -> Placement:
        """Where each buffer lies at these sizes, with `programs` that share each sum over rows."""
        spans = {life.buffer.name: (life.buffer.bytes(sizes, programs), life.first, life.last) for life in self.lives}
        return Placement(*place(spans))

    @property
    def dims(self) -> list[Dim]:
        """The sizes that the buffers depend on."""
        sizes = (s for life in self.lives for s in (*life.buffer.shape, *life.buffer.summed))
        return list(dict.fromkeys(dims_in(sizes)))

    @property
    def is_shared(self) -> bool:
        """Whether buffers depend on how many programs share each sum."""
        return any(life.buffer.role in ("partial", "arrivals") for life in self.lives)


def make_arena(buffers: Sequence[Buffer], uses: Sequence[Uses]) -> Arena:
    """The lives of buffers over launches that use them. What programs count in keeps its zeros, so it lives on."""
    touched: dict[str, list[int]] = {}
    for launch, used in enumerate(uses):
        for name in used.reads | used.writes | used.holds:
            touched.setdefault(name, []).append(launch)
    lives = []
    for buffer in buffers:
        if buffer.role in ("temporary", "partial", "split-K"):
            launches = touched.get(buffer.name, [0])
            lives.append(Life(buffer, launches[0], launches[-1]))
        elif buffer.role == "arrivals":
            lives.append(Life(buffer, 0, max(len(uses) - 1, 0)))
    arena = Arena(tuple(lives))
    verify_arena(arena, uses)
    return arena


def verify_arena(arena: Arena, uses: Sequence[Uses]) -> None:
    """Raise `VerificationError` where a launch touches a buffer before or after its life, or reads it unwritten."""
    lives = {life.buffer.name: life for life in arena.lives}
    written: set[str] = set()
    for launch, used in enumerate(uses):
        for name in sorted(used.reads | used.writes):
            life = lives.get(name)
            if life is None:
                continue
            if not life.first <= launch <= life.last:
                raise VerificationError(f"arena: launch {launch} touches {name}, which lives {life.first}-{life.last}")
            if name not in written | used.writes and life.buffer.role != "arrivals":
                raise VerificationError(f"arena: launch {launch} reads {name}, which nothing has written")
        written |= used.writes


def place(spans: dict[str, tuple[int, int, int]], alignment: int = 256) -> tuple[dict[str, int], int]:
    """Offsets for (bytes, first launch, last launch) by name, and the bytes of it all: the largest first, each in the
    smallest gap that is free of what lives at the same time. What is smaller than `alignment` needs less of it."""
    offsets: dict[str, int] = {}
    for name in sorted(spans, key=lambda name: -spans[name][0]):
        size, first, last = spans[name]
        step = max(16, min(alignment, 1 << (size - 1).bit_length())) if size else 16
        met = [other for other in offsets if spans[other][1] <= last and spans[other][2] >= first]
        best, room, free = 0, 0, 0
        for other in sorted(met, key=lambda other: offsets[other]):
            gap = offsets[other] - free
            if size <= gap and (not room or gap < room):
                best, room = free, gap
            free = max(free, -(-(offsets[other] + spans[other][0]) // step) * step)
        offsets[name] = best if room else free
    return offsets, max((offsets[name] + spans[name][0] for name in spans), default=0)


def uses_of(plan: FusionPlan, kernels: Sequence[GeneratedKernel], regions: Mapping[str, Memory]) -> tuple[Uses, ...]:
    """What each launch of a plan reads and writes, in order, leaves included. A loop over chunks is the zeros of its
    sums, and then the launches of a chunk: what goes in or comes out lives from the first to the last of them. The
    memory of a chunk is found in `regions`, by the name of its loop."""
    lowered = {k.name: k for k in kernels}
    destinations = plan.units.destinations
    made: list[Uses] = []
    for launch in plan.launches:
        match launch:
            case ChunkLoop():
                made += _uses_of_chunks(launch, regions[launch.name], destinations)
            case LibraryCall() | TorchCall():
                made.append(_uses_of_call(launch, destinations))
            case _:
                made.append(_uses_of_kernel(lowered[launch.name], destinations))
    return tuple(made)


def _uses_of_chunks(loop: ChunkLoop, region: Memory, destinations: Mapping[Value, Value]) -> Iterator[Uses]:
    names = outer_names(loop, scratch_names(region.buffers), destinations)
    held = frozenset(n for inner, n in names.items() if n != scratch_name(loop, inner))
    held |= {scratch_name(loop, b.name) for b in region.buffers if b.role == "arrivals"}
    yield Uses(frozenset(), frozenset(names[slot] for slot, _ in loop.sums), held)
    for used in region.uses:
        reads, writes = (frozenset(names[n] for n in some) for some in (used.reads, used.writes))
        yield Uses(reads, writes, held)


def _uses_of_call(call: LibraryCall | TorchCall, destinations: Mapping[Value, Value]) -> Uses:
    reads, writes = (
        frozenset(destinations.get(memory, memory).name for memory in map(memory_of, some))
        for some in (call.loads, call.stores)
    )
    return Uses(reads, writes)


def _uses_of_kernel(kernel: GeneratedKernel, destinations: Mapping[Value, Value]) -> Uses:
    memory = [p for _, p in kernel.arguments if p.is_memory]
    reads = {buffer_of(p, kernel.name, destinations) for p in memory if p.is_read}
    writes = {buffer_of(p, kernel.name, destinations) for p in memory if p.is_written}
    if isinstance(kernel, ForeachKernel):
        updated = {tensor.name for tensors in kernel.rows for tensor in tensors}
        reads, writes = reads | updated, writes | updated
    return Uses(frozenset(reads), frozenset(writes))
