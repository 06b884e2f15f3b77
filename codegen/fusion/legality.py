"""Which units may share a kernel: the rules, as a table, and the space that a kernel iterates over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.primitives.library import LIBRARY_OPS

from ..analysis.axes import ROW_BYTES, Axes, Labels, Space, known_product, row_bytes
from ..analysis.units import OPERAND, PARTIAL, PRODUCT, Unit, Units, UnitSet, consumers
from ..analysis.views import is_join, memory_of
from ..cost.matmul import WHOLE_COLUMNS
from .facts import AxisSet, Facts, FactsOfUnits

ACCUMULATED_ROWS = 5
"""Rows that the gradient of a norm keeps on chip: of x, d and the weight, and of two sums that it accumulates."""


SUMMED_ROWS = 3
"""Rows that a kernel keeps on chip which sums whole rows to one number: of two operands, and of what it computes."""


MAX_UNITS = 256
"""The most primitives of one kernel: each may keep a value alive, and registers are few."""


@dataclass(frozen=True)
class Refusal:
    """Why units cannot share a kernel: the rule's name and one sentence."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Shape:
    """Rows and columns of a legal kernel, in no order; what it `may_store` has exactly these axes."""

    rows: AxisSet
    cols: AxisSet
    may_store: frozenset[AxisSet]


Reason = Callable[["Legality", Iterable[Unit]], str]


@dataclass(frozen=True)
class Rule:
    """`breaks` says whether facts break the rule; `reason` tells a reader, naming the culprit among the members."""

    name: str
    breaks: Callable[[Facts, Axes], bool]
    reason: Reason = field(compare=False)


# -- what the rules ask --


def _columns(facts: Facts) -> AxisSet | None:
    """The axes that row reductions run over, None if there are none."""
    return next(iter(facts.reductions))[0] if facts.reductions else None


def _rows(facts: Facts) -> AxisSet:
    """What is spread over programs: all but the columns, or what the partial sum over the fewest axes sums over."""
    cols = _columns(facts)
    if cols is not None:
        return facts.axes - cols
    if facts.sums:
        return min((gone for gone, _ in facts.sums), key=lambda gone: (len(gone), sorted(gone)))
    if facts.products:
        return min(facts.products, key=lambda pair: sorted(pair[0]))[0]
    return facts.axes


def _bad_sums(facts: Facts) -> bool:
    rows = _rows(facts)
    return any(_is_bad_sum(gone, have, rows, facts.axes - rows) for gone, have in facts.sums)


def _is_bad_sum(gone: AxisSet, have: AxisSet, rows: AxisSet, cols: AxisSet) -> bool:
    """Whether a partial sum is no sum over all rows of the kernel, with either all of its columns left or none."""
    leaves_columns = gone == rows and have - gone in (cols, frozenset())
    return not (leaves_columns or gone == have == rows | cols)


def _is_long_row(facts: Facts, axes: Axes) -> bool:
    """Whether a sum over all rows, taken of whole rows or beside them, outgrows the registers together with them.

    A sum over single numbers of each row can wait until a loop along the row is over; one over columns cannot.
    """
    cols = facts.axes - _rows(facts)
    wide = [(gone, have) for gone, have in facts.sums if have & cols]
    holds_rows = facts.reductions or any(gone == have for gone, have in wide)
    rows = ACCUMULATED_ROWS if any(have - gone for gone, have in wide) else SUMMED_ROWS
    return bool(wide and holds_rows) and row_bytes(axes, cols, rows * facts.itemsize) > ROW_BYTES


def _is_no_tile(facts: Facts) -> bool:
    """Whether a matrix product is no tile of the kernel: its rows and columns are those of the kernel, or the other way
    round."""
    rows = _rows(facts)
    return any({rows, facts.axes - rows} != set(pair) for pair in facts.products)


def _is_wide_product(facts: Facts, axes: Axes) -> bool:
    """Whether whole rows beside a product are wider than a tile that the product may have."""
    cols = facts.axes - _rows(facts)
    holds_rows = facts.reductions or any(gone == have for gone, have in facts.sums)
    length = known_product(axes, cols)
    return bool(facts.products and holds_rows) and (length is None or length > WHOLE_COLUMNS)


# -- what the rules tell --


def _said(text: str) -> Reason:
    return lambda legality, members: text


def _name_of_bad_sum(legality: Legality, members: Iterable[Unit]) -> str:
    units = sorted(members, key=legality.place.__getitem__)
    facts = legality.facts_of(units)
    rows = _rows(facts)
    for unit in units:
        for gone, have in legality.facts[unit].sums:
            if _is_bad_sum(gone, have, rows, facts.axes - rows):
                return f"{unit.value.name} is not a sum over all rows that the kernel would iterate over"
    raise AssertionError("no sum breaks the rule")


