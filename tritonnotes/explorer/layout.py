"""Where the nodes of a drawn graph go: in layers by what they read, each layer in the order of its neighbours."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import networkx

SWEEPS = 6
"""How often layers are put in the order of their neighbours, downward and upward in turn."""

CHARACTER, PADDING, HEIGHT, GAP, LAYER = 6.6, 16, 24, 14, 58
"""Pixels: of a letter, around a label, of a node, between nodes and from layer to layer."""


@dataclass(frozen=True)
class Box:
    """A node's place: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float = HEIGHT


@dataclass(frozen=True)
class Drawing:
    """The boxes of nodes, and the size of it all."""

    boxes: Mapping[Hashable, Box]
    width: float
    height: float


def layered(labels: Mapping[Hashable, str], edges: Iterable[tuple[Hashable, Hashable]]) -> Drawing:
    """Places for nodes with these labels, each right above the first of those that read it; what nothing reads stands
    as high as what it reads allows."""
    graph: networkx.DiGraph = networkx.DiGraph()
    graph.add_nodes_from(labels)
    graph.add_edges_from(edges)
    depth: dict[Hashable, int] = {}
    for layer, nodes in enumerate(networkx.topological_generations(graph)):
        depth |= dict.fromkeys(nodes, layer)
    for node in reversed(list(networkx.topological_sort(graph))):
        readers = [depth[n] for n in graph.successors(node)]
        if readers:
            depth[node] = min(readers) - 1
    layers: dict[int, list[Hashable]] = {}
    for node in labels:
        layers.setdefault(depth[node], []).append(node)
    rows = [layers[n] for n in sorted(layers)]
    _order(rows, graph)
    widths = {node: max(34.0, CHARACTER * len(label) + PADDING) for node, label in labels.items()}
    spans = [sum(widths[n] for n in row) + GAP * (len(row) - 1) for row in rows]
    whole = max(spans, default=0.0) + 2 * GAP
    boxes: dict[Hashable, Box] = {}
    for number, (row, span) in enumerate(zip(rows, spans, strict=True)):
        x = (whole - span) / 2
        for node in row:
            boxes[node] = Box(round(x, 1), GAP + number * LAYER, round(widths[node], 1))
            x += widths[node] + GAP
    return Drawing(boxes, round(whole, 1), 2 * GAP + HEIGHT + LAYER * max(0, len(rows) - 1))


def _order(rows: list[list[Hashable]], graph: networkx.DiGraph) -> None:
    """Sort each layer by the mean place of the neighbours above, then below, a few times over."""
    place = {node: i / max(1, len(row) - 1) for row in rows for i, node in enumerate(row)}
    for sweep in range(SWEEPS):
        neighbours = graph.pred if sweep % 2 == 0 else graph.succ
        for row in rows if sweep % 2 == 0 else reversed(rows):
            mean = {}
            for node in row:
                near = [place[n] for n in neighbours[node]]
                mean[node] = sum(near) / len(near) if near else place[node]
            row.sort(key=lambda node: mean[node])
            place |= {node: (i + 0.5) / len(row) for i, node in enumerate(row)}
