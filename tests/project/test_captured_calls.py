"""Calls that benchmarks replay as a CUDA graph: what the graph reads stays. It keeps addresses, and no memory."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from fake_cuda import CudaError, Graph, fake_cuda
from paths import ROOT
from torch import Tensor

from benchmarks.timing import Call, captured

GPU = "cuda:0"


class Squared(torch.autograd.Function):
    """Saves a tensor that nothing else holds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x + x)
        return x * x

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        (twice,) = ctx.saved_tensors
        return d * twice


def backward() -> Call:
    """A backward run, whose forward run is not timed."""
    x, upstream = torch.ones(8, device=GPU).requires_grad_(), torch.ones(8, device=GPU)

    def run(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output, [x], upstream))

    return Call(run, lambda: Squared.apply(x.exp()).tanh())


def update() -> Call:
    """A run over tensors that the call alone knows."""
    weight = torch.ones(8, device=GPU)
    return Call(lambda _: weight.add(1.0))


@pytest.mark.parametrize("make", [backward, update])
def test_a_replay_reads_no_memory_that_was_freed(make: Any) -> None:
    with fake_cuda():
        replay = captured([make() for _ in range(2)])
        gc.collect()
        assert len(replay()) == len(replay()) == 2


def test_a_graph_over_freed_memory_would_be_noticed() -> None:
    """What the test above relies on: the fake says so of a graph that nothing keeps the memory for."""
    with fake_cuda() as cuda:
        graph: Any = Graph(cuda)
        call = backward()
        given = call.prepare()
        with torch.cuda.graph(graph):
            call.run(given)
        with pytest.raises(CudaError, match="illegal memory access"):
            graph.replay()


def test_captures_are_made_in_one_place() -> None:
    """`capturing` says how: on which stream, what of other threads ends them, and which stream is current after."""
    folders = [ROOT / name for name in ("tritonnotes", "codegen", "benchmarks", "examples")]
    code = [path for folder in folders for path in folder.rglob("*.py")]
    assert [p.name for p in code if "torch.cuda.graph(" in p.read_text(encoding="utf-8")] == ["capture.py"]
