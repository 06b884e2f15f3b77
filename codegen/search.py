"""The best partition of a small graph: branch and bound over the kernel that computes each value, and those that
compute it again.

Values are placed from the last to the first, so that whoever reads one has its kernels already: what its choice moves
is then known exactly, and the bytes counted so far never shrink again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .atoms import Atom
from .clusters import Partition
from .fusion import AxisSet, Facts, Legality, Rule
from .traffic import LAUNCH_BYTES

BUDGET = 20_000
"""How many placements a search may try: about a second. A search that needs more stops, and says so."""

MOST_READERS = 5
"""Where more kernels need a value, either all of them compute it again or none."""


STARTS = 16
"""How many atoms a set of mutually exclusive ones is grown from; the largest set bounds the launches."""


@dataclass(frozen=True)
class Found:
    """What a search came to: a partition if one costs less than what was known, whether nothing is better, and how many
    placements were tried."""

    partition: Partition | None
    is_proved: bool
    nodes: int


@dataclass(frozen=True)
class _Option:
    """One way to place an atom: the kernel that computes it (None: a new one), those that compute it again, what that
    adds in bytes, and the kernels that wait for it."""

    home: int | None
    again: tuple[int, ...]
    added: int
    loaders: int
    stored: frozenset[AxisSet]
    facts: dict[int, Facts] = field(compare=False)


@dataclass(frozen=True)
class _Kernel:
    """A kernel so far. `members`, `holds` (members and what is computed again), `loaded` (memories) and `after`
    (kernels that wait for it) are bit sets; `stored` the axes of what it must write."""

    members: int
    holds: int
    facts: Facts
    loaded: int
    stored: frozenset[AxisSet]
    after: int


class Search:
    """One search over `atoms`, readers before what they read. `evaluate` gives a partition's cost in bytes."""

    def __init__(self, legality: Legality, atoms: Sequence[Atom], evaluate: Callable[[Partition], int]) -> None:
        self.legality = legality
        self.atoms = atoms
        self.evaluate = evaluate
        self.to_come = self._columns_to_come()
        self.together = [self._fits_with(i) for i in range(len(atoms))]
        self.rest = self._floors()
        self.apart = self._mutually_apart()
        self.kernels: list[_Kernel] = []
        self.legal: dict[int, Facts | None] = {0: None}
        self.nodes = 0
        self.best = 0
        self.found: Partition | None = None

    def run(self, known: int, budget: int = BUDGET) -> Found:
        """Look for a partition that costs less than `known`."""
        self.best, self.nodes, self.budget, self.is_complete = known, 0, budget, True
        self._place(0, 0)
        return Found(self.found, self.is_complete and self.nodes < self.budget, self.nodes)

    # -- the search --

    def _place(self, index: int, spent: int) -> None:
        if self.nodes >= self.budget or spent + self.rest[index] + self._launches(index) >= self.best:
            return
        self.nodes += 1
        if index == len(self.atoms):
            self._finish()
            return
        atom = self.atoms[index]
        options = [self._library(atom)] if atom.is_library else list(self._options(index, atom))
        options.sort(key=lambda o: (o.added + LAUNCH_BYTES * (o.home is None), o.home is None, -(o.home or 0), o.again))
        for option in options:
            before = list(self.kernels)
            self._apply(index, atom, option)
            self._place(index + 1, spent + option.added)
            self.kernels = before

    def _launches(self, index: int) -> int:
        """The least that the launches will cost: kernels so far, and one for each atom of a mutually exclusive set that
        fits into none of them."""
        more = 0
        for other in self.apart:
            if other >= index and not any(k.members & ~self.together[other] == 0 for k in self.kernels):
                more += 1
        return LAUNCH_BYTES * max(len(self.kernels) + more, len(self.apart))

    def _finish(self) -> None:
        for kernel in self.kernels:
            shape = self.legality.shape(kernel.facts)
            if isinstance(shape, Rule) or not kernel.stored <= shape.may_store:
                return
        partition = self._partition()
        cost = self.evaluate(partition)
        if cost < self.best:
            self.best, self.found = cost, partition

    def _partition(self) -> Partition:
        made = []
        again = {}
        for kernel in self.kernels:
            members = frozenset(u for i in _bits(kernel.members) for u in self.atoms[i].units)
            copies = [u.value for i in _bits(kernel.holds & ~kernel.members) for u in self.atoms[i].units]
            made.append(members)
            if copies:
                again[members] = tuple(sorted(copies, key=lambda v: v.index))
        return Partition(tuple(made), again)

    # -- options --

    def _library(self, atom: Atom) -> _Option:
        loaders = self._holding(atom.waiting) | self._members(atom.overwriters)
        stored = frozenset(out.axes for out in atom.outs)
        added = atom.first_loads
        for out in atom.outs:
            reading = self._readers(out.readers)
            added += out.size * (1 + len(reading))
            for c in reading:
                loaders |= 1 << c
        return _Option(None, (), added, loaders, stored, {})

    def _options(self, index: int, atom: Atom) -> Iterator[_Option]:
        bit = 1 << index
        reading = 0
        for out in atom.outs:
            for c in self._readers(out.readers):
                reading |= 1 << c
        far = self._holding(atom.far)
        for again in self._choices_of_copies(atom, list(_bits(reading))):
            copied: dict[int, Facts] = {}
            for c in again:
                facts = self._grown(c, bit, index)
                if facts is None or (far >> c & 1):
                    break
                copied[c] = facts
            else:
                if self._waits_in_circles(again, atom):
                    continue
                mask = sum(1 << c for c in again)
                for home in (*range(len(self.kernels)), None):
                    if home is not None and (mask >> home & 1 or far >> home & 1):
                        continue
                    option = self._option(index, atom, home, again, mask, copied, reading)
                    if option is not None:
                        yield option

    def _choices_of_copies(self, atom: Atom, reading: list[int]) -> Iterator[tuple[int, ...]]:
        yield ()
        if not atom.may_repeat:
            return
        if len(reading) > MOST_READERS:
            self.is_complete = False
            yield tuple(reading)
            return
        for chosen in range(1, 1 << len(reading)):
            yield tuple(c for place, c in enumerate(reading) if chosen >> place & 1)

    def _option(
        self,
        index: int,
        atom: Atom,
        home: int | None,
        again: tuple[int, ...],
        copies: int,
        copied: dict[int, Facts],
        reading: int,
    ) -> _Option | None:
        holders = copies | (0 if home is None else 1 << home)
        added = len(again) * atom.price
        stored: set[AxisSet] = set()
        loaders = self._holding(atom.waiting) | self._members(atom.overwriters)
        is_used = home is not None and bool(reading >> home & 1)
        for out in atom.outs:
            loading = [c for c in self._readers(out.readers) if not holders >> c & 1]
            for c in loading:
                loaders |= 1 << c
            added += out.size * len(loading)
            if out.must_store or loading:
                added += out.size
                stored.add(out.axes)
        if not stored and again:
            # Nobody needs it from memory: then it belongs to the first of the kernels that have it.
            first = (reading & -reading).bit_length() - 1
            if home != first or copies | 1 << first != reading:
                return None
        if not (stored or is_used or atom.leaves_sums):
            return None
        facts = dict(copied)
        if home is None:
            loaded = 0
            made = atom.facts
        else:
            kernel = self.kernels[home]
            if kernel.members & ~self.together[index]:
                return None
            grown = self._grown(home, 1 << index, index)
            if grown is None:
                return None
            if any(t != home and self.kernels[t].after >> home & 1 for t in _bits(loaders)):
                return None
            made, loaded = grown, kernel.loaded
            facts[home] = made
        if not self._may_store(made, stored if home is None else stored | self.kernels[home].stored, index):
            return None
        if any(not self._may_store(f, self.kernels[c].stored, index) for c, f in copied.items()):
            return None
        for memory, size in atom.loads:
            added += 0 if loaded >> memory & 1 else size
            added += sum(size for c in again if not self.kernels[c].loaded >> memory & 1)
        return _Option(home, again, added, loaders, frozenset(stored), facts)

    def _grown(self, c: int, bit: int, index: int) -> Facts | None:
        """The facts of a kernel with one more atom, None if that is no kernel."""
        holds = self.kernels[c].holds | bit
        if holds in self.legal:
            return self.legal[holds]
        atom, facts = self.atoms[index], None
        if not self.kernels[c].holds & atom.conflicts:
            sum_ = self.legality.add(self.kernels[c].facts, atom.facts)
            if not isinstance(self.legality.shape(sum_), Rule) and self.legality.in_place(sum_) is None:
                facts = sum_
        self.legal[holds] = facts
        return facts

    def _may_store(self, facts: Facts, stored: frozenset[AxisSet] | set[AxisSet], index: int) -> bool:
        """Whether a kernel can write values of these axes, or might once more is placed in it."""
        shape = self.legality.shape(facts)
        assert not isinstance(shape, Rule)
        if all(axes in shape.may_store for axes in stored):
            return True
        return not facts.reductions and self._may_yet_store(facts, stored, self.to_come[index + 1])

    def _may_yet_store(self, facts: Facts, stored: Iterable[AxisSet], columns: frozenset[AxisSet]) -> bool:
        """Whether each of these may be all axes of the kernel, or become its rows by a row reduction still to come."""
        return all(
            facts.axes <= axes or any(not axes & cols and facts.axes - cols <= axes for cols in columns)
            for axes in stored
        )

    def _waits_in_circles(self, again: tuple[int, ...], atom: Atom) -> bool:
        """Whether a kernel that computes the atom again would read a leaf after it is overwritten."""
        later = list(_bits(self._members(atom.overwriters)))
        return any(c != w and self.kernels[w].after >> c & 1 for c in again for w in later)

    def _readers(self, readers: int) -> list[int]:
        return [c for c, kernel in enumerate(self.kernels) if kernel.holds & readers]

    def _holding(self, atoms: int) -> int:
        return sum(1 << c for c, kernel in enumerate(self.kernels) if kernel.holds & atoms)

    def _members(self, atoms: int) -> int:
        return sum(1 << c for c, kernel in enumerate(self.kernels) if kernel.members & atoms)

    def _apply(self, index: int, atom: Atom, option: _Option) -> None:
        bit = 1 << index
        loads = sum(1 << memory for memory, _ in atom.loads)
        kernels = self.kernels = list(self.kernels)
        home = option.home
        if home is None:
            home = len(kernels)
            kernels.append(_Kernel(bit, bit, atom.facts, loads, option.stored, 0))
        else:
            k = kernels[home]
            kernels[home] = _Kernel(
                k.members | bit, k.holds | bit, option.facts[home], k.loaded | loads, k.stored | option.stored, k.after
            )
        edges = {home: option.loaders & ~(1 << home)}
        later = self._members(atom.overwriters)
        for c in option.again:
            k = kernels[c]
            kernels[c] = _Kernel(k.members, k.holds | bit, option.facts[c], k.loaded | loads, k.stored, k.after)
            edges[c] = later & ~(1 << c)
        for c, targets in edges.items():
            reached = targets
            for t in _bits(targets):
                reached |= kernels[t].after
            if reached & ~kernels[c].after:
                for i, k in enumerate(kernels):
                    if i == c or k.after >> c & 1:
                        kernels[i] = _Kernel(k.members, k.holds, k.facts, k.loaded, k.stored, k.after | reached)

    # -- bounds --

    def _floors(self) -> list[int]:
        """For each place in the order the bytes that what is still to be placed moves whatever is chosen."""
        rest = [0]
        seen: set[int] = set()
        first_reads: list[int] = []
        for atom in self.atoms:
            new = [size for memory, size in atom.loads if memory not in seen]
            seen |= {memory for memory, _ in atom.loads}
            first_reads.append(sum(new))
        for index in reversed(range(len(self.atoms))):
            atom = self.atoms[index]
            moved = first_reads[index]
            for out in atom.outs:
                loading = 0 if atom.may_repeat else len(self._exclusive(out.readers & ~self.together[index]))
                moved += out.size * (loading + (out.must_store or loading > 0))
            rest.append(rest[-1] + moved)
        return rest[::-1]

    def _columns_to_come(self) -> list[frozenset[AxisSet]]:
        """For each place in the order the columns of the row reductions behind it."""
        found = [frozenset[AxisSet]()]
        for atom in reversed(self.atoms):
            found.append(found[-1] | {cols for cols, _ in atom.facts.reductions})
        return found[::-1]

    def _fits_with(self, index: int) -> int:
        """The atoms that may share a kernel with this one, together with all that lies between."""
        fitting = 0
        for other, atom in enumerate(self.atoms):
            late, early = min(index, other), max(index, other)
            between = self.atoms[early].reached & self.atoms[late].reaching
            held = [self.atoms[i] for i in _bits(between | 1 << index | 1 << other)]
            if atom is self.atoms[index] or self._is_kernel(held, between | 1 << index | 1 << other):
                fitting |= 1 << other
        return fitting

    def _is_kernel(self, held: list[Atom], mask: int) -> bool:
        facts = held[0].facts
        for atom in held[1:]:
            facts = self.legality.add(facts, atom.facts)
        if isinstance(self.legality.shape(facts), Rule) or self.legality.in_place(facts) is not None:
            return False
        if any(atom.conflicts & mask or atom.far & mask for atom in held):
            return False
        written = {out.axes for atom in held for out in atom.outs if out.must_store}
        return facts.libraries > 0 or self._may_yet_store(facts, written, self.to_come[0])

    def _mutually_apart(self) -> list[int]:
        """Many atoms of which no two fit into one kernel, so that each has its own."""
        least = sorted(range(len(self.atoms)), key=lambda i: (self.together[i].bit_count(), i))[:STARTS]
        every = (1 << len(self.atoms)) - 1
        return max(([i, *self._exclusive(every & ~self.together[i])] for i in least), key=len, default=[])

    def _exclusive(self, among: int) -> list[int]:
        """Atoms among these of which no two fit into one kernel: next always one that leaves most of the others."""
        chosen: list[int] = []
        while among:
            best = max(_bits(among), key=lambda i: (among & ~self.together[i]).bit_count())
            chosen.append(best)
            among &= ~self.together[best]
        return chosen


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
