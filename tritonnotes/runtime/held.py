"""Tensors that stay from run to run, and whether they are still what was checked.

Anybody may replace a parameter, write over its `data`, turn it, free its memory or freeze it, and torch tells nobody.
So each of them is looked at in every run, all by a few calls of machine code; what follows from the tensors is worked
out anew only where one of them has changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..ir.core.errors import FeedError
from ..native.errors import NativeError
from ..native.run import watch
from ..native.run.watch import Item, Owner
from ..tensors.shared import Source
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
        self._are_as_they_were = as_they_were((*listed, *named.values()))

    def are(self, listed: Sequence[Tensor] | None, named: dict[str, Tensor]) -> bool:
        """Whether these are the same list and dict, the dict holds the same tensors, and each is as it was: where it
        lies, its shape, strides, dtype, kind, and whether it wants a gradient."""
        return bool(
            listed is self._listed
            and named is self._named
            and len(named) == self._count
            and self._are_items()
            and self._are_as_they_were()
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


def as_they_were(tensors: Sequence[Tensor]) -> Callable[[], int]:
    """Says later whether each of these very tensors is as it is: where it lies, its shape, strides, dtype, device and
    kind, and whether it wants a gradient. They are kept until then."""
    try:
        made = watch.same_tensors(tensors)
    except NativeError:
        made = None
    if made is not None:
        return made
    # In this order: guards end the process over a nested tensor, and one of another kind need not have an address.
    are_alike, lie_there = guards(tensors), same_addresses(tensors)
    return lambda: are_alike(*tensors) and lie_there()


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


class Origin:
    """The module that a model was imported from, whose owner may put other tensors and parts into it. `tensors` are
    what it held then, by their names in the graph. The model of a training step `is_trained`."""

    def __init__(self, source: Source, tensors: Mapping[str, Tensor], is_trained: bool) -> None:
        self._source, self._is_trained = source, is_trained
        self._tensors = {path: tensors[name] for path, name in source.paths.items()} if source.module else {}
        self._parts = self._parts_now()
        self.stays = self._watch()
        """Says whether no tensor and no part of the module was replaced."""

    def follow(self) -> dict[str, Tensor]:
        """The tensors that are others than at the last call, by their names in state dicts. Raises `FeedError`, at this
        and every later call, for what a compiled program cannot follow: another part, tensors that are no longer one or
        gone, and another parameter of a step, whose optimizer state belongs to the one before."""
        module, paths, anew = self._source.module, self._source.paths, "compile it again"
        if module is None:
            return {}
        parts = self._parts_now()
        for path in [*self._parts, *parts]:
            if parts.get(path) is not self._parts.get(path):
                raise FeedError(
                    f"module {_key(path)!r} was replaced after it was compiled; {anew} to use the other one"
                )
        found = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)))
        for path in [*paths, *found]:
            if path not in found or path not in paths:
                what = "is gone from the module" if path in paths else "was added to the module"
                raise FeedError(f"tensor {_key(path)!r} {what} after it was compiled; {anew}, or undo that")
        first: dict[str, str] = {}
        for path, name in paths.items():
            other = first.setdefault(name, path)
            if found[path] is not found[other]:
                raise FeedError(
                    f"{_key(other)!r} and {_key(path)!r} were one tensor when the module was compiled, and are two "
                    f"now; {anew}, or assign the new tensor to both"
                )
        changed = [path for path in paths if found[path] is not self._tensors[path]]
        for path in changed:
            if self._is_trained and isinstance(self._tensors[path], torch.nn.Parameter):
                raise FeedError(
                    f"parameter {_key(path)!r} of the module was replaced after the step was compiled, which trains "
                    "the tensor before it, as an optimizer of torch would; compile the step again, or write new values "
                    "into a parameter in place of replacing it, with load_state_dict() or copy_() under torch.no_grad()"
                )
        self._tensors = {path: found[path] for path in paths}
        self.stays = self._watch()
        return {_key(path): found[path] for path in changed}

    def check_fed(self, inputs: Sequence[str], fed: Collection[str]) -> None:
        """Raise `FeedError` where the model of a step lacks inputs, as the target, and its module is what predicts."""
        missing = [name for name in inputs if name not in fed]
        if missing and self._is_trained and self._source.module is not None:
            raise FeedError(
                f"input {missing[0]!r} is not fed; feed {', '.join(inputs)}. Without a target, call the module itself, "
                "which the step trains: net(x), or a model of it, tn.compile(net, x)"
            )

    def _parts_now(self) -> dict[str, torch.nn.Module]:
        module = self._source.module
        return {} if module is None else dict(module.named_modules(remove_duplicate=False))

    def _watch(self) -> Callable[[], int]:
        parts = {id(part): part for part in self._parts.values()}.values()
        attributes = [(part, vars(part)) for part in parts]
        kept = [(held, name, held[name]) for _, held in attributes for name in ("_modules", "_parameters", "_buffers")]
        return same_items([*kept, *((held, *item) for _, _, held in kept for item in held.items())], attributes)

    def __deepcopy__(self, memo: Any) -> Origin:
        return Origin(Source(), {}, self._is_trained)

    def __reduce__(self) -> Any:
        return Origin, (Source(), {}, self._is_trained)


def _key(path: str) -> str:
    """What the owner of a module calls what it holds."""
    return path.partition(".")[2] if path.startswith("module.") else path


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
