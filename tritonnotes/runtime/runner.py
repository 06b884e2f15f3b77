"""Runs programs: on a GPU by Triton, on the CPU as machine code, or under the strict interpreter where that is asked
for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..codegen.program.program import Program
from ..codegen.target.cache import KernelCache
from ..codegen.target.load import load_source
from ..ir.core.errors import DeclarationError
from ..ir.core.types import element_count
from ..tensors.allocation import allocating
from ..tensors.dtypes import torch_dtype
from .executors.baked import GpuExecutor
from .executors.execution import Execution, execution
from .executors.executor import NOTHING_HELD, Around, Executor, Held
from .executors.interpreted import InterpretedExecutor
from .executors.machine_code import NativeExecutor
from .executors.recorded import RecordedRuns
from .held import detached

KEPT_SIZES = 8
"""How many sets of sizes keep their buffers, so that a ragged last batch does not evict the others."""

KEPT_TABLES = 32
"""How many tables of launches over many tensors are kept for a stream; beyond these, all are made anew."""

Tables = dict[tuple[int, ...], Tensor]
"""The tables of a program's launches over many tensors, by the addresses that they hold."""


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for; None is the current GPU where there is one, else the CPU. Raises `DeclarationError` for
    one that kernels cannot run on here."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise DeclarationError(f"device: {device!r} is no device; use 'cpu', 'cuda' or 'cuda:0'") from None
    if found.type == "cpu":
        return torch.device("cpu")
    gpus = torch.cuda.device_count() if found.type == "cuda" else 0
    # A GPU has a number, also where the caller leaves it out: tensors know theirs.
    index = torch.cuda.current_device() if gpus and found.index is None else found.index or 0
    if index >= gpus:
        raise DeclarationError(f"device: kernels run on the CPU and {gpus} CUDA GPUs of this machine, not on {found}")
    return torch.device("cuda", index)


