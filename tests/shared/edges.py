"""What the tests of hard cases share: small float64 graphs, and lists of numbers that hold NaN and infinities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numerics import agree

from tritonnotes.ir import Dim, Graph, Value

NAN, INF = math.nan, math.inf
BATCH = Dim("batch")


def graph_of(build: Callable[..., Value], **inputs: Any) -> Graph:
    """One op on inputs given as shapes, or as (shape, dtype)."""
    graph = Graph("edge")
    values = []
    for name, given in inputs.items():
        shape, dtype = given if len(given) == 2 and isinstance(given[1], str) else (given, "float64")
        values.append(graph.input(name, shape, dtype))
    graph.output(y=build(*values))
    return graph


def unary(build: Callable[..., Value], *x: float) -> tuple[list[float], list[float]]:
    graph = graph_of(build, x=(len(x),))
    values, gradients = agree(graph, x=list(x))
    return values["y"].tolist(), gradients["x"].tolist()


def same(got: list[float], *want: float) -> bool:
    return np.array_equal(np.array(got), np.array(want), equal_nan=True)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def upstream(graph: Graph) -> dict[str, torch.Tensor]:
    return {"y": random(*graph.outputs["y"].shape, seed=9)}  # type: ignore[arg-type]
