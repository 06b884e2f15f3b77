"""The buffers of a program: leaves, outputs and what a run makes for itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, Shape, element_count, float32, int32
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..analysis.matmul import summed
from ..analysis.units import destinations_of
from ..analysis.views import memory_of
from ..cost.matmul import splits_of
from ..cost.traffic import compute_dtype
from ..fusion.last_block import GROUP
from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel, tiles_of
from ..lower.tile_ir import Kernel
from ..plan.launches import FusionPlan, KernelPlan, memories_of_outputs


@dataclass(frozen=True)
class Buffer:
    """Memory of a program. `role` is 'leaf' (fed or held by the model), 'output' (made anew by each run), 'temporary',
    'partial' (one row for each program of a kernel, in front of `shape`), 'shares' (one `shape` for each program that
    shares the sums of a product over `summed` sizes, `most` of them), or 'arrivals' (a count of programs, and one for
    each group of them, that are 0 between launches)."""

    name: str
    shape: Shape
    dtype: DType
    role: str
    summed: Shape = ()
    most: int = 1

    def bytes(self, sizes: Mapping[str, int], programs: int) -> int:
        """What it takes where `programs` share each sum over rows."""
        rows = {
            "partial": programs,
            "shares": splits_of(element_count(self.summed, sizes), self.most),
            "arrivals": 1 + -(-programs // GROUP),
        }.get(self.role, 1)
        return rows * element_count(self.shape, sizes) * self.dtype.itemsize


def allocate(
    plan: FusionPlan, kernels: Sequence[Kernel], regions: Mapping[str, tuple[Buffer, ...]]
) -> tuple[Buffer, ...]:
    """The buffers of a plan whose generated kernels are lowered. Those of a chunk are found in `regions`, by the name
    of its loop."""
    lowered: dict[str, Kernel | ForeachKernel] = {k.name: k for k in kernels}
    destinations = destinations_of(plan.units)
    shown = set(memories_of_outputs(plan).values())
    buffers = [
        Buffer(v.name, v.shape, v.dtype, "leaf") for v in plan.graph.leaves("input", "parameter", "buffer", "slot")
    ]
    for joined in plan.units.joins:
        buffers.append(Buffer(joined.name, joined.shape, joined.dtype, "output" if joined in shown else "temporary"))
    for kernel in plan.launches:
        for value in kernel.stores:
            if value not in destinations:
                role = "output" if value in shown else "temporary"
                buffers.append(Buffer(value.name, value.shape, kernel.storage[value], role))
        for value in kernel.partials:
            # Where each program takes one row alone, there are as many sums as rows, however many programs there are.
            role = "partial" if kernel.row_per_program is None else "temporary"
            shape = (*(kernel.row_per_program or ()), *value.shape)
            buffers.append(Buffer(partial_name(value), shape, compute_dtype(value.dtype), role))
        if kernel.parts:
            buffers.append(Buffer(arrivals_name(kernel), (), int32, "arrivals"))
        buffers += split_k_buffers(kernel, lowered[kernel.name]) if kernel.name in lowered else []
        buffers += scratch_of(kernel, regions[kernel.name]) if kernel.chunks else []
    return tuple(buffers)


def scratch_names(buffers: Sequence[Buffer]) -> Iterator[str]:
    """The names of the buffers that a chunk makes for itself."""
    return (b.name for b in buffers if b.role not in ("leaf", "output"))


def scratch_of(launch: KernelPlan, buffers: Sequence[Buffer]) -> list[Buffer]:
    """Of the buffers of a chunk those that its launches make for themselves: each chunk uses them anew."""
    assert launch.chunks is not None
    rows, scratch = launch.chunks.rows, set(scratch_names(buffers))

    def in_chunk(shape: Shape) -> Shape:
        return tuple(rows if s == CHUNK_ROWS else s for s in shape)

    return [
        replace(b, name=scratch_name(launch, b.name), shape=in_chunk(b.shape), summed=in_chunk(b.summed))
        for b in buffers
        if b.name in scratch
    ]


def split_k_buffers(plan: KernelPlan, kernel: Kernel | ForeachKernel) -> list[Buffer]:
    """Where programs leave what they have of the sums of tiles that they share, and count themselves, tile by tile."""
    split_k = kernel.split_k if isinstance(kernel, GroupedMatmulKernel) else kernel.layout.split_k
    if isinstance(kernel, ForeachKernel) or not split_k:
        return []
    left = [p.value for p in kernel.parameters if p.role == "partial out" and p.value is not None]
    count = sum(kernel.tiles) if isinstance(kernel, GroupedMatmulKernel) else tiles_of(kernel)
    return [
        *(Buffer(partial_name(v), v.shape, float32, "shares", summed(v), split_k) for v in left),
        Buffer(arrivals_name(plan), (count,), int32, "arrivals"),
    ]


def arrivals_name(kernel: KernelPlan) -> str:
    """The name of the buffer in which the programs of a launch count themselves."""
    return f"{kernel.name}:arrivals"


def partial_name(value: Value) -> str:
    """The name of the buffer that holds the partial sums of a value."""
    return f"{value.name}:partial"


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
