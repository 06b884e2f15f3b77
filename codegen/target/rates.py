"""What a GPU takes for what its data sheet does not say: the constants of the cost model, each with its source.

`benchmarks/calibrate.py` measures those that have a `measure` on the GPU at hand, and writes them down beside these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Rate:
    """One constant: its value, its unit, where it is from, and what benchmarks/calibrate.py measures it by."""

    value: float
    unit: str
    source: str
    measure: str = ""


_DATA_SHEET = "NVIDIA H100 data sheet, without sparsity, over 132 multiprocessors"

RATES: Mapping[str, Rate] = MappingProxyType(
    {
        "copy_share": Rate(
            0.9, "of the rated bandwidth", "copies on an H100 reach 3.0 of 3.35 TB/s", "a copy of 1 GiB"
        ),
        "load_latency": Rate(
            0.7e-6,
            "s",
            "an estimate: 66 programs with 32 KiB each on their way draw 3.0 TB/s",
            "loads that wait for loads",
        ),
        "cache_latency": Rate(
            0.4e-6, "s", "an estimate: a hit in the second-level cache and what stands around it", "the same in 1 MiB"
        ),
        "launch": Rate(
            1.3e-6, "s", "the gap between two kernels of a CUDA graph on an H100", "a graph of empty kernels"
        ),
        "arrival": Rate(
            1.5e-6, "s", "an estimate: a fence for the whole GPU and an atomic", "kernels with and without"
        ),
        "library_call": Rate(3e-6, "s", "small products take 3 to 5 µs on an H100", "torch.mm of 16 by 16"),
        "library_share": Rate(
            0.7, "of the peak", "an estimate, of large products in bfloat16", "torch.mm of 8192 by 8192"
        ),
        "generated_share": Rate(
            0.4,
            "of the peak",
            "an estimate; shared memory allows float32 tiles of 8 by 128 between 0.23 and 0.84 (SASS: FFMA beside LDS)",
        ),
        "float32": Rate(455e9, "FLOPS of a multiprocessor", "60 TFLOPS of an H100 at its usual clock, over 132"),
        "half": Rate(7.5e12, "FLOPS of a multiprocessor", f"989 TFLOPS: {_DATA_SHEET}"),
        "tf32": Rate(3.7e12, "FLOPS of a multiprocessor", f"494 TFLOPS: {_DATA_SHEET}"),
        "cache": Rate(41e9, "bytes/s of a multiprocessor", "5.5 TB/s of an H100's second-level cache, over 132"),
        "memory": Rate(3.0e12, "bytes/s", "copy_share of an H100's 3.35 TB/s", "a copy of 1 GiB"),
    }
)


COPY_SHARE = RATES["copy_share"].value
LOAD_LATENCY, CACHE_LATENCY = RATES["load_latency"].value, RATES["cache_latency"].value
LAUNCH_SECONDS = RATES["launch"].value
ARRIVAL_SECONDS, CALL_SECONDS = RATES["arrival"].value, RATES["library_call"].value
LIBRARY_SHARE, GENERATED_SHARE = RATES["library_share"].value, RATES["generated_share"].value
SINGLE_RATE, HALF_RATE = RATES["float32"].value, RATES["half"].value
CACHE_RATE, MEMORY_RATE = RATES["cache"].value, RATES["memory"].value
