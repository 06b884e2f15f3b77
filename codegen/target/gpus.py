"""What the GPUs that kernels are compiled for can do, each figure with its source, and how many programs fit on one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

LANES = 32
"""Threads of a warp."""


WIDEST_ACCESS = 16
"""Bytes that one thread moves with one instruction."""


REGISTER_UNIT = 8
"""Registers of a thread are handed out in eights: 256 for a warp."""


SHARED_UNIT = 128
"""Bytes of shared memory are handed out in these."""


PARTITIONS = 4
"""Parts of a multiprocessor, each with a quarter of the registers and of the warps."""


RESERVED_SHARED = 1024
"""Bytes of shared memory that the hardware keeps of each program."""


@dataclass(frozen=True)
class Gpu:
    """The limits of one product. `bandwidth` is that of its memory in bytes a second, `instructions` are float32
    instructions a second, half the rated FLOPS, which count a multiplication with an addition as two; the rest is for
    each multiprocessor. `sources` says where each figure is from."""

    name: str
    arch: int
    multiprocessors: int
    bandwidth: float
    instructions: float
    warps: int
    programs: int
    registers: int
    shared_bytes: int
    sources: Mapping[str, str]

    def __copy__(self) -> Gpu:
        return self

    def __deepcopy__(self, memo: object) -> Gpu:
        return self

    def __reduce__(self) -> Any:
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return _gpu, ({**known, "sources": dict(self.sources)},)


def _gpu(known: dict[str, Any]) -> Gpu:
    return Gpu(**{**known, "sources": MappingProxyType(known["sources"])})


CAPABILITIES = "NVIDIA, CUDA C++ Programming Guide, technical specifications per compute capability"


A100 = Gpu(
    "A100 SXM 80GB", 80, 108, 2.039e12, 19.5e12 / 2, 64, 32, 65536, 164 * 1024,
    MappingProxyType({
        "multiprocessors": "NVIDIA A100 Tensor Core GPU Architecture, white paper",
        "bandwidth": "NVIDIA A100 data sheet: 2,039 GB/s",
        "instructions": "NVIDIA A100 data sheet: 19.5 TFLOPS in float32",
        "warps, programs, registers, shared_bytes": f"{CAPABILITIES}, 8.0",
    }),
)  # fmt: skip


H100 = Gpu(
    "H100 SXM", 90, 132, 3.35e12, 67e12 / 2, 64, 32, 65536, 228 * 1024,
    MappingProxyType({
        "multiprocessors": "NVIDIA H100 Tensor Core GPU Architecture, white paper",
        "bandwidth": "NVIDIA H100 data sheet: 3.35 TB/s",
        "instructions": "NVIDIA H100 data sheet: 67 TFLOPS in float32",
        "warps, programs, registers, shared_bytes": f"{CAPABILITIES}, 9.0",
    }),
)  # fmt: skip


B200 = Gpu(
    "B200", 100, 148, 8e12, 80e12 / 2, 64, 32, 65536, 228 * 1024,
    MappingProxyType({
        "multiprocessors": "Chips and Cheese, Nvidia's B200: Keeping the CUDA Juggernaut Rolling: 2 · 74",
        "bandwidth": "NVIDIA HGX B200 data sheet: 64 TB/s for eight",
        "instructions": "NVIDIA Blackwell Architecture Technical Brief: 80 TFLOPS in float32, at 1,000 W",
        "warps, programs, registers, shared_bytes": f"{CAPABILITIES}, 10.0",
    }),
)  # fmt: skip


GPUS: Mapping[int, Gpu] = MappingProxyType({gpu.arch: gpu for gpu in (A100, H100, B200)})
"""The product that stands for each architecture that kernels are compiled for."""


PROGRAMS_PER_SM = 2
"""Programs that share a sum over rows, for each multiprocessor: enough to fill it, few enough to add up quickly."""


@dataclass(frozen=True)
class Occupancy:
    """How many programs of a kernel fit on a multiprocessor at once, the warps that these are, the `share` of the warps
    that it could hold, and the `limiter`: 'warps', 'programs', 'registers' or 'shared memory', several joined by
    'and'."""

    programs: int
    warps: int
    share: float
    limiter: str

    def __str__(self) -> str:
        return f"{self.share:.0%} ({self.programs} programs of a multiprocessor, limited by {self.limiter})"


def occupancy(gpu: Gpu, num_warps: int, registers: int, shared_bytes: int) -> Occupancy:
    """The occupancy of programs of `num_warps` warps with `registers` for each thread and `shared_bytes`, the
    hardware's own included. A program's warps are spread over the parts of a multiprocessor evenly, and registers come
    from the part that a warp is on."""
    rounded = max(1, _up(registers, REGISTER_UNIT)) * LANES
    of_part = gpu.registers // PARTITIONS // rounded
    fits = {
        "warps": gpu.warps // num_warps,
        "programs": gpu.programs,
        "registers": of_part * PARTITIONS // num_warps,
        "shared memory": gpu.shared_bytes // max(1, _up(shared_bytes, SHARED_UNIT)),
    }
    most = min(fits.values())
    limiter = " and ".join(name for name, count in fits.items() if count == most)
    return Occupancy(most, most * num_warps, most * num_warps / gpu.warps, limiter)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
