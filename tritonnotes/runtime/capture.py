"""A program captured once for each set of sizes, and replayed: one launch for all its launches, as a CUDA graph has it.

A replay reads and writes the same places each time, so feeds are copied to tensors that stay, the host's numbers into
one more, and outputs are copied for the caller. The first run of a set of sizes is launched kernel by kernel, which
compiles all that it needs; the second is captured. What cannot be captured goes on kernel by kernel, and `reason` says
why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..codegen.emit.prelude import MAKES
from ..codegen.lower.foreach import ForeachKernel
from ..codegen.program.program import Program
from ..ir.core.types import element_count
from .executors.execution import Execution
from .executors.executor import NOTHING_HELD, BufferNames, Held
from .runner import Runner, Tables, stream_of

MOST_CAPTURED = 8
"""Sets of sizes that are kept: each holds an arena, outputs and a graph. What was used longest ago goes first."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes what launches everything, and returns what replays it."""


@dataclass
class _Fixed:
    """What a replay reads and writes: every tensor by name, the numbers on the host and on the device."""

    tensors: dict[str, Tensor]
    numbers: Tensor
    staged: Tensor
    programs: int
    replay: Callable[[], None] | None = None
    is_warm: bool = False
    refused: str | None = None
    tables: Tables = field(default_factory=dict)
    """Through which kernels find tensors. The first run makes them, as a copy would end a capture."""
    made: dict[str, Tensor] = field(default_factory=dict)
    """Where tensors lie that torch makes and kernels find through tables: where torch made them in the first run."""

    def tell(self, numbers: Sequence[float]) -> None:
        """Bring the host's numbers to the device, exact ints bit for bit."""
        floats, ints = self.staged.numpy(), self.staged.view(torch.int64).numpy()
        for place, number in enumerate(numbers):
            if isinstance(number, int):
                ints[place] = number
            else:
                floats[place] = number
        # The memory is pageable, and small enough to be staged at once: it may be written anew when the call returns.
        self.numbers.copy_(self.staged, non_blocking=True)


