"""Clocks: CUDA events where there is a GPU, the host's where there is none. All else is the same."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tritonnotes.runtime.capture import capturing

SHORT = 50e-6
"""Below so many seconds the launch is seen more than the kernel, so replays of a graph are timed as well."""

CACHES = 3
"""How often the inputs that replays rotate over fill the GPU's second-level cache."""

MOST_SETS = 4096
"""How many sets of inputs are rotated over at most."""

SAMPLES = 20
"""How often a call is timed in one round, if it is short enough."""

ROUND_SECONDS = 0.1
"""How long one round of a call takes at most, but for its first sample."""


@dataclass(frozen=True)
class Call:
    """Something to be timed: `run` on what `prepare` made of it, which is not timed. `prepare` gives fresh inputs to
    whoever overwrites them, and to a backward run its forward one.

    `rotated` makes several calls for the inputs of a number given, so that none finds its inputs in a cache; it is None
    where a call cannot be part of a CUDA graph, and `why_not` says why.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    rotated: Callable[[int], Sequence[Call]] | None = None
    why_not: str = ""


class Clock(Protocol):
    """`is_gpu` says whether what it measures are times of a GPU."""

    name: str
    is_gpu: bool

    def samples(self, call: Call) -> list[float]:
        """Seconds of some runs, each of a cold cache."""

    def replayed(self, call: Call, moved: int) -> list[float]:
        """Seconds of one run, of several replays of a graph of runs over rotating inputs of `moved` bytes each."""

    def allocated(self) -> int:
        """Bytes of memory that tensors hold now; 0 where nobody counts."""

    def peak_bytes(self, call: Call) -> int | None:
        """The most that tensors hold while a call runs; None where nobody counts. What lives only inside a CUDA graph
        is not seen."""

    def launches(self, call: Call) -> int | None:
        """How many kernels and copies a run is; None where nobody counts."""


class HostClock:
    """The host's clock around one run, of kernels that run as machine code on the CPU."""

    name = "host clock, machine code"
    is_gpu = False

    def samples(self, call: Call) -> list[float]:
        given = call.prepare()
        started = time.perf_counter()
        call.run(given)
        return [time.perf_counter() - started]

    def replayed(self, call: Call, moved: int) -> list[float]:
        return []

    def allocated(self) -> int:
        return 0

    def peak_bytes(self, call: Call) -> int | None:
        return None

    def launches(self, call: Call) -> int | None:
        return None


class CudaClock:
    """CUDA events around each run, after a write to memory that leaves nothing of the inputs in the cache."""

    name = "CUDA events"
    is_gpu = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.set_device(device)  # events and streams are made on the current one
        self.cache_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
        self._flushed = torch.empty(max(2**28, 2 * self.cache_bytes), dtype=torch.uint8, device=device)

    def samples(self, call: Call) -> list[float]:
        first = self._timed(call, 1)[0]
        return self._timed(call, max(1, min(SAMPLES, int(ROUND_SECONDS / max(first, 1e-6)))))

    def _timed(self, call: Call, count: int) -> list[float]:
        pairs = []
        for _ in range(count):
            given = call.prepare()
            self._flushed.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call.run(given)
            end.record()
            del given  # or the next forward run would stand beside this one
            pairs.append((start, end))
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def replayed(self, call: Call, moved: int) -> list[float]:
        if call.rotated is None:
            return []
        count = max(2, min(MOST_SETS, math.ceil(CACHES * self.cache_bytes / max(moved, 1))))
        calls = call.rotated(count)
        replay = captured(calls)
        replay()
        return [t / count for t in self._timed(Call(lambda _: replay()), SAMPLES)]

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def peak_bytes(self, call: Call) -> int | None:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        call.run(call.prepare())
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def launches(self, call: Call) -> int | None:
        given = call.prepare()
        torch.cuda.synchronize(self.device)
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
            call.run(given)
            torch.cuda.synchronize(self.device)
        on_gpu = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not getattr(e, "is_user_annotation", False) for e in on_gpu)


def captured(calls: Sequence[Call]) -> Callable[[], list[Any]]:
    """The replay of calls, one after the other, in one CUDA graph; it returns what each of them left.

    A graph keeps no memory that it reads. So the replay holds the calls, what was prepared for them, and what autograd
    has saved for backward runs, which it forgets when they have run.
    """
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            calls[0].run(calls[0].prepare())
        # A backward run belongs to the stream of its forward run, which is not captured.
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            given = [call.prepare() for call in calls]
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    kept = []
    with capturing(graph, side):
        for call, each in zip(calls, given, strict=True):
            kept.append(call.run(each))
    torch.cuda.current_stream().wait_stream(side)

    def replay(_held: Any = (calls, given, saved)) -> list[Any]:
        graph.replay()
        return kept

    return replay


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


def copy_bandwidth(clock: Clock, device: torch.device, size: int) -> float:
    """Bytes a second that a copy of `size` bytes reads and writes."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock.samples(copy := Call(lambda _: target.copy_(source)))
    return 2 * size / statistics.median(t for _ in range(3) for t in clock.samples(copy))
