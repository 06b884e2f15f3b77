"""Programs as machine code on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ... import native
from ...codegen.analysis.matmul import summed
from ...codegen.lower.foreach import ForeachKernel
from ...codegen.lower.lower import GeneratedKernel
from ...codegen.lower.tile_ir import Kernel
from ...codegen.program.program import Program
from ...codegen.support.sizes import next_power_of_2
from ...codegen.target.targets import SERVER_CORE
from ...ir.core.types import element_count
from .executor import Around, BufferNames, Launch
from .tiles import CpuTiles

TILE = SERVER_CORE.tile_elements
"""Elements of a tile: what a kernel keeps of it stays in the nearest cache."""

PROGRAMS = 16
"""Programs that share a sum over rows, unless it is said: a fixed number, so that sums are taken in the same order
whatever the number of threads; the last program of so many adds up what they left."""


class NativeExecutor:
    """Launches a program as machine code. With `sanitize` accesses are checked, at some cost."""

    def __init__(
        self, program: Program, *, programs: int | None = None, tile: int | None = None, sanitize: bool = False
    ) -> None:
        self._program = program
        # Those that share a kernel do the same, so that one of them stands for all.
        self._kernels = {name: kernels[0] for name, kernels in program.launches_of.items()}
        self._names = BufferNames(program)
        self._most_programs = programs or PROGRAMS
        self._tiles = CpuTiles(program, tile or TILE, few=True)
        self._sanitize = sanitize

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
        launch = self._launch(tensors, sizes)
        module.run(tensors, **given, launch=launch if around is None else around(launch))

    def adapted(
        self, kernel: Any, grid: tuple[int, ...], options: dict[str, Any], sizes: Mapping[str, int]
    ) -> tuple[GeneratedKernel, tuple[int, ...], dict[str, Any]]:
        """What is planned of a kernel that is launched, and its grid and constants as they are on the CPU."""
        planned = self._kernels[kernel.__name__]
        grid, options = self._tiles.adapt(planned, grid, options, sizes)
        if isinstance(planned, Kernel) and planned.layout.finalizes:
            options["PROGRAMS"] = next_power_of_2(self._most_programs)
        return planned, grid, options

    def work(self, kernel: GeneratedKernel, sizes: Mapping[str, int]) -> int:
        """About how many elements a launch computes: those of its values, where a term of a product counts as a third,
        and a byte of memory as half of one."""
        launch, inner = self._program.launch_of(kernel), self._program.sizes_in(kernel.name, sizes)
        products = {value: element_count(summed(value), inner) for value in launch.products}
        computed = sum(element_count(v.shape, inner) * max(1, products.get(v, 0) // 3) for v in launch.values)
        return computed + launch.bytes_moved(inner) // 2

    def _launch(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Launch:
        def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
            planned, grid, options = self.adapted(kernel, grid, options, sizes)
            reached: list[Tensor] = []
            if self._sanitize and isinstance(planned, ForeachKernel):
                reached = [tensors[name] for name in self._names.in_table(planned)]
            native.launch(kernel, grid, *arguments, **options, sanitize=self._sanitize, tensors=reached)

        return launch
