"""Launches that go over rows chunk by chunk: the results of one region (`ir/passes/chunks.py`) are one launch of a
plan, and its kernels a program of their own over the rows of a chunk.

Results that have rows are written row by row; sums over rows are kept where they are wanted, and each chunk adds to
them, in float32 at least, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tritonnotes.ir.core.apply import pass_scope
from tritonnotes.ir.core.compare import attr_key
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import copy_graph
from tritonnotes.ir.core.types import Size, element_count, own_name
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..cost.traffic import Traffic, tensor_bytes
from ..support.sizes import Sizes
from .fusion_plan import FusionPlan, memories_of_outputs
from .launches import Launch, LibraryCall, Piece

CHUNK_LOOP = "chunk loop"


PlanRegion = Callable[[Graph, frozenset[str]], FusionPlan]
"""Plans the graph of one chunk, without the names of launches that are taken."""


@dataclass(frozen=True, eq=False, repr=False)
class ChunkLoop(Launch):
    """A launch that goes over `size` rows, so many `rows` at a time: `plan` is that of one chunk, and `replaces` what
    the partition has in its place.

    `inputs` are the leaves of a chunk with the values of the graph around that they are, `results` the names of its
    buffers with those values that it leaves. The `sums` are what each chunk adds to: slots, or results that a library
    call multiplies on top of (`multiplied`).
    """

    replaces: tuple[Piece, ...]
    plan: FusionPlan
    rows: int
    size: Size
    inputs: tuple[tuple[Value, Value], ...]
    results: tuple[tuple[str, Value], ...]
    sums: tuple[tuple[str, Value], ...]
    multiplied: frozenset[str] = frozenset()

    is_generated = False

    @property
    def stages(self) -> tuple[tuple[Piece, ...], ...]:
        return (self.replaces,)

    @property
    def joins(self) -> tuple[str, ...]:
        return tuple(piece.name for piece in self.replaces)

    def chunk_count(self, sizes: Mapping[str, int]) -> int:
        """How many chunks there are."""
        return -(-element_count((self.size,), sizes) // self.rows)

    def launch_count(self, sizes: Mapping[str, int]) -> int:
        """All launches, those included that set sums to 0."""
        return len(self.sums) + self.chunk_count(sizes) * len(self.plan.launches)

    def describe(self) -> Iterator[str]:
        yield from super().describe()
        yield f"{self.rows:,} of {self.size} rows at a time: {', '.join(k.name for k in self.plan.launches)}"

    def _traffic(self, sizes: Sizes, programs: int) -> Traffic:
        """What all chunks move, and zeros for the sums."""
        whole, rest = divmod(element_count((self.size,), sizes), self.rows)
        moved = Traffic(written=sum(tensor_bytes(v.shape, v.dtype, sizes) for _, v in self.sums))
        for times, rows in ((whole, self.rows), (self.chunk_count(sizes) - whole, rest)):
            for launch in self.plan.launches:
                moved += launch.traffic(Sizes(sizes, {CHUNK_ROWS.name: rows}), programs=programs) * times
        # A product on top of a sum reads what it adds to.
        added = [v for name, v in self.sums if name in self.multiplied]
        return moved + Traffic(sum(tensor_bytes(v.shape, v.dtype, sizes) for v in added)) * self.chunk_count(sizes)


def chunk_loops(launches: Iterable[Launch]) -> tuple[ChunkLoop, ...]:
    """The loops over chunks of rows among some launches."""
    return tuple(k for k in launches if isinstance(k, ChunkLoop))


def inner_names(loop: ChunkLoop) -> set[str]:
    """What the launches of a chunk are called."""
    return {k.name for k in loop.plan.launches}


def loop_over_chunks(launches: tuple[Launch, ...], plan_region: PlanRegion) -> tuple[Launch, ...]:
    """The launches of a plan with the results of each region as one: what it reads is there before the first."""
    made = list(launches)
    taken = {k.name for k in launches}
    while calls := _same_region(made):
        first = calls[0]
        name = _free(f"chunks_{first.name.removeprefix('matmul_')}", taken)
        taken.add(name)
        loop = _chunk_loop(name, calls, plan_region, taken)
        taken |= inner_names(loop)
        made[made.index(first)] = loop
        made = [k for k in made if k not in calls]
    return tuple(made)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_more"
    return name


def _same_region(launches: list[Launch]) -> list[LibraryCall]:
    """The results of the first region that is not joined yet."""
    found = [k for k in launches if isinstance(k, LibraryCall) and k.unit.value.op.name == "chunked"]
    return [k for k in found if _key(k) == _key(found[0])]


def _key(call: LibraryCall) -> object:
    value = call.unit.value
    return attr_key(value.attrs["region"]), tuple(map(id, value.inputs))


def _chunk_loop(name: str, calls: list[LibraryCall], plan_region: PlanRegion, taken: set[str]) -> ChunkLoop:
    values = tuple(call.unit.value for call in calls)
    region = values[0].attrs["region"]
    step, slots = _adding(region, {v.attrs["which"] for v in values})
    verify(step)
    plan = plan_region(step, frozenset(taken))
    memories = {name: memory.name for name, memory in memories_of_outputs(plan).items()}
    multiplied = {out: memories[out] for out in step.outputs if _is_product(step.outputs[out])}
    slots |= multiplied
    leaves = dict(zip((v.name for v in region.leaves("input", "scalar")), values[0].inputs, strict=True))
    size = next(outer.shape[0] for name, outer in leaves.items() if region[name].shape[:1] == (CHUNK_ROWS,))
    rest = [(v, _out(v)) for v in values if _out(v) not in slots]
    return ChunkLoop(
        name,
        CHUNK_LOOP,
        tuple(call.piece for call in calls),
        plan,
        values[0].attrs["rows"],
        size,
        tuple((plan.graph[name], outer) for name, outer in leaves.items()),
        tuple((memories[out], v) for v, out in rest),
        tuple((slots[_out(v)], v) for v in values if _out(v) in slots),
        frozenset(multiplied.values()),
    )


def _out(value: Value) -> str:
    return f"out_{value.attrs['which']}"


def _adding(region: Graph, which: set[int]) -> tuple[Graph, dict[str, str]]:
    """The graph of one chunk: sums over its rows are added to slots, whose names it returns by output."""
    made, new = copy_graph(region)
    made.outputs = {}
    slots: dict[str, str] = {}
    given = region.given_names
    for number, (name, value) in enumerate(region.outputs.items()):
        if number not in which:
            continue
        if value.shape[:1] == (CHUNK_ROWS,) or (_is_product(value) and not _is_read(region, value)):
            made.outputs[name] = new[value]
            continue
        made.scope = pass_scope(value.scope.name, "chunk")
        total = made.slot(own_name(f"{value.name}.total", given), value.shape, value.dtype)
        made.update(total, total + new[value])
        slots[name] = total.name
    return made, slots


def _is_product(value: Value) -> bool:
    """Whether a result is a product summed over rows, which a library call can add to what is there."""
    return value.op.name == "matmul_over_rows"


def _is_read(region: Graph, value: Value) -> bool:
    return any(a is value for v in region.values for a in v.inputs)
