"""Networks of any size, to see how planning and compiling grow with them."""

from __future__ import annotations

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph

SIZES = (10, 30, 100, 300, 1000)


def residual_blocks(ops: int) -> int:
    """How many blocks make about so many declared ops."""
    return max(1, (ops - 3) // 4)


def residual_net(ops: int) -> Graph:
    """About so many declared ops: blocks of linear, layer norm, GELU and residual, then a classifier."""
    graph = tn.Graph("residual_net")
    batch = tn.Dim("batch")
    x, y = graph.input("x", (batch, 64)), graph.input("y", (batch,), dtype="int64")
    h = tn.linear(x, 64)
    for _ in range(residual_blocks(ops)):
        h = tn.gelu(tn.layer_norm(tn.linear(h, 64))) + h
    graph.output(loss=tn.cross_entropy(tn.linear(h, 10), y))
    return graph
