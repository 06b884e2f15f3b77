"""What a run leaves: machine, versions, copy bandwidth, and every timing with the number of threads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..measure import Row
from ..peers import OURS
from .cold import CACHED, EMPTY
from .cold import FAMILY as COLD
from .kernels import FAMILY as KERNELS
from .optimizers import FAMILY as OPTIMIZERS
from .peers import FUSED, PYTHON
from .steps import AROUND, STEPS

SCHEMA = 1


@dataclass(frozen=True)
class Goal:
    """What we want of a row: at most `most` of the time of `against` (None: of the best peer), or at most so many
    `seconds`, without native calls where that is timed."""

    most: float | None = None
    against: str | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.most is None:
            return f"≤ {self.seconds:g} s" if self.seconds and self.seconds > 0.01 else f"≤ {self.seconds or 0:.0e} s"
        return f"≤ {self.most:g} of {self.against or 'the best'}"


GOALS: tuple[tuple[str, str, Goal], ...] = (
    (STEPS, "", Goal(0.6)),
    (KERNELS, "", Goal(0.8)),
    (OPTIMIZERS, "1000x1024", Goal(0.3, FUSED)),
    (OPTIMIZERS, "", Goal(0.9, FUSED)),
    (AROUND, "24 tensors", Goal(seconds=30e-6)),
    (COLD, EMPTY, Goal(seconds=2.0)),
    (COLD, CACHED, Goal(seconds=0.3)),
)
"""Family, how the shape ends, goal: the first that fits a row."""


def goal_of(family: str, shape: str) -> Goal | None:
    return next((g for of, end, g in GOALS if of == family and shape.endswith(end)), None)


@dataclass(frozen=True)
class Line:
    """One case at one number of threads: seconds of each peer, least and median."""

    family: str
    shape: str
    threads: int
    least: dict[str, float]
    median: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Our least time over that of each peer."""
        ours = self.least.get(OURS)
        return {} if ours is None else {p: ours / t for p, t in self.least.items() if p not in (OURS, PYTHON)}

    @property
    def best(self) -> float | None:
        """Our time over the fastest peer's."""
        return max(self.ratios.values(), default=None)

    @property
    def goal(self) -> Goal | None:
        return goal_of(self.family, self.shape)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing to compare with."""
        goal, ours = self.goal, self.least.get(OURS)
        if goal is None or ours is None:
            return None
        if goal.seconds is not None:
            return self.least.get(PYTHON, ours) <= goal.seconds
        found = self.best if goal.against is None else self.ratios.get(goal.against, self.best)
        return None if found is None or goal.most is None else found <= goal.most


@dataclass
class CpuResults:
    """`rows` by number of threads; `missing` and `refused` say of peers why they are not there, or were wrong."""

    machine: dict[str, Any]
    versions: dict[str, str]
    clock: str
    copy_bandwidth: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def merge(self, other: CpuResults) -> None:
        """Add what another process found."""
        self.versions |= other.versions
        for threads, rows in other.rows.items():
            self.rows.setdefault(threads, []).extend(rows)
        for threads, reached in other.copy_bandwidth.items():
            self.copy_bandwidth[threads] = max(reached, self.copy_bandwidth.get(threads, 0.0))
        self.missing |= other.missing
        self.refused |= other.refused

    @property
    def ok(self) -> bool:
        """Whether nothing of ours was refused."""
        return not any(where.startswith(OURS) for where in self.refused)

    def lines(self) -> list[Line]:
        found: dict[tuple[str, str, int], dict[str, Row]] = {}
        for threads, rows in sorted(self.rows.items()):
            for row in rows:
                found.setdefault((row.family, row.shape, int(threads)), {})[row.peer] = row
        return [
            Line(*key, {p: min(r.seconds) for p, r in peers.items()}, {p: r.median for p, r in peers.items()})
            for key, peers in found.items()
        ]

    def write(self, path: str | Path) -> None:
        """As JSON, a line for each row."""
        told = asdict(self)
        rows = told.pop("rows")
        head = json.dumps(told, indent=1)[:-2]
        by_threads = []
        for threads, some in rows.items():
            texts = ",\n   ".join(json.dumps(_short(row)) for row in some)
            by_threads.append(f'  "{threads}": [\n   {texts}\n  ]')
        body = ",\n".join(by_threads)
        Path(path).write_text(f'{head},\n "rows": {{\n{body}\n }}\n}}\n', encoding="utf-8")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what is empty on a CPU, in tenths of microseconds."""
    kept = {k: v for k, v in row.items() if k not in ("replayed", "launches", "peak_bytes")}
    return {**kept, "seconds": [round(t, 7) for t in row["seconds"]]}


def read(path: str | Path) -> CpuResults:
    """The results that `CpuResults.write` wrote. Raises `SystemExit` for another file."""
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    if found.get("schema") != SCHEMA or "machine" not in found:
        raise SystemExit(f"{path} is no result of benchmarks/cpu.py")
    rows = {threads: [Row(**row) for row in some] for threads, some in found.pop("rows").items()}
    return CpuResults(**found, rows=rows)
