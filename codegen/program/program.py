"""Programs: the launches of a plan in order, over named buffers, with the one source file that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pickle import PicklingError
from typing import Any

from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.types import Dim, Shape, dims_in, element_count, show_shape
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..emit.kernel import KernelSource
from ..fusion.constraints import Fusion
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import Kernel
from ..memory.arena import Arena, Memory, Uses, make_arena, uses_of
from ..memory.buffers import Buffer
from ..module.module import render_module
from ..plan.chunk_loops import ChunkLoop, chunk_loops
from ..plan.fusion_plan import FusionPlan, memories_of_outputs
from ..plan.launches import Launch
from ..share.share import shared_kernels
from ..support.arguments import RunArguments
from ..support.formulas import largest, smallest
from ..support.provenance import LineMap, Part, line_map
from ..support.sizes import NOMINAL, Sizes
from ..support.text import counted
from ..target.gpus import H100, PROGRAMS_PER_SM

H100_PROGRAMS = PROGRAMS_PER_SM * H100.multiprocessors


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """All that a runtime needs: the plan, the tile programs, the buffers and the source.

    `declared` is the graph that all this came from, for the header of the source. `regions` are the programs of one
    chunk, by the name of the loop over chunks. With numbers `in_memory`, kernels read what the host works out from a
    tensor, so that a CUDA graph of their launches stays right when it changes.

    Nothing of it changes, so copies are the program itself. It cannot be pickled: its kernels may be tuned for one GPU.
    """

    plan: FusionPlan
    kernels: tuple[GeneratedKernel, ...]
    buffers: tuple[Buffer, ...]
    declared: Graph
    regions: Mapping[str, Program] = field(default_factory=dict)
    in_memory: bool = False

    @property
    def graph(self) -> Graph:
        """The graph of primitives that is planned."""
        return self.plan.graph

    @property
    def fusion(self) -> Fusion:
        """What its user asked for."""
        return self.plan.candidate.options

    @cached_property
    def outputs(self) -> Mapping[str, tuple[str, Shape]]:
        """For each output the buffer that holds it, and the shape to show it in."""
        memories = memories_of_outputs(self.plan)
        return {name: (memory.name, self.graph.outputs[name].shape) for name, memory in memories.items()}

    @cached_property
    def _parts(self) -> tuple[tuple[KernelSource, ...], tuple[Part, ...]]:
        chunks = {name: region.buffers for name, region in self.regions.items()}
        return render_module(
            self.plan, self.kernels, self.declared, self.buffers, self.arena, chunks, self.written, self.in_memory
        )

    @cached_property
    def written(self) -> Mapping[str, GeneratedKernel]:
        """The kernel that is written for each launch, by the name of the launch: launches that do the same share it."""
        return shared_kernels(self.kernels, self.graph, {name: loop.name for name, loop in self.loops.items()})

    @cached_property
    def launches_of(self) -> Mapping[str, tuple[GeneratedKernel, ...]]:
        """The kernels that are launched by one function, in the order of the launches, by its name."""
        found: dict[str, list[GeneratedKernel]] = {}
        for kernel in self.kernels:
            found.setdefault(self.written[kernel.name].name, []).append(kernel)
        return {name: tuple(kernels) for name, kernels in found.items()}

    @cached_property
    def _rendered(self) -> tuple[str, tuple[KernelSource, ...]]:
        sources, parts = self._parts
        return "\n\n".join(part.text for part in parts), sources

    @property
    def source(self) -> str:
        """The generated module: kernels, launchers, and `run`, which launches them in order."""
        return self._rendered[0]

    @property
    def kernel_sources(self) -> tuple[KernelSource, ...]:
        """The source of each kernel, the same one for those that share it."""
        return self._rendered[1]

    @cached_property
    def line_map(self) -> LineMap:
        """Where each line of `source` comes from: `program.line_map[1]` says it of the first line."""
        return line_map(self._parts[1])

    @property
    def dims(self) -> list[Dim]:
        """The sizes that a run is given."""
        return list(dict.fromkeys(dim for v in self.plan.graph.values for dim in dims_in(v.shape)))

    @cached_property
    def arguments(self) -> RunArguments:
        """What the module's `run` calls the sizes and numbers that it is given."""
        return RunArguments(self.graph, [k.name for k in self.kernels], [k.name for k in self.written.values()])

    @cached_property
    def uses(self) -> tuple[Uses, ...]:
        """What each launch reads and writes, those of a chunk one by one; `places` says which is where."""
        return uses_of(self.plan, self.kernels, {name: region.memory for name, region in self.regions.items()})

    @property
    def memory(self) -> Memory:
        """The buffers, and what each launch does with them."""
        return Memory(self.buffers, self.uses)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The place of each launch in `uses`. Before the launches of a chunk sums are set to 0, which is the place of
        the loop over chunks."""
        found: dict[str, int] = {}
        for launch in self.plan.launches:
            inner = launch.plan.launches if isinstance(launch, ChunkLoop) else ()
            for name in (launch.name, *(k.name for k in inner)):
                found[name] = len(found)
        return found

    @cached_property
    def loops(self) -> Mapping[str, ChunkLoop]:
        """For each launch of a chunk the loop over chunks that makes it."""
        return {k.name: loop for loop in chunk_loops(self.plan.launches) for k in loop.plan.launches}

    def launch_of(self, kernel: GeneratedKernel) -> Launch:
        """The launch of a kernel, which may be one of a chunk."""
        loop = self.loops.get(kernel.name)
        launches = self.plan.launches if loop is None else loop.plan.launches
        return next(k for k in launches if k.name == kernel.name)

    def sizes_in(self, launch: str, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """The sizes of a launch by name: those of a run, and where it is made for each chunk the rows of one."""
        loop = self.loops.get(launch)
        if loop is None:
            return sizes
        rows = {CHUNK_ROWS.name: loop.rows}
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
            if isinstance(kernel, Kernel) and kernel.layout.traversal.is_persistent:
                rows = element_count(kernel.layout.row_shape, self.sizes_in(kernel.name, sizes))
                shared.append(-(-rows // rows_of(kernel)))
        return smallest(largest(*shared), most)

    def peak_bytes(self, batch: int | Mapping[str, int] = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """Bytes that a run holds beside its leaves: the arena, what calls of torch make, and its outputs. `Dim`s not
        named in `sizes` are `batch`; unless `programs` share each sum over rows, as many do as on an H100."""
        bound = Sizes(batch, sizes)
        shared = programs or self.programs(bound)
        return self.bytes_beside_arena(bound) + self.arena.placement(bound, shared).bytes

    def bytes_beside_arena(self, sizes: Mapping[str, int]) -> int:
        """Bytes of what a run makes outside of the arena: its outputs, and what calls of torch make."""
        return sum(b.bytes(sizes, 1) for b in self.buffers if b.role in ("output", "torch"))

    def output_bytes(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int:
        """Bytes of the outputs of a run, which it makes anew; as `peak_bytes`."""
        bound = Sizes(batch, sizes)
        shown = {buffer for buffer, _ in self.outputs.values()}
        return sum(b.bytes(bound, 1) for b in self.buffers if b.role != "leaf" and b.name in shown)

    def buffer_bytes(self, batch: int | Mapping[str, int] = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """Bytes of all buffers that are not leaves, did each have its own; as `peak_bytes`."""
        bound = Sizes(batch, sizes)
        shared = programs or self.programs(bound)
        return sum(b.bytes(bound, shared) for b in self.buffers if b.role != "leaf")

    def __repr__(self) -> str:
        return f"Program({self.graph.name!r}: {self._counts})"

    def __copy__(self) -> Program:
        return self

    def __deepcopy__(self, memo: object) -> Program:
        return self

    def __reduce__(self) -> Any:
        raise PicklingError(
            f"a program cannot be pickled, as {self.graph.name!r} here; pickle the model or the step that runs it, or "
            "its `plan`, of which it is made again; `program.source` is text"
        )

    @property
    def _counts(self) -> str:
        return f"{counted(len(self.plan.launches), 'launch')} over {counted(len(self.buffers), 'buffer')}"

    def __str__(self) -> str:
        lines = [f"program {self.graph.name}: {self._counts}"]
        lines += [f"  {b.role} {b.name}: {b.dtype}{show_shape(b.shape)}" for b in self.buffers]
        lines += [f"  {i}. {k.name}" for i, k in enumerate(self.plan.launches, 1)]
        return "\n".join(lines)
