"""Launches that go over rows chunk by chunk: the results of one region (`ir/chunks.py`) are one launch of a plan, and
its kernels a program of their own over the rows of a chunk.

Results that have rows are written row by row; sums over rows are kept where they are wanted, and each chunk adds to
them, in float32 at least, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tritonnotes.ir.graph import Graph, Scope, Value
from tritonnotes.ir.primitives import CHUNK_ROWS, region_of
from tritonnotes.ir.rewrite import copy_graph
from tritonnotes.ir.types import Size, element_count
from tritonnotes.ir.verify import verify

from .traffic import Sizes, Traffic
from .units import Unit, destinations_of, memory_of

if TYPE_CHECKING:
    from .plan import FusionPlan, KernelPlan

CHUNK_LOOP = "chunks"

PlanRegion = Callable[[Graph, frozenset[str]], "FusionPlan"]
"""Plans the graph of one chunk, without the names of launches that are taken."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """How a launch goes over `size` rows, so many `rows` at a time: `plan` is that of one chunk.

    `inputs` are its leaves with the values of the graph around that they are, `results` the names of its buffers with
    those values that it leaves. The `sums` are what each chunk adds to: slots, or results that a library call
    multiplies on top of (`multiplied`).
    """

    plan: FusionPlan
    rows: int
    size: Size
    inputs: tuple[tuple[Value, Value], ...]
    results: tuple[tuple[str, Value], ...]
    sums: tuple[tuple[str, Value], ...]
    multiplied: frozenset[str] = frozenset()

    def count(self, sizes: Mapping[str, int]) -> int:
        """How many chunks there are."""
        return -(-element_count((self.size,), sizes) // self.rows)

    def launches(self, sizes: Mapping[str, int]) -> int:
        """All launches, those included that set sums to 0."""
        return len(self.sums) + self.count(sizes) * len(self.plan.launches)

    def traffic(self, sizes: Sizes, programs: int = 0) -> Traffic:
        """What all chunks move, and zeros for the sums."""
        whole, rest = divmod(element_count((self.size,), sizes), self.rows)
        read = again = 0
        written = sum(element_count(v.shape, sizes) * v.dtype.itemsize for _, v in self.sums)
        for times, rows in ((whole, self.rows), (1, rest)):
            for launch in self.plan.launches if times and rows else ():
                moved = launch.traffic(sizes.default, programs=programs, **{**sizes, CHUNK_ROWS.name: rows})
                read, written = read + times * moved.read, written + times * moved.written
                again += times * moved.read_again
        # A product on top of a sum reads what it adds to.
        added = [v for name, v in self.sums if name in self.multiplied]
        read += self.count(sizes) * sum(element_count(v.shape, sizes) * v.dtype.itemsize for v in added)
        return Traffic(read, written, again)


def join_chunks(launches: tuple[KernelPlan, ...], plan_region: PlanRegion) -> tuple[KernelPlan, ...]:
    """The launches of a plan with the results of each region as one: what it reads is there before the first."""
    made = list(launches)
    taken = {k.name for k in launches}
    while parts := _same_region(made):
        first = parts[0]
        values = tuple(v for k in parts for v in (u.value for u in k.units))
        name = _free(f"chunks_{first.name.removeprefix('matmul_')}", taken)
        taken.add(name)
        chunks = _chunks(values, plan_region, taken)
        taken |= inner_names(chunks)
        made[made.index(first)] = replace(
            first,
            name=name,
            kind=CHUNK_LOOP,
            units=tuple(u for k in parts for u in k.units),
            stores=tuple(v for k in parts for v in k.stores),
            members=tuple(parts),
            chunks=chunks,
        )
        made = [k for k in made if k not in parts]
    return tuple(made)


def inner_names(chunks: Chunks) -> set[str]:
    """What the launches of a chunk are called."""
    return {k.name for k in chunks.plan.launches}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_more"
    return name


def _same_region(launches: list[KernelPlan]) -> list[KernelPlan]:
    """The results of the first region that is not joined yet."""
    found = [k for k in launches if k.chunks is None and any(_is_chunked(u) for u in k.units)]
    return [k for k in found if _key(k) == _key(found[0])]


def _is_chunked(unit: Unit) -> bool:
    return unit.value.op.name == "chunked"


def _key(launch: KernelPlan) -> object:
    value = launch.units[0].value
    return value.attrs["region"], tuple(map(id, value.inputs))


def _chunks(values: tuple[Value, ...], plan_region: PlanRegion, taken: set[str]) -> Chunks:
    region = region_of(values[0].attrs["region"])
    step, slots = _adding(region, {v.attrs["which"] for v in values})
    verify(step)
    plan = plan_region(step, frozenset(taken))
    memories = {name: memory.name for name, memory in memories_of_outputs(plan).items()}
    multiplied = {out: memories[out] for out in step.outputs if _is_product(step.outputs[out])}
    slots |= multiplied
    leaves = dict(zip((v.name for v in region.leaves("input", "scalar")), values[0].inputs, strict=True))
    size = next(outer.shape[0] for name, outer in leaves.items() if region[name].shape[:1] == (CHUNK_ROWS,))
    rest = [(v, _out(v)) for v in values if _out(v) not in slots]
    return Chunks(
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
    for number, (name, value) in enumerate(region.outputs.items()):
        if number not in which:
            continue
        if value.shape[:1] == (CHUNK_ROWS,) or (_is_product(value) and not _is_read(region, value)):
            made.outputs[name] = new[value]
            continue
        made.scope = Scope(value.scope.name, "chunk", "total ← total + sum over the rows of a chunk", phase="update")
        total = made.slot(f"{value.name}.total", value.shape, value.dtype)
        made.update(total, total + new[value])
        slots[name] = total.name
    return made, slots


def _is_product(value: Value) -> bool:
    """Whether a result is a product summed over rows, which a library call can add to what is there."""
    return value.op.name == "matmul_over_rows"


def _is_read(region: Graph, value: Value) -> bool:
    return any(a is value for v in region.values for a in v.inputs)


def memories_of_outputs(plan: FusionPlan) -> dict[str, Value]:
    """The memory that each output of a plan's graph lies in, by the output's name."""
    destinations = destinations_of(plan.units)
    memories = {name: memory_of(value) for name, value in plan.graph.outputs.items()}
    return {name: destinations.get(memory, memory) for name, memory in memories.items()}


def outer_names(launch: KernelPlan, scratch: Iterable[str], destinations: Mapping[Value, Value]) -> dict[str, str]:
    """What the buffers of a chunk are called in the program around it: leaves and results what they are there,
    `scratch` after the launch."""
    chunks = launch.chunks
    assert chunks is not None

    def name_of(value: Value) -> str:
        memory = memory_of(value)
        return destinations.get(memory, memory).name

    found = {name: scratch_name(launch, name) for name in scratch}
    found |= {leaf.name: name_of(outer) for leaf, outer in chunks.inputs}
    return found | {name: name_of(outer) for name, outer in (*chunks.results, *chunks.sums)}


def scratch_name(launch: KernelPlan, name: str) -> str:
    """What a buffer of a chunk is called in the program around it."""
    return f"{launch.name}:{name}"
