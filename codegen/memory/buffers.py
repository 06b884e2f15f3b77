"""The buffers of a program: leaves, outputs and what a run makes for itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, Shape, element_count, float32, int32
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..analysis.matmul import summed
from ..analysis.units import PARTIAL
from ..analysis.views import memory_of
from ..cost.matmul import splits_of
from ..cost.traffic import compute_dtype
from ..fusion.last_block import GROUP
from ..lower.grouped_matmul import GroupedMatmulKernel, tiles_of
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import Kernel, Parameter
from ..plan.chunk_loops import ChunkLoop
from ..plan.fusion_plan import FusionPlan, memories_of_outputs
from ..plan.launches import TileLaunch, TorchCall


@dataclass(frozen=True)
class Buffer:
    """Memory of a program. `role` is 'leaf' (fed or held by the model), 'output' (made anew by each run), 'torch' (made
    by a call of torch that the graph names, and kept until the run ends; some are outputs, too), 'temporary',
    'partial' (one row for each program of a kernel, in front of `shape`), 'split-K' (one `shape` for each program that
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
            "split-K": splits_of(element_count(self.summed, sizes), self.most),
            "arrivals": 1 + -(-programs // GROUP),
        }.get(self.role, 1)
        return rows * element_count(self.shape, sizes) * self.dtype.itemsize


def allocate(
    plan: FusionPlan, kernels: Sequence[GeneratedKernel], regions: Mapping[str, tuple[Buffer, ...]]
) -> tuple[Buffer, ...]:
    """The buffers of a plan whose generated kernels are lowered. Those of a chunk are found in `regions`, by the name
    of its loop."""
    lowered = {k.name: k for k in kernels}
    destinations = plan.units.destinations
    shown = set(memories_of_outputs(plan).values())
    buffers = [
        Buffer(v.name, v.shape, v.dtype, "leaf") for v in plan.graph.leaves("input", "parameter", "buffer", "slot")
    ]
    for joined in plan.units.joins:
        buffers.append(Buffer(joined.name, joined.shape, joined.dtype, "output" if joined in shown else "temporary"))
    for launch in plan.launches:
        for value in launch.stores:
            if value not in destinations:
                role = "torch" if isinstance(launch, TorchCall) else "output" if value in shown else "temporary"
                buffers.append(Buffer(value.name, value.shape, launch.storage[value], role))
        match launch:
            case TileLaunch():
                buffers += partial_buffers(launch)
            case ChunkLoop():
                buffers += scratch_of(launch, regions[launch.name])
        if launch.is_generated:
            buffers += split_k_buffers(lowered[launch.name])
    return tuple(buffers)


def partial_buffers(launch: TileLaunch) -> list[Buffer]:
    """Where programs leave what they have of sums over rows, and count themselves for the last of them."""
    # Where each program takes one row alone, there are as many sums as rows, however many programs there are.
    rows = launch.kernel.long_rows
    role = "partial" if rows is None else "temporary"
    made = [
        Buffer(partial_name(v), (*(rows or ()), *v.shape), compute_dtype(v.dtype), role) for v in launch.kernel.partials
    ]
    gathered = dict.fromkeys(u.moments for u in launch.kernel.units if u.part == PARTIAL and u.moments is not None)
    made += [Buffer(rows_name(m.deviations), (), int32, role) for m in gathered]
    if launch.counts_arrivals:
        made.append(Buffer(arrivals_name(launch.name), (), int32, "arrivals"))
    return made


def scratch_names(buffers: Sequence[Buffer]) -> Iterator[str]:
    """The names of the buffers that a chunk makes for itself."""
    return (b.name for b in buffers if b.role not in ("leaf", "output", "torch"))


def scratch_of(loop: ChunkLoop, buffers: Sequence[Buffer]) -> list[Buffer]:
    """Of the buffers of a chunk those that its launches make for themselves: each chunk uses them anew."""
    scratch = set(scratch_names(buffers))

    def in_chunk(shape: Shape) -> Shape:
        return tuple(loop.rows if s == CHUNK_ROWS else s for s in shape)

    return [
        replace(b, name=scratch_name(loop, b.name), shape=in_chunk(b.shape), summed=in_chunk(b.summed))
        for b in buffers
        if b.name in scratch
    ]


def split_k_buffers(kernel: GeneratedKernel) -> list[Buffer]:
    """Where programs leave what they have of the sums of tiles that they share, and count themselves, tile by tile."""
    match kernel:
        case GroupedMatmulKernel():
            split_k, count = kernel.split_k, sum(kernel.tiles)
        case Kernel() if kernel.layout.split_k:
            split_k, count = kernel.layout.split_k, tiles_of(kernel)
        case _:
            return []
    if not split_k:
        return []
    left = [p.value for _, p in kernel.arguments if p.role == "partial out" and p.value is not None]
    return [
        *(Buffer(partial_name(v), v.shape, float32, "split-K", summed(v), split_k) for v in left),
        Buffer(arrivals_name(kernel.name), (count,), int32, "arrivals"),
    ]


def buffer_of(parameter: Parameter, launch: str, destinations: Mapping[Value, Value]) -> str:
    """The name of the buffer that a launch is given for an argument that is memory."""
    if parameter.role == "arrivals":
        return arrivals_name(launch)
    assert parameter.value is not None
    if "partial" in parameter.role:
        return rows_name(parameter.value) if parameter.of_rows else partial_name(parameter.value)
    return destinations.get(parameter.value, parameter.value).name


def arrivals_name(launch: str) -> str:
    """The name of the buffer in which the programs of a launch count themselves."""
    return f"{launch}:arrivals"


def partial_name(value: Value) -> str:
    """The name of the buffer that holds the partial sums of a value."""
    return f"{value.name}:partial"


def rows_name(value: Value) -> str:
    """The name of the buffer in which programs say how many rows they had of the moments that a sum follows from."""
    return f"{value.name}:rows"


def outer_names(loop: ChunkLoop, scratch: Iterable[str], destinations: Mapping[Value, Value]) -> dict[str, str]:
    """What the buffers of a chunk are called in the program around it: leaves and results what they are there,
    `scratch` after the launch."""

    def name_of(value: Value) -> str:
        memory = memory_of(value)
        return destinations.get(memory, memory).name

    found = {name: scratch_name(loop, name) for name in scratch}
    found |= {leaf.name: name_of(outer) for leaf, outer in loop.inputs}
    return found | {name: name_of(outer) for name, outer in (*loop.results, *loop.sums)}


def scratch_name(loop: ChunkLoop, name: str) -> str:
    """What a buffer of a chunk is called in the program around it."""
    return f"{loop.name}:{name}"
