"""A first candidate in nearly linear time: merge what is adjacent, then what is independent."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.core.graph import Graph, Value

from ...analysis.units import FINALIZE, PARTIAL, REPLICATED, Unit, Units, make_units
from ..candidate import Candidate
from ..constraints import Fusion, forbidden, together
from ..facts import AxisSet
from ..legality import Legality
from ..merge import Cluster, Clusters
from ..reduction_strategy import Strategies
from ..rematerialize import rematerialize

TRIED = 8
"""How many kernels over the same axes each further one is held against."""


def greedy(graph: Graph, options: Fusion) -> Candidate:
    """The kernels of a graph, merged greedily. With fusion off only what must share a kernel does."""
    units = make_units(graph, gathers=options.gathers_moments)
    if (options.fuse or options.forbid) and _are_asked_for(units, options):
        units = make_units(graph)
    return _merged(units, options)


def _are_asked_for(units: Units, options: Fusion) -> bool:
    """Whether a user names what is not computed where sums follow from moments, or keeps such sums apart."""
    asked = {name for names in (*options.fuse, *options.forbid) for name in names}
    for unit in (u for u in units.units if u.moments is not None):
        if any(v.name in asked for v in (unit.value, *units.inside(unit))):
            return True
    together = [{m.total, m.deviations, m.squares} for u in units.units if (m := u.moments) is not None]
    return any({a.value, b.value} <= some for a, b in forbidden(units, options) for some in together)


def greedy_under(strategies: Strategies, replicated: frozenset[Value], known: Candidate) -> Candidate:
    """The greedy candidate for the same graph and options, where reductions have other strategies and every program
    computes the `replicated` ones for itself."""
    units = make_units(known.units.graph, strategies, replicated, known.units, known.units.gathers)
    return _merged(units, known.options, known.legality)


def _merged(units: Units, options: Fusion, known: Legality | None = None) -> Candidate:
    legality = Legality(units, forbidden(units, options), known)
    # One loop gathers all sums that follow from the same moments.
    partials = {u.value: u for u in units.units if u.part == PARTIAL}
    found = {m for u in partials.values() if (m := u.moments) is not None}
    taken = [frozenset(partials[v] for v in (m.total, m.deviations, m.squares)) for m in found]
    wanted = (*together(units, legality, options), *sorted(taken, key=lambda some: min(u.value.index for u in some)))
    held = frozenset[Unit]().union(*wanted)
    clusters = Clusters(legality, [*wanted, *(frozenset([u]) for u in units.units if u not in held)])
    if options.is_off:
        return Candidate(legality, clusters.partition(), options, wanted, "off")
    _fuse_greedily(clusters)
    partition = clusters.partition()
    clusters.dissolve()
    return rematerialize(Candidate(legality, partition, options, wanted))


def _fuse_greedily(clusters: Clusters) -> None:
    """Merge each unit into the kernels that it reads from, phase by phase; then kernels that read the same values; then
    kernels that merely go over the same axes, which saves a launch."""
    units = clusters.legality.units
    # What every program computes belongs to no kernel more than to others.
    fusible = [u for u in units.units if not u.is_library and u.part != REPLICATED]
    # The nearest producer first: it holds what was computed last, hence the longest chain.
    nearest_first = {
        unit: sorted(
            (p for p in units.before[unit] if not p.is_library and p.part != REPLICATED), key=lambda p: -p.value.index
        )
        for unit in fusible
    }
    for same_phase in (True, False):
        for unit, producers in nearest_first.items():
            for other in producers:
                if same_phase and _phase(other) != _phase(unit):
                    continue
                if clusters.of[other] is not clusters.of[unit]:
                    clusters.merge(clusters.of[other], clusters.of[unit])
    for readers in (found for found in clusters.legality.readers.values() if len(found) > 1):
        _merge_independent(clusters, [clusters.of[r] for r in readers if not r.is_library and r.part != REPLICATED])
    by_kernel: dict[Cluster, list[Unit]] = {}
    for unit in units.units:
        if unit.part == FINALIZE:
            partial, *_ = units.before[unit]
            by_kernel.setdefault(clusters.of[partial], []).append(unit)
    for sums in by_kernel.values():
        _merge_independent(clusters, [clusters.of[u] for u in sums])
    by_axes: dict[AxisSet, list[Cluster]] = {}
    for cluster in clusters.ordered():
        if cluster.facts.generated and all(u.part != REPLICATED for u in cluster.units):
            by_axes.setdefault(cluster.facts.axes, []).append(cluster)
    for alike in by_axes.values():
        _merge_independent(clusters, alike)


def _phase(unit: Unit) -> str:
    return unit.value.scope.phase


def _merge_independent(clusters: Clusters, group: Iterable[Cluster]) -> None:
    """Merge each cluster into one of the last few before it."""
    kept: list[Unit] = []
    for first in [c.units[0] for c in dict.fromkeys(group)]:
        cluster = clusters.of[first]
        for other in kept[-TRIED:]:
            if clusters.of[other] is cluster or clusters.merge(clusters.of[other], cluster):
                break
        else:
            kept.append(first)
