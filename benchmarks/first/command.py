"""The first minutes on a GPU: tests, numbers, a sanitizer, captures, and the headline rows, in at most six of them.

    python -m benchmarks first --json first.json
    python -m benchmarks first --device cpu --tiny     # anywhere: all that a CPU can do

Each part runs in a process of its own, which is ended when its time is up. The JSON is written anew after each row, so
that a run that is cut short loses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..results import NO_GPU, device_name, versions
from .part import Ended, run_part
from .rows import Row

SCHEMA = 1

SECONDS = 355
"""All parts together: six minutes, but for starting and ending."""


PATIENCE = 10
"""How many times as long parts have without a GPU, where it is asked whether they run, and not how fast."""


@dataclass(frozen=True)
class Part:
    """A module of this package, and how many seconds it has. The last one has what others leave, too."""

    name: str
    seconds: int
    about: str


PARTS = (
    Part("gpu_tests", 40, "the tests that need a GPU"),
    Part("kinds", 90, "each kind of kernel against eager PyTorch and float64"),
    Part("sanitizer", 50, "some of them under compute-sanitizer: memcheck, then racecheck"),
    Part("captures", 30, "CUDA graphs: replays compute what launches do"),
    Part("headline", 145, "the headline rows beside eager, Inductor, Liger, captured eager and JAX"),
)


@dataclass
class Findings:
    """What is known so far. `parts` has for each part its budget, how it ended and its rows."""

    device: str
    is_gpu: bool
    is_tiny: bool
    versions: dict[str, str]
    limit: int
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def ok(self) -> bool:
        """Whether something ran, and nothing was wrong. A part that ran out of time is no fault; one whose process
        failed is."""
        return (
            self.ran_any
            and all(r["ok"] is not False for r in self._rows)
            and not any(p.get("failed") for p in self.parts.values())
        )

    @property
    def ran_any(self) -> bool:
        """Whether any row was run, rightly or wrongly."""
        return any(r["ok"] is not None for r in self._rows)

    @property
    def _rows(self) -> list[Row]:
        return [r for part in self.parts.values() for r in part["rows"]]

    def write(self, path: str | None) -> None:
        """Replace the file at once, so that it is complete whenever the run ends."""
        if path is None:
            return
        beside = Path(f"{path}.new")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path)


Starter = Callable[[Sequence[str], float, Callable[[Row], None]], Ended]
"""Runs a command for so many seconds at most, and hands over its rows as they come."""


def run(
    parts: Sequence[Part],
    device: str,
    is_tiny: bool,
    path: str | None,
    limit: int = SECONDS,
    start: Starter = run_part,
    clock: Callable[[], float] = time.monotonic,
    patience: int = 1,
) -> Findings:
    """Run parts one after the other within `limit` seconds; with `patience` in so many times as long."""
    chosen = torch.device(device)
    limit *= patience
    findings = Findings(device_name(chosen), chosen.type == "cuda", is_tiny, versions(), limit)
    began = clock()
    for part in parts:
        left = limit - (clock() - began)
        budget = left if part is parts[-1] else min(part.seconds * patience, left)
        found: dict[str, Any] = {"about": part.about, "budget": round(budget, 1), "ended": "under way", "rows": []}
        findings.parts[part.name] = found
        if budget <= 0:
            found["ended"] = "no time was left"
            findings.write(path)
            continue

        def keep(row: Row, found: dict[str, Any] = found, name: str = part.name) -> None:
            found["rows"].append(row)
            findings.write(path)
            print(_line(name, row), flush=True)

        command = [sys.executable, "-m", f"benchmarks.first.{part.name}", "--device", device]
        ended = start([*command, *(["--tiny"] if is_tiny else []), "--seconds", f"{budget:.0f}"], budget, keep)
        found |= {"seconds": round(ended.seconds, 1), "ended": ended.how, "failed": ended.failed}
        findings.write(path)
        print(f"{part.name}: {ended.how} after {ended.seconds:.0f} of {budget:.0f} s", flush=True)
    return findings


def _line(part: str, row: Row) -> str:
    verdict = {True: "ok", False: "WRONG", None: "not run"}[row["ok"]]
    return f"{part:10} {verdict:8} {row['what']}{': ' if row['why'] else ''}{row['why']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where something was wrong or no row ran, 2 where there is no GPU and nobody asked for less."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks first", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, also without a GPU")
    parser.add_argument("--json", metavar="FILE", help="write all that is found here, after each row")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.parts if name not in names]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(names)}")
    if torch.device(asked.device).type != "cuda" and not asked.tiny:
        print(f"{NO_GPU}; pass --device cpu --tiny to see that everything runs", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if not asked.parts or part.name in asked.parts]
    patience = 1 if torch.device(asked.device).type == "cuda" else PATIENCE
    findings = run(parts, asked.device, asked.tiny, asked.json, patience=patience)
    if not findings.ran_any:
        print("no row ran, so nothing is known; each part above says how it ended", file=sys.stderr)
    return 0 if findings.ok else 1