class CapturedRuns:
    """Runs of a program that are replayed. `capture` stands in for a CUDA graph's; at most `most` sets of sizes are
    kept."""

    def __init__(
        self,
        program: Program,
        device: torch.device,
        how: Execution | None = None,
        *,
        capture: Capture | None = None,
        most: int = MOST_CAPTURED,
    ) -> None:
        self.runner = Runner(replace(program, in_memory=True), device, how)
        self.most = most
        self._capture = capture or _cuda_graph(device)
        self._fed = [v.name for v in program.plan.graph.leaves("input")]
        self._by_torch = [b.name for b in program.buffers if b.role == "torch"]
        names, tables = BufferNames(program), [k for k in program.kernels if isinstance(k, ForeachKernel)]
        self._in_tables = {name for kernel in tables for name in names.in_table(kernel)} & {*self._by_torch}
        self._fixed: OrderedDict[tuple[object, ...], _Fixed] = OrderedDict()

    @property
    def reason(self) -> str | None:
        """Why some of the sets of sizes that are kept is not captured; None while all are."""
        return next((fixed.refused for fixed in self._fixed.values() if fixed.refused), None)

    def run(
        self,
        leaves: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scalars: Mapping[str, float] | None = None,
        held: Held = NOTHING_HELD,
    ) -> dict[str, Tensor]:
        """As `Runner.run`."""
        leaves = {**leaves, **held.leaves}
        given = self.runner.program.arguments.given(sizes, scalars or {})
        numbers: list[float] = self.runner.module.numbers_of(**given)
        key = self._key(leaves, sizes)
        fixed = self._fixed.get(key)
        if fixed is None:
            self._fixed[key] = fixed = self._fix(leaves, sizes, len(numbers))
            while len(self._fixed) > self.most:
                self._fixed.popitem(last=False)
        self._fixed.move_to_end(key)
        for name in self._fed:
            fixed.tensors[name].copy_(leaves[name])
        fixed.tell(numbers)
        try:
            self._launch(fixed, sizes)
        except BaseException:
            # Programs that did not arrive are missing in the counts that the arena holds.
            del self._fixed[key]
            raise
        outputs = {}
        for name, (buffer, shape) in self.runner.program.outputs.items():
            made = fixed.tensors[buffer].reshape([element_count((s,), sizes) for s in shape])
            outputs[name] = made.clone()
        return outputs

    def _launch(self, fixed: _Fixed, sizes: Mapping[str, int]) -> None:
        def launch_all() -> None:
            given = (fixed.tensors, sizes, fixed.programs, fixed.numbers)
            if fixed.refused is None:
                self.runner.launch_all(*given, fixed.tables, self._in_place(fixed.made))
            else:
                self.runner.launch_all(*given, self.runner.tables())

        if fixed.replay is not None:
            fixed.replay()
            return
        if fixed.is_warm and fixed.refused is None:
            try:
                fixed.replay = self._capture(launch_all)
            except RuntimeError as error:
                shown = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"
                fixed.refused = f"capture refused for {shown}: {error}; free memory, or call capture() again"
            else:
                fixed.replay()
                return
        launch_all()
        fixed.is_warm = True

    def _in_place(self, places: dict[str, Tensor]) -> dict[str, Callable[..., Tensor]]:
        """What keeps the results of torch in a run: those in tables are copied to the places of the first run."""
        if not self._in_tables:
            return {}
        names, kept = iter(self._by_torch), self.runner.module.kept

        def keep(made: object, number: int, shape: object, dtype: torch.dtype) -> Tensor:
            result: Tensor = kept(made, number, shape, dtype)
            name = next(names)
            if name not in self._in_tables:
                return result
            place = places.setdefault(name, result)
            return result if place is result else place.copy_(result)

        return {MAKES: keep}

    def _key(self, leaves: Mapping[str, Tensor], sizes: Mapping[str, int]) -> tuple[object, ...]:
        """A replay knows weights and state by their places, and takes float32 as torch was told to when it was
        captured: where these change it is captured anew. Runs on another stream have places of their own."""
        places = (t.data_ptr() for n, t in leaves.items() if n not in self._fed)
        return (takes_tf32(), stream_of(self.runner.device), *sorted(sizes.items()), *places)

    def _fix(self, leaves: Mapping[str, Tensor], sizes: Mapping[str, int], count: int) -> _Fixed:
        runner = self.runner
        programs = runner.programs(sizes)
        fed = {n: torch.empty_like(t) if n in self._fed else t for n, t in leaves.items()}
        tensors = {**runner.allocate(sizes, programs), **fed, **runner.outputs(sizes)}
        staged = torch.zeros(count, dtype=torch.float64, device="cpu")
        return _Fixed(tensors, staged.to(runner.device, copy=True), staged, programs)


def takes_tf32() -> bool:
    """Whether torch is told that products may take float32 as tf32."""
    asked = torch.backends.cuda.matmul
    return bool(asked.fp32_precision == "tf32" if hasattr(asked, "fp32_precision") else asked.allow_tf32)


def no_graph(device: torch.device) -> str | None:
    """Why nothing can be captured on a device; None where it can."""
    return None if device.type == "cuda" else f"{device} is no GPU, so kernels are launched one by one"


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """Work for the device of a stream goes into a graph, and whatever happens the streams are then those from before.

    The stream is the caller's, as the one that torch would take belongs to the device of its first capture. It is left
    here, as torch does not leave it when a capture fails. What other threads do, such as a `DataLoader` that pins
    memory, ends no capture.
    """
    context = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
    with torch.cuda.device(stream.device), torch.cuda.stream(stream), context:
        yield


def _cuda_graph(device: torch.device) -> Capture:
    stream: list[torch.cuda.Stream] = []

    def capture(launch_all: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        if not stream:
            stream.append(torch.cuda.Stream(device))
        with capturing(graph, stream[0]):
            launch_all()
        return graph.replay

    return capture
