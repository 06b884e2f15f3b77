"""Data races between the programs of one launch, found while the programs run one after another.

Two accesses race when they touch one address, come from different programs, at least one writes, not both are
atomic, and nothing orders them. What orders programs is an atomic: it *acquires* everything that earlier
atomics on the same address *released*, so that the last program to arrive at a counter may read what the
others stored before they arrived. `sem="relaxed"` orders nothing; `"acquire"` and `"release"` do their half.

The order is kept as *segments*: the stretch of one program between two of its atomics. An access is
remembered as the number of its segment, in int32 shadow arrays with one entry per element; what the running
program knows is a set of segments (a Python integer as a bit set). An access races when the shadow holds a
segment that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

_NOBODY, _SEVERAL = 0, -1
Selection = slice | np.ndarray


class Access(Enum):
    """How an address is touched; the value is the word for error messages."""

    LOAD = "load"
    STORE = "store"
    ATOMIC = "atomic"


class Shadow:
    """The last segment that touched each element in one way; an entry costs memory once it is touched."""

    def __init__(self, elements: int) -> None:
        self.last = np.zeros(elements, np.int32)
        # Several unordered readers share one entry; the history says who they were. Stores never share.
        self.history: list[tuple[int, Selection]] = []

    def refined(self, factor: int) -> Shadow:
        finer = Shadow(0)
        finer.last = np.repeat(self.last, factor)
        for segment, where in self.history:
            if isinstance(where, slice):
                finer.history.append((segment, slice(where.start * factor, where.stop * factor)))
            else:
                finer.history.append((segment, (where[:, None] * factor + np.arange(factor)).reshape(-1)))
        return finer


@dataclass
class Region:
    """One stretch of memory that the launch may touch, in elements of `granule` bytes."""

    start: int
    stop: int
    granule: int
    shadows: dict[Access, Shadow] = field(default_factory=dict)
    released: np.ndarray | None = None  # per element: the number of the clock that its last atomic left there

    def shadow(self, access: Access) -> Shadow:
        found = self.shadows.get(access)
        if found is None:
            found = self.shadows[access] = Shadow(-(-(self.stop - self.start) // self.granule))
        return found

    def refine(self, granule: int) -> None:
        """Splits the elements, for an access narrower than any tensor's dtype."""
        factor = self.granule // granule
        self.shadows = {access: shadow.refined(factor) for access, shadow in self.shadows.items()}
        if self.released is not None:
            self.released = np.repeat(self.released, factor)
        self.granule = granule


@dataclass(frozen=True)
class Race:
    """An access to `lanes` elements, `element` the first, meets an unordered one of `program`."""

    element: int
    lanes: int
    other: Access
    program: tuple[int, int, int]


class RaceDetector:
    """Follows one launch: `begin` starts each program, `access` takes each access and returns its race."""

    def __init__(self) -> None:
        self._programs: list[tuple[int, int, int]] = [(-1, -1, -1)]  # the program of each segment; 0 is nobody
        self._clocks: list[int] = [0]
        self._segment = 0
        self._known = 0
        self._ordered = False  # whether the program knows more than its own first segment
        self._table: np.ndarray | None = None

    def begin(self, program: tuple[int, int, int]) -> None:
        self._known = 0
        self._ordered = False
        self._next_segment(program)

    def _next_segment(self, program: tuple[int, int, int]) -> None:
        self._segment += 1
        self._programs.append(program)
        self._known |= 1 << self._segment
        self._table = None

    def access(self, region: Region, where: Selection, access: Access, acquires: bool, releases: bool) -> Race | None:
        """`where` in elements of the region (a slice with start and stop, or an int64 array)."""
        conflicts = {
            Access.LOAD: (Access.STORE, Access.ATOMIC),
            Access.STORE: (Access.STORE, Access.LOAD, Access.ATOMIC),
            Access.ATOMIC: (Access.STORE, Access.LOAD),
        }[access]
        for other in conflicts:
            shadow = region.shadows.get(other)
            race = None if shadow is None else self._clash(shadow, where, other)
            if race is not None:
                return race
        shadow = region.shadow(access)
        if access is Access.STORE:
            # Whoever knows this store knows all that it was ordered after: the rest can be forgotten.
            shadow.last[where] = self._segment
            for other in (Access.LOAD, Access.ATOMIC):
                if other in region.shadows:
                    region.shadows[other].last[where] = _NOBODY
        else:
            self._remember(shadow, where)
        if access is Access.ATOMIC:
            self._synchronize(region, where, acquires, releases)
        return None

    def _unknown(self, segments: np.ndarray) -> np.ndarray:
        """Which of `segments` are neither nobody's nor known to the running program."""
        if not self._ordered:
            return (segments != _NOBODY) & (segments != self._segment)
        if self._table is None:
            size = len(self._programs) + 1  # the last entry answers for _SEVERAL: look closer
            packed = np.frombuffer(self._known.to_bytes(size // 8 + 1, "little"), np.uint8)
            self._table = ~np.unpackbits(packed, bitorder="little")[:size].astype(bool)
            self._table[_NOBODY], self._table[-1] = False, True
        return self._table[segments]

    def _clash(self, shadow: Shadow, where: Selection, other: Access) -> Race | None:
        segments = shadow.last[where]
        if not segments.any():
            return None
        unknown = self._unknown(segments)
        if not unknown.any():
            return None
        culprit = int(segments[unknown][0])
        if (segments == _SEVERAL).any():
            several = self._strangers(shadow, where, unknown & (segments == _SEVERAL))
            unknown &= (segments != _SEVERAL) | (several != _NOBODY)
            if not unknown.any():
                return None
            culprit = int(np.where(segments == _SEVERAL, several, segments)[unknown][0])
        lane = int(np.flatnonzero(unknown)[0])
        element = where.start + lane if isinstance(where, slice) else int(where[lane])
        return Race(element, int(np.count_nonzero(unknown)), other, self._programs[culprit])

    def _strangers(self, shadow: Shadow, where: Selection, shared: np.ndarray) -> np.ndarray:
        """For each element of `where`: an unknown segment in the history that touched it, or nobody."""
        strangers = np.full(shared.shape, _NOBODY, np.int32)
        elements = np.arange(where.start, where.stop) if isinstance(where, slice) else where
        for segment, touched in shadow.history:
            if self._known >> segment & 1:
                continue
            if isinstance(touched, slice):
                hit = (elements >= touched.start) & (elements < touched.stop)
            else:
                hit = np.isin(elements, touched)
            strangers[hit & shared] = segment
        return strangers

    def _remember(self, shadow: Shadow, where: Selection) -> None:
        segments = shadow.last[where]
        shadow.history.append((self._segment, where))
        if segments.any():
            unknown = self._unknown(segments)
            shadow.last[where] = np.where(unknown, _SEVERAL, self._segment)
        else:
            shadow.last[where] = self._segment

    def _synchronize(self, region: Region, where: Selection, acquires: bool, releases: bool) -> None:
        if not (acquires or releases):
            return
        if region.released is None:
            region.released = np.zeros(region.shadow(Access.ATOMIC).last.size, np.int32)
        earlier = 0
        for clock in np.unique(region.released[where]).tolist():
            earlier |= self._clocks[clock]
        if acquires:
            self._known |= earlier
        if releases:
            # An acquiring program that meets any later atomic here also meets the releases before it.
            self._clocks.append(self._known | earlier)
            region.released[where] = len(self._clocks) - 1
        self._ordered = True
        self._next_segment(self._programs[self._segment])
