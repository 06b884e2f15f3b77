"""What a run leaves: device, versions, how it was timed, copy bandwidth, and every single timing."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton

import tritonnotes as tn

from .measure import Row

NO_GPU = "no GPU: kernels ran as machine code on the CPU, and the seconds here are no timings of a GPU"

SCHEMA = 1


@dataclass
class Results:
    """All that a reader needs to repeat the run. `copy_bandwidth` has, for each family, bytes a second before and after
    it; `missing` peers that were not run, `refused` those that failed or were wrong, each with the reason."""

    device: str
    is_gpu: bool
    clock: str
    versions: dict[str, str]
    copy_bandwidth: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def warning(self) -> str | None:
        return None if self.is_gpu else NO_GPU

    def bandwidth(self, family: str) -> float:
        """What a copy reached around a family: the better of before and after, so that no share is flattered."""
        return max(self.copy_bandwidth[family])

    def share(self, row: Row) -> float:
        """The least bytes of a row over its time, as a fraction of copy bandwidth. Above 1 something was cached."""
        return row.bytes / row.best_median / self.bandwidth(row.family)

    def write(self, path: str | Path) -> None:
        told = {"warning": self.warning} if self.warning else {}
        Path(path).write_text(json.dumps({**told, **asdict(self)}, indent=1) + "\n", encoding="utf-8")


def read(path: str | Path) -> Results:
    """The results that `Results.write` wrote. Raises `SystemExit` for another file."""
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    if found.get("schema") != SCHEMA:
        raise SystemExit(f"{path} is no result of this benchmark: schema {found.get('schema')!r}, wanted {SCHEMA}")
    found.pop("warning", None)
    return Results(**{**found, "rows": [Row(**row) for row in found["rows"]]})


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def versions() -> dict[str, str]:
    return {
        "tritonnotes": tn.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda),
    }
