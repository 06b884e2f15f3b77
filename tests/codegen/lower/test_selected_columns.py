"""The element of a row at a number: found at its place in memory, whichever part of a tensor the row is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.runtime.runner import pick_device

BATCH, ROWS = tn.Dim("batch"), 4
HELD, IN_ONE_PROGRAM, LOOPED = 3001, 20_011, 50_257
"""Row lengths by how a program goes along a row of float32."""

Part = Callable[[Value, int], Value]

PARTS: dict[str, tuple[Part, Callable[[Tensor, int], Tensor]]] = {
    "from a column on": (lambda x, n: x[:, 0, 7 : 7 + n], lambda x, n: x[:, 0, 7 : 7 + n]),
    "the rest of a split": (lambda x, n: tn.split(x[:, 1], [9, n], 1)[1], lambda x, n: x[:, 1, 9:]),
    "of numbers that are computed": (lambda x, n: x[:, 1, 3 : 3 + n] * 0.5, lambda x, n: x[:, 1, 3 : 3 + n] * 0.5),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("cols", [HELD, IN_ONE_PROGRAM, LOOPED])
@pytest.mark.parametrize("part", PARTS)
def test_the_logit_of_the_target_is_that_of_the_part(part: str, cols: int, dtype: str) -> None:
    ours, theirs = PARTS[part]
    graph = Graph("part")
    x, target = graph.input("x", (BATCH, 2, cols + 9), dtype), graph.input("target", (BATCH,), "int64")
    graph.output(loss=tn.cross_entropy(ours(x, cols), target, reduction="none"))
    logits = torch.randn(ROWS, 2, cols + 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = logits.to(getattr(torch, dtype)).to(pick_device())
    y = torch.tensor([0, 5, cols - 1, 100], device=logits.device)
    want = torch.nn.functional.cross_entropy(theirs(logits.double(), cols), y, reduction="none")
    unit = torch.finfo(logits.dtype).eps * float(want.max())
    for machine in ("cpu", "gpu") if cols == LOOPED else ("cpu",):
        found = tn.compile(graph, target=machine)(x=logits, target=y)["loss"]
        assert (found - want).abs().max() <= 4 * unit, machine
