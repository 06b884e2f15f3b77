"""Which units may share a kernel: the rules, as a table, and the space that a kernel iterates over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.primitives.library import LIBRARY_OPS

from ..analysis.axes import ROW_BYTES, Axes, Labels, Space, known_product, reduced_axes, row_bytes
from ..analysis.matmul import sides
from ..analysis.units import FINALIZE, OPERAND, PARTIAL, PRODUCT, REPLICATED, Unit, Units, consumers, iterated_inputs
from ..analysis.views import base_of, is_alias, is_free, is_host, is_join, memory_of, source_of
from ..cost.matmul import WHOLE_COLUMNS

AxisSet = frozenset[int]


ACCUMULATED_ROWS = 5
"""Rows that the gradient of a norm keeps on chip: of x, d and the weight, and of two sums that it accumulates."""


SUMMED_ROWS = 3
"""Rows that a kernel keeps on chip which sums whole rows to one number: of two operands, and of what it computes."""


_WHOLE: Labels = (-1,)
"""The order in which a product reads a leaf: no kernel's own, as a program reads what lies in other programs' tiles."""


MAX_UNITS = 256
"""The most primitives of one kernel: each may keep a value alive, and registers are few."""


@dataclass(frozen=True)
class Refusal:
    """Why units cannot share a kernel: the rule's name and one sentence."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of a set of units. Facts of two sets add up, and many sets have the same.

    `axes` are all that a kernel would iterate over. `sums` are (axes summed over, axes of what is summed) of each
    partial sum, `reductions` (columns, axes of what is reduced) of each row reduction, `finalizes` the axes of each
    finalized sum, `products` (axes of its rows, axes of its columns) of each product that a generated kernel computes.
    `whole` are memories that must be complete before the kernel starts. `written` are leaves that are updated in
    place, `read` such leaves with the order in which they are read. `itemsize` is that of the widest number computed,
    4 at least.
    """

    axes: AxisSet = frozenset()
    generated: bool = True
    libraries: int = 0
    twice: frozenset[Value] = frozenset()
    finalizes: frozenset[AxisSet] = frozenset()
    sums: frozenset[tuple[AxisSet, AxisSet]] = frozenset()
    reductions: frozenset[tuple[AxisSet, AxisSet]] = frozenset()
    products: frozenset[tuple[AxisSet, AxisSet]] = frozenset()
    whole: frozenset[Value] = frozenset()
    read: frozenset[tuple[Value, Labels]] = frozenset()
    written: frozenset[Value] = frozenset()
    itemsize: int = 4

    def __add__(self, other: Facts) -> Facts:
        return Facts(
            self.axes | other.axes,
            self.generated or other.generated,
            self.libraries + other.libraries,
            self.twice | other.twice,
            self.finalizes | other.finalizes,
            self.sums | other.sums,
            self.reductions | other.reductions,
            self.products | other.products,
            self.whole | other.whole,
            self.read | other.read,
            self.written | other.written,
            max(self.itemsize, other.itemsize),
        )


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


def _name_of_twice(legality: Legality, members: Iterable[Unit]) -> str:
    value = min(legality.facts_of(members).twice, key=lambda v: v.index)
    return f"one axis occurs twice in {value.name}"


def _name_of_call(legality: Legality, members: Iterable[Unit]) -> str:
    if any(unit.is_collective for unit in members):
        return "processes add up what they have between launches, which nothing is fused into"
    call = next((u.value.attrs["call"] for u in members if u.value.op.name in LIBRARY_OPS), None)
    if call is not None:
        return f"{call} has no formula here: it is one call of torch, which nothing is fused into"
    return "a matrix product is a library call here, which nothing is fused into: a kernel would take longer"


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
        _said("its row reductions run over different axes"),
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
    """What was found out about facts: each set of them once, those of a value's part, sums of two and the shape of one
    by their identity."""

    facts: dict[Facts, Facts] = field(default_factory=dict)
    units: dict[tuple[Value, str], Facts] = field(default_factory=dict)
    sources: dict[tuple[Value, str], tuple[Value, ...]] = field(default_factory=dict)
    touched: dict[tuple[Value, str], tuple[Value, ...]] = field(default_factory=dict)
    sums: dict[tuple[int, int], Facts] = field(default_factory=dict)
    shapes: dict[int, Shape | Rule] = field(default_factory=dict)


class Legality:
    """Answers whether a set of units can be one kernel.

    `facts` holds those of each unit, `sources` what it reads, `axes_of` the axes of its result. `apart` are pairs of
    units that a user forbade to share a kernel. `known` answers for the same axes under other reduction strategies:
    what it has found out about facts holds here too.
    """

    def __init__(self, units: Units, apart: Iterable[tuple[Unit, Unit]] = (), known: Legality | None = None) -> None:
        self.units = units
        self.axes = units.axes
        self.readers = consumers(units)
        self.axes_of = {u: units.axes.of(u.value) for u in units.units}
        self.apart: dict[Unit, set[Unit]] = {}
        for one, other in apart:
            self.apart.setdefault(one, set()).add(other)
            self.apart.setdefault(other, set()).add(one)
        self._updated = {
            memory_of(new): units.graph[name] for name, new in units.graph.updates.items() if not new.is_leaf
        }
        # A leaf that nobody reads has axes of its own: what is written there lies in the order of the new value.
        self._written_as = {leaf: self.axes.iterated(self.axes.labels[v]) for v, leaf in self._updated.items()}
        self.place = {u: i for i, u in enumerate(units.units)}
        self._found: _Found = _Found() if known is None else known._found
        self.sources = {u: self._sources_of(u) for u in units.units}
        self._known = known
        self._spaces: dict[tuple[frozenset[Unit], frozenset[Unit]], Space | Refusal] = {}
        self.facts = {u: self._facts_of_unit(u) for u in units.units}

    # -- one set of units --

    def add(self, one: Facts, other: Facts) -> Facts:
        """The facts of two sets together. Takes and returns facts of this object, which it remembers."""
        key = (id(one), id(other))
        found = self._found.sums.get(key)
        if found is None:
            self._found.sums[key] = found = self._intern(one + other)
        return found

    def facts_of(self, members: Iterable[Unit]) -> Facts:
        """The facts of a set of units."""
        first, *rest = (self.facts[u] for u in members)
        for facts in rest:
            first = self.add(first, facts)
        return first

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

    def space(self, members: frozenset[Unit], stored: Iterable[Unit] | None = None) -> Space | Refusal:
        """The space that one kernel for `members` iterates over, or why there is none."""
        if stored is None:
            stored = [u for u in members if self.is_stored(u, members.__contains__)]
        key = (members, frozenset(stored))
        found = self._spaces.get(key)
        if found is None:
            # Units that both have are read and written alike.
            is_known = self._known is not None and all(u in self._known.place for u in members)
            found = self._known.space(*key) if is_known and self._known is not None else self._space(*key)
            self._spaces[key] = found
        return found

    def _space(self, members: frozenset[Unit], stored: frozenset[Unit]) -> Space | Refusal:
        facts = self.facts_of(members)
        shape = self.shape(facts)
        if isinstance(shape, Rule):
            return Refusal(shape.name, shape.reason(self, sorted(members, key=lambda u: u.value.index)))
        refusal = self.conflict(members, facts, members.__contains__)
        if refusal is not None:
            return refusal
        for unit in sorted(stored, key=self.place.__getitem__):
            if self.axes_of[unit] not in shape.may_store:
                return one_writer(unit)
        touched = self._touched(members)
        return Space(
            self._ordered(shape.rows, touched),
            self._ordered(shape.cols, touched),
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
        if self.apart:
            for unit in members:
                for other in self.apart.get(unit, ()):
                    if holds(other):
                        return Refusal("forbidden", f"{unit.value.name} and {other.value.name} are forbidden to fuse")
        return None

    @staticmethod
    def _memory_first(memory: Value, members: Iterable[Unit]) -> Refusal:
        if any(u.part in (PRODUCT, OPERAND) and memory in set(map(memory_of, u.value.inputs)) for u in members):
            reason = f"{memory.name} is multiplied there, many programs read each of its rows"
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

    def _sources_of(self, unit: Unit) -> tuple[Value, ...]:
        key = (unit.value, unit.part)
        found = self._found.sources.get(key)
        if found is None:
            found = self._found.sources[key] = tuple(dict.fromkeys(self.units.sources(unit)))
        return found

    def _facts_of_unit(self, unit: Unit) -> Facts:
        key = (unit.value, unit.part)
        found = self._found.units.get(key)
        if found is None:
            found = self._found.units[key] = self._intern(self._facts(unit))
        return found

    def _facts(self, unit: Unit) -> Facts:
        axes, value = self.axes, unit.value
        written = frozenset([self._updated[value]]) if value in self._updated and unit.part != PARTIAL else frozenset()
        if unit.part == FINALIZE:
            return Facts(axes.of(value), finalizes=frozenset([axes.of(value)]), written=written)
        if unit.is_library:
            return Facts(axes.of(value), generated=False, libraries=1)
        if unit.part == REPLICATED:
            return Facts()
        if unit.part == OPERAND:
            # What it reads is read by other programs as well, in whichever tile it lies.
            read = frozenset(map(memory_of, self.sources[unit]))
            return Facts(whole=read, read=frozenset((m, _WHOLE) for m in read if m in self._written_as))
        touched = self._touched([unit])
        sums = reductions = products = frozenset[tuple[AxisSet, AxisSet]]()
        if unit.part == PRODUCT:
            products = frozenset([sides(axes, value)])
        if value.op.kind == "reduction":
            pair = frozenset([(reduced_axes(axes, value), axes.of(value.inputs[0]))])
            sums, reductions = (pair, reductions) if unit.part == PARTIAL else (sums, pair)
        return Facts(
            frozenset().union(*(axes.of(v) for v in touched)),
            twice=frozenset(v for v in touched if not axes.is_distinct(v)),
            sums=sums,
            reductions=reductions,
            products=products,
            whole=frozenset(self._read_whole(unit)),
            read=frozenset(
                (m, _WHOLE if unit.part == PRODUCT else axes.labels[base_of(a)])
                for a in value.inputs
                if (m := memory_of(a)) in self._written_as
            ),
            written=written,
            itemsize=max(4, value.dtype.itemsize),
        )

    def _read_whole(self, unit: Unit) -> Iterable[Value]:
        """Memories that the unit reads in an order of their own: tables, what is joined, reshaped or taken apart."""
        table = unit.value.inputs[0] if unit.value.op.kind == "gather" else None
        if unit.part == PRODUCT:
            yield from map(memory_of, unit.value.inputs)
            return
        for arg in unit.value.inputs:
            source = base_of(arg)
            if arg is table or is_alias(source) or is_join(memory_of(source)):
                yield memory_of(source)

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

    def _touched(self, members: Iterable[Unit]) -> list[Value]:
        """Results and arguments, in graph order."""
        seen: dict[Value, None] = {}
        for unit in sorted(members, key=lambda u: u.value.index):
            key = (unit.value, unit.part)
            found = self._found.touched.get(key)
            if found is None:
                found = self._found.touched[key] = tuple(_touched_by(unit))
            for value in found:
                seen.setdefault(value)
        return list(seen)

    def _ordered(self, some: AxisSet, touched: list[Value]) -> tuple[int, ...]:
        """Axes in the order of memory: that of the value which has most of them."""
        best = max((tuple(a for a in self.axes.labels[v] if a in some) for v in touched), key=len, default=())
        rest = sorted(some - {a for a in best if a is not None})
        return (*(a for a in best if a is not None), *rest)


def _touched_by(unit: Unit) -> Iterator[Value]:
    """The arguments and the result of a unit, as far as it iterates over them."""
    if unit.part == OPERAND:
        return
    if unit.part not in (FINALIZE, REPLICATED, PRODUCT):
        for arg in iterated_inputs(unit.value):
            if not (is_free(arg) or is_host(arg) or is_free(base_of(arg))):
                yield source_of(arg)
            yield arg
    if unit.part != PARTIAL:
        yield unit.value


def one_writer(unit: Unit) -> Refusal:
    """The refusal of a kernel that would write a result from several programs."""
    return Refusal("one writer", f"{unit.value.name} lacks an axis of the kernel, so several programs would write it")
