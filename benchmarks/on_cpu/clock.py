"""The host's clock around short runs on a CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..timing import Call, HostClock


@dataclass(frozen=True)
class CpuClock(HostClock):
    """Several runs in each round, as many as `seconds` hold, `most` at most. `prepare` is not timed."""

    seconds: float = 0.1
    most: int = 20

    def samples(self, call: Call) -> list[float]:
        first = self._one(call)
        count = max(1, min(self.most, int(self.seconds / max(first, 1e-6))))
        return [self._one(call) for _ in range(count)]

    @staticmethod
    def _one(call: Call) -> float:
        given = call.prepare()
        started = time.perf_counter()
        call.run(given)
        return time.perf_counter() - started