def stream_of(device: torch.device) -> int:
    """The handle of the stream that work on a device is given to now. Runs on one stream follow each other, so they may
    share memory; runs on two may not."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


class Runner:
    """A program on one device, with its buffers, of which each stream has its own. Threads take turns.

    `how` says what runs kernels on the CPU; None is what the environment says. `programs` overrides how many programs
    share a sum over rows, `tile` the elements of a tile on the CPU: results may then differ in the last bits, as sums
    are taken in another order.
    """

    def __init__(
        self,
        program: Program,
        device: torch.device,
        how: Execution | None = None,
        *,
        programs: int | None = None,
        tile: int | None = None,
    ) -> None:
        self.program = program
        self.device = device
        self.how = execution(device) if how is None else how
        self._executor = _executor(program, device, self.how, programs, tile)
        self._recorded = _recorded(program, self._executor, self.how)
        self._buffers: OrderedDict[tuple[Any, ...], dict[str, Tensor]] = OrderedDict()
        self._tables: dict[int, Tables] = {}
        self._taking_turns = threading.RLock()
        self.around: Around | None = None
        """What each launch goes through, as it does to be timed."""
        self.begin: Callable[[], None] | None = None
        """Called before the first launch; where runs are recorded, when all is compiled."""
        self.all_reduce: Callable[[Tensor, Tensor], None] | None = None
        """`all_reduce(x, total)` across processes, for a program that has such calls; None with one process."""

    @property
    def is_recorded(self) -> bool:
        """Whether runs whose launches go through nothing else are recorded and replayed."""
        return self._recorded is not None

    @cached_property
    def module(self) -> Any:
        """The generated module."""
        return load_source(self.program.source, KernelCache())

    def run(
        self,
        leaves: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scalars: Mapping[str, float] | None = None,
        held: Held = NOTHING_HELD,
    ) -> dict[str, Tensor]:
        """One run: tensors for all leaves by name, save those that are `held`, sizes of the `Dim`s, host numbers by
        name. Returns the outputs. Leaves may want gradients where autograd records nothing."""
        with self._taking_turns:
            if self._recorded is not None and self.around is None:
                return self._recorded.run(leaves, held, sizes, scalars or {}, self.all_reduce, self.begin)
            leaves = detached({**leaves, **held.leaves})
            programs = self.programs(sizes)
            if self.begin is not None:
                self.begin()
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
        with allocating(f"graph {self.program.graph.name!r}"):
            tensors = {**self.temporaries(sizes, programs), **leaves, **self.outputs(sizes)}
        self.launch_all(tensors, sizes, programs, scalars or {}, self.tables())
        result = {}
        for name, (buffer, shape) in self.program.outputs.items():
            tensor, known = tensors[buffer], tuple(_size(s, sizes) for s in shape)
            # A view of a custom function's result may not be changed in place, so it is none where it need not be.
            tensor = tensor if tensor.shape == known else tensor.reshape(known)
            # A leaf that is an output is handed out as it is now, not as a later run leaves it.
            result[name] = tensor.clone() if buffer in leaves else tensor
        return result

    def launch_all(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        programs: int,
        numbers: Mapping[str, Any] | Tensor,
        tables: Tables,
        instead: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """Every launch once, over tensors for all buffers. `numbers` are the host's by the names of scalars, or the
        tensor that holds them. `tables` that are not there yet are made. `instead` are functions that take the place of
        the module's."""
        given = {"programs": programs, **self._given(sizes, numbers), **(instead or {})}
        if hasattr(self.module, "table_of"):
            given["tables"] = tables
        if self.all_reduce is not None and hasattr(self.module, "all_reduce"):
            given["all_reduce"] = self.all_reduce
        self._executor.launch_all(self.module, tensors, sizes, given, self.around)

    def _given(self, sizes: Mapping[str, int], numbers: Mapping[str, Any] | Tensor) -> dict[str, Any]:
        """Sizes and numbers by the names that the module has for them."""
        arguments = self.program.arguments
        if isinstance(numbers, Tensor):
            return {**arguments.given_sizes(sizes), "numbers": numbers}
        return arguments.given(sizes, numbers)

    def programs(self, sizes: Mapping[str, int]) -> int:
        """How many programs share each sum: no more than there are tiles."""
        return self._executor.programs(sizes)

    def temporaries(self, sizes: Mapping[str, int], programs: int) -> dict[str, Tensor]:
        """What a run makes for itself, the same for the same sizes on the same stream."""
        if not self.program.arena.lives:
            return {}
        key = (*sorted(sizes.items()), programs, stream_of(self.device))
        found = self._buffers.get(key)
        if found is None:
            self._buffers[key] = found = self.allocate(sizes, programs)
            if len(self._buffers) > KEPT_SIZES:
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(key)
        return found

    def tables(self) -> Tables:
        """The tables that runs on the current stream keep."""
        tables = self._tables.setdefault(stream_of(self.device), {})
        if len(tables) > KEPT_TABLES:
            tables.clear()
        return tables

    def allocate(self, sizes: Mapping[str, int], programs: int) -> dict[str, Tensor]:
        """The temporaries in an arena of their own."""
        arena = self.program.arena
        given = self.program.arguments.given_sizes(sizes, arena.dims)
        given |= {"programs": programs} if arena.is_shared else {}
        with torch.inference_mode(False):  # they are kept for runs outside of it, too
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


def _executor(
    program: Program, device: torch.device, how: Execution, programs: int | None, tile: int | None
) -> Executor:
    if device.type != "cpu":
        return GpuExecutor(program, device, programs=programs)
    if how.strict:
        return InterpretedExecutor(program, programs=programs, tile=tile, split=how.split)
    return NativeExecutor(program, programs=programs, tile=tile, sanitize=how.sanitize)


def _recorded(program: Program, executor: Executor, how: Execution) -> RecordedRuns | None:
    """Runs that are recorded, where that can be done: the sanitizer looks at each launch."""
    if isinstance(executor, NativeExecutor) and not how.sanitize and not program.in_memory:
        return RecordedRuns(program, executor)
    return None


def _size(size: Any, sizes: Mapping[str, int]) -> int:
    return element_count((size,), sizes)
