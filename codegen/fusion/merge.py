"""A partition as it grows by merging clusters while it stays free of cycles."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.core.errors import PlanError

from ..analysis.units import Unit, UnitSet
from .legality import Facts, Legality, Refusal, Rule, Shape, one_writer
from .partition import CYCLE, Partition, topological_order


class Cluster:
    """The units of one kernel to be, with the clusters that it waits for and those that wait for it.

    `position` is its place in an order in which kernels can run.
    """

    __slots__ = ("units", "facts", "position", "before", "after")

    def __init__(self, units: list[Unit], facts: Facts, position: int) -> None:
        self.units = units
        self.facts = facts
        self.position = position
        self.before: set[Cluster] = set()
        self.after: set[Cluster] = set()


class Clusters:
    """The units of each kernel as a cluster; then `merge` makes one of two."""

    def __init__(self, legality: Legality, kernels: Iterable[UnitSet]) -> None:
        self.legality = legality
        self.of: dict[Unit, Cluster] = {}
        for group in kernels:
            members = sorted(group, key=legality.place.__getitem__)
            cluster = Cluster(members, legality.facts_of(members), 0)
            self.of.update(dict.fromkeys(members, cluster))
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

    def merge(self, one: Cluster, other: Cluster) -> bool:
        """Make one cluster of two if that is legal."""
        together = self.legality.add(one.facts, other.facts)
        shape = self.legality.shape(together)
        if isinstance(shape, Rule):
            return False  # the reason is worked out by why_not
        facts = self._legal_in(shape, together, one, other)
        if isinstance(facts, Refusal):
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
