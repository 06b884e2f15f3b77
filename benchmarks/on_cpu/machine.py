"""The machine that a run was made on, and how a process is held to a number of threads."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

COPY_NUMBERS = 2**24


def hold_to(threads: int) -> None:
    """Run on so many processors, and with so many threads; before anything heavy is imported, for JAX takes a thread
    for each processor that it finds."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(allowed[:threads]))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def described() -> dict[str, Any]:
    """Processor, cores, caches and memory; and how busy the machine is with other work."""
    info = _fields(Path("/proc/cpuinfo"))
    memory = _fields(Path("/proc/meminfo"))
    return {
        "processor": info.get("model name", platform.machine()),
        "family, model": f"{info.get('cpu family', '?')}, {info.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory": memory.get("MemTotal", "unknown"),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def copy_bandwidth(repeats: int = 5) -> float:
    """Bytes a second that a copy of 64 MiB reads and writes: the best of some."""
    source, target = torch.ones(COPY_NUMBERS), torch.empty(COPY_NUMBERS)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def _fields(path: Path) -> dict[str, str]:
    """The first value of each `name : value` of a file of Linux; nothing where there is none."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    return found


def _caches() -> dict[str, str]:
    found = {}
    for place in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = (place / "level").read_text().strip(), (place / "type").read_text().strip()
        if kind != "Instruction":
            found[f"L{level}"] = (place / "size").read_text().strip()
    return found
