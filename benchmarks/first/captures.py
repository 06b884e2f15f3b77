"""CUDA graphs: a step and a model that are replayed compute what they compute launch by launch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import tritonnotes as tn

from ..peers import reason
from ..timing import Call, captured
from . import kinds
from .part import asked
from .rows import Row, row, tell_all

BATCHES = 6


def _feeds(rows: int, device: torch.device) -> list[dict[str, Tensor]]:
    """Batches of two sizes in turn: a graph belongs to one of them."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(BATCHES):
        count = rows if number % 3 else rows // 2
        x, y = torch.randn(count, 64, generator=generator), torch.randint(10, (count,), generator=generator)
        made.append({"x": x.to(device), "y": y.to(device)})
    return made


def _step(rows: int, device: torch.device) -> tn.TrainingStep:
    graph = tn.Graph("captured")
    batch = tn.Dim("batch")
    x, y = graph.input("x", (batch, 64)), graph.input("y", (batch,), dtype="int64")
    hidden = tn.gelu(tn.layer_norm(tn.linear(x, 128)))
    graph.output(loss=tn.cross_entropy(tn.linear(hidden, 10), y))
    return tn.compile_step(graph, loss="loss", optimizer=tn.adam(lr=1e-2), device=device, seed=1)


def step_row(rows: int, device: torch.device) -> Row:
    """Losses and weights of a captured step, bit by bit those of the same step launched."""
    launched, replayed = _step(rows, device), _step(rows, device)
    if device.type == "cuda":
        replayed.capture()
    differing: list[str] = []
    for number, feeds in enumerate(_feeds(rows, device)):
        ours, theirs = (step(**feeds)["loss"].clone() for step in (replayed, launched))
        if not torch.equal(ours, theirs):
            differing.append(f"loss of batch {number}")
    for name, weight in replayed.model.state_dict().items():
        if not torch.equal(weight, launched.model.state_dict()[name]):
            differing.append(name)
    refused = replayed.graph_reason if device.type == "cuda" else None
    why = f"no graph: {refused}" if refused else f"differ: {', '.join(differing)}" if differing else ""
    return row("a captured step", not why, why, is_captured=device.type == "cuda" and not refused)


def model_row(rows: int, device: torch.device) -> Row:
    """A model's call within a graph of torch's, as serving code has it."""
    model = tn.compile(kinds.of(1024, tn.layer_norm)(rows, "float32"), device=device)
    x = torch.randn(rows, 1024).to(device)
    with torch.no_grad():
        launched = _output(model(x=x)).clone()
        if device.type != "cuda":
            return row("a model in a graph of torch's", None, "a CPU captures nothing")
        replay = captured([Call(lambda _: _output(model(x=x)))])
        same = torch.equal(replay()[0], launched)
    return row("a model in a graph of torch's", same, "" if same else "its output differs from that of launches")


def _output(found: Any) -> Tensor:
    output: Tensor = found["y"] if isinstance(found, dict) else found
    return output


def rows(device: torch.device, is_tiny: bool) -> Iterator[Row]:
    for make in (step_row, model_row):
        try:
            yield make(8 if is_tiny else 512, device)
        except Exception as error:
            yield row(make.__name__, False, reason(error))


def main() -> int:
    given = asked()
    return tell_all(rows(given.device, given.is_tiny))


if __name__ == "__main__":
    sys.exit(main())
