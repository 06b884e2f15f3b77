"""Which partition a plan takes: none fused, a greedy one, or the best that a search finds."""

from __future__ import annotations

import sys
from dataclasses import replace

from tritonnotes.ir.core.graph import Graph, Value

from ...analysis.units import make_units
from ..candidate import Candidate
from ..constraints import Fusion, forbidden, together
from ..cost import cost_of
from ..legality import Legality
from ..memory import refusal_of
from ..merge import Clusters
from ..partition import Partition, in_order
from ..reduction_strategy import Strategies, combinations, other_strategies
from ..rematerialize import rematerialize
from .atoms import Group, blocks, chains, make_atoms
from .branch_and_bound import BUDGET, Found, Search
from .greedy import fuse_greedily

MOST_CHAINS = 64
"""The largest graph, in chains of values, of which the optimum is looked for value by value."""


MOST_BLOCKS = 96
"""The largest graph, in blocks of a greedy plan, that is searched at all."""


MOST_UNITS = 1_000
"""The largest graph, in primitives, of which more than a greedy plan is looked at."""


MOST_CHOICES = 2
"""Up to so many choices between two forms of reductions, all their combinations are searched."""


MOST_TRIES = 8
"""Where there are more, or the graph is large, so many are tried one after the other in a greedy plan."""


NOT_PROVED = "the best found, not proved optimal"


def first_candidate(
    graph: Graph,
    strategies: Strategies,
    fusion: Fusion,
    replicated: frozenset[Value] = frozenset(),
    known: Candidate | None = None,
) -> Candidate:
    """No fusion but what was wished for, or a greedy plan. What is `known` under other forms is not found out again."""
    units = make_units(graph, strategies, replicated, None if known is None else known.units.axes)
    legality = Legality(units, forbidden(units, fusion), None if known is None else known.legality)
    wanted = together(units, legality, fusion)
    held = {u for group in wanted for u in group}
    clusters = Clusters(units, legality, [*wanted, *(frozenset([u]) for u in units.units if u not in held)])
    if fusion.mode == "off":
        return Candidate(units, legality, wanted, clusters.partition(), "off")
    fuse_greedily(units, clusters)
    return Candidate(units, legality, wanted, rematerialize(units, legality, clusters.partition(), held))


def _other_candidate(
    graph: Graph, strategies: Strategies, fusion: Fusion, replicated: frozenset[Value], known: Candidate
) -> Candidate:
    """A greedy plan under other forms. Where a last program finishes sums to one number, it may pay that each program
    takes the `own` ones, though it did not before."""
    found = first_candidate(graph, strategies, fusion, known.units.replicated, known)
    if replicated == known.units.replicated:
        return found
    return cheaper(found, first_candidate(graph, strategies, fusion, replicated, known))


def cheaper(found: Candidate, other: Candidate) -> Candidate:
    """Of two choices the one that costs less, the first if both cost the same."""
    return other if other.cost < found.cost else found


def search_plans(graph: Graph, greedy: Candidate, fusion: Fusion, replicated: frozenset[Value]) -> Candidate:
    """The best that searches find which start from greedy plans: over single values, under all forms of reductions,
    where the graph is small enough; else over blocks of the greedy plan of the forms that serve it best."""
    if len(greedy.units.units) > MOST_UNITS:
        return replace(greedy, how="greedy, as the graph is too large to search")
    alternatives = other_strategies(greedy.units)
    fine = chains(greedy.units, greedy.legality, greedy.wanted)
    if len(fine) <= MOST_CHAINS and len(alternatives) <= MOST_CHOICES:
        others = [strategies for strategies in combinations(alternatives) if strategies]
        starts = [greedy, *(_other_candidate(graph, strategies, fusion, replicated, greedy) for strategies in others)]
        best, is_proved = min(starts, key=lambda start: start.cost), True
        for start in starts:
            groups = chains(start.units, start.legality, start.wanted)
            found = _search(start, groups, best.cost, BUDGET // 2)
            best = best if found.partition is None else replace(start, partition=found.partition)
            is_proved &= found.is_proved
        best = replace(best, how="optimal" if is_proved else NOT_PROVED)
        return as_scheduled(best, [start for start in starts if start.units.replicated != greedy.units.replicated])
    best = greedy
    strategies: dict[Value, bool] = {}
    for candidate in alternatives[:MOST_TRIES]:
        other = _other_candidate(graph, {**strategies, **candidate}, fusion, replicated, greedy)
        if other.cost < best.cost:
            best, strategies = other, {**strategies, **candidate}
    groups = blocks(best.units, best.partition, best.wanted)
    if len(groups) > MOST_BLOCKS:
        return replace(best, how="greedy, as the graph is too large to search")
    found = _search(best, groups, best.cost, BUDGET)
    return replace(best, partition=found.partition or best.partition, how=NOT_PROVED)


def as_scheduled(found: Candidate, starts: list[Candidate]) -> Candidate:
    """What a search found, or a greedy plan that it started from. The search does not know what last programs and
    joined updates save, and for that plan it may be more."""
    least = min([found, *starts], key=lambda start: start.scheduled_cost)
    return found if least.partition is found.partition else replace(least, how=NOT_PROVED)


def _search(start: Candidate, groups: list[Group], known: int, budget: int) -> Found:
    """Look for a partition of some groups that costs less than what is known."""
    units, legality = start.units, start.legality

    def evaluate(partition: Partition) -> int:
        ordered = in_order(legality, partition)
        # The search minds what two units say of each other; that a kernel is too large only the whole of it can say.
        if ordered is None or refusal_of(legality, ordered) is not None:
            return sys.maxsize
        return cost_of(units, legality, ordered).total

    found = Search(legality, make_atoms(units, legality, groups), evaluate).run(known, budget)
    ordered = in_order(legality, found.partition) if found.partition is not None else None
    return Found(ordered, found.is_proved, found.tried)
