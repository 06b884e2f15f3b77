"""Some kinds of kernels under compute-sanitizer where it is installed; on a CPU under the checks of machine code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import torch

from . import kinds
from .part import LAST_LINES, asked
from .rows import Row, row, tell_all, told

TOOLS = ("memcheck", "racecheck")

FOUND = 9
"""The exit code that a tool is asked for where it found something."""

PLACES = ("", "/usr/local/cuda/bin/", "/usr/local/cuda/compute-sanitizer/")


def sanitizer() -> str | None:
    """Where compute-sanitizer is."""
    return next((found for place in PLACES if (found := shutil.which(f"{place}compute-sanitizer"))), None)


def rows_of(tool: str, path: str, seconds: float, command: Sequence[str]) -> Iterator[Row]:
    """One tool over the quick kinds. `command` runs them, and tells them as rows. A tool that runs out of time has
    found nothing so far, which its row says."""
    given = [path, "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all", *command]
    # Every tensor has an allocation of its own, so that memcheck sees where it ends.
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(given, env=env, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        printed = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        yield from _inside(tool, printed)
        yield row(tool, None, f"ran out of its {seconds:.0f} s")
        return
    yield from _inside(tool, done.stdout)
    other = [line for line in (done.stdout + done.stderr).splitlines() if told(line) is None and line.strip()]
    if done.returncode == FOUND:
        yield row(tool, False, " / ".join(line for line in other if line.startswith("="))[:2000])
    elif done.returncode:
        yield row(tool, False, f"exit code {done.returncode}: {' / '.join(other[-LAST_LINES:])}")
    else:
        yield row(tool, True)


def _inside(tool: str, printed: str) -> Iterator[Row]:
    for found in filter(None, map(told, printed.splitlines())):
        yield {**found, "what": f"{tool}: {found['what']}"}


def rows(device: torch.device, seconds: float) -> Iterator[Row]:
    if device.type != "cuda":
        yield row("compute-sanitizer", None, "it looks at kernels of a GPU; machine code is checked in its place")
        yield from kinds.rows(device, True, quick=True, sanitize=True)
        return
    path = sanitizer()
    if path is None:
        yield row("compute-sanitizer", None, "not installed: it comes with the CUDA toolkit")
        return
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "benchmarks.first.sanitizer", "--quick"]
    for tool in TOOLS:
        yield from rows_of(tool, path, seconds / len(TOOLS) - 1, [*command, str(device)])


def main() -> int:
    if sys.argv[1:2] == ["--quick"]:
        return tell_all(kinds.rows(torch.device(sys.argv[2]), True, quick=True))
    given = asked()
    return tell_all(rows(given.device, given.seconds))


if __name__ == "__main__":
    sys.exit(main())
