"""Launches that go over rows chunk by chunk: the results of one region (`ir/passes/chunks.py`) are one launch of a
plan, and its kernels a program of their own over the rows of a chunk.

Results that have rows are written row by row; sums over rows are kept where they are wanted, and each chunk adds to
them, in float32 at least, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tritonnotes.ir.core.graph import Graph, Scope, Value
from tritonnotes.ir.core.rewrite import copy_graph
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..analysis.units import Unit
from .launches import CHUNK_LOOP, Chunks, FusionPlan, KernelPlan, inner_names, memories_of_outputs

PlanRegion = Callable[[Graph, frozenset[str]], FusionPlan]
"""Plans the graph of one chunk, without the names of launches that are taken."""


def loop_over_chunks(launches: tuple[KernelPlan, ...], plan_region: PlanRegion) -> tuple[KernelPlan, ...]:
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
