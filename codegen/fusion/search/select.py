"""Which partition a plan takes: none fused, a greedy one, or the best that a search finds."""

from __future__ import annotations

import sys
from dataclasses import replace

from tritonnotes.ir.graph import Graph, Value

from ...analysis.units import make_units
from ..candidate import Choice
from ..constraints import Fusion, forbidden, together
from ..cost import cost_of
from ..legality import Legality
from ..memory import refusal_of
from ..merge import Clusters
from ..partition import Partition, in_order
from ..reduction_strategy import Forms, combinations, other_forms
from ..rematerialize import recompute
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


def first_choice(
    graph: Graph,
    forms: Forms,
    fusion: Fusion,
    own: frozenset[Value] = frozenset(),
    known: Choice | None = None,
) -> Choice:
    """No fusion but what was wished for, or a greedy plan. What is `known` under other forms is not found out again."""
    units = make_units(graph, forms, own, None if known is None else known.units.axes)
    legality = Legality(units, forbidden(units, fusion), None if known is None else known.legality)
    wanted = together(units, legality, fusion)
    held = {u for group in wanted for u in group}
    clusters = Clusters(units, legality, [*wanted, *(frozenset([u]) for u in units.units if u not in held)])
    if fusion.mode == "off":
        return Choice(units, legality, wanted, clusters.partition(), "off")
    fuse_greedily(units, clusters)
    return Choice(units, legality, wanted, recompute(units, legality, clusters.partition(), held))


def _other_choice(graph: Graph, forms: Forms, fusion: Fusion, own: frozenset[Value], known: Choice) -> Choice:
    """A greedy plan under other forms. Where a last program finishes sums to one number, it may pay that each program
    takes the `own` ones, though it did not before."""
    found = first_choice(graph, forms, fusion, known.units.own, known)
    if own == known.units.own:
        return found
    return cheaper(found, first_choice(graph, forms, fusion, own, known))


def cheaper(found: Choice, other: Choice) -> Choice:
    """Of two choices the one that costs less, the first if both cost the same."""
    return other if other.cost < found.cost else found


def search_plans(graph: Graph, greedy: Choice, fusion: Fusion, own: frozenset[Value]) -> Choice:
    """The best that searches find which start from greedy plans: over single values, under all forms of reductions,
    where the graph is small enough; else over blocks of the greedy plan of the forms that serve it best."""
    if len(greedy.units.units) > MOST_UNITS:
        return replace(greedy, how="greedy, as the graph is too large to search")
    choices = other_forms(greedy.units)
    fine = chains(greedy.units, greedy.legality, greedy.wanted)
    if len(fine) <= MOST_CHAINS and len(choices) <= MOST_CHOICES:
        others = [forms for forms in combinations(choices) if forms]
        starts = [greedy, *(_other_choice(graph, forms, fusion, own, greedy) for forms in others)]
        best, is_proved = min(starts, key=lambda start: start.cost), True
        for start in starts:
            groups = chains(start.units, start.legality, start.wanted)
            found = _search(start, groups, best.cost, BUDGET // 2)
            best = best if found.partition is None else replace(start, partition=found.partition)
            is_proved &= found.is_proved
        best = replace(best, how="optimal" if is_proved else NOT_PROVED)
        return as_launched(best, [start for start in starts if start.units.own != greedy.units.own])
    best = greedy
    forms: dict[Value, bool] = {}
    for choice in choices[:MOST_TRIES]:
        other = _other_choice(graph, {**forms, **choice}, fusion, own, greedy)
        if other.cost < best.cost:
            best, forms = other, {**forms, **choice}
    groups = blocks(best.units, best.partition, best.wanted)
    if len(groups) > MOST_BLOCKS:
        return replace(best, how="greedy, as the graph is too large to search")
    found = _search(best, groups, best.cost, BUDGET)
    return replace(best, partition=found.partition or best.partition, how=NOT_PROVED)


def as_launched(found: Choice, starts: list[Choice]) -> Choice:
    """What a search found, or a greedy plan that it started from. The search does not know what last programs and
    joined updates save, and for that plan it may be more."""
    least = min([found, *starts], key=lambda start: start.launched_cost)
    return found if least.partition is found.partition else replace(least, how=NOT_PROVED)


def _search(start: Choice, groups: list[Group], known: int, budget: int) -> Found:
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
