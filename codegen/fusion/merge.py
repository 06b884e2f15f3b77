"""A partition as it grows by merging clusters while it stays free of cycles."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.core.errors import PlanError

from ..analysis.units import Unit, UnitSet
from .facts import AxisSet, Facts
from .legality import Legality, Refusal, Rule, Shape, one_writer
from .partition import CYCLE, Partition, topological_order


class Cluster:
    """The units of one kernel to be, with the clusters that it waits for and those that wait for it.

    `by_axes` has its units by the axes of their results, `position` is its place in an order in which kernels can run.
    """

    __slots__ = ("units", "facts", "by_axes", "position", "before", "after")

    def __init__(self, units: list[Unit], facts: Facts, by_axes: dict[AxisSet, list[Unit]]) -> None:
        self.units = units
        self.facts = facts
        self.by_axes = by_axes
        self.position = 0
        self.before: set[Cluster] = set()
        self.after: set[Cluster] = set()


class Clusters:
    """The units of each kernel as a cluster; then `merge` makes one of two."""

    def __init__(self, legality: Legality, kernels: Iterable[UnitSet]) -> None:
        self.legality = legality
        self.of: dict[Unit, Cluster] = {}
        for group in kernels:
            members = sorted(group, key=legality.place.__getitem__)
            by_axes: dict[AxisSet, list[Unit]] = {}
            for unit in members:
                by_axes.setdefault(legality.axes_of[unit], []).append(unit)
            facts = legality.facts[members[0]] if len(members) == 1 else legality.facts_of(group)
            self.of.update(dict.fromkeys(members, Cluster(members, facts, by_axes)))
        for unit, needed in legality.units.before.items():
            here = self.of[unit]
            for other in (self.of[n] for n in needed):
                if other is not here:
                    here.before.add(other)
                    other.after.add(here)
        self.first = {c: min(legality.place[u] for u in c.units) for c in self.all()}
        for position, cluster in enumerate(self.ordered()):
            cluster.position = position

    def all(self) -> list[Cluster]:
        """The clusters, each once."""
        return list(dict.fromkeys(self.of.values()))

    def ordered(self) -> list[Cluster]:
        """The clusters so that each comes after those it waits for, else in the order of their first units."""
        found = topological_order({c: c.before for c in self.all()}, self.first)
        if found is None:
            raise PlanError(
                f"graph {self.legality.units.graph.name}: kernels would wait for each other; some value that is "
                "updated in place is read together with what was made of its update, so copy it with tn.copy first"
            )
        return found

    def partition(self) -> Partition:
        """The clusters as they are now."""
        return Partition(tuple(frozenset(c.units) for c in self.ordered()))

    def dissolve(self) -> None:
        """Let go of each other, so that nothing is left for the collector: no more is asked of them."""
        for cluster in self.all():
            cluster.before.clear()
            cluster.after.clear()

    def merge(self, one: Cluster, other: Cluster) -> bool:
        """Make one cluster of two if that is legal. Why it is not `why_not` works out."""
        facts = self.legality.add(one.facts, other.facts)
        shape = self.legality.shape(facts)
        if isinstance(shape, Rule) or not self._is_legal_in(shape, facts, one, other):
            return False
        first, last = (one, other) if one.position < other.position else (other, one)
        between = _reached(first, last, last.position)
        if between is None:
            return False
        self._join(first, last, facts, between)
        return True

    def why_not(self, one: Cluster, other: Cluster) -> Refusal | None:
        """Why two clusters cannot be one kernel, or None."""
        facts = self._legal(one, other)
        if isinstance(facts, Refusal):
            return facts
        first, last = (one, other) if one.position < other.position else (other, one)
        return CYCLE if _reached(first, last, last.position) is None else None

    # -- inside --

    def _legal(self, one: Cluster, other: Cluster) -> Facts | Refusal:
        legality = self.legality
        facts = legality.add(one.facts, other.facts)
        shape = legality.shape(facts)
        if isinstance(shape, Rule):
            return Refusal(shape.name, shape.reason(legality, [*one.units, *other.units]))
        return self._legal_in(shape, facts, one, other)

    def _is_legal_in(self, shape: Shape, facts: Facts, one: Cluster, other: Cluster) -> bool:
        """Whether `_legal_in` would have nothing to say."""
        legality, of = self.legality, self.of

        def holds(unit: Unit) -> bool:
            return of[unit] in (one, other)

        if legality.conflict([*one.units, *other.units], facts, holds) is not None:
            return False
        for cluster in (one, other):
            for axes in cluster.by_axes.keys() - shape.may_store:
                if any(legality.is_stored(unit, holds) for unit in cluster.by_axes[axes]):
                    return False
        return True

    def _legal_in(self, shape: Shape, facts: Facts, one: Cluster, other: Cluster) -> Facts | Refusal:
        """What stands between the members of two clusters, whose facts are together those of a kernel of this shape."""
        legality = self.legality

        def holds(unit: Unit) -> bool:
            return self.of[unit] in (one, other)

        members = [*one.units, *other.units]
        refusal = legality.conflict(members, facts, holds)
        if refusal is not None:
            return refusal
        for unit in members:
            if legality.axes_of[unit] not in shape.may_store and legality.is_stored(unit, holds):
                return one_writer(unit)
        return facts

    def _join(self, first: Cluster, last: Cluster, facts: Facts, behind: set[Cluster]) -> None:
        """Put `last` into `first`. What lies `behind` the first in the order moves behind both, and what the last waits
        for in front of them (the places are shared out anew among these, as Pearce and Kelly do)."""
        ahead = _reaching(last, first.position)
        first.units += last.units
        for axes, units in last.by_axes.items():
            if axes in first.by_axes:
                first.by_axes[axes] += units
            else:
                first.by_axes[axes] = units
        first.facts = facts
        self.of.update(dict.fromkeys(last.units, first))
        self.first[first] = min(self.first[first], self.first.pop(last))
        for other in last.before:
            other.after.discard(last)
            other.after.add(first)
        for other in last.after:
            other.before.discard(last)
            other.before.add(first)
        first.before = (first.before | last.before) - {first, last}
        first.after = (first.after | last.after) - {first, last}
        if not ahead and not behind:
            return
        places = sorted([*(c.position for c in (*behind, *ahead)), first.position, last.position])
        moved = [*sorted(ahead, key=_position), first, *sorted(behind, key=_position)]
        for cluster, place in zip(moved, places[: len(ahead) + 1] + places[len(ahead) + 2 :], strict=True):
            cluster.position = place


def _position(cluster: Cluster) -> int:
    return cluster.position


def _reached(first: Cluster, last: Cluster, bound: int) -> set[Cluster] | None:
    """What waits for `first` and stands before `bound`; None if `last` waits for any of it, which makes a cycle."""
    seen: set[Cluster] = set()
    todo = [c for c in first.after if c.position < bound]
    while todo:
        cluster = todo.pop()
        if cluster in seen:
            continue
        if last in cluster.after:
            return None
        seen.add(cluster)
        todo += [c for c in cluster.after if c.position < bound]
    return seen


def _reaching(last: Cluster, bound: int) -> set[Cluster]:
    """What `last` waits for and stands after `bound`."""
    seen: set[Cluster] = set()
    todo = [c for c in last.before if c.position > bound]
    while todo:
        cluster = todo.pop()
        if cluster not in seen:
            seen.add(cluster)
            todo += [c for c in cluster.before if c.position > bound]
    return seen
