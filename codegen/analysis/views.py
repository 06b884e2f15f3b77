"""What a value is in memory: which values are views, numbers of the host or indices, and whose memory they lie in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Shape, host

APART = "apart"
"""The attribute of a reshape to the same shape, whose axes are not those of its argument: read from memory anew."""


@dataclass(frozen=True)
class Place:
    """Where a value lies: the `shape` of the contiguous memory that holds it, and its first index along each axis."""

    shape: Shape
    starts: tuple[int, ...]


def place_of(value: Value) -> Place:
    """The place of a value that is not joined to others: all of its memory, or the part that a `narrow` takes."""
    starts = [0] * len(value.shape)
    while value.op.name == "narrow":
        starts[value.attrs["axis"]] += value.attrs["start"]
        (value,) = value.inputs
    return Place(value.shape, tuple(starts))


def is_host(value: Value) -> bool:
    """Whether the host computes the value before a launch."""
    return value.dtype is host


def is_free(value: Value) -> bool:
    """Whether a kernel has the value without loading it: numbers, indices and random numbers."""
    return value.op.name == "iota" or is_number(value) or is_drawn(value)


def is_number(value: Value) -> bool:
    """Whether a value is a number, however often it is repeated: each part of it is that number, too."""
    return memory_of(value).op.name == "constant"


def is_drawn(value: Value) -> bool:
    """Whether a value is random numbers, or a part of them: each is made from its place, wherever it is needed."""
    while value.op.name == "narrow":
        (value,) = value.inputs
    return value.op.name == "uniform"


def is_squeeze(value: Value) -> bool:
    """Whether a reshape only adds or drops dimensions of size 1, and is not there to read its memory apart."""
    (x,) = value.inputs
    return APART not in value.attrs and [s for s in value.shape if s != 1] == [s for s in x.shape if s != 1]


def is_view(value: Value) -> bool:
    """Whether a value only shows another one differently; each kernel that reads it reads the other one."""
    return value.op.name in ("transpose", "broadcast_to") or (value.op.name == "reshape" and is_squeeze(value))


def is_alias(value: Value) -> bool:
    """Whether a value is another one's memory under a shape that mixes its axes, or a part of that memory."""
    return value.op.name == "narrow" or (value.op.name == "reshape" and not is_squeeze(value))


def base_of(value: Value) -> Value:
    """What a view shows in the end."""
    while is_view(value):
        (value,) = value.inputs
    return value


def source_of(value: Value) -> Value:
    """What has to be in memory, or in the same kernel, for `value` to be read: views looked through."""
    return base_of(value)


def memory_of(value: Value) -> Value:
    """The value whose memory `value` shows: views and reshapes looked through."""
    while value.op.name in _SHOW:
        (value,) = value.inputs
    return value


_SHOW = frozenset({"transpose", "broadcast_to", "reshape", "narrow"})
"""What shows another value: as a view, or as a part of its memory or with other axes."""


def needs_kernel(value: Value) -> bool:
    """Whether a launch has to compute the value."""
    return not (value.is_leaf or is_view(value) or is_alias(value) or is_host(value) or is_join(value))


def is_join(value: Value) -> bool:
    """Whether a value is memory alone, whose parts the kernels that compute them write straight to their places."""
    return value.op.name == "cat"


def cone_of(total: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """What a value is computed from, down to memory: the values between, in order, and the leaves, numbers apart."""
    members: dict[Value, None] = {}
    leaves: dict[Value, None] = {}
    todo = list(total.inputs)
    while todo:
        value = todo.pop()
        if value in members or value in leaves or is_host(value) or is_free(value):
            continue
        if value.is_leaf:
            leaves[value] = None
        else:
            members[value] = None
            todo += value.inputs

    def ordered(some: dict[Value, None]) -> tuple[Value, ...]:
        return tuple(sorted(some, key=lambda v: v.index))

    return ordered(members), ordered(leaves)


def operand_cone(value: Value, held: Collection[Value]) -> list[Value]:
    """What a kernel that multiplies `value` computes of it, in order: all that is elementwise of what it has `held`."""
    found: set[Value] = set()
    todo = [value]
    while todo:
        source = base_of(todo.pop())
        if source in held and source not in found and source.op.kind in ("elementwise", "cast"):
            found.add(source)
            todo += source.inputs
    return sorted(found, key=lambda v: v.index)
