"""Which partition a plan takes: none fused, a greedy one, or the best that a search finds."""

from __future__ import annotations

import sys

from tritonnotes.ir.errors import PlanError

from .atoms import Group, blocks, chains, make_atoms
from .clusters import Clusters, Partition, in_order
from .cost import cost_of, refusal_of
from .fusion import Legality
from .greedy import fuse_greedily
from .recompute import recompute
from .search import BUDGET, Found, Search
from .units import Units
from .wishes import Fusion, forbidden, together

MOST_CHAINS = 64
"""The largest graph, in chains of values, of which the optimum is looked for value by value."""

MOST_BLOCKS = 96
"""The largest graph, in blocks of a greedy plan, that is searched at all."""


def choose(units: Units, fusion: Fusion) -> tuple[Legality, Partition, str]:
    """The rules that hold, a partition, and how it was come by. Raises `PlanError` for wishes that cannot be had."""
    legality = Legality(units, forbidden(units, fusion))
    wanted = together(units, legality, fusion)
    held = {u for group in wanted for u in group}
    clusters = Clusters(units, legality, [*wanted, *(frozenset([u]) for u in units.units if u not in held)])
    if fusion.mode == "off":
        partition, how = clusters.partition(), "off"
    else:
        fuse_greedily(units, clusters)
        partition, how = recompute(units, legality, clusters.partition(), held), "greedy"
    if fusion.mode == "optimal":
        partition, how = _optimal(units, legality, partition, wanted)
    refusal = refusal_of(legality, partition)
    if refusal is not None:
        raise PlanError(f"fuse: cannot be had, by the rule {refusal.rule!r}: {refusal.reason}")
    return legality, partition, how


def _optimal(units: Units, legality: Legality, greedy: Partition, wanted: list[Group]) -> tuple[Partition, str]:
    """The best that a search finds which starts from the greedy plan: over single values where the graph is small
    enough, else over blocks of that plan."""
    fine = chains(units, legality, wanted)
    coarse = blocks(units, greedy, wanted)
    if len(fine) > MOST_CHAINS and len(coarse) > MOST_BLOCKS:
        return greedy, "greedy, as the graph is too large to search"
    groups = fine if len(fine) <= MOST_CHAINS else coarse
    found = _search(units, legality, groups, greedy)
    best = found.partition or greedy
    if found.is_proved and groups is fine:
        return best, "optimal"
    return best, "the best found, not proved optimal"


def _search(units: Units, legality: Legality, groups: list[Group], known: Partition) -> Found:
    def evaluate(partition: Partition) -> int:
        ordered = in_order(legality, partition)
        # The search minds what two units say of each other; that a kernel is too large only the whole of it can say.
        if ordered is None or refusal_of(legality, ordered) is not None:
            return known_cost
        return cost_of(units, legality, ordered).total

    # A wish may make the greedy plan illegal, and leave it to the search to find one that is not.
    is_legal = refusal_of(legality, known) is None
    known_cost = cost_of(units, legality, known).total if is_legal else sys.maxsize
    found = Search(legality, make_atoms(units, legality, groups), evaluate).run(known_cost, BUDGET)
    ordered = in_order(legality, found.partition) if found.partition is not None else None
    return Found(ordered, found.is_proved, found.tried)
