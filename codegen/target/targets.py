"""What plans are made for: a GPU, or a CPU that runs kernels as machine code; and the prices that choices go by.

Prices are in bytes: as many as memory moves in the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .gpus import H100
from .rates import ARRIVAL_SECONDS, CACHE_LATENCY, CALL_SECONDS, LAUNCH_SECONDS, LOAD_LATENCY, MEMORY_RATE


@dataclass(frozen=True)
class Cpu:
    """One core of a processor. `cache` is the size of its nearest data cache in bytes, `bandwidth` what a copy reads
    and writes in a second, `flops` the rate at which it multiplies and adds, each counted. A `launch` and a `call` of
    torch's library take so many seconds. Of the rate a product reaches `library_share` in the library, and
    `generated_share` in a generated kernel, which copies its operands first."""

    name: str
    cache: int
    bandwidth: float
    flops: float
    launch: float
    call: float
    library_share: float
    generated_share: float
    sources: Mapping[str, str]

    @property
    def tile_elements(self) -> int:
        """Elements of a tile, a power of two: a third of the nearest cache, for a kernel keeps about three of them."""
        return 1 << (self.cache // (3 * 4)).bit_length() - 1


SERVER_CORE = Cpu(
    "a server's core with AVX-512", 48 * 1024, 6e9, 166e9, 1e-6, 8e-6, 0.9, 0.6,
    MappingProxyType({
        "cache": "48 KiB on Intel's server cores since 2021; 32 KiB on AMD's, whose tiles come out half as large",
        "bandwidth": "measured: torch's copy of 64 MiB with one thread, on two cores of a shared virtual machine",
        "flops": "16 numbers, two units, multiplication and addition, at 2.6 GHz",
        "launch": "an estimate: one launch among others of a recorded program, all of which are one native call",
        "call": "measured: torch.mm of 128×128×10 takes 5.4e-6, nearly all call; a recorded run 2e-6 to 4e-6 around it",
        "library_share": "measured: torch.mm of 1024×784×512 with one thread reaches 151e9",
        "generated_share": "measured: 0.66 to 0.78 of torch.mm in tiles of 64×64×64 to 64×256×128, operands copied",
    }),
)  # fmt: skip
"""The core that stands for the CPU. Figures of other cores differ, plans hardly do: products and calls differ by much
more than these figures."""


@dataclass(frozen=True)
class Target:
    """What a plan is made for, under the `name` that it is asked for by. `launch_bytes` is the price of a launch beside
    what it moves, `load_bytes` that of a load that waits for another one, `arrival_bytes` that of a count of programs,
    the last of which finishes what others left, and `call_bytes` the least that a call of torch's library takes.
    `busy_programs` are as many programs as draw all that memory gives. A search for a plan may look at so many `ways`
    to place a value. Of a `cpu` products have prices of their own."""

    name: str
    machine: str
    launch_bytes: int
    load_bytes: int
    arrival_bytes: int
    call_bytes: int
    busy_programs: int
    ways: int
    cpu: Cpu | None = None

    def __str__(self) -> str:
        return f"{self.machine} (target={self.name!r})"


IN_FLIGHT = 32 * 2**10
"""Bytes that one program has on its way at most, of rows that it holds or that loops load ahead."""


def _bytes_in(seconds: float) -> int:
    """What the memory of an H100 moves in this time."""
    return round(seconds * MEMORY_RATE)


GPU, CPU = "gpu", "cpu"

TARGETS: dict[str, Target] = {
    GPU: Target(
        GPU,
        f"an {H100.name}",
        # Inside a CUDA graph a kernel takes the gap before it and the latency of one load beside its traffic: 2.0 µs,
        # in which an H100 copies 6 MB. So small graphs are planned for few launches, large ones for few bytes.
        _bytes_in(LAUNCH_SECONDS + LOAD_LATENCY),
        _bytes_in(LOAD_LATENCY),
        _bytes_in(ARRIVAL_SECONDS + CACHE_LATENCY),
        _bytes_in(CALL_SECONDS),
        math.ceil(MEMORY_RATE * LOAD_LATENCY / IN_FLIGHT),
        50_000,  # about a second
    ),
    CPU: Target(
        CPU,
        SERVER_CORE.name,
        int(SERVER_CORE.launch * SERVER_CORE.bandwidth),
        0,
        0,  # programs run one after the other
        int(SERVER_CORE.call * SERVER_CORE.bandwidth),
        1,
        # Where launches cost little the floor of what is to come is low, and a search prunes little.
        5_000,
        SERVER_CORE,
    ),
}
"""The targets by the names that they are asked for by."""
