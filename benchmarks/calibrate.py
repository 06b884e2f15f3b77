"""Measure the constants of the cost model on the GPU at hand, in about a minute, and write them down.

    python benchmarks/calibrate.py --json rates.json

Each row has what was measured beside the value in codegen/target/rates.py, which a plan goes by. Nothing is changed: a
person compares, and edits that file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only its own folder is known

from benchmarks.results import device_name, versions
from benchmarks.timing import clock_of, copy_bandwidth
from tritonnotes.codegen.target.gpus import GPUS
from tritonnotes.codegen.target.rates import RATES
from tritonnotes.runtime.capture import capturing

HOPS = 512
"""Loads of a chain, each at the place that the one before it named."""

KERNELS = 200
"""Kernels of one graph."""

REPEATS = 15

Timed = Callable[[Callable[[], Any], int], float]
"""Seconds of one of so many calls, replayed as one CUDA graph."""


@triton.jit
def nothing(x_ptr):
    pass


@triton.jit
def chain(next_ptr, last_ptr, HOPS: tl.constexpr):
    place = tl.zeros([], tl.int64)
    for _ in range(HOPS):
        place = tl.load(next_ptr + place)
    tl.store(last_ptr, place)


@triton.jit
def arrives(x_ptr, arrivals_ptr, programs, COUNTS: tl.constexpr):
    program = tl.program_id(0)
    tl.store(x_ptr + program * 128 + tl.arange(0, 128), tl.full([128], 1.0, tl.float32))
    if COUNTS:
        tl.debug_barrier()
        if tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") == programs - 1:
            tl.store(arrivals_ptr, 0)


def on_gpu(device: torch.device) -> Timed:
    def seconds(call: Callable[[], Any], count: int) -> float:
        for _ in range(3):
            call()
        torch.cuda.synchronize(device)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        with capturing(graph, stream):
            for _ in range(count):
                call()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph.replay()
        found = []
        for _ in range(REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize(device)
            found.append(start.elapsed_time(end) / 1e3 / count)
        return statistics.median(found)

    return seconds


def ring(elements: int, device: torch.device) -> torch.Tensor:
    """For each place the next one of a chain through all of them in random order."""
    order = torch.randperm(elements, generator=torch.Generator().manual_seed(0))
    after = torch.empty(elements, dtype=torch.int64)
    after[order] = order.roll(-1)
    return after.to(device)


def _latency(elements: int) -> Callable[[torch.device, Timed], float]:
    def measured(device: torch.device, seconds: Timed) -> float:
        places, last = ring(elements, device), torch.zeros(1, dtype=torch.int64, device=device)
        whole = seconds(lambda: chain[(1,)](places, last, HOPS=HOPS, num_warps=1), 4)
        return (whole - launch(device, seconds)) / HOPS

    return measured


def launch(device: torch.device, seconds: Timed) -> float:
    x = torch.zeros(1, device=device)
    return seconds(lambda: nothing[(1,)](x, num_warps=1), KERNELS)


def arrival(device: torch.device, seconds: Timed) -> float:
    programs = 132
    x = torch.zeros(programs * 128, device=device)
    count = torch.zeros(1, dtype=torch.int32, device=device)
    with_it, without = (
        seconds(lambda counts=counts: arrives[(programs,)](x, count, programs, COUNTS=counts, num_warps=4), KERNELS)
        for counts in (True, False)
    )
    return with_it - without


def library_call(device: torch.device, seconds: Timed) -> float:
    a = torch.randn(16, 16, device=device)
    out = torch.empty_like(a)
    return seconds(lambda: torch.mm(a, a, out=out), KERNELS)


def library_share(device: torch.device, seconds: Timed) -> float:
    """Of the rate of bfloat16 of an H100, by the multiprocessors that there are."""
    size = 8192
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    peak = RATES["half"].value * torch.cuda.get_device_properties(device).multi_processor_count
    return 2 * size**3 / seconds(lambda: torch.mm(a, a, out=out), 4) / peak


def memory(device: torch.device, seconds: Timed) -> float:
    return copy_bandwidth(clock_of(device), device, 2**30)


def copy_share(device: torch.device, seconds: Timed) -> float:
    """Of the rated bandwidth of the product that stands for the architecture."""
    major, _ = torch.cuda.get_device_capability(device)
    return memory(device, seconds) / GPUS[major * 10].bandwidth


MEASURES: Mapping[str, Callable[[torch.device, Timed], float]] = {
    "memory": memory,
    "copy_share": copy_share,
    "launch": launch,
    "load_latency": _latency(2**27),  # 1 GiB
    "cache_latency": _latency(2**17),  # 1 MiB
    "arrival": arrival,
    "library_call": library_call,
    "library_share": library_share,
}
"""How each constant of codegen/target/rates.py is measured that names a measure."""


def rows(device: torch.device, seconds: Timed) -> Iterator[dict[str, Any]]:
    """What is measured, one constant after the other. What fails is told, and the next one measured."""
    for name, measure in MEASURES.items():
        rate = RATES[name]
        told = {"name": name, "unit": rate.unit, "in_table": rate.value, "source": rate.source, "by": rate.measure}
        try:
            yield {**told, "measured": measure(device, seconds)}
        except Exception as error:
            yield {**told, "measured": None, "why": f"{type(error).__name__}: {error}"}


def main(arguments: Sequence[str] | None = None, timed: Callable[[torch.device], Timed] = on_gpu) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write what is measured here, after each constant")
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type != "cuda" or not torch.cuda.is_available():
        print("there is no GPU, and these constants are a GPU's: run this where there is one", file=sys.stderr)
        return 2
    found: list[dict[str, Any]] = []
    for row in rows(device, timed(device)):
        found.append(row)
        measured = "failed" if row["measured"] is None else f"{row['measured']:.3g}"
        print(f"{row['name']:16} {measured:>10} {row['in_table']:>10.3g} {row['unit']}", flush=True)
        if asked.json:
            text = json.dumps({"device": device_name(device), "versions": versions(), "rates": found}, indent=1)
            Path(asked.json).write_text(text + "\n", encoding="utf-8")
    return 0 if all(row["measured"] is not None for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
