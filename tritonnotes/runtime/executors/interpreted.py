"""Programs under the strict interpreter, which also follows whose memory each byte of the arena is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...codegen.lower.foreach import ForeachKernel
from ...codegen.lower.tile_ir import Kernel
from ...codegen.plan.chunk_loops import ChunkLoop
from ...codegen.program.program import Program
from ...codegen.support.sizes import next_power_of_2
from ...interpreter import Ownership
from ...interpreter import launch as interpret
from ...ir.core.errors import KernelError
from .executor import Around, BufferNames, Launch, LaunchOrder
from .tiles import CpuTiles

TILE = 2**16
"""Elements of a tile under the interpreter, whose cost is per program and not per element."""

PROGRAMS = 1
"""Programs that share a sum over rows, unless it is said."""

SPLIT_PROGRAMS = 2
"""The same where launches are split, so that the last of them finds what another one left."""


class InterpretedExecutor:
    """Launches a program in Triton's interpreter, launch by launch."""

    def __init__(
        self, program: Program, *, programs: int | None = None, tile: int | None = None, split: bool = False
    ) -> None:
        self._program = program
        self._most_programs = programs or (SPLIT_PROGRAMS if split else PROGRAMS)
        self._tiles = CpuTiles(program, tile or TILE, few=False, split=split)

    def programs(self, sizes: Mapping[str, int]) -> int:
        return self._tiles.programs(sizes, self._most_programs)

    def launch_all(
        self,
        module: Any,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        given: Mapping[str, Any],
        around: Around | None = None,
    ) -> None:
        watch = _Watch(self._program, tensors)
        launch = self._launch(sizes, given["programs"], tensors, watch)
        module.run(tensors, **given, launch=launch if around is None else around(launch))
        watch.finish()

    def _launch(self, sizes: Mapping[str, int], programs: int, tensors: Mapping[str, Tensor], watch: _Watch) -> Launch:
        order = LaunchOrder(self._program)

        def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
            planned = order.next(kernel.__name__)
            watch.reach(planned.name)
            grid, options = self._tiles.adapt(planned, grid, options, sizes)
            reached = []
            if isinstance(planned, ForeachKernel):
                reached = [tensors[name] for name in watch.names.in_table(planned)]
            if isinstance(planned, Kernel) and planned.layout.finalizes:
                options["PROGRAMS"] = next_power_of_2(programs)
            try:
                interpret(kernel, grid, *arguments, **options, tensors=reached, ownership=watch.ownership)
            except KernelError as error:
                if planned.name == kernel.__name__:
                    raise
                raise KernelError(f"launch {planned.name}: {error}") from error

        return launch


class _Watch:
    """Follows a run from launch to launch, so that no buffer reads what another one left in the arena."""

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        self.program = program
        self.names = BufferNames(program)
        lives = program.arena.lives
        self.ownership = Ownership({life.buffer.name: tensors[life.buffer.name] for life in lives})
        self.ownership.write(life.buffer.name for life in lives if life.buffer.role == "arrivals")
        self._next = 0
        self._launches = list(program.places)

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
        self._pass(len(self._launches))

    def _last(self, loop: ChunkLoop) -> int:
        """The place behind the last launch of a chunk."""
        return self.program.places[loop.name] + 1 + sum(k is loop for k in self.program.loops.values())

    def _pass(self, stop: int) -> None:
        for place in range(self._next, stop):
            self._begin(place)
            name = self._launches[place]
            reads = self.program.uses[place].reads
            if name in self.program.loops:
                # A chunk may be shorter than its scratch.
                outer = self.names.outer[self.program.loops[name].name]
                reads -= {scratch for inner, scratch in outer.items() if scratch.endswith(f":{inner}")}
            self.ownership.read(reads, name)
            self.ownership.write(self.program.uses[place].writes)
        self._next = stop

    def _begin(self, place: int) -> None:
        lives = self.program.arena.lives
        self.ownership.alive = frozenset(x.buffer.name for x in lives if x.first <= place <= x.last)
        self.ownership.begin(x.buffer.name for x in lives if x.first == place and x.buffer.role != "arrivals")
