"""Programs: the launches of a plan in order, over named buffers, with the one source file that holds them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tritonnotes.ir.graph import Graph, Value
from tritonnotes.ir.types import DType, Shape, element_count, float32, int32, show_shape

from .collector import paused_collector
from .finishing import GROUP
from .group_kernel import GroupKernel
from .lowering import destinations_of, make_kernels
from .module import render_module
from .plan import FusionPlan, KernelPlan, make_plan, verify_plan
from .side_kernel import SideKernel, tiles_of
from .source import KernelSource
from .tile import Kernel
from .traffic import compute_dtype
from .units import memory_of
from .wishes import Fusion, as_fusion


@dataclass(frozen=True)
class Buffer:
    """Memory of a program. `role` is 'leaf' (fed or held by the model), 'output' (made anew by each run), 'temporary',
    'partial' (one row for each program of a kernel, in front of `shape`), or 'arrivals' (a count of programs, and one
    for each group of them, that are 0 between launches). Where each program takes one row
    alone, partials are not `shared`: their shape has all rows."""

    name: str
    shape: Shape
    dtype: DType
    role: str
    shared: bool = True


@dataclass(frozen=True, eq=False)
class Program:
    """All that a runtime needs: the plan, the tile programs, the buffers and the source.

    `outputs` maps output names to the buffer that holds each, and the shape to show it in. `declared` is the graph
    that all this came from, for the header of the source; `fusion` is how it was to be planned.
    """

    graph: Graph
    declared: Graph
    plan: FusionPlan
    kernels: tuple[Kernel, ...]
    buffers: tuple[Buffer, ...]
    outputs: Mapping[str, tuple[str, Shape]]
    fusion: Fusion = Fusion()

    @cached_property
    def _rendered(self) -> tuple[str, tuple[KernelSource, ...]]:
        return render_module(self.plan, self.kernels, self.declared)

    @property
    def source(self) -> str:
        """The generated module: kernels, launchers, and `run`, which launches them in order."""
        return self._rendered[0]

    @property
    def kernel_sources(self) -> tuple[KernelSource, ...]:
        return self._rendered[1]

    def buffer_bytes(self, sizes: Mapping[str, int], programs: int = 1) -> int:
        """Bytes of all buffers that are not leaves."""
        total = 0
        for buffer in self.buffers:
            if buffer.role != "leaf":
                count = element_count(buffer.shape, sizes) * self.rows_of(buffer, programs)
                total += count * buffer.dtype.itemsize
        return total

    @staticmethod
    def rows_of(buffer: Buffer, programs: int) -> int:
        """How many of its shape a buffer holds."""
        return {"partial": programs if buffer.shared else 1, "arrivals": 1 + -(-programs // GROUP)}.get(buffer.role, 1)

    def __str__(self) -> str:
        lines = [f"program {self.graph.name}: {len(self.plan.launches)} launches over {len(self.buffers)} buffers"]
        lines += [f"  {b.role} {b.name}: {b.dtype}{show_shape(b.shape)}" for b in self.buffers]
        lines += [f"  {i}. {k.name}" for i, k in enumerate(self.plan.launches, 1)]
        return "\n".join(lines)


@paused_collector()
def make_program(graph: Graph, fusion: str | Fusion = "optimal", declared: Graph | None = None) -> Program:
    """Plan a graph of primitives, lower it to tile programs and lay out its buffers; every stage is verified."""
    plan = make_plan(graph, fusion)
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
            shape = (*(kernel.alone or ()), *value.shape)
            dtype = compute_dtype(value.dtype)
            buffers.append(Buffer(partial_name(value), shape, dtype, "partial", kernel.alone is None))
        if kernel.parts:
            buffers.append(Buffer(arrivals_name(kernel), (), int32, "arrivals"))
        buffers += shared_buffers(kernel, lowered[kernel.name]) if kernel.name in lowered else []
    return Program(plan.graph, declared or plan.graph, plan, kernels, tuple(buffers), outputs, as_fusion(fusion))


def shared_buffers(plan: KernelPlan, kernel: Kernel | GroupKernel) -> list[Buffer]:
    """Where programs leave what they have of the sums of tiles that they share, and count themselves, tile by tile."""
    shares = kernel.shares if isinstance(kernel, SideKernel) else kernel.layout.shares
    if isinstance(kernel, GroupKernel) or not shares:
        return []
    left = [p.value for p in kernel.parameters if p.role == "partial out" and p.value is not None]
    count = sum(kernel.tiles) if isinstance(kernel, SideKernel) else tiles_of(kernel)
    return [
        *(Buffer(partial_name(value), (shares, *value.shape), float32, "temporary") for value in left),
        Buffer(arrivals_name(plan), (count,), int32, "arrivals"),
    ]


def arrivals_name(kernel: KernelPlan) -> str:
    """The name of the buffer in which the programs of a launch count themselves."""
    return f"{kernel.name}:arrivals"


def partial_name(value: Value) -> str:
    """The name of the buffer that holds the partial sums of a value."""
    return f"{value.name}:partial"
