"""One part of a first run: its process, the rows that it tells, and its end when its time is up."""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .rows import Row, told

ROOT = Path(__file__).resolve().parents[2]

LAST_LINES = 5
"""Of what a process that failed printed."""


@dataclass(frozen=True)
class Ended:
    how: str
    seconds: float
    failed: bool = False


@dataclass(frozen=True)
class Asked:
    """What a part's process is asked for."""

    device: torch.device
    is_tiny: bool
    seconds: float


def asked() -> Asked:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    return Asked(torch.device(given.device), given.tiny, given.seconds)


def run_part(command: Sequence[str], seconds: float, keep: Callable[[Row], None]) -> Ended:
    """Run a command from the checkout, and end it with all that it started once its time is up."""
    began = time.monotonic()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        list(command),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    printed: list[str] = []
    while True:
        try:
            line = lines.get(timeout=max(0.0, began + seconds - time.monotonic()))
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Ended(f"cut after {seconds:.0f} s", time.monotonic() - began)
        if line is None:
            break
        found = told(line)
        if found is not None:
            keep(found)
        elif line.strip():
            printed = [*printed, line.rstrip()][-LAST_LINES:]
    code = process.wait()
    spent = time.monotonic() - began
    return Ended("done", spent) if code == 0 else Ended(f"exit code {code}: {' / '.join(printed)}", spent, failed=True)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
