"""Random graphs as machine code: the policy, the interpreter's bits where there is one order, one result for any number
of threads. `python tests/judges/native_graphs.py` tries a thousand."""

from __future__ import annotations

from typing import Any

import native_graphs
import pytest
import torch
from native_graphs import Findings, try_graph
from torch import Tensor

from tritonnotes.native import launch


@pytest.mark.parametrize("first", range(0, 24, 4))
def test_random_graphs_leave_the_bits_of_the_interpreter(first: int) -> None:
    findings = Findings()
    for seed in range(first, first + 4):
        try_graph(seed, findings)
    assert findings.wrong == []
    assert findings.graphs == 4 and findings.launches >= 4


def test_a_bit_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(kernel: Any, grid: Any, *args: Any, threads: int = 1, **how: Any) -> None:
        launch(kernel, grid, *args, threads=threads, **how)
        stored = next(a for a in reversed(args) if isinstance(a, Tensor) and a.is_floating_point())
        if threads == 8:
            stored.data.view(-1).view(torch.uint8)[0] ^= 1

    monkeypatch.setattr(native_graphs, "launch", off)
    findings = Findings()
    try_graph(1, findings)
    assert any("not the bits of one thread with 8" in line for line in findings.wrong)
