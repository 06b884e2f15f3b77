"""Which candidate a plan takes: the cheapest of greedy ones, under several reduction strategies, and of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tritonnotes.ir.core.graph import Value

from ...analysis.views import cone_of
from ..candidate import Candidate
from ..cost import cost_of, scheduled_cost
from ..reduction_strategy import Strategies, combinations, other_strategies, replicable_sums
from .atoms import blocks, chains, make_atoms
from .branch_and_bound import Search
from .greedy import greedy_under

MOST_CHAINS = 64
"""The largest graph, in chains of values, of which the optimum is looked for value by value."""


MOST_BLOCKS = 96
"""The largest graph, in blocks of a greedy candidate, that is searched at all."""


MOST_UNITS = 1_000
"""The largest graph, in primitives, of which more than a greedy candidate is looked at."""


MOST_STRATEGIES = 2
"""With up to so many other strategies of reductions, all their combinations are searched."""


MOST_TRIES = 8
"""Where there are more, or the graph is large, so many are tried one after the other in a greedy candidate."""


NOT_PROVED = "the best found within the search budget"


TOO_LARGE = "greedy, as the graph is too large to search"


# -- the passes --


def cheaper(found: Candidate, other: Candidate) -> Candidate:
    """Of two candidates the one that costs less, the first if both cost the same."""
    if other is found:
        return found
    return other if cost_of(other).total < cost_of(found).total else found


def replicate_reductions(found: Candidate) -> Candidate:
    """The greedy candidate in which every program computes small sums to one number; the one given if there
    are none."""
    replicated = _replicable(found)
    return greedy_under({}, replicated, found) if replicated else found


def reduction_strategies(found: Candidate) -> list[Strategies]:
    """For each set of axes that reductions run over, the other strategy of these reductions, where both make sense."""
    return other_strategies(found.units)


def search(best: Candidate, strategies: Sequence[Strategies]) -> Candidate:
    """The best candidate that a search finds from greedy ones: value by value under all combinations of `strategies`,
    where the graph is small enough; else block by block under those that serve a greedy candidate best."""
    if len(best.units.units) > MOST_UNITS:
        return replace(best, how=TOO_LARGE)
    if len(chains(best)) <= MOST_CHAINS and len(strategies) <= MOST_STRATEGIES:
        starts = greedy_under_all(best, strategies)
        # What replicating other sums is worth shows only in a candidate as it is launched.
        others = [start for start in starts if start.units.replicated != best.units.replicated]
        return cheapest_as_scheduled([search_values(starts), *others, best])
    return cheapest_as_scheduled([search_blocks(select_strategies(best, strategies)), best])


# -- their steps --


def _replicable(found: Candidate) -> frozenset[Value]:
    """The sums that every program may compute for itself: not those of which a user names a part, which then would be
    computed in many kernels."""
    wanted = found.wanted if found.options.fuse else ()
    named = {unit.value for some in (found.legality.apart, *wanted) for unit in some}
    return frozenset(v for v in replicable_sums(found.units) if named.isdisjoint((v, *cone_of(v)[0])))


def greedy_under_all(best: Candidate, strategies: Sequence[Strategies]) -> list[Candidate]:
    """The candidate, and greedy ones under every combination of other strategies."""
    replicated = _replicable(best)
    return [best, *(_greedy_under(some, replicated, best) for some in combinations(strategies) if some)]


def select_strategies(best: Candidate, strategies: Sequence[Strategies]) -> Candidate:
    """The cheapest greedy candidate, each strategy tried on top of those that were cheaper."""
    known, replicated = best, _replicable(best)
    chosen: Strategies = {}
    for strategy in strategies[:MOST_TRIES]:
        other = _greedy_under({**chosen, **strategy}, replicated, known)
        if cheaper(best, other) is other:
            best, chosen = other, {**chosen, **strategy}
    return best


def _greedy_under(strategies: Strategies, replicated: frozenset[Value], known: Candidate) -> Candidate:
    """A greedy candidate under other strategies. Where a last program finalizes sums to one number, it may pay to
    replicate them, though it did not before."""
    found = greedy_under(strategies, known.units.replicated, known)
    if replicated == known.units.replicated:
        return found
    return cheaper(found, greedy_under(strategies, replicated, known))


def search_values(starts: Sequence[Candidate]) -> Candidate:
    """The best partition of single values, or of chains of them that could not pay apart, under the strategies of each
    start. It is optimal if no search ran out of its budget."""
    best, is_proved = min(starts, key=lambda start: cost_of(start).total), True
    for start in starts:
        found = Search(start, make_atoms(start.legality, chains(start))).run(cost_of(best).total, budget_of(start) // 2)
        best = found.candidate or best
        is_proved &= found.is_proved
    return replace(best, how="optimal" if is_proved else NOT_PROVED)


def search_blocks(start: Candidate) -> Candidate:
    """The best partition of blocks of a greedy candidate, where there are few enough."""
    groups = blocks(start)
    if len(groups) > MOST_BLOCKS:
        return replace(start, how=TOO_LARGE)
    found = Search(start, make_atoms(start.legality, groups)).run(cost_of(start).total, budget_of(start))
    return replace(found.candidate or start, how=NOT_PROVED)


def budget_of(start: Candidate) -> int:
    """How many ways to place a value a search may look at. One that needs more stops, and says so."""
    return start.options.planned_for.ways


def cheapest_as_scheduled(candidates: Sequence[Candidate]) -> Candidate:
    """What a search found, which comes first, or a greedy candidate that it started from. The search does not know what
    last programs and joined updates save, and for that one it may be more."""
    found, *_ = candidates
    least = min(candidates, key=lambda candidate: scheduled_cost(candidate).total)
    return found if least.partition is found.partition else replace(least, how=NOT_PROVED)
