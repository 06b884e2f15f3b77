"""What a launch hands to the sanitizer and gets back from it, as a block of memory.

The guard is a block of memory: the fault's number, how many tensors there are, the three numbers of the fault's
program, the lowest and the highest offset of its lanes, then (begin, end, shadow) of each tensor, those of the kernel's
pointer arguments first and in their order.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterator, Sequence

from torch import Tensor

from .faults import Found

HEADER_WORDS, RANGE_WORDS = 7, 3


FOUND_WORD = 2
"""Where the guard says which program has the fault, and the offsets of its lanes."""


UNKNOWN_OFFSETS = (1, 0)


_ZERO = b"\0"


class GuardBlock:
    """The guard of one launch over the tensors `arguments`, whose kernel also reaches `tensors`, and the shadows of
    those `arguments` whose numbers are `shadowed`."""

    def __init__(self, arguments: Sequence[Tensor], tensors: Sequence[Tensor], shadowed: Container[int]) -> None:
        words = [0, len(arguments) + len(tensors), 0, 0, 0, *UNKNOWN_OFFSETS]
        bare = []
        for number, tensor in enumerate((*arguments, *tensors)):
            begin, end = span(tensor)
            words += (begin, end, 0)
            if number in shadowed:
                bare.append((begin, end, tensor.element_size(), len(words) - 1))
        self._shadows = []
        for shadow, places in _shadows_of(bare):
            self._shadows.append(shadow)
            first = shadow.buffer_info()[0]
            for place, start in places:
                words[place] = first + start
        self._words = array("q", words)

    @property
    def address(self) -> int:
        return self._words.buffer_info()[0]

    @property
    def fault(self) -> Found | None:
        """The first fault; None if there was none."""
        number, (x, y, z, lowest, highest) = self._words[0], self._words[FOUND_WORD:HEADER_WORDS]
        return Found(number, (x, y, z), lowest, highest) if number else None


def _shadows_of(spans: list[tuple[int, int, int, int]]) -> Iterator[tuple[array[int], list[tuple[int, int]]]]:
    """Shadows of spans of memory, each given by begin, end, bytes of an element and a place. Those that overlap have
    one shadow, in which a store through either is seen: it comes with their places, and where each begins in it."""
    spans.sort(reverse=True)
    while spans:
        begin, end, size, place = spans.pop()
        places = [(place, 0)]
        while spans and spans[-1][0] < end and spans[-1][2] == size:
            other, other_end, _, place = spans.pop()
            places.append((place, (other - begin) // size))
            end = max(end, other_end)
        yield array("b", _ZERO) * ((end - begin) // size), places


def shadowed(spans: Sequence[tuple[int, int]], uninitialized: Sequence[Tensor]) -> tuple[int, ...]:
    """The numbers of those spans of memory that lie in an uninitialised tensor."""
    bare = [span(tensor) for tensor in uninitialized]
    found = []
    for number, (begin, end) in enumerate(spans):
        for first, last in bare:
            if first <= begin < end <= last:
                found.append(number)
                break
    return tuple(found)


def span(tensor: Tensor) -> tuple[int, int]:
    """The addresses from a tensor's first element to the end of its last one."""
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.nbytes
    if not tensor.numel():
        return begin, begin
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()
