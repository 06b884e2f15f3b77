"""Row numbers and class indices: which values of a graph ops read as such, and which of their numbers lie outside.

An index is followed back to the inputs and buffers that it is made of. What lies between, views and exact arithmetic,
is computed by the references, so that only numbers that reach an op are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ir.core.graph import VIEWS, Graph, Value, needed_for
from ..ir.core.op import Op
from ..ir.core.types import Dim, DimProduct, Shape, Size, host, size_at
from ..tensors.dtypes import torch_dtype
from .executor import concrete
from .references import REFERENCES, Reference

FEW = 32
"""Numbers of which Python finds the lowest and the highest sooner than a call of torch begins to."""

PARTS = VIEWS | {"narrow", "cat"}
"""Ops that show elements of their arguments, perhaps not all of them."""

ORDERS = VIEWS - {"expand", "broadcast_to"}
"""Views that show every element: an axis of size 1 that is repeated no times shows none."""

COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not"))
CHOICES = frozenset(("where", "clamp", "maximum", "minimum", "max", "min"))
ARITHMETIC = frozenset(("cast", "round_to", "copy", "floor", "neg", "abs", "sign", "add", "sub", "mul", "div"))
EXACT = PARTS | COMPARISONS | CHOICES | ARITHMETIC
"""Ops that give one result in floats too, whatever computes them."""

KNOWN = ("constant", "iota", "dim_size")
"""Leaves that are made of sizes and numbers of the graph."""

MOST_SIZES = 64
"""Sets of sizes of which it is kept that indices made of sizes alone fit."""


@dataclass(frozen=True, eq=False)
class IndexUse:
    """`index`, of which `user` reads each number as one of `limit` `what`: 'rows' of a table, or 'classes'. `ignored`
    is the number beside these that it takes, or None. `limit` is None where no argument has an axis of classes."""

    user: Value
    index: Value
    limit: Size | None
    what: str
    ignored: int | None


def index_uses(graph: Graph) -> tuple[IndexUse, ...]:
    """The row numbers and class indices that the ops of a declared graph read."""
    found = []
    for user in graph.values:
        if not isinstance(user.op, Op):
            continue
        given = dict(zip(user.op.arg_names, user.args, strict=True))
        for name, domain in user.op.domain.items():
            index = given.get(name)
            if index is None or domain not in ("row", "class"):
                continue
            if domain == "row":
                found.append(IndexUse(user, index, user.inputs[-1].shape[0], "rows", None))
            else:
                limit = _classes([arg.shape for arg in user.inputs if arg is not index], index.shape)
                found.append(IndexUse(user, index, limit, "classes", user.attrs.get("ignore_index")))
    return tuple(found)


def _classes(others: Iterable[Shape], index: Shape) -> Size | None:
    """The size of the axis that the first of the `others` with one axis more has and the index has not. Where two axes
    would do, all from one to the other have one size, so any of them is right."""
    fits = (shape[axis] for shape in others for axis in range(len(shape)) if shape[:axis] + shape[axis + 1 :] == index)
    return next(fits, None)


@dataclass(frozen=True, eq=False)
class Outside:
    """A number that `use` does not take, one of `limit`. It lies at `place` of `leaf`; where it is computed, `leaf` is
    None and `place` is that in the index itself. `leaves` are what it is made of."""

    use: IndexUse
    limit: int
    number: int
    place: tuple[int, ...]
    leaf: Value | None
    leaves: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class _Followed:
    """An index that is a function of `leaves`, by `calls` in this order. `is_shown`: all of its numbers are theirs;
    `is_whole`: and each number of the one leaf is among them."""

    use: IndexUse
    leaves: tuple[Value, ...]
    calls: tuple[_Call, ...]
    is_shown: bool
    is_whole: bool


class IndexCheck:
    """Finds row numbers and class indices outside their range in what is fed to a graph, where they are made of
    inputs, buffers and numbers alone, by views and exact arithmetic.

    `leaves` are the names of the inputs and buffers that it looks at. Tensors on a GPU are passed over: nobody waits
    for them.
    """

    def __init__(self, graph: Graph) -> None:
        made_of = _leaves_of(graph)
        self._all = [
            _Followed(use, made_of[use.index], _calls_of(use.index), _is_shown(use.index), _is_whole(use.index))
            for use in index_uses(graph)
            if use.index in made_of and use.limit is not None
        ]
        self._fed = [followed for followed in self._all if followed.leaves]
        self._known_sizes: set[tuple[tuple[str, int], ...]] = set()
        self._limits = _limits(self._all)
        self.leaves = tuple(dict.fromkeys(leaf.name for followed in self._all for leaf in followed.leaves))

    def __bool__(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._all)

    def first_outside(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Outside | None:
        """The first number outside, given tensors for `leaves` and sizes for `Dim`s; None where all fit."""
        for name in self.leaves:
            if not tensors[name].is_cpu:
                return None
        bounds = {name: _bounds(tensors[name]) for name in self._limits}
        if bounds and all([_fits(bounds[name], limit) for name, limit in self._limits.items()]):
            return None
        if len(self._fed) == len(self._all):
            return _first_of(self._all, tensors, sizes, bounds)
        key = tuple(sizes.items())
        found = _first_of(self._fed if key in self._known_sizes else self._all, tensors, sizes, bounds)
        if found is None:  # indices made of sizes alone fit whenever these come again
            if len(self._known_sizes) >= MOST_SIZES:
                self._known_sizes.clear()
            self._known_sizes.add(key)
        return found


def _limits(indices: Sequence[_Followed]) -> dict[str, int]:
    """Every leaf with its lowest limit, where each index is a leaf and each limit known; else nothing."""
    found: dict[str, int] = {}
    for followed in indices:
        limit = followed.use.limit
        if not followed.is_whole or not isinstance(limit, int):
            return {}
        name = followed.leaves[0].name
        found[name] = min(limit, found.get(name, limit))
    return found


def _first_of(
    indices: Sequence[_Followed],
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    bounds: dict[str, tuple[int, int] | None],
) -> Outside | None:
    """As `first_outside`. The lowest number and the highest of leaves that are looked at are added to `bounds`."""
    known: dict[Value, Any] = {}
    for followed in indices:
        assert followed.use.limit is not None
        limit = size_at(followed.use.limit, sizes)
        if followed.is_shown:
            for leaf in followed.leaves:
                if leaf.name not in bounds:
                    bounds[leaf.name] = _bounds(tensors[leaf.name])
            if all(_fits(bounds[leaf.name], limit) for leaf in followed.leaves):
                continue
        if followed.is_whole:
            index = tensors[followed.leaves[0].name]
        else:
            index = _computed(followed, tensors, sizes, known)
            if _fits(_bounds(index), limit):
                continue
        place = _place_outside(index, limit, followed.use.ignored)
        if place is not None:
            shown, there = _origin(followed, place, tensors, sizes)
            return Outside(followed.use, limit, int(index[place]), there, shown, followed.leaves)
    return None


def _place_outside(index: Tensor, limit: int, ignored: int | None) -> tuple[int, ...] | None:
    """Where the first number outside lies."""
    outside = (index < 0) | (index >= limit)
    if ignored is not None:
        outside &= index != ignored
    return tuple(outside.nonzero()[0].tolist()) if bool(outside.any()) else None


def _origin(
    followed: _Followed, place: tuple[int, ...], tensors: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> tuple[Value | None, tuple[int, ...]]:
    """The leaf whose element an index shows at `place`, and where in the leaf: the elements of all leaves are numbered
    through, and the index is computed of these numbers. None, and `place`, for what is computed."""
    if followed.is_whole:
        return followed.leaves[0], place
    if not followed.is_shown:
        return None, place
    numbered, start = dict[str, Tensor](), 0
    for leaf in followed.leaves:
        shape = tensors[leaf.name].shape
        numbered[leaf.name] = torch.arange(start, start + shape.numel(), device="cpu").reshape(shape)
        start += shape.numel()
    number = _computed(followed, numbered, sizes, {})[place]
    for leaf in followed.leaves:
        places = (numbered[leaf.name] == number).nonzero()
        if len(places):
            return leaf, tuple(places[0].tolist())
    raise AssertionError("what an index shows is an element of a leaf")


# -- what an index is made of ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Call:
    """A value, and the reference of its op. `is_sized`: its attributes hold `Dim`s. `numbers_stay`: numbers of the
    graph are not made tensors for it."""

    value: Value
    reference: Reference
    attrs: Mapping[str, Any]
    is_sized: bool
    numbers_stay: bool


def _calls_of(index: Value) -> tuple[_Call, ...]:
    called = [value for value in needed_for([index]) if value.op.name in REFERENCES]
    return tuple(map(_call, sorted(called, key=lambda value: value.index)))


def _call(value: Value) -> _Call:
    operands = value.inputs[1:] if value.op.name == "where" else value.inputs
    beside = value.dtype is host or any(arg.op.name != "constant" and arg.dtype is not host for arg in operands)
    is_sized = any(map(_has_dims, value.attrs.values()))
    return _Call(value, REFERENCES[value.op.name], value.attrs, is_sized, value.op.kind == "elementwise" and beside)


def _has_dims(attr: Any) -> bool:
    return any(map(_has_dims, attr)) if isinstance(attr, tuple) else isinstance(attr, Dim | DimProduct)


def _computed(
    followed: _Followed, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], known: dict[Value, Any]
) -> Tensor:
    """The index, of tensors for its leaves. What is computed on the way is added to `known`."""
    with torch.no_grad():
        for call in followed.calls:
            if call.value not in known:
                args = [None if arg is None else _argument(arg, call, tensors, sizes, known) for arg in call.value.args]
                attrs = call.attrs
                if call.is_sized:
                    attrs = {name: concrete(attr, sizes) for name, attr in attrs.items()}
                known[call.value] = call.reference(*args, **attrs)
    index = followed.use.index
    return known[index] if index in known else _tensor(_leaf(index, tensors, sizes), index)


def _argument(
    arg: Value, call: _Call, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], known: Mapping[Value, Any]
) -> Any:
    given = known[arg] if arg in known else _leaf(arg, tensors, sizes)
    return given if call.numbers_stay else _tensor(given, arg)


def _leaf(leaf: Value, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Any:
    if leaf.op.name == "constant":
        return leaf.attrs["value"]
    return float(sizes[leaf.attrs["dim"]]) if leaf.op.name == "dim_size" else tensors[leaf.name]


def _tensor(given: Any, value: Value) -> Tensor:
    if isinstance(given, Tensor):
        return given
    return torch.tensor(given, dtype=torch_dtype(value.dtype), device="cpu")


def _leaves_of(graph: Graph) -> dict[Value, tuple[Value, ...]]:
    """For each value that follows exactly from inputs, buffers and numbers: which inputs and buffers."""
    found: dict[Value, tuple[Value, ...]] = {}
    for value in graph.values:
        if value.op.name in ("input", "buffer"):
            found[value] = (value,)
        elif value.op.name in KNOWN:
            found[value] = ()
        elif value.op.name in REFERENCES and _is_exact(value) and all(arg in found for arg in value.inputs):
            found[value] = tuple(dict.fromkeys(leaf for arg in value.inputs for leaf in found[arg]))
    return found


def _is_exact(value: Value) -> bool:
    return value.op.name in EXACT or not any(v.dtype.is_float for v in (value, *value.inputs))


def _is_shown(index: Value) -> bool:
    """Whether all numbers of an index are such of inputs and buffers."""
    while index.op.name in PARTS and len(index.inputs) == 1:
        (index,) = index.inputs
    if index.op.name == "cat":
        return all(map(_is_shown, index.inputs))
    return index.op.name in ("input", "buffer")


def _is_whole(index: Value) -> bool:
    while index.op.name in ORDERS:
        (index,) = index.inputs
    return index.op.name in ("input", "buffer")


def _bounds(numbers: Tensor) -> tuple[int, int] | None:
    """The lowest number of a tensor and the highest; None where it is empty."""
    if not numbers.numel():
        return None
    if numbers.ndim == 1 and numbers.numel() <= FEW:
        listed = numbers.tolist()
        return min(listed), max(listed)
    lowest, highest = numbers.aminmax()
    return int(lowest), int(highest)


def _fits(bounds: tuple[int, int] | None, limit: int) -> bool:
    return bounds is None or (bounds[0] >= 0 and bounds[1] < limit)
