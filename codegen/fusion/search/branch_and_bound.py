"""The best partition of a small graph: branch and bound over the kernel that computes each value, and those that
compute it again.

Values are placed from the last to the first, so that all readers of a value have their kernels already: the bytes that
placing it moves are then known exactly, and the bytes counted so far never shrink again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..candidate import Candidate
from ..cost import cost_of
from ..facts import AxisSet, Facts
from ..legality import Rule
from ..partition import Partition
from .atoms import Atom

MOST_READERS = 5
"""Where more kernels need a value, either all of them compute it again or none."""


STARTS = 16
"""How many atoms a set of mutually exclusive ones is grown from; the largest set bounds the launches."""


@dataclass(frozen=True)
class Found:
    """What a search came to: a candidate if one costs less than what was known, whether nothing is better, and how many
    ways to place a value were tried."""

    candidate: Candidate | None
    is_proved: bool
    tried: int


class _Readers(NamedTuple):
    """The kernels so far, as bits, that read an atom: each of its values, `every` one that does, those that read it
    from memory wherever it is computed (`far`), and those that run `later` in any case."""

    each: tuple[int, ...]
    every: int
    far: int
    later: int


class _Option(NamedTuple):
    """One way to place an atom: the kernel that computes it (None: a new one), those that compute it again, what that
    adds in bytes, and the kernels that wait for it."""

    home: int | None
    recomputed: tuple[int, ...]
    added: int
    loaders: int
    stored: frozenset[AxisSet]
    facts: dict[int, Facts]


class _Kernel(NamedTuple):
    """A kernel so far. `members`, `holds` (members and what is computed again), `loaded` (memories) and `after`
    (kernels that wait for it) are bit sets; `stored` the axes of what it must write."""

    members: int
    holds: int
    facts: Facts
    loaded: int
    stored: frozenset[AxisSet]
    after: int


class Search:
    """One search over `atoms` of a candidate's units, readers before what they read."""

    def __init__(self, start: Candidate, atoms: Sequence[Atom]) -> None:
        self.start = start
        self.launch = start.options.planned_for.launch_bytes
        self.legality = start.legality
        self.atoms = atoms
        self.to_come = self._columns_to_come()
        self.together = self._fitting()
        self.rest = self._floors()
        self.apart = self._mutually_apart()
        self.apart_from = [[~self.together[i] for i in self.apart if i >= index] for index in range(len(atoms) + 1)]
        self.kernels: list[_Kernel] = []
        self.legal: dict[int, Facts | None] = {0: None}
        self.tried = 0
        self.best = 0
        self.found: Candidate | None = None

    def run(self, known: int, budget: int) -> Found:
        """Look for a candidate that costs less than `known`."""
        self.best, self.tried, self.budget, self.is_complete = known, 0, budget, True
        self._place(0, 0)
        return Found(self.found, self.is_complete and self.tried < budget, self.tried)

    # -- the search --

    def _place(self, index: int, spent: int) -> None:
        if index == len(self.atoms):
            self._finish()
            return
        atom = self.atoms[index]
        readers = self._readers(atom)
        options = [self._library(atom, readers)] if atom.is_library else list(self._options(index, atom, readers))
        self.tried += len(options)
        options.sort(
            key=lambda o: (o.added + self.launch * (o.home is None), o.home is None, -(o.home or 0), o.recomputed)
        )
        for option in options:
            least = spent + option.added + self.rest[index + 1]
            if least + self.launch * max(len(self.kernels) + (option.home is None), len(self.apart)) >= self.best:
                continue
            before = self.kernels
            self._apply(index, atom, option)
            if self.tried < self.budget and least + self._launches(index + 1) < self.best:
                self._place(index + 1, spent + option.added)
            self.kernels = before

    def _launches(self, index: int) -> int:
        """The least that the launches will cost: kernels so far, and one for each atom of a mutually exclusive set that
        fits into none of them."""
        launches = len(self.kernels)
        for apart in self.apart_from[index]:
            for kernel in self.kernels:
                if not kernel.members & apart:
                    break
            else:
                launches += 1
        return self.launch * max(launches, len(self.apart))

    def _finish(self) -> None:
        for kernel in self.kernels:
            shape = self.legality.shape(kernel.facts)
            if isinstance(shape, Rule) or not kernel.stored <= shape.may_store:
                return
        found = self.start.with_partition(self._partition())
        # The search minds what two units say of each other; that a kernel is too large only the whole of it can say,
        # and such a candidate costs beyond measure.
        if found is not None and cost_of(found).total < self.best:
            self.best, self.found = cost_of(found).total, found

    def _partition(self) -> Partition:
        made = []
        recomputed = {}
        for kernel in self.kernels:
            members = frozenset(u for i in _bits(kernel.members) for u in self.atoms[i].units)
            copies = [u.value for i in _bits(kernel.holds & ~kernel.members) for u in self.atoms[i].units]
            made.append(members)
            if copies:
                recomputed[members] = tuple(sorted(copies, key=lambda v: v.index))
        return Partition(tuple(made), recomputed)

    # -- options --

    def _library(self, atom: Atom, readers: _Readers) -> _Option:
        written = sum(out.size for out in atom.outs)
        read = sum(out.size * mask.bit_count() for out, mask in zip(atom.outs, readers.each, strict=True))
        stored = frozenset(out.axes for out in atom.outs)
        return _Option(None, (), atom.first_loads + written + read, readers.every | readers.later, stored, {})

    def _options(self, index: int, atom: Atom, readers: _Readers) -> Iterator[_Option]:
        apart = ~self.together[index]
        homes = [c for c, k in enumerate(self.kernels) if not (k.members & apart or readers.far >> c & 1)]
        for recomputed in self._sets_of_copies(atom, list(_bits(readers.every & ~readers.far))):
            copied = {c: facts for c in recomputed if (facts := self._grown(c, index)) is not None}
            is_stored = all(self._may_store(f, self.kernels[c].stored, index) for c, f in copied.items())
            if len(copied) < len(recomputed) or not is_stored or self._waits_in_circles(recomputed, atom):
                continue
            copies = _mask(recomputed)
            for home in (*homes, None):
                if home not in copied:
                    option = self._option(index, atom, readers, home, copied, copies)
                    if option is not None:
                        yield option

    def _sets_of_copies(self, atom: Atom, reading: list[int]) -> Iterator[tuple[int, ...]]:
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
        self, index: int, atom: Atom, readers: _Readers, home: int | None, copied: dict[int, Facts], copies: int
    ) -> _Option | None:
        """The atom computed in one kernel, and again in others (`copies`, as bits); None if that is illegal or no
        use."""
        here = 0 if home is None else 1 << home
        kernel = None if home is None else self.kernels[home]
        added = len(copied) * atom.price
        stored: set[AxisSet] = set()
        loaders = readers.later
        for out, reading in zip(atom.outs, readers.each, strict=True):
            loading = reading & ~(copies | here)
            if loading or out.must_store:
                added += out.size * (1 + loading.bit_count())
                loaders |= loading
                stored.add(out.axes)
        if not stored and copies:
            # Nobody needs it from memory: then it belongs to the first of the kernels that have it.
            first = readers.every & -readers.every
            if here != first or copies | first != readers.every:
                return None
        if not (stored or here & readers.every or atom.leaves_sums):
            return None
        facts = dict(copied)
        if kernel is None or home is None:
            made, loaded, written = atom.facts, 0, stored
        else:
            grown = self._grown(home, index)
            if grown is None or any(self.kernels[t].after & here for t in _bits(loaders & ~here)):
                return None
            facts[home] = made = grown
            loaded, written = kernel.loaded, stored | kernel.stored
        if not self._may_store(made, written, index):
            return None
        for memory, size in atom.loads:
            if not loaded >> memory & 1:
                added += size
            for c in copied:
                if not self.kernels[c].loaded >> memory & 1:
                    added += size
        return _Option(home, tuple(copied), added, loaders & ~here, frozenset(stored), facts)

    def _grown(self, c: int, index: int) -> Facts | None:
        """The facts of a kernel with one more atom, None if that is no kernel."""
        kernel, atom = self.kernels[c], self.atoms[index]
        holds = kernel.holds | 1 << index
        if holds not in self.legal:
            both = self.legality.add(kernel.facts, atom.facts)
            is_ruled_out = isinstance(self.legality.shape(both), Rule) or self.legality.in_place(both) is not None
            self.legal[holds] = None if is_ruled_out or kernel.holds & atom.conflicts else both
        return self.legal[holds]

    def _may_store(self, facts: Facts, stored: frozenset[AxisSet] | set[AxisSet], index: int) -> bool:
        """Whether a kernel can write values of these axes, or might once more is placed in it."""
        shape = self.legality.shape(facts)
        assert not isinstance(shape, Rule)
        if stored <= shape.may_store:
            return True
        return not facts.reductions and self._may_yet_store(facts, stored, self.to_come[index + 1])

    def _may_yet_store(self, facts: Facts, stored: Iterable[AxisSet], columns: frozenset[AxisSet]) -> bool:
        """Whether each of these may be all axes of the kernel, or become its rows by a row reduction still to come."""
        return all(
            facts.axes <= axes or any(not axes & cols and facts.axes - cols <= axes for cols in columns)
            for axes in stored
        )

    def _waits_in_circles(self, recomputed: tuple[int, ...], atom: Atom) -> bool:
        """Whether a kernel that computes the atom again would read a leaf after it is overwritten."""
        if not (recomputed and atom.overwriters):
            return False
        later = [k for k in self.kernels if k.members & atom.overwriters]
        return any(k is not self.kernels[c] and k.after >> c & 1 for c in recomputed for k in later)

    def _readers(self, atom: Atom) -> _Readers:
        each = [0] * len(atom.outs)
        far = later = 0
        for c, kernel in enumerate(self.kernels):
            bit = 1 << c
            for place, out in enumerate(atom.outs):
                if kernel.holds & out.readers:
                    each[place] |= bit
            far |= bit if kernel.holds & atom.far else 0
            later |= bit if kernel.holds & atom.waiting or kernel.members & atom.overwriters else 0
        every = 0
        for reading in each:
            every |= reading
        return _Readers(tuple(each), every, far, later)

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
        edges = {home: option.loaders}
        later = sum(1 << c for c, k in enumerate(kernels) if k.members & atom.overwriters)
        for c in option.recomputed:
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

    def _fitting(self) -> list[int]:
        """For each atom those that may share a kernel with it, together with all that lies between."""
        fitting = [1 << i for i in range(len(self.atoms))]
        for early, atom in enumerate(self.atoms):
            for late in range(early):
                mask = atom.reached & self.atoms[late].reaching | 1 << early | 1 << late
                if self._is_kernel([self.atoms[i] for i in _bits(mask)], mask):
                    fitting[early] |= 1 << late
                    fitting[late] |= 1 << early
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


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
