"""A small model for mixed precision, and the same by hand in torch, with the policy over several batches."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.judge.tolerance import Comparison
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")


def mlp() -> tn.Graph:
    """Where the lists of torch.autocast on the CPU and on GPUs agree."""
    g = tn.Graph("mlp")
    x, y = g.input("x", (BATCH, 12)), g.input("y", (BATCH,), "int64")
    h = tn.relu(tn.linear(x, 32, name="fc1"))
    h = h + tn.silu(tn.linear(h, 32, name="fc2")) * 0.5
    logits = tn.linear(h, 7, name="fc3")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y))
    return g


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        h = h + nn.functional.silu(self.fc2(h)) * 0.5
        return self.fc3(h)


def feeds(number: int, rows: int = 33) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(rows, 12, generator=generator)
    return {"x": x.to(DEVICE), "y": torch.randint(0, 7, (rows,), generator=generator).to(DEVICE)}


def hold(name: str, found: list[Comparison]) -> None:
    """The policy over several batches taken as one. What is float32 in mixed precision carries the roundings of narrow
    values, and of few numbers torch rounds some luckily in one batch."""
    largest, eager_largest = max(c.max_error for c in found), max(c.eager_max_error for c in found)
    rms, eager_rms = (math.sqrt(sum(e * e for e in errors) / len(found)) for errors in _rms_errors(found))
    whole = replace(
        found[0],
        max_error=largest,
        eager_max_error=eager_largest,
        rms_error=rms,
        eager_rms_error=eager_rms,
        ulp=min(c.ulp for c in found),
        special=all(c.special for c in found),
    )
    assert whole.ok, f"{name}: {whole} of {[str(c) for c in found]}"


def _rms_errors(found: list[Comparison]) -> tuple[list[float], list[float]]:
    return [c.rms_error for c in found], [c.eager_rms_error for c in found]
