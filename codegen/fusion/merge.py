"""A partition as it grows by merging clusters while it stays free of cycles."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.core.errors import PlanError

from ..analysis.units import Unit, UnitSet
from ..support.contraction import Node, contract, dissolve, nodes_between
from .facts import AxisSet, Facts
from .legality import Legality, Refusal, Rule, Shape, one_writer
from .partition import CYCLE, Partition, topological_order


class Cluster(Node):
    """The units of one kernel to be, with the clusters that it waits for and those that wait for it, in an order in
    which kernels can run. `by_axes` has its units by the axes of their results."""

    __slots__ = ("units", "facts", "by_axes")

    def __init__(self, units: list[Unit], facts: Facts, by_axes: dict[AxisSet, list[Unit]]) -> None:
        super().__init__()
        self.units = units
        self.facts = facts
        self.by_axes = by_axes


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
        """Let the clusters go of each other: no more is asked of them."""
        dissolve(self.all())

    def merge(self, one: Cluster, other: Cluster) -> bool:
        """Make one cluster of two if that is legal. Why it is not `why_not` works out."""
        facts = self.legality.add(one.facts, other.facts)
        shape = self.legality.shape(facts)
        if isinstance(shape, Rule) or not self._is_legal_in(shape, facts, one, other):
            return False
        first, last = (one, other) if one.position < other.position else (other, one)
        between = nodes_between(first, last)
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
        return CYCLE if nodes_between(first, last) is None else None

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

    def _join(self, first: Cluster, last: Cluster, facts: Facts, between: set[Cluster]) -> None:
        """Put `last` into `first`."""
        contract(first, last, between)
        first.units += last.units
        for axes, units in last.by_axes.items():
            if axes in first.by_axes:
                first.by_axes[axes] += units
            else:
                first.by_axes[axes] = units
        first.facts = facts
        self.of.update(dict.fromkeys(last.units, first))
        self.first[first] = min(self.first[first], self.first.pop(last))
