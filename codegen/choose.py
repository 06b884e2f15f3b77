"""Which partition a plan takes: none fused, a greedy one, or the best that a search finds."""

from __future__ import annotations

from .atoms import Group, blocks, chains, make_atoms
from .clusters import Clusters, Partition, in_order
from .cost import cost_of
from .fusion import Legality
from .greedy import fuse_greedily
from .recompute import recompute
from .search import BUDGET, Found, Search
from .units import Units

FUSION_MODES = ("optimal", "greedy", "off")

MOST_CHAINS = 64
"""The largest graph, in chains of values, of which the optimum is looked for value by value."""

MOST_BLOCKS = 96
"""The largest graph, in blocks of a greedy plan, that is searched at all."""


def choose(units: Units, legality: Legality, fusion: str) -> tuple[Partition, str]:
    """A partition, and how it was come by."""
    clusters = Clusters(units, legality)
    if fusion == "off":
        return clusters.partition(), "off"
    fuse_greedily(units, clusters)
    greedy = recompute(units, legality, clusters.partition())
    if fusion == "greedy":
        return greedy, "greedy"
    return _optimal(units, legality, greedy)


def _optimal(units: Units, legality: Legality, greedy: Partition) -> tuple[Partition, str]:
    best, nodes = greedy, 0
    fine = chains(units, legality)
    coarse = blocks(units, greedy)
    searches: list[tuple[list[Group], int]] = []
    if len(fine) > MOST_CHAINS and len(coarse) <= MOST_BLOCKS:
        searches.append((coarse, BUDGET // 2))
    if len(fine) <= MOST_CHAINS:
        searches.append((fine, BUDGET))
    if not searches:
        return best, "greedy: too large a graph to search"
    for groups, budget in searches:
        found = _search(units, legality, groups, best, budget)
        best = found.partition or best
        nodes += found.nodes
    if found.is_proved and groups is fine:
        return best, f"optimal, proved with {nodes:,} placements tried"
    return best, f"the best of {nodes:,} placements tried, not proved optimal"


def _search(units: Units, legality: Legality, groups: list[Group], known: Partition, budget: int) -> Found:
    def evaluate(partition: Partition) -> int:
        ordered = in_order(legality, partition)
        return cost_of(units, legality, ordered).total if ordered is not None else known_cost

    known_cost = cost_of(units, legality, known).total
    found = Search(legality, make_atoms(units, legality, groups), evaluate).run(known_cost, budget)
    ordered = in_order(legality, found.partition) if found.partition is not None else None
    return Found(ordered, found.is_proved, found.nodes)