def _name_of_reductions(legality: Legality, members: Iterable[Unit]) -> str:
    units = sorted(members, key=legality.place.__getitem__)
    over = {cols: u for u in reversed(units) for cols, _ in legality.facts[u].reductions}
    if len(over) > 1:
        one, other, *_ = sorted(over.values(), key=legality.place.__getitem__)
        return f"{one.value.name} and {other.value.name} reduce rows over different axes"
    (cols,) = over
    without = next(u for u in units if any(not have >= cols for _, have in legality.facts[u].reductions))
    return f"{without.value.name} reduces what has no whole rows of the kernel"


def _name_of_twice(legality: Legality, members: Iterable[Unit]) -> str:
    value = min(legality.facts_of(members).twice, key=lambda v: v.index)
    return f"one axis occurs twice in {value.name}"


def _name_of_call(legality: Legality, members: Iterable[Unit]) -> str:
    if any(unit.is_collective for unit in members):
        return "processes add up what they have between launches, which nothing is fused into"
    call = next((u.value.attrs["call"] for u in members if u.value.op.name in LIBRARY_OPS), None)
    if call is not None:
        return f"{call} has no formula here: it is one call of torch, which nothing is fused into"
    return "a matrix product is a library call here, which takes a bias at most: a kernel would take longer"


RULES = (
    Rule(
        "library",
        lambda facts, axes: facts.libraries > 1 or (facts.libraries > 0 and facts.generated),
        _name_of_call,
    ),
    Rule("axis twice", lambda facts, axes: bool(facts.twice), _name_of_twice),
    Rule(
        "finalize",
        lambda facts, axes: bool(facts.finalizes and (facts.sums or facts.reductions)),
        _said("partials are added up after the programs that write them, so nothing is reduced there"),
    ),
    Rule(
        "finalize",
        lambda facts, axes: any(have != facts.axes for have in facts.finalizes),
        _said("each finalized sum is computed once, so all values in its kernel have its shape"),
    ),
    Rule(
        "different reduction axes",
        lambda facts, axes: (
            len({cols for cols, _ in facts.reductions}) > 1 or any(not have >= cols for cols, have in facts.reductions)
        ),
        _name_of_reductions,
    ),
    Rule("different columns", lambda facts, axes: _bad_sums(facts), _name_of_bad_sum),
    Rule(
        "matmul",
        lambda facts, axes: bool(facts.products and facts.finalizes) or _is_no_tile(facts),
        _said("a matmul is computed tile by tile, and the kernel iterates over other tiles"),
    ),
    Rule(
        "matmul",
        _is_wide_product,
        _said("whole rows are needed there, which are wider than a tile of a matrix product can be"),
    ),
    Rule(
        "long row",
        _is_long_row,
        _said("a sum over all rows is accumulated beside whole rows, and both together exceed the registers"),
    ),
)
"""What a set of units must not be, whatever the rest of the plan is. Once broken, a rule stays broken for larger sets,
so a search need not go on."""


@dataclass(frozen=True)
class _Found:
    """What was found out about facts: each set of them once, those of units and of sets of units, sums of two and the
    shape of one by their identity."""

    of_units: FactsOfUnits
    facts: dict[Facts, Facts] = field(default_factory=dict)
    units: dict[Unit, Facts] = field(default_factory=dict)
    sources: dict[Unit, tuple[Value, ...]] = field(default_factory=dict)
    axes_of: dict[Unit, AxisSet] = field(default_factory=dict)
    sets: dict[UnitSet, Facts] = field(default_factory=dict)
    loads: dict[UnitSet, tuple[Value, ...]] = field(default_factory=dict)
    sums: dict[tuple[int, int], Facts] = field(default_factory=dict)
    shapes: dict[int, Shape | Rule] = field(default_factory=dict)


