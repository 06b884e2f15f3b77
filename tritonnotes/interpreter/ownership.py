"""Whose memory each byte of an arena is: what one buffer left there is nothing that the next may read.

A buffer's life begins with nothing written. A store through its pointer makes bytes its own; a load of others, which
still hold what some earlier buffer left, is a fault: in an arena of its own the buffer would have been uninitialised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from tritonnotes.ir.core.errors import KernelError

from .races import Access, Selection

_NOBODY = 0


class Ownership:
    """The buffers of one arena, tensors by name, and which of them last wrote each byte."""

    def __init__(self, buffers: Mapping[str, torch.Tensor]) -> None:
        held = {name: tensor for name, tensor in buffers.items() if tensor.numel()}
        places = {n: (t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for n, t in held.items()}
        self._start = min((start for start, _ in places.values()), default=0)
        self._spans = {n: slice(start - self._start, stop - self._start) for n, (start, stop) in places.items()}
        self._numbers = {name: number for number, name in enumerate(held, 1)}
        self._names = {id(tensor): name for name, tensor in held.items()}
        self.alive: frozenset[str] = frozenset(held)
        """The buffers that live now: their memory is apart."""
        self._owners = np.zeros(max((s.stop for s in self._spans.values()), default=0), np.int32)

    def name_of(self, tensor: torch.Tensor) -> str | None:
        """The buffer that a tensor is, or is a part of; None where it is none of the arena's."""
        found = self._names.get(id(tensor))
        if found is not None or not tensor.numel():
            return found
        place = tensor.data_ptr() - self._start
        return next((n for n in self.alive if n in self._spans and _holds(self._spans[n], place)), None)

    def place_in(self, name: str, tensor: torch.Tensor) -> int:
        """The byte of a buffer at which a tensor begins that is a part of it."""
        return tensor.data_ptr() - self._start - self._spans[name].start if name in self._spans else 0

    def begin(self, names: Iterable[str]) -> None:
        """The lives of these buffers begin: nothing is written in them."""
        for name in names:
            if name in self._spans:
                self._owners[self._spans[name]] = _NOBODY

    def write(self, names: Iterable[str]) -> None:
        """These buffers are written from end to end."""
        for name in names:
            if name in self._spans:
                self._owners[self._spans[name]] = self._numbers[name]

    def read(self, names: Iterable[str], by: str) -> None:
        """Raises KernelError unless these buffers, which `by` reads, are written from end to end."""
        for name in names:
            if name in self._spans:
                strays = self._owners[self._spans[name]] != self._numbers[name]
                if strays.any():
                    _fail(f"{by} reads", int(strays.sum()), int(strays.argmax()), name)

    def access(self, name: str, offsets: Selection, size: int, access: Access) -> None:
        """A kernel touches `size` bytes at each of these byte offsets (or at all bytes of a slice) of a buffer."""
        owners = self._owners[self._spans[name]]
        number = self._numbers[name]
        if access is not Access.STORE:
            # Elements of a buffer are written whole, so that the first byte of each tells.
            strays = owners[offsets] != number
            if strays.any():
                first = int(strays.argmax())
                place = offsets.start + first if isinstance(offsets, slice) else int(offsets[first])
                _fail(f"{access.value} of", int(strays.sum()), place, name)
        if access is Access.LOAD:
            return
        if isinstance(offsets, slice):
            owners[offsets] = number
        else:
            for byte in range(size):
                owners[offsets + byte] = number


def _holds(span: slice, place: int) -> bool:
    return bool(span.start <= place < span.stop)


def _fail(what: str, count: int, first: int, name: str) -> None:
    raise KernelError(
        f"{what} memory of {name} in {count} places, first at byte {first}, that nothing has written since its life "
        "began: it holds what another buffer of the arena left there"
    )
