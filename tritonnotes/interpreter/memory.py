"""Every access of a strict launch, checked: bounds, alignment, one lane per stored address, and races.

A kernel sees the pointer of its n-th tensor with n in the top 16 bits, which no user address uses. Pointer
arithmetic carries the number along, so an access is held against the tensor that it was derived from and not
against whichever tensor happens to lie at the address. Pointers that come from a table in memory carry no
number and are looked up.
"""

from __future__ import annotations

import bisect
from itertools import accumulate
from typing import Any, NoReturn

import numpy as np
import torch
from triton._C.libtriton import ir

from tritonnotes.ir.core.errors import KernelError

from .ownership import Ownership
from .races import Access, Race, RaceDetector, Region, Selection

__all__ = ["Access", "Memory"]

_SHIFT = 48
_ADDRESS = (1 << _SHIFT) - 1
_ACQUIRES = (ir.MEM_SEMANTIC.ACQUIRE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)
_RELEASES = (ir.MEM_SEMANTIC.RELEASE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)


class _Extent:
    """Where one tensor lies, and which of its elements are its own when it has gaps."""

    __slots__ = ("base", "buffer", "itemsize", "name", "nbytes", "owned", "place", "region")

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.name = name
        self.base = tensor.data_ptr()
        self.itemsize = tensor.element_size()
        self.region: Region | None = None
        self.buffer: str | None = None
        self.place = 0
        self.owned: np.ndarray | None = None
        if tensor.is_contiguous():
            self.nbytes = tensor.numel() * self.itemsize
            return
        # A dimension of stride 0 repeats elements: it adds none.
        sizes = [1 if stride == 0 else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
        last = sum((size - 1) * stride for size, stride in zip(sizes, tensor.stride(), strict=True))
        elements = last + 1 if tensor.numel() else 0
        self.nbytes = elements * self.itemsize
        if elements > torch.Size(sizes).numel():
            self.owned = np.zeros(elements, bool)
            steps = [stride for stride in tensor.stride()]  # bytes and elements agree for bool
            np.lib.stride_tricks.as_strided(self.owned, sizes, steps)[...] = True


class Memory:
    """The tensors of one launch, with their parameters' names, and what its programs do to them.

    The pointer to give to the kernel for the n-th tensor is `pointer(n)`; `begin` starts each program. `ownership`
    knows which of the tensors lie in an arena.
    """

    def __init__(
        self, named: list[tuple[str, torch.Tensor]], programs: int, ownership: Ownership | None = None
    ) -> None:
        self._extents = [_Extent(name, tensor) for name, tensor in named]
        self._ownership = ownership
        if ownership is not None:
            for extent, (_, tensor) in zip(self._extents, named, strict=True):
                extent.buffer = ownership.name_of(tensor)
                extent.place = 0 if extent.buffer is None else ownership.place_in(extent.buffer, tensor)
        self._in_order = sorted((e for e in self._extents if e.nbytes), key=lambda e: (e.base, e.nbytes))
        self._bases = [extent.base for extent in self._in_order]
        self._bases_of_lanes = np.array(self._bases, np.int64)
        # How far a tensor reaches, or one that starts before it.
        self._reached = [*accumulate((extent.base + extent.nbytes for extent in self._in_order), max)]
        self._races: RaceDetector | None = None
        if programs > 1:
            self._races = RaceDetector()
            self._lay_out_regions()

    def pointer(self, index: int) -> int:
        """The address of tensor `index`, with its number in the top bits."""
        return self._extents[index].base | (index + 1) << _SHIFT

    def begin(self, program: tuple[int, int, int]) -> None:
        """`program` starts."""
        if self._races is not None:
            self._races.begin(program)

    def _lay_out_regions(self) -> None:
        """One region per stretch of memory: tensors that overlap share theirs."""
        region: Region | None = None
        for extent in self._in_order:
            stop = extent.base + extent.nbytes
            if region is None or extent.base >= region.stop:
                region = Region(extent.base, stop, extent.itemsize)
            else:
                region.stop = max(region.stop, stop)
                region.granule = min(region.granule, extent.itemsize)
            extent.region = region

    def check(
        self, pointers: np.ndarray, live: np.ndarray | None, size: int, access: Access, order: Any = None
    ) -> np.ndarray:
        """Checks the `live` lanes (all if None) of an access of `size` bytes each, races included.

        Returns the addresses of all lanes (uint64, the shape of `pointers`). Raises KernelError on the first
        fault. `order` is the memory semantic of an atomic.
        """
        addresses = pointers & np.uint64(_ADDRESS)
        lanes = pointers.reshape(-1) if live is None else pointers[live]
        count = lanes.size
        if count == 0:
            return addresses
        first = int(lanes[0])
        run = count == 1 or (
            int(lanes[-1]) - first == (count - 1) * size and bool((lanes[1:] - lanes[:-1] == size).all())
        )
        if run:
            self._check_run(first, count, size, access, order)
        else:
            self._check_scattered(lanes, size, access, order)
        return addresses

    def _check_run(self, first: int, count: int, size: int, access: Access, order: Any) -> None:
        """The usual case, lanes side by side: everything follows from the first lane and the count."""
        tag = first >> _SHIFT
        if tag:
            if tag > len(self._extents):
                _fail_nowhere(count, access)
            extent = self._extents[tag - 1]
        else:
            extent = self._find(first, count, access)
        offset = (first & _ADDRESS) - extent.base
        if offset < 0 or offset + count * size > extent.nbytes:
            _fail_bounds(extent, np.arange(count, dtype=np.int64) * size + offset, size, access)
        if first & (size - 1):
            _fail_alignment(extent, np.array([offset]), count, size, access)
        if extent.owned is not None:
            self._check_owned(extent, np.arange(count, dtype=np.int64) * size + offset, size, access)
        if extent.buffer is not None and self._ownership is not None:
            first = extent.place + offset
            self._ownership.access(extent.buffer, slice(first, first + count * size), size, access)
        if self._races is not None:
            self._tell(extent, slice(offset, offset + count * size), size, access, order)

    def _check_scattered(self, lanes: np.ndarray, size: int, access: Access, order: Any) -> None:
        for extent, addresses in self._by_extent(lanes, access):
            offsets = addresses - extent.base
            if int(offsets.min()) < 0 or int(offsets.max()) + size > extent.nbytes:
                _fail_bounds(extent, offsets, size, access)
            crooked = addresses & (size - 1) != 0
            if crooked.any():
                _fail_alignment(extent, offsets[crooked], int(np.count_nonzero(crooked)), size, access)
            if extent.owned is not None:
                self._check_owned(extent, offsets, size, access)
            if access is Access.STORE:
                ordered = offsets if bool((offsets[1:] > offsets[:-1]).all()) else np.sort(offsets)
                twice = ordered[1:] == ordered[:-1]
                if twice.any():
                    _fail_twice(extent, ordered[1:][twice], size)
            if extent.buffer is not None and self._ownership is not None:
                self._ownership.access(extent.buffer, offsets + extent.place, size, access)
            if self._races is not None:
                self._tell(extent, offsets, size, access, order)

    def _by_extent(self, lanes: np.ndarray, access: Access) -> list[tuple[_Extent, np.ndarray]]:
        """The lanes' addresses (int64), grouped by the tensor that they belong to."""
        tags = lanes >> np.uint64(_SHIFT)
        addresses = (lanes & np.uint64(_ADDRESS)).astype(np.int64)
        low = int(tags.min())
        if low == int(tags.max()) and 0 < low <= len(self._extents):
            return [(self._extents[low - 1], addresses)]
        groups: list[tuple[_Extent, np.ndarray]] = []
        for tag in np.unique(tags).tolist():
            here = addresses[tags == tag]
            if tag > len(self._extents):
                _fail_nowhere(here.size, access)
            elif tag:
                groups.append((self._extents[tag - 1], here))
            else:
                found = np.searchsorted(self._bases_of_lanes, here, side="right") - 1
                for index in np.unique(found).tolist():
                    mine = here[found == index]
                    groups.append((self._find(int(mine.max()), mine.size, access), mine))
        return groups

    def _find(self, address: int, count: int, access: Access) -> _Extent:
        """The tensor at `address`, for a pointer from a table: of those that hold it the one that starts last."""
        index = bisect.bisect_right(self._bases, address) - 1
        while index >= 0 and address < self._reached[index]:
            extent = self._in_order[index]
            if address < extent.base + extent.nbytes:
                return extent
            index -= 1
        _fail_nowhere(count, access)

    def _check_owned(self, extent: _Extent, offsets: np.ndarray, size: int, access: Access) -> None:
        assert extent.owned is not None
        mine = extent.owned[offsets // extent.itemsize] & extent.owned[(offsets + size - 1) // extent.itemsize]
        if not mine.all():
            strays = offsets[~mine]
            raise KernelError(
                f"{access.value} of {strays.size} lanes between the elements of {extent.name}, which is not "
                f"contiguous, first at element offset {int(strays[0]) // size}: strides or mask are wrong"
            )

    def _tell(self, extent: _Extent, offsets: Selection, size: int, access: Access, order: Any) -> None:
        region, races = extent.region, self._races
        assert region is not None and races is not None
        if size < region.granule:
            region.refine(size)
        granule, shift = region.granule, extent.base - region.start
        where: Selection
        if isinstance(offsets, slice):
            where = slice((offsets.start + shift) // granule, (offsets.stop + shift) // granule)
        else:
            where = (offsets + shift) // granule
            if size > granule:
                where = (where[:, None] + np.arange(size // granule)).reshape(-1)
        race = races.access(region, where, access, order in _ACQUIRES, order in _RELEASES)
        if race is not None:
            _fail_race(extent, race, (race.element * granule - shift) // size, access)


def _fail_bounds(extent: _Extent, offsets: np.ndarray, size: int, access: Access) -> NoReturn:
    strays = offsets[(offsets < 0) | (offsets + size > extent.nbytes)] // size
    raise KernelError(
        f"out-of-bounds {access.value} of {strays.size} lanes at element offsets {int(strays.min())} "
        f"to {int(strays.max())} of {extent.name}, which has [0, {extent.nbytes // size}): "
        "a mask is missing or wrong"
    )


def _fail_alignment(extent: _Extent, offsets: np.ndarray, count: int, size: int, access: Access) -> NoReturn:
    raise KernelError(
        f"misaligned {access.value} of {count} lanes of {extent.name}, first at byte offset {int(offsets[0])}"
        f": elements of {size} bytes must lie at multiples of {size}"
    )


def _fail_nowhere(count: int, access: Access) -> NoReturn:
    raise KernelError(
        f"out-of-bounds {access.value} of {count} lanes at addresses in no tensor of the launch: a poisoned "
        "or wrong offset, or a tensor reached through a pointer table and not given as `tensors`"
    )


def _fail_twice(extent: _Extent, repeated: np.ndarray, size: int) -> NoReturn:
    raise KernelError(
        f"{repeated.size + 1} or more lanes of one program store to one address of {extent.name}, "
        f"first at element offset {int(repeated[0]) // size}"
    )


def _fail_race(extent: _Extent, race: Race, element: int, access: Access) -> NoReturn:
    raise KernelError(
        f"data race on {race.lanes} lanes of {extent.name}, first at element offset {element}: this "
        f"{access.value} and the {race.other.value} of program {race.program} are not ordered by any atomic"
    )
