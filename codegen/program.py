"""Programs: the launches of a plan in order, over named buffers, with the one source file that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tritonnotes.ir.graph import Graph, Value
from tritonnotes.ir.primitives import CHUNK_ROWS
from tritonnotes.ir.types import Dim, Shape, element_count, float32, int32, show_shape

from .arena import Arena, Buffer, Uses, arrivals_name, make_arena, partial_name, uses_of
from .chunks import scratch_name
from .collector import paused_collector
from .gpus import H100, PROGRAMS_PER_SM
from .group_kernel import GroupKernel
from .lowering import destinations_of, make_kernels
from .module import render_module
from .plan import FusionPlan, KernelPlan, make_plan, verify_plan
from .products import summed
from .side_kernel import SideKernel, tiles_of
from .source import KernelSource
from .tile import Kernel
from .traffic import NOMINAL, Sizes, compute_dtype
from .units import memory_of
from .wishes import Fusion, as_fusion

H100_PROGRAMS = PROGRAMS_PER_SM * H100.multiprocessors


@dataclass(frozen=True, eq=False)
class Program:
    """All that a runtime needs: the plan, the tile programs, the buffers and the source.

    `outputs` maps output names to the buffer that holds each, and the shape to show it in. `declared` is the graph
    that all this came from, for the header of the source; `fusion` is how it was to be planned. With numbers
    `in_memory`, kernels read what the host works out from a tensor, so that a CUDA graph of their launches stays right
    when it changes.
    """

    graph: Graph
    declared: Graph
    plan: FusionPlan
    kernels: tuple[Kernel, ...]
    buffers: tuple[Buffer, ...]
    outputs: Mapping[str, tuple[str, Shape]]
    fusion: Fusion = Fusion()
    in_memory: bool = False

    @cached_property
    def _rendered(self) -> tuple[str, tuple[KernelSource, ...]]:
        return render_module(self.plan, self.kernels, self.declared, self.buffers, self.arena, self.in_memory)

    @property
    def source(self) -> str:
        """The generated module: kernels, launchers, and `run`, which launches them in order."""
        return self._rendered[0]

    @property
    def kernel_sources(self) -> tuple[KernelSource, ...]:
        return self._rendered[1]

    @property
    def dims(self) -> list[Dim]:
        """The sizes that a run is given."""
        return list(dict.fromkeys(s for v in self.plan.graph.values for s in v.shape if isinstance(s, Dim)))

    @cached_property
    def uses(self) -> tuple[Uses, ...]:
        """What each launch reads and writes, those of a chunk one by one; `places` says which is where."""
        return uses_of(self.plan, self.kernels)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The place of each launch in `uses`. Before the launches of a chunk sums are set to 0, which is the place of
        the loop over chunks."""
        found: dict[str, int] = {}
        for launch in self.plan.launches:
            inner = launch.chunks.program.plan.launches if launch.chunks else ()
            for name in (launch.name, *(k.name for k in inner)):
                found[name] = len(found)
        return found

    @cached_property
    def loops(self) -> Mapping[str, KernelPlan]:
        """For each launch of a chunk the loop over chunks that makes it."""
        loops = [k for k in self.plan.launches if k.chunks]
        return {k.name: loop for loop in loops if loop.chunks for k in loop.chunks.program.plan.launches}

    def sizes_in(self, launch: str, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """The sizes of a launch by name: those of a run, and where it is made for each chunk the rows of one."""
        loop = self.loops.get(launch)
        if loop is None or loop.chunks is None:
            return sizes
        rows = {CHUNK_ROWS.name: loop.chunks.rows}
        return Sizes(sizes.default, {**sizes, **rows}) if isinstance(sizes, Sizes) else {**sizes, **rows}

    @cached_property
    def arena(self) -> Arena:
        """How long each buffer lives that a run makes for itself."""
        return make_arena(self.buffers, self.uses)

    def programs(
        self,
        sizes: Mapping[str, int],
        most: int = H100_PROGRAMS,
        rows_of: Callable[[Kernel], int] = lambda kernel: kernel.layout.row_block,
    ) -> int:
        """How many programs share each sum over rows, `most` of them: no more than there are tiles of so many rows."""
        shared = [1]
        for kernel in self.kernels:
            if kernel.layout.carries and not kernel.layout.alone:
                rows = element_count(kernel.layout.row_shape, self.sizes_in(kernel.name, sizes))
                shared.append(-(-rows // rows_of(kernel)))
        return min(max(shared), most)

    def peak_bytes(self, batch: int = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """Bytes that a run holds beside its leaves: the arena, and its outputs. `Dim`s not named in `sizes` are
        `batch`; unless `programs` share each sum over rows, as many do as on an H100."""
        bound = Sizes(batch, sizes)
        shared = programs or self.programs(bound)
        return self.output_bytes(batch, **sizes) + self.arena.placement(bound, shared).bytes

    def output_bytes(self, batch: int = NOMINAL, **sizes: int) -> int:
        """Bytes of the outputs of a run, which it makes anew; as `peak_bytes`."""
        return sum(b.bytes(Sizes(batch, sizes), 1) for b in self.buffers if b.role == "output")

    def buffer_bytes(self, batch: int = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """Bytes of all buffers that are not leaves, did each have its own; as `peak_bytes`."""
        bound = Sizes(batch, sizes)
        shared = programs or self.programs(bound)
        return sum(b.bytes(bound, shared) for b in self.buffers if b.role != "leaf")

    def __str__(self) -> str:
        lines = [f"program {self.graph.name}: {len(self.plan.launches)} launches over {len(self.buffers)} buffers"]
        lines += [f"  {b.role} {b.name}: {b.dtype}{show_shape(b.shape)}" for b in self.buffers]
        lines += [f"  {i}. {k.name}" for i, k in enumerate(self.plan.launches, 1)]
        return "\n".join(lines)


@paused_collector()
def make_program(
    graph: Graph,
    fusion: str | Fusion = "optimal",
    declared: Graph | None = None,
    taken: frozenset[str] = frozenset(),
) -> Program:
    """Plan a graph of primitives, lower it to tile programs and lay out its buffers; every stage is verified. No kernel
    bears a name that is `taken`."""
    return program_of(make_plan(graph, fusion, taken), declared, fusion)


def program_of(plan: FusionPlan, declared: Graph | None = None, fusion: str | Fusion = "optimal") -> Program:
    """A plan lowered to tile programs, with its buffers laid out; every stage is verified."""
    verify_plan(plan)
    kernels = make_kernels(plan)
    lowered: dict[str, Kernel | GroupKernel] = {k.name: k for k in kernels}
    destinations = destinations_of(plan.units)
    outputs: dict[str, tuple[str, Shape]] = {}
    shown: set[Value] = set()
    for name, value in plan.graph.outputs.items():
        memory = memory_of(value)
        memory = destinations.get(memory, memory)
        shown.add(memory)
        outputs[name] = (memory.name, value.shape)
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
            role = "partial" if kernel.alone is None else "temporary"
            shape = (*(kernel.alone or ()), *value.shape)
            buffers.append(Buffer(partial_name(value), shape, compute_dtype(value.dtype), role))
        if kernel.parts:
            buffers.append(Buffer(arrivals_name(kernel), (), int32, "arrivals"))
        buffers += shared_buffers(kernel, lowered[kernel.name]) if kernel.name in lowered else []
        buffers += scratch_of(kernel)
    inner = tuple(k for launch in plan.launches if launch.chunks for k in launch.chunks.program.kernels)
    kernels = (*kernels, *inner)
    return Program(plan.graph, declared or plan.graph, plan, kernels, tuple(buffers), outputs, as_fusion(fusion))


def scratch_of(launch: KernelPlan) -> list[Buffer]:
    """What the launches of one chunk make for themselves: each chunk uses it anew."""
    if launch.chunks is None:
        return []
    rows, scratch = launch.chunks.rows, set(launch.chunks.scratch())

    def in_chunk(shape: Shape) -> Shape:
        return tuple(rows if s == CHUNK_ROWS else s for s in shape)

    return [
        replace(b, name=scratch_name(launch, b.name), shape=in_chunk(b.shape), summed=in_chunk(b.summed))
        for b in launch.chunks.program.buffers
        if b.name in scratch
    ]


def shared_buffers(plan: KernelPlan, kernel: Kernel | GroupKernel) -> list[Buffer]:
    """Where programs leave what they have of the sums of tiles that they share, and count themselves, tile by tile."""
    shares = kernel.shares if isinstance(kernel, SideKernel) else kernel.layout.shares
    if isinstance(kernel, GroupKernel) or not shares:
        return []
    left = [p.value for p in kernel.parameters if p.role == "partial out" and p.value is not None]
    count = sum(kernel.tiles) if isinstance(kernel, SideKernel) else tiles_of(kernel)
    return [
        *(Buffer(partial_name(v), v.shape, float32, "shares", summed(v), shares) for v in left),
        Buffer(arrivals_name(plan), (count,), int32, "arrivals"),
    ]
