"""Tensors that stay from run to run, and whether they are still what was checked.

Anybody may replace a parameter, write over its `data`, turn it, free its memory or freeze it, and torch tells nobody.
So each of them is looked at in every run, all by a few calls of machine code; what follows from the tensors is worked
out anew only where one of them has changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any
from weakref import ref

from torch import Tensor

from ..native.errors import NativeError
from ..native.run import watch
from ..native.run.watch import Item, Owner
from . import vetting

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # a torch that keeps them elsewhere
    TensorGuards = None  # type: ignore[assignment, misc]


class Seen:
    """Tensors as they were when they were checked: some in a list, and some in a dict."""

    def __init__(self, listed: Sequence[Tensor], named: dict[str, Tensor]) -> None:
        self._listed, self._named, self._count = listed, named, len(named)
        self._are_items = same_items([(named, name, tensor) for name, tensor in named.items()])
        self._tensors = (*listed, *named.values())
        self._are_alike, self._lie_there = guards(self._tensors), same_addresses(self._tensors)

    def are(self, listed: Sequence[Tensor] | None, named: dict[str, Tensor]) -> bool:
        """Whether these are the same list and dict, the dict holds the same tensors, and each is as it was: where it
        lies, its shape, strides, dtype, kind, and whether it wants a gradient."""
        # In this order: guards end the process over a nested tensor, and one of another kind need not have an address.
        return bool(
            listed is self._listed
            and named is self._named
            and len(named) == self._count
            and self._are_items()
            and self._are_alike(*self._tensors)
            and self._lie_there()
        )


def same_items(items: Sequence[Item], owners: Sequence[Owner] = ()) -> Callable[[], int]:
    """Says later whether all dicts hold these very objects, where owners have these dicts as their attributes; neither
    owners nor their dicts are kept."""
    try:
        return watch.same_items(items, owners)
    except NativeError:  # a machine without llvmlite
        known = {id(held): ref(owner) for owner, held in owners}
        owned = [(known[id(held)], name, found) for held, name, found in items if id(held) in known]
        others = [item for item in items if id(item[0]) not in known]
        return lambda: (
            all(vars(owner()).get(name) is found for owner, name, found in owned)
            and all(held.get(name) is found for held, name, found in others)
        )


def same_addresses(tensors: Sequence[Tensor]) -> Callable[[], int]:
    """Says later whether each of these tensors lies where it does."""
    try:
        made = watch.same_addresses(tensors)
    except NativeError:
        made = None
    addresses = [*map(Tensor.data_ptr, tensors)]
    return made or (lambda: [*map(Tensor.data_ptr, tensors)] == addresses)


_WANTS_GRADIENT = attrgetter("requires_grad")


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

    def apart(self, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The feeds, those copied that lie in memory which the run writes to: they are read as they were before it."""
        starts, ends = self._starts, self._ends
        inside = []
        for name, feed in feeds.items():
            start, size = feed.data_ptr(), feed.nbytes
            place = bisect_left(starts, start + size) - 1
            if size and place >= 0 and ends[place] > start:
                inside.append(name)
        return {**feeds, **{name: feeds[name].clone() for name in inside}} if inside else feeds


def detached(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors as a kernel takes them: without a history."""
    if not any(map(_WANTS_GRADIENT, tensors.values())):
        return tensors
    return {name: t.detach() if t.requires_grad else t for name, t in tensors.items()}
