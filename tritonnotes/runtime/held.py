"""Tensors that stay from run to run, and whether they are still what was checked.

Anybody may replace a parameter, write over its `data`, turn it, free its memory or freeze it, and torch tells nobody.
So each of them is looked at in every run, at the speed of `map`; what follows from the tensors is worked out anew only
where one of them has changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter, is_
from typing import Any

from torch import Tensor

from . import vetting

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # a torch that keeps them elsewhere
    TensorGuards = None  # type: ignore[assignment, misc]


class Seen:
    """Tensors as they were when they were checked."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [*tensors]
        self._addresses = [*map(Tensor.data_ptr, tensors)]
        self._are_alike = guards(self._tensors)

    def are(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors, each as it was: where it lies, its shape, strides, dtype, kind, and
        whether it wants a gradient."""
        return (
            len(tensors) == len(self._tensors)
            and all(map(is_, tensors, self._tensors))
            and [*map(Tensor.data_ptr, tensors)] == self._addresses
            and self._are_alike(*tensors)
        )


def guards(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Says of the same tensors later whether they are of the same type, dispatch keys, dtype, shape and strides, lie on
    the same device, and want a gradient as before: torch's own guards, in one call."""
    if TensorGuards is None or not tensors:
        return _looks(tensors)
    known: Any = {
        "dynamic_dims_sizes": [[*t.size()] for t in tensors],
        "dynamic_dims_strides": [[*t.stride()] for t in tensors],
    }
    check: Callable[..., bool] = TensorGuards(*tensors, **known).check
    return check


def _looks(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """As `guards`, one thing after the other."""

    def look(given: Sequence[Tensor]) -> list[object]:
        return [thing for look_at in _LOOKED_AT for thing in map(look_at, given)]

    seen = look(tensors)
    return lambda *given: look(given) == seen


_LOOKED_AT: tuple[Callable[[Tensor], object], ...] = (
    type, Tensor.size, Tensor.stride, attrgetter("dtype"), attrgetter("device"), attrgetter("requires_grad"),
    vetting.dispatch_keys,
)  # fmt: skip


class Written:
    """The memory that a run writes to: contiguous tensors that share none of it."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        spans = sorted((*vetting.span(t), n) for n, t in tensors.items() if t.numel())
        self._starts = [start for start, _, _ in spans]
        self._ends = [*accumulate((end for _, end, _ in spans), max)]

    def reaches(self, tensor: Tensor) -> bool:
        """Whether a contiguous tensor lies in that memory, in whole or in part."""
        start, size = tensor.data_ptr(), tensor.nbytes
        place = bisect_left(self._starts, start + size) - 1
        return size > 0 and place >= 0 and self._ends[place] > start

    def apart(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The feeds, those copied that lie in memory which the run writes to: they are read as they were before it."""
        return {name: feed.clone() if self.reaches(feed) else feed for name, feed in feeds.items()}


def detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a kernel takes them: without a history."""
    return {name: t.detach() if t.requires_grad else t for name, t in tensors.items()}