class Legality:
    """Answers whether a set of units can be one kernel.

    `members` are all units. `facts` holds those of each unit (and of others that `known` has), `sources` what it reads,
    `axes_of` the axes of its result. `apart` are pairs of units that a user forbade to share a kernel. `known` answers
    for the same axes under other reduction strategies: what it has found out about facts holds here too.
    """

    def __init__(self, units: Units, apart: Iterable[tuple[Unit, Unit]] = (), known: Legality | None = None) -> None:
        self.units = units
        self.axes = units.axes
        self.members = frozenset(units.units)
        self.apart: dict[Unit, set[Unit]] = {}
        for one, other in apart:
            self.apart.setdefault(one, set()).add(other)
            self.apart.setdefault(other, set()).add(one)
        self.place = {u: i for i, u in enumerate(units.units)}
        self._found: _Found = _Found(_facts_of_units(units)) if known is None else known._found
        self._written_as = self._found.of_units.written_as
        self.sources, self.facts, self.axes_of = self._found.sources, self._found.units, self._found.axes_of
        self._known = known
        self._spaces: dict[tuple[UnitSet, UnitSet], Space | Refusal] = {}
        for unit in units.units:
            if unit not in self.facts:
                self.axes_of[unit] = units.axes.of(unit.value)
                self.sources[unit] = tuple(dict.fromkeys(units.sources(unit)))
                self.facts[unit] = self._intern(self._found.of_units.of(unit, self.sources[unit]))

    @cached_property
    def readers(self) -> Mapping[Value, list[Unit]]:
        """For each value in memory the units that read it."""
        return consumers(self.units)

    # -- one set of units --

    def add(self, one: Facts, other: Facts) -> Facts:
        """The facts of two sets together. Takes and returns facts of this object, which it remembers."""
        key = (id(one), id(other))
        found = self._found.sums.get(key)
        if found is None:
            self._found.sums[key] = found = self._intern(one + other)
        return found

    def facts_of(self, members: Iterable[Unit]) -> Facts:
        """The facts of some units, each of them once."""
        if not isinstance(members, frozenset):
            return self._facts_of_all(members)
        found = self._found.sets.get(members)
        if found is None:
            found = self._found.sets[members] = self._facts_of_all(members)
        return found

    def loads(self, kernel: UnitSet, recomputed: Collection[Value] = ()) -> tuple[Value, ...]:
        """The values that a kernel reads from memory, in the order in which it first needs them."""
        if recomputed:
            return self._loads(kernel.union(self.units.producer[v] for v in recomputed))
        found = self._found.loads.get(kernel)
        if found is None:
            found = self._found.loads[kernel] = self._loads(kernel)
        return found

    def _loads(self, members: UnitSet) -> tuple[Value, ...]:
        inside = {u.value for u in members if u.part != PARTIAL}
        found: dict[Value, None] = {}
        for unit in sorted(members, key=_index):
            for source in self.sources[unit]:
                if source not in inside:
                    found[source] = None
        return tuple(found)

    def shape(self, facts: Facts) -> Shape | Rule:
        """Rows and columns of a kernel with these facts, or the rule that forbids it."""
        found = self._found.shapes.get(id(facts))
        if found is None:
            found = self._found.shapes[id(facts)] = self._shape(facts)
        return found

    def is_stored(self, unit: Unit, holds: Callable[[Unit], bool]) -> bool:
        """Whether a result must reach memory: read by a unit that the kernel does not hold, or an output."""
        if unit.part in (PARTIAL, OPERAND):
            return False
        value = unit.value
        return value in self.units.roots or any(not holds(r) for r in self.readers.get(value, ()))

    def space(self, members: UnitSet, stored: Iterable[Unit] | None = None) -> Space | Refusal:
        """The space that one kernel for `members` iterates over, or why there is none."""
        if stored is None:
            stored = [u for u in members if self.is_stored(u, members.__contains__)]
        key = (members, frozenset(stored))
        found = self._spaces.get(key)
        if found is None:
            # Units that both have are read and written alike.
            known = self._known
            found = self._space(*key) if known is None or not members <= known.members else known.space(*key)
            self._spaces[key] = found
        return found

    def _space(self, members: UnitSet, stored: UnitSet) -> Space | Refusal:
        facts = self.facts_of(members)
        shape = self.shape(facts)
        if isinstance(shape, Rule):
            return Refusal(shape.name, shape.reason(self, sorted(members, key=_index)))
        refusal = self.conflict(members, facts, members.__contains__)
        if refusal is not None:
            return refusal
        for unit in sorted(stored, key=self.place.__getitem__):
            if self.axes_of[unit] not in shape.may_store:
                return one_writer(unit)
        orders = self._orders(members)
        return Space(
            _ordered(shape.rows, orders),
            _ordered(shape.cols, orders),
            bool(facts.reductions),
            bool(facts.sums),
            bool(facts.finalizes),
        )

    def overwrites(self, unit: Unit, other: Unit) -> bool:
        """Whether a unit overwrites in place what the other one reads."""
        written = self.facts[unit].written
        return bool(written) and any(leaf in written for leaf, _ in self.facts[other].read)

    def conflict(self, members: Collection[Unit], facts: Facts, holds: Callable[[Unit], bool]) -> Refusal | None:
        """What stands between members themselves: one needs another's result in memory first, or a user says no."""
        if len(members) > MAX_UNITS:
            return Refusal("size", f"more than {MAX_UNITS} primitives would not keep their values in registers")
        for memory in facts.whole:
            if any(holds(w) and w.part != OPERAND for w in self.units.writers(memory)):
                return self._memory_first(memory, members)
        refusal = self.in_place(facts)
        if refusal is not None:
            return refusal
        return self.parted(members)

    def is_parted(self, one: Unit, other: Unit) -> bool:
        """Whether a user forbids two units to share a kernel."""
        return other in self.apart.get(one, ())

    def apart_from(self, members: Iterable[Unit]) -> set[Unit]:
        """What a user forbids to share a kernel with some of these units."""
        return {other for unit in members for other in self.apart.get(unit, ())} if self.apart else set()

    def parted(self, members: Iterable[Unit]) -> Refusal | None:
        """The refusal of the first pair of some units, in the order of the graph, that a user forbids to fuse."""
        if not self.apart:
            return None
        held = set(members)
        pairs = ((unit, other) for unit in held for other in self.apart.get(unit, ()) if other in held)
        first = min(pairs, key=lambda pair: tuple(map(self.place.__getitem__, pair)), default=None)
        return None if first is None else forbidden(*first)

    @staticmethod
    def _memory_first(memory: Value, members: Iterable[Unit]) -> Refusal:
        if any(u.part in (PRODUCT, OPERAND) and memory in set(map(memory_of, u.value.inputs)) for u in members):
            direct = [u for u in members if u.part == PRODUCT and memory in set(map(memory_of, u.value.inputs))]
            by = min(direct, key=_index).value.name if direct else "a matmul of the kernel"
            reason = f"{by} multiplies {memory.name}, and many programs read each of its rows"
            return Refusal("matmul", f"{reason}, so it must be whole in memory before")
        what = "joined of parts" if is_join(memory) else "read in another order than it is computed in"
        return Refusal("memory first", f"{memory.name} is {what}, so it must be whole in memory before")

    def is_read_as_written(self, leaf: Value) -> bool:
        """Whether a leaf that is updated in place lies in the order of its new value."""
        return self.axes.iterated(self.axes.labels[leaf]) == self._written_as[leaf]

    def in_place(self, facts: Facts) -> Refusal | None:
        """Whether a leaf is overwritten in one order and read in another."""
        for leaf, labels in facts.read if facts.written else ():
            if leaf in facts.written and self.axes.iterated(labels) != self._written_as[leaf]:
                return Refusal("in place", f"{leaf.name} is overwritten there while other programs still read it")
        return None

    # -- inside --

    def _intern(self, facts: Facts) -> Facts:
        return self._found.facts.setdefault(facts, facts)

    def _facts_of_all(self, members: Iterable[Unit]) -> Facts:
        first, *rest = (self.facts[u] for u in members)
        for facts in rest:
            first = self.add(first, facts)
        return first

    def _orders(self, members: Iterable[Unit]) -> list[Labels]:
        """The labels of results and arguments, each once, in the order of the graph."""
        seen: dict[Labels, None] = {}
        for unit in sorted(members, key=_index):
            seen.update(dict.fromkeys(self._found.of_units.labels(unit)))
        return list(seen)

    def _shape(self, facts: Facts) -> Shape | Rule:
        for rule in RULES:
            if rule.breaks(facts, self.axes):
                return rule
        if facts.libraries:
            return Shape(frozenset(), frozenset(), frozenset([facts.axes]))
        rows = _rows(facts)
        # A row's statistic has one writer, as a program holds whole rows; anything else is written lane by lane.
        may_store = {facts.axes, rows} if facts.reductions else {facts.axes}
        return Shape(rows, facts.axes - rows, frozenset(may_store))


def _index(unit: Unit) -> int:
    return unit.value.index


def _facts_of_units(units: Units) -> FactsOfUnits:
    graph, axes = units.graph, units.axes
    updated = {memory_of(new): graph[name] for name, new in graph.updates.items() if not new.is_leaf}
    # A leaf that nobody reads has axes of its own: what is written there lies in the order of the new value.
    return FactsOfUnits(axes, updated, {leaf: axes.iterated(axes.labels[v]) for v, leaf in updated.items()})


def _ordered(some: AxisSet, orders: list[Labels]) -> tuple[int, ...]:
    """Axes in the order of memory: that of the labels which have most of them."""
    best = max((tuple(a for a in labels if a is not None and a in some) for labels in orders), key=len, default=())
    return (*best, *sorted(some.difference(best)))


def one_writer(unit: Unit) -> Refusal:
    """The refusal of a kernel that would write a result from several programs."""
    return Refusal("one writer", f"{unit.value.name} lacks an axis of the kernel, so several programs would write it")


def forbidden(unit: Unit, other: Unit) -> Refusal:
    """The refusal of a pair that a user forbids to fuse."""
    return Refusal("forbidden", f"{unit.value.name} and {other.value.name} are forbidden to fuse")
