"""What a search moves about as a whole: units grouped where parting them could not pay, with all that a search needs to
know of them as bit sets."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import networkx

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import element_count

from ...analysis.units import PARTIAL, Unit, Units, UnitSet, is_elementwise
from ...analysis.views import base_of, memory_of
from ...cost.traffic import nominal_bytes, rematerialize_bytes
from ...support.sizes import NOMINAL_SIZES
from ..candidate import Candidate
from ..facts import AxisSet, Facts
from ..legality import Legality


@dataclass(frozen=True)
class Out:
    """A value that others read: its `size` in bytes, its axes, the atoms that read it (bits), and whether it must reach
    memory, whichever kernel reads it."""

    size: int
    axes: AxisSet
    readers: int
    must_store: bool


@dataclass(frozen=True)
class Atom:
    """Units that stay together. Other atoms are bits of their number, counted from the last.

    `loads` are memories by number, with the bytes read of each, that any kernel with this atom reads: leaves, and what
    is read in an order of its own. `far` atoms read such memories of this one, so they share no kernel with it;
    `waiting` ones come after its kernel, far ones included, `overwriters` not before it. It shares no kernel with
    `conflicts`. `reached` are all that depend on it, `reaching` all it depends on. `price` is what computing it again
    costs, which it must not be unless `may_repeat`.
    """

    units: tuple[Unit, ...]
    facts: Facts
    outs: tuple[Out, ...]
    loads: tuple[tuple[int, int], ...]
    price: int
    may_repeat: bool
    far: int
    waiting: int
    overwriters: int
    conflicts: int
    reached: int
    reaching: int

    @property
    def is_library(self) -> bool:
        return not self.facts.generated

    @property
    def leaves_sums(self) -> bool:
        return any(u.part == PARTIAL for u in self.units)

    @property
    def first_loads(self) -> int:
        """The bytes that a kernel of this atom alone reads of memory that it always reads."""
        return sum(size for _, size in self.loads)


def chains(start: Candidate) -> list[UnitSet]:
    """The finest groups that an optimum may be looked for in: a value with one reader, and that reader if it reads
    nothing else and is no larger. Wherever the value is computed the reader can be too, with fewer bytes to store. What
    the user wants in one kernel is one group, which need not go wherever a value that it reads is computed."""
    units, held = start.units, frozenset[Unit]().union(*start.wanted)
    free = (unit for unit in units.units if unit not in held)
    pairs = [(unit, before) for unit in free if (before := _only_source(start.legality, unit)) is not None]
    return _grouped(units, [*pairs, *(pair for group in start.wanted for pair in itertools.pairwise(group))])


def _only_source(legality: Legality, unit: Unit) -> Unit | None:
    """What a unit is computed from, if from nothing else, and if nobody else reads that."""
    units = legality.units
    sources = legality.sources[unit]
    if not is_elementwise(unit) or len(sources) != 1 or legality.facts[unit].written:
        return None
    before = units.producer.get(sources[0])
    if before is None or before.is_library or before.value in units.roots or before in legality.apart:
        return None
    is_narrowing = nominal_bytes(unit.value) <= nominal_bytes(before.value)
    is_only_reader = set(legality.readers[before.value]) == {unit}
    same_axes = legality.axes_of[unit] == legality.axes_of[before]
    return before if is_narrowing and is_only_reader and same_axes and unit not in legality.apart else None


def blocks(start: Candidate) -> list[UnitSet]:
    """Coarse groups, for graphs that are large: what a candidate has in one kernel of one op and phase, and what the
    user wants in one."""
    alike: dict[Hashable, list[Unit]] = {}
    for i, kernel in enumerate(start.kernels):
        for unit in sorted(kernel, key=lambda u: u.value.index):
            scope = unit.value.scope
            alike.setdefault((i, scope.name or unit.value.index, scope.phase), []).append(unit)
    groups = [*alike.values(), *start.wanted]
    return _grouped(start.units, [pair for group in groups for pair in itertools.pairwise(group)])


def _grouped(units: Units, pairs: Iterable[tuple[Unit, Unit]]) -> list[UnitSet]:
    """Units such that pairs stay together, and no two groups wait for each other."""
    same = networkx.Graph()
    same.add_nodes_from(units.units)
    same.add_edges_from(pairs)
    group_of = {u: i for i, found in enumerate(networkx.connected_components(same)) for u in found}
    waits = networkx.DiGraph()
    waits.add_nodes_from(group_of.values())
    for unit, needed in units.before.items():
        waits.add_edges_from((group_of[n], group_of[unit]) for n in needed if group_of[n] != group_of[unit])
    members: dict[int, list[Unit]] = {}
    for unit, group in group_of.items():
        members.setdefault(group, []).append(unit)
    return [frozenset(u for g in found for u in members[g]) for found in networkx.strongly_connected_components(waits)]


def make_atoms(legality: Legality, groups: list[UnitSet]) -> list[Atom]:
    """Atoms of groups that do not wait for each other in circles, readers before what they read."""
    units = legality.units
    ordered = _readers_first(legality, groups)
    number = {u: i for i, group in enumerate(ordered) for u in group}
    memories: dict[Value, int] = {}
    readers: dict[Value, int] = {}
    far: dict[int, int] = {}
    conflicts = [0] * len(ordered)
    loads: list[dict[Value, int]] = []

    def repel(one: int, other: int) -> None:
        conflicts[one] |= 1 << other
        conflicts[other] |= 1 << one

    for i, group in enumerate(ordered):
        mine: dict[Value, int] = {}
        for unit in sorted(group, key=lambda u: u.value.index):
            for source in legality.sources[unit]:
                producer = units.producer.get(source)
                memory = memory_of(source)
                if producer is not None and not unit.is_library and memory not in legality.facts[unit].whole:
                    if number[producer] != i:
                        readers[source] = readers.get(source, 0) | 1 << i
                    continue
                mine.setdefault(memory, _bytes_read(unit, source))
                for writer in units.writers(memory):
                    far[number[writer]] = far.get(number[writer], 0) | 1 << i
                    repel(number[writer], i)
            for other in legality.apart.get(unit, ()):
                if number[other] != i:
                    repel(number[other], i)
        for memory in mine:
            memories.setdefault(memory, len(memories))
        loads.append(mine)
    read_far = {m for m in memories if m in units.producer}
    reached, reaching = _reachability(units, ordered, number)
    atoms = []
    for i, group in enumerate(ordered):
        members = sorted(group, key=lambda u: (u.value.index, u.part != PARTIAL))
        outs = [
            Out(nominal_bytes(v), legality.axes_of[u], readers.get(v, 0), v in units.roots or v in read_far)
            for u in members
            if u.part != PARTIAL and ((v := u.value) in readers or v in units.roots or v in read_far)
        ]
        sums = [o for u in members if u.part == PARTIAL for o in units.after[u]]
        overwriters = [o for u in members for o in units.after[u] if o not in group and legality.overwrites(o, u)]
        atoms.append(
            Atom(
                tuple(members),
                legality.facts_of(members),
                tuple(outs),
                tuple((memories[m], size) for m, size in loads[i].items()),
                sum(rematerialize_bytes(u.value) for u in members),
                all(is_elementwise(u) and not legality.facts[u].written for u in members),
                far.get(i, 0),
                _bits(number[o] for o in sums) | far.get(i, 0),
                _bits(number[o] for o in overwriters),
                conflicts[i],
                reached[i],
                reaching[i],
            )
        )
    return atoms


def _readers_first(legality: Legality, groups: list[UnitSet]) -> list[UnitSet]:
    """Groups in an order in which each stands before all that it waits for; of several, the latest of the graph."""
    place = legality.place
    home = {u: group for group in groups for u in group}
    waits = networkx.DiGraph()
    waits.add_nodes_from(groups)
    for unit, needed in legality.units.before.items():
        waits.add_edges_from((home[unit], home[n]) for n in needed if home[n] is not home[unit])
    return list(networkx.lexicographical_topological_sort(waits, key=lambda g: -max(place[u] for u in g)))


def _reachability(units: Units, ordered: list[UnitSet], number: dict[Unit, int]) -> tuple[list[int], list[int]]:
    """For each atom those that depend on it, and those that it depends on."""
    direct = [_bits({number[o] for u in group for o in units.after[u]} - {i}) for i, group in enumerate(ordered)]
    reached = [0] * len(ordered)
    reaching = [0] * len(ordered)
    for i, later in enumerate(direct):
        reached[i] = later
        for j in range(i):
            if later >> j & 1:
                reached[i] |= reached[j]
        for j in range(i):
            if reached[i] >> j & 1:
                reaching[j] |= 1 << i
    return reached, reaching


def _bytes_read(unit: Unit, source: Value) -> int:
    """What reading one source from memory moves."""
    memory = memory_of(source)
    shown = source if source.op.name == "narrow" else memory
    if unit.value.op.kind == "gather" and source is base_of(unit.value.inputs[0]):
        return min(nominal_bytes(memory), nominal_bytes(unit.value))
    return element_count(shown.shape, NOMINAL_SIZES) * memory.dtype.itemsize


def _bits(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask
