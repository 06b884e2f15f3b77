"""Runs programs: on a GPU natively, on the CPU under the strict interpreter."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..codegen.analysis.matmul import INNER_BLOCK, is_ragged
from ..codegen.analysis.units import destinations_of
from ..codegen.lower.foreach import ForeachKernel
from ..codegen.lower.grouped_matmul import GroupedMatmulKernel
from ..codegen.lower.tile_ir import Kernel
from ..codegen.memory.buffers import outer_names, scratch_names
from ..codegen.plan.chunk_loops import ChunkLoop, chunk_loops
from ..codegen.program.program import Program
from ..codegen.support.sizes import next_power_of_2
from ..codegen.target.cache import KernelCache
from ..codegen.target.gpus import PROGRAMS_PER_SM
from ..codegen.target.load import load_source
from ..interpreter import Ownership
from ..interpreter import launch as interpret
from ..ir.core.types import element_count
from ..tensors.dtypes import torch_dtype
from .baked import BakedLaunch

CPU_TILE = 2**16
"""Elements of a tile under the interpreter, whose cost is per program and not per element."""

KEPT_SIZES = 8
"""How many sets of sizes keep their buffers, so that a ragged last batch does not evict the others."""

Launch = Callable[..., None]
"""`launch(kernel, grid, *arguments, **options)` of a generated module."""

_interpreting = threading.RLock()


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for; None is the current GPU where there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Runner:
    """A program on one device, with its buffers.

    `programs` overrides how many programs share a sum over rows, `tile` the elements of a tile on the CPU: results may
    then differ in the last bits, as sums are taken in another order.
    """

    def __init__(
        self, program: Program, device: torch.device, *, programs: int | None = None, tile: int = CPU_TILE
    ) -> None:
        self.program = program
        self.device = device
        self.tile = tile
        self.module: Any = load_source(program.source, KernelCache())
        self._kernels = {k.name: k for k in program.kernels}
        self._most_programs = programs or _default_programs(device)
        self._buffers: OrderedDict[tuple[tuple[str, int], ...], dict[str, Tensor]] = OrderedDict()
        self._native = BakedLaunch() if device.type == "cuda" else None
        self.around: Callable[[Launch], Launch] = lambda launch: launch
        """What each launch goes through, as it does to be timed."""
        self.all_reduce: Callable[[Tensor, Tensor], None] | None = None
        """`all_reduce(x, total)` across processes, for a program that has such calls; None with one process."""

    def run(
        self, leaves: Mapping[str, Tensor], sizes: Mapping[str, int], scalars: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """One run: tensors for all leaves by name, sizes of the `Dim`s, host numbers by name. Returns the outputs."""
        programs = self.programs(sizes)
        try:
            return self._run(leaves, sizes, scalars, programs)
        except BaseException:
            # Programs that did not arrive are missing in the counts that the buffers hold.
            self._buffers.clear()
            raise

    def _run(
        self,
        leaves: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scalars: Mapping[str, float] | None,
        programs: int,
    ) -> dict[str, Tensor]:
        tensors = {**self.temporaries(sizes, programs), **leaves, **self.outputs(sizes)}
        self.launch_all(tensors, sizes, programs, scalars or {})
        result = {}
        for name, (buffer, shape) in self.program.outputs.items():
            tensor = tensors[buffer].reshape([_size(s, sizes) for s in shape])
            # A leaf that is an output is handed out as it is now, not as a later run leaves it.
            result[name] = tensor.clone() if buffer in leaves else tensor
        return result

    def launch_all(
        self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], programs: int, numbers: Mapping[str, Any]
    ) -> None:
        """Every launch once, over tensors for all buffers. `numbers` are the host's, or the tensor that holds them."""
        given = {**sizes, **numbers, "programs": programs}
        if self.all_reduce is not None and hasattr(self.module, "all_reduce"):
            given["all_reduce"] = self.all_reduce
        if self.device.type == "cpu":
            watch = _Watch(self.program, tensors)
            launch = self.around(self._interpreted_launch(sizes, programs, tensors, watch))
            with _interpreting:
                self.module.run(tensors, **given, launch=launch)
            watch.finish()
        else:
            with torch.cuda.device(self.device):
                self.module.run(tensors, **given, launch=self.around(self._native or self.module.launch))

    def programs(self, sizes: Mapping[str, int]) -> int:
        """How many programs share each sum: no more than there are tiles."""
        if self.device.type == "cpu":
            return self.program.programs(sizes, self._most_programs, lambda kernel: self._cpu_rows(kernel, sizes))
        return self.program.programs(sizes, self._most_programs)

    def temporaries(self, sizes: Mapping[str, int], programs: int) -> dict[str, Tensor]:
        """What a run makes for itself, the same for the same sizes."""
        if not self.program.arena.lives:
            return {}
        key = (*sorted(sizes.items()), ("", programs))
        found = self._buffers.get(key)
        if found is None:
            self._buffers[key] = found = self.allocate(sizes, programs)
            if len(self._buffers) > KEPT_SIZES:
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(key)
        return found

    def allocate(self, sizes: Mapping[str, int], programs: int) -> dict[str, Tensor]:
        """The temporaries in an arena of their own."""
        arena = self.program.arena
        given = {d.name: sizes[d.name] for d in arena.dims} | ({"programs": programs} if arena.is_shared else {})
        made: dict[str, Tensor] = self.module.temporaries(self.device, **given)
        return made

    def outputs(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        # Outputs are the caller's to keep, so each run makes its own.
        made = {}
        for buffer in self.program.buffers:
            if buffer.role == "output":
                shape = [_size(s, sizes) for s in buffer.shape]
                made[buffer.name] = torch.empty(shape, dtype=torch_dtype(buffer.dtype), device=self.device)
        return made

    def _cpu_rows(self, kernel: Kernel, sizes: Mapping[str, int]) -> int:
        layout = kernel.layout
        rows = element_count(layout.row_shape, self.program.sizes_in(kernel.name, sizes))
        size = min(next_power_of_2(max(rows, 1)), max(1, self.tile // max(layout.block, 1)))
        if layout.split_k:
            size = max(size, layout.row_block)  # programs count themselves for each tile, of which there are so many
        return size if layout.masks_rows else min(size, layout.exact_rows)

    def _interpreted_launch(
        self, sizes: Mapping[str, int], programs: int, tensors: Mapping[str, Tensor], watch: _Watch
    ) -> Any:
        def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
            planned = self._kernels[kernel.__name__]
            watch.reach(planned.name)
            if isinstance(planned, ForeachKernel):
                options["BLOCK"] = block = min(next_power_of_2(max(planned.sizes())), self.tile)
                reached = [tensors[watch.name_of(planned.name, m.name)] for row in planned.rows for m in row]
                interpret(
                    kernel, (planned.programs(block),), arguments, options, tensors=reached, ownership=watch.ownership
                )
                return
            options.pop("num_warps", None)
            if isinstance(planned, GroupedMatmulKernel):
                interpret(kernel, grid, arguments, options, ownership=watch.ownership)
                return
            layout, inner = planned.layout, self.program.sizes_in(planned.name, sizes)
            if layout.rows and not layout.traversal.is_one_row:
                rows = self._cpu_rows(planned, sizes)
                options["ROWS" if layout.cols else "BLOCK"] = rows
                if not layout.accumulates:
                    grid = (-(-element_count(layout.row_shape, inner) // rows), *grid[1:])
            if "INNER" in options:
                options["INNER"] = _cpu_inner(planned, inner)
            if layout.finalizes:
                options["PROGRAMS"] = next_power_of_2(programs)
            interpret(kernel, grid, arguments, options, ownership=watch.ownership)

        return launch


def _cpu_inner(kernel: Kernel, sizes: Mapping[str, int]) -> int:
    """Elements that products multiply at once under the interpreter: all, or a divisor where blocks are not masked; as
    many as on a GPU at least."""
    lengths = [(s.attrs["summed"], element_count(s.attrs["summed"], sizes)) for s in kernel.products]
    most = min(next_power_of_2(max(n, 1)) if is_ragged(shape) else n & -n for shape, n in lengths)
    return max(INNER_BLOCK, most)


class _Watch:
    """Follows a run from launch to launch, so that no buffer reads what another one left in the arena."""

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        self.program = program
        lives = program.arena.lives
        self.ownership = Ownership({life.buffer.name: tensors[life.buffer.name] for life in lives})
        self.ownership.write(life.buffer.name for life in lives if life.buffer.role == "arrivals")
        self._next = 0
        self._names = list(program.places)
        destinations = destinations_of(program.plan.units)
        self._outer = {
            loop.name: outer_names(loop, scratch_names(program.regions[loop.name].buffers), destinations)
            for loop in chunk_loops(program.plan.launches)
        }

    def name_of(self, launch: str, buffer: str) -> str:
        """What a buffer of a launch is called in the program."""
        loop = self.program.loops.get(launch)
        return buffer if loop is None else self._outer[loop.name][buffer]

    def reach(self, name: str) -> None:
        """A generated kernel is launched: library calls before it are over. Where it is one of a chunk whose place has
        passed, another chunk begins, as far as scratch is concerned."""
        place = self.program.places[name]
        loop = self.program.loops.get(name)
        if loop is not None and place < self._next:
            self._pass(self._last(loop))
            self._next = self.program.places[loop.name] + 1
        if self._next <= place:
            self._pass(place)
            self._begin(place)
            self._next = place + 1

    def finish(self) -> None:
        """The run is over."""
        self._pass(len(self._names))

    def _last(self, loop: ChunkLoop) -> int:
        """The place behind the last launch of a chunk."""
        return self.program.places[loop.name] + 1 + sum(k is loop for k in self.program.loops.values())

    def _pass(self, stop: int) -> None:
        for place in range(self._next, stop):
            self._begin(place)
            name = self._names[place]
            reads = self.program.uses[place].reads
            if name in self.program.loops:
                # A chunk may be shorter than its scratch.
                reads -= {scratch for inner, scratch in self._outer[self.program.loops[name].name].items()
                          if scratch.endswith(f":{inner}")}  # fmt: skip
            self.ownership.read(reads, name)
            self.ownership.write(self.program.uses[place].writes)
        self._next = stop

    def _begin(self, place: int) -> None:
        lives = self.program.arena.lives
        self.ownership.alive = frozenset(x.buffer.name for x in lives if x.first <= place <= x.last)
        self.ownership.begin(x.buffer.name for x in lives if x.first == place and x.buffer.role != "arrivals")


def _size(size: Any, sizes: Mapping[str, int]) -> int:
    return element_count((size,), sizes)


def _default_programs(device: torch.device) -> int:
    if device.type == "cpu":
        return 1
    return PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
