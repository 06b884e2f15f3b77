"""The numbers that random ops draw from: one for each run, known to the host, so that a new one compiles nothing.

Ops hold no generator: what they draw follows from this number, their stream and the place of each element alone.
"""

from __future__ import annotations

import torch


def fresh_seed() -> int:
    """A seed from torch's default generator on the CPU: `torch.manual_seed` decides it, on every device."""
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))


def step_seed(seed: int, step: int) -> int:
    """The seed of one training step: `seed` (mixed to 32 bits, where it has more) and the number of the step side by
    side, so that no two steps draw the same and a resumed run draws what it would have drawn."""
    mixed = seed + 0x9E3779B9 * (seed >> 32)
    return (step & 0x7FFFFFFF) << 32 | mixed & 0xFFFFFFFF
