"""What launches a program: an executor is given tensors for all buffers, and makes every launch once.

There are three: the strict interpreter and native code on the CPU, and Triton on a GPU. `Runner` picks one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Protocol

from torch import Tensor

from ...codegen.lower.foreach import ForeachKernel
from ...codegen.lower.lower import GeneratedKernel
from ...codegen.memory.buffers import outer_names, scratch_names
from ...codegen.plan.chunk_loops import chunk_loops
from ...codegen.program.program import Program

Launch = Callable[..., None]
"""`launch(kernel, grid, *arguments, **options)` of a generated module."""

Around = Callable[[Launch], Launch]
"""What each launch goes through, as it does to be timed."""


@dataclass(frozen=True, eq=False)
class Held:
    """Leaves of a program that stay from run to run. As long as `mark` is the same object, none of them has moved."""

    leaves: Mapping[str, Tensor]
    mark: object = field(default_factory=object)


NOTHING_HELD = Held({})


class Executor(Protocol):
    """Runs the launches of one program."""

    def programs(self, sizes: Mapping[str, int]) -> int:
        """How many programs share each sum over rows."""

    def launch_all(
        self,
        module: Any,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        given: Mapping[str, Any],
        around: Around | None = None,
    ) -> None:
        """Call `run` of the program's module over `tensors`. `given` are its other arguments: `sizes`, numbers, and how
        many `programs` share a sum."""


class LaunchOrder:
    """Which launch of a program a call of `launch` is, in one run: those that share a kernel come in their order, chunk
    after chunk."""

    def __init__(self, program: Program) -> None:
        self._launches = {name: cycle(kernels) for name, kernels in program.launches_of.items()}

    def next(self, function: str) -> GeneratedKernel:
        """The kernel of the plan that is launched next by this function."""
        return next(self._launches[function])


class BufferNames:
    """What a buffer of a launch is called in the program: in a chunk of rows it bears another name."""

    def __init__(self, program: Program) -> None:
        self._program = program
        destinations = program.plan.units.destinations
        self.outer = {
            loop.name: outer_names(loop, scratch_names(program.regions[loop.name].buffers), destinations)
            for loop in chunk_loops(program.plan.launches)
        }

    def name_of(self, launch: str, buffer: str) -> str:
        loop = self._program.loops.get(launch)
        return buffer if loop is None else self.outer[loop.name][buffer]

    def in_table(self, kernel: ForeachKernel) -> list[str]:
        """The buffers that a launch finds through its table."""
        return [self.name_of(kernel.name, member.name) for row in kernel.rows for member in row]
