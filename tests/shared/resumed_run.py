"""A training run that saves after each step and goes on from what it finds: `resumed_run.py FILE STEPS`. As a script
it says when the first step is saved, and takes the last one when its input is closed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph


def graph() -> Graph:
    """Weights, running statistics, and random numbers that another step draws otherwise."""
    g = Graph("small")
    x, y = g.input("x", (tn.Dim("batch"), 6)), g.input("y", (tn.Dim("batch"),), dtype="int64")
    h = tn.dropout(tn.relu(tn.batch_norm(tn.linear(x, 8, name="fc1"), name="bn1")), 0.3)
    g.output(loss=tn.cross_entropy(tn.linear(h, 3, name="fc2"), y))
    return g


def batch(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"x": torch.randn(16, 6, generator=generator), "y": torch.randint(0, 3, (16,), generator=generator)}


def step_of() -> tn.TrainingStep:
    return tn.compile_step(graph(), loss="loss", optimizer=tn.adam(lr=0.1), device="cpu")


def train(path: Path, steps: int, saved: Callable[[int], object] = lambda steps: None) -> tn.TrainingStep:
    """`saved` is called after each save with the count of steps."""
    step = step_of()
    if path.exists():
        step.load(path)
    while step.steps < steps:
        step.hyperparameters["lr"] = 0.1 / (1 + step.steps)
        step(**batch(step.steps))
        step.save(path)
        saved(step.steps)
    return step


def talk(steps: int) -> None:
    if steps == 1:
        print("saved", flush=True)
    if steps == int(sys.argv[2]) - 1:
        sys.stdin.read()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), talk)
