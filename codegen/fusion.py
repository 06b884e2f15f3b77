"""Which units share a kernel: what is legal, and a first, greedy choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonnotes.ir.graph import Value

from .axes import ROW_BYTES, base_of, is_alias, is_free, is_host, reduced_axes, row_bytes
from .units import COMBINE, PARTIAL, Unit, Units, consumers, is_join, memory_of, source_of, walked_inputs


@dataclass(frozen=True)
class Space:
    """What a kernel walks over. `rows` are spread over programs; `cols` lie in one program where rows are reduced.

    `reduces_rows`: a row is reduced inside the tile. `carries`: sums over all rows leave the kernel as partials.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    reduces_rows: bool = False
    carries: bool = False
    combines: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why units cannot share a kernel: the rule's name and one sentence."""

    rule: str
    reason: str


class Legality:
    """Answers whether a set of units can be one kernel."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self.axes = units.axes
        self.readers = consumers(units)
        self.kernel_of: dict[Unit, frozenset[Unit]] | None = None

    def stored(self, members: frozenset[Unit]) -> list[Unit]:
        """The members whose result must reach memory: read elsewhere, or an output."""
        result = []
        for unit in members:
            if unit.part == PARTIAL:
                continue
            if unit.value in self.units.roots or any(r not in members for r in self.readers.get(unit.value, ())):
                result.append(unit)
        return result

    def space(self, members: frozenset[Unit], stored: Iterable[Unit] | None = None) -> Space | Refusal:
        """The space that one kernel for `members` walks over, or why there is none."""
        axes = self.axes
        if any(u.is_library for u in members):
            if len(members) == 1:
                return Space((), ())
            return Refusal("library", "a matrix product is a library call, which nothing can be fused into")
        for unit in members:
            if unit.value.op.kind == "gather":
                table = memory_of(unit.value.inputs[0])
                if self.units.producer.get(table) in members:
                    return Refusal(
                        "gather", f"rows of {table.name} are read in any order, so it must be in memory first"
                    )
            for arg in unit.value.inputs:
                source = base_of(arg)
                memory = memory_of(source)
                if is_join(memory) and any(w in members for w in self.units.writers(memory)):
                    return Refusal("join", f"{memory.name} is joined of parts, and read once all of them are in memory")
                if is_alias(source) and self.units.producer.get(memory) in members:
                    return Refusal(
                        "reshape", f"{source.name} mixes axes, so what it shows must lie in memory as a whole"
                    )
        touched = self._touched(members)
        every: set[int] = set().union(*(axes.of(v) for v in touched)) if touched else set()
        for value in touched:
            if not axes.is_distinct(value):
                return Refusal("axis twice", f"one axis occurs twice in {value.name}")
        combines = [u for u in members if u.part == COMBINE]
        partials = [u for u in members if u.part == PARTIAL]
        reductions = [u for u in members if not u.part and u.value.op.kind == "reduction"]
        if combines:
            if partials or reductions:
                return Refusal(
                    "combine", "partials are added up after the programs that write them, so nothing is reduced there"
                )
            if any(axes.of(u.value) != every for u in combines):
                return Refusal("combine", "each finished sum is computed once, so all values there have its shape")
        cols = {reduced_axes(axes, u.value) for u in reductions}
        if len(cols) > 1:
            return Refusal("two rows", "its row reductions run over different axes")
        split = self._split(every, next(iter(cols), None), partials)
        if isinstance(split, Refusal):
            return split
        rows, columns = split
        # A sum over single numbers of each row can wait until a walk along the row is over; one over columns cannot.
        wide = [u for u in partials if axes.of(u.value.inputs[0]) & columns]
        holds_row = reductions or any(not axes.of(u.value) for u in wide)
        if wide and holds_row and row_bytes(axes, columns, self._held(members, columns)) > ROW_BYTES:
            return Refusal(
                "long row", "a sum over all rows is carried beside a whole row, and both together outgrow the registers"
            )
        for unit in reductions:
            if axes.of(unit.value.inputs[0]) & columns != columns:
                return Refusal("two rows", "its row reductions run over different axes")
        for unit in self.stored(members) if stored is None else stored:
            have = axes.of(unit.value)
            if have != every and not (reductions and have == rows):
                return Refusal(
                    "one writer", f"{unit.value.name} lacks an axis of the kernel, so several programs would write it"
                )
        return Space(
            self._ordered(rows, touched),
            self._ordered(columns, touched),
            bool(reductions),
            bool(partials),
            bool(combines),
        )

    def _split(
        self, every: set[int], cols: frozenset[int] | None, partials: list[Unit]
    ) -> tuple[frozenset[int], frozenset[int]] | Refusal:
        """Rows and columns such that each partial sums over all rows."""
        everything = frozenset(every)
        sums = [(reduced_axes(self.axes, u.value), self.axes.of(u.value.inputs[0]), u) for u in partials]
        if cols is None:
            if not sums:
                return everything, frozenset()
            rows = min((gone for gone, _, _ in sums), key=lambda gone: (len(gone), sorted(gone)))
        else:
            rows = everything - cols
        columns = everything - rows
        for gone, have, unit in sums:
            if not gone >= rows or (gone - rows and gone - rows != have & columns):
                return Refusal("two columns", f"{unit.value.name} is not a sum over all rows of this kernel")
            if rows - have:
                return Refusal(
                    "two columns", f"{unit.value.name} does not have all the rows that the kernel walks over"
                )
            if have - gone and have - gone != columns:
                return Refusal("two columns", f"{unit.value.name} lacks an axis of this kernel's columns")
        return rows, columns

    def _held(self, members: frozenset[Unit], columns: frozenset[int]) -> list[Value]:
        """What a program that holds whole rows keeps of them: all it loads, and the sums that it carries."""
        inside = {u.value for u in members if u.part != PARTIAL}
        loads = {s: None for u in members for s in self.units.sources(u) if s not in inside}
        carried = {u.value: None for u in members if u.part == PARTIAL}
        return [v for v in (*loads, *carried) if self.axes.of(v) & columns]

    def _touched(self, members: frozenset[Unit]) -> list[Value]:
        """Results and arguments, in graph order."""
        seen: dict[Value, None] = {}
        for unit in sorted(members, key=lambda u: u.value.index):
            if unit.part != COMBINE:
                for arg in walked_inputs(unit.value):
                    if not (is_free(arg) or is_host(arg) or is_free(base_of(arg))):
                        seen.setdefault(source_of(arg))
                    seen.setdefault(arg)
            if unit.part != PARTIAL:
                seen.setdefault(unit.value)
        return list(seen)

    def _ordered(self, some: frozenset[int], touched: list[Value]) -> tuple[int, ...]:
        """Axes in the order of memory: that of the value which has most of them."""
        best = max((tuple(a for a in self.axes.labels[v] if a in some) for v in touched), key=len, default=())
        rest = sorted(some - {a for a in best if a is not None})
        return (*(a for a in best if a is not None), *rest)


class Clusters:
    """A partition of units into kernels that grows by merging, and stays free of cycles."""

    def __init__(self, units: Units, legality: Legality) -> None:
        self.units = units
        self.legality = legality
        self.of: dict[Unit, frozenset[Unit]] = {u: frozenset([u]) for u in units.units}

    def merge(self, a: frozenset[Unit], b: frozenset[Unit]) -> Refusal | None:
        """Make one cluster of two, or say why not."""
        refusal = self.why_not(a, b)
        if refusal is None:
            merged = a | b
            for unit in merged:
                self.of[unit] = merged
        return refusal

    def why_not(self, a: frozenset[Unit], b: frozenset[Unit]) -> Refusal | None:
        """Why two clusters cannot be one kernel, or None."""
        space = self.legality.space(a | b)
        if isinstance(space, Refusal):
            return space
        return self._cycle(a | b)

    def _cycle(self, merged: frozenset[Unit]) -> Refusal | None:
        """A path that leaves the cluster and comes back would make the kernel wait for itself."""
        last = max(u.value.index for u in merged)
        seen: set[Unit] = set()
        todo = [s for u in merged for s in self.units.after[u] if s not in merged]
        todo += [u for u in merged if u.part == PARTIAL for u in self.units.after[u]]
        while todo:
            unit = todo.pop()
            if unit in merged:
                return Refusal("cycle", "what lies between would have to run in the middle of the kernel")
            if unit in seen:
                continue
            for other in self.of[unit]:
                seen.add(other)
                todo += [s for s in self.units.after[other] if s not in seen and s.value.index <= last]
        return None

    def all(self) -> list[frozenset[Unit]]:
        """The clusters, in the order of their first units."""
        return list(dict.fromkeys(self.of.values()))


def fuse_greedily(units: Units, legality: Legality) -> Clusters:
    """Merge each unit into the kernels that it reads from, phase by phase, then kernels that read the same values."""
    clusters = Clusters(units, legality)
    fusible = [u for u in units.units if not u.is_library]
    for same_phase in (True, False):
        for unit in fusible:
            producers = [p for p in units.before[unit] if not p.is_library]
            # The nearest producer first: it holds what was computed last, hence the longest chain.
            for other in sorted(producers, key=lambda p: -p.value.index):
                if same_phase and _phase(other) != _phase(unit):
                    continue
                if clusters.of[other] is not clusters.of[unit]:
                    clusters.merge(clusters.of[other], clusters.of[unit])
    _fuse_siblings(units, legality, clusters)
    return clusters


def _phase(unit: Unit) -> str:
    return unit.value.scope.phase


def _fuse_siblings(units: Units, legality: Legality, clusters: Clusters) -> None:
    """Kernels that read one value, and sums finished after one kernel, become one where that is legal."""
    groups: list[list[Unit]] = [[r for r in readers if not r.is_library] for readers in legality.readers.values()]
    by_kernel: dict[frozenset[Unit], list[Unit]] = {}
    for unit in units.units:
        if unit.part == COMBINE:
            (partial,) = units.before[unit]
            by_kernel.setdefault(clusters.of[partial], []).append(unit)
    for group in [*groups, *by_kernel.values()]:
        for first, second in zip(group, group[1:], strict=False):
            if clusters.of[first] is not clusters.of[second]:
                clusters.merge(clusters.of[first], clusters.of[second])
