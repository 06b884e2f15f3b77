"""Other views of the same elements, as torch's functions of these names give them. None of them computes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import describe, op
from ..core.registry import Note
from ..core.types import Shape, Size, dims_in, normalize_axes, product_of, quotient, show_shape

FAMILY = "tensors"

Sizes = Sequence[Size]


def _listed(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The numbers of a call that takes them one by one or as one sequence, as torch's methods do."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], Sequence) else given


def _value(x: object, what: str) -> Value:
    if not isinstance(x, Value):
        raise DeclarationError(f"{what}: takes a Value of a graph, got {x!r}; start from g.input(...)")
    return x


def _place(dim: int, places: int, what: str) -> int:
    (place,) = normalize_axes(dim, places, what)
    return place


# -- reshape, flatten --------------------------------------------------------------------------------------------------


def reshape(x: Value, *shape: Any) -> Value:
    """`x` with the same elements in the same order under another shape, a tuple or sizes one by one; one of them may be
    −1, which stands for what the others leave over."""
    x = _value(x, "reshape")
    return P.reshape(x, _without_minus_one(x, _listed(shape)))


def _without_minus_one(x: Value, shape: Sizes) -> Shape:
    places = [i for i, size in enumerate(shape) if isinstance(size, int) and size == -1]
    if not places:
        return tuple(shape)
    wanted = f"reshape: {x.name!r} of shape {show_shape(x.shape)} to {show_shape(tuple(shape))}"
    if len(places) > 1:
        raise ShapeError(f"{wanted}: only one size can be inferred; give the others")
    rest = [size for i, size in enumerate(shape) if i != places[0]]
    strange = [dim for dim in dims_in(rest) if dim not in dims_in(x.shape)]
    if strange:
        raise ShapeError(f"{wanted}: {strange[0]} is none of its sizes; give sizes that it has")
    inferred = quotient(product_of(x.shape), product_of(rest))
    if inferred is None:
        raise ShapeError(f"{wanted}: −1 stands for no size that fits; give every size")
    return (*shape[: places[0]], inferred, *shape[places[0] + 1 :])


describe(
    reshape,
    domain=(-10, 10),
    note=Note(
        formula="the same elements in the same order",
        derivative="the cotangent under the shape of x",
        strengths="Moves nothing if the elements are already in that order.",
        weaknesses="Reductions over the new axes read from memory, so fewer ops are fused.",
        use="Splitting heads, flattening before a linear layer, and merging symbolic sizes: (B, T, V) to (-1, V).",
        source="torch.reshape",
    ),
    sample=lambda graph, shape, dtype: reshape(graph.input("x", (*shape, 6), dtype), (*shape, 2, 3)),
)


@op(
    domain=(-10, 10),
    note=Note(
        formula="axes start_dim to end_dim as one",
        derivative="the cotangent under the shape of x",
        strengths="States the intent without sizes, unlike reshape.",
        weaknesses="Loses the distinction between the axes.",
        use="From feature maps to the rows that a linear layer takes: start_dim=1.",
        source="torch.flatten",
    ),
)
def flatten(x: Value, *, start_dim: int, end_dim: int) -> Value:
    """axes start_dim to end_dim as one"""
    rank = max(len(x.shape), 1)
    start, end = _place(start_dim, rank, "flatten"), _place(end_dim, rank, "flatten")
    if start > end:
        raise ShapeError(f"start_dim {start_dim} comes after end_dim {end_dim}; swap them")
    return P.reshape(x, (*x.shape[:start], product_of(x.shape[start : end + 1]), *x.shape[end + 1 :]))


flatten.sample = lambda graph, shape, dtype: flatten(graph.input("x", (*shape, 3), dtype), -min(2, len(shape) + 1))


@flatten.declares
def _(x: Value, start_dim: int = 0, end_dim: int = -1, *, name: str | None = None) -> Value:
    """`x` with the axes `start_dim` to `end_dim`, both included, as one; a 0-dim value becomes one of shape (1,)."""
    return flatten.apply(_value(x, "flatten"), start_dim=start_dim, end_dim=end_dim, name=name)


# -- detach ------------------------------------------------------------------------------------------------------------


@op(
    domain=(-10, 10),
    note=Note(
        formula="x",
        derivative="none: gradients stop here",
        strengths="Costs nothing: after gradients are taken it is x itself.",
        weaknesses="A detach by mistake stops training without an error.",
        use="Targets that a model makes itself, and straight-through estimators: x + (round(x) − x).detach().",
        source="torch.Tensor.detach",
    ),
)
def detach(x: Value) -> Value:
    """x, which gradients do not pass"""
    return P.copy(x)


detach.sample = lambda graph, shape, dtype: detach(graph.input("x", shape, dtype))


@detach.gradient
def _(d_y, y, x):
    return (None,)


# -- axes of size 1 ----------------------------------------------------------------------------------------------------


@op(
    domain=(-10, 10),
    note=Note(
        formula="x without its axes of size 1",
        derivative="the cotangent under the shape of x",
        strengths="Removes a reduced axis.",
        weaknesses="Without dim it also drops an axis that is 1 by chance.",
        use="After keepdim=True; name the dim.",
        source="torch.squeeze",
    ),
)
def squeeze(x: Value, *, dim: tuple[int, ...]) -> Value:
    """x without those of the axes dim that have size 1"""
    gone = normalize_axes(dim, len(x.shape), "squeeze")
    return P.reshape(x, tuple(s for axis, s in enumerate(x.shape) if axis not in gone or s != 1))


squeeze.sample = lambda graph, shape, dtype: squeeze(graph.input("x", (*shape, 1), dtype), -1)


@squeeze.declares
def _(x: Value, dim: int | Sequence[int] | None = None, *, name: str | None = None) -> Value:
    """`x` without its axes of size 1 (`dim` None), or without those of the axes `dim` that have size 1. A size that is
    known only when tensors are fed stays."""
    x = _value(x, "squeeze")
    given = tuple(range(len(x.shape))) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    axes = () if not x.shape and set(given) <= {0, -1} else normalize_axes(given, len(x.shape), "squeeze")
    return squeeze.apply(x, dim=axes, name=name)


@op(
    domain=(-10, 10),
    note=Note(
        formula="x with a new axis of size 1 at dim",
        derivative="the cotangent under the shape of x",
        strengths="Makes broadcasting along a chosen axis explicit.",
        weaknesses="If it is missing, broadcasting may silently give a matrix of all pairs.",
        use="Weights for each channel, and differences of all pairs.",
        source="torch.unsqueeze",
    ),
)
def unsqueeze(x: Value, *, dim: int) -> Value:
    """x with a new axis of size 1 at dim"""
    place = _place(dim, len(x.shape) + 1, "unsqueeze")
    return P.reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


unsqueeze.sample = lambda graph, shape, dtype: unsqueeze(graph.input("x", shape, dtype), -1)


@unsqueeze.declares
def _(x: Value, dim: int, *, name: str | None = None) -> Value:
    """`x` with a new axis of size 1 before axis `dim`; −1 puts it last."""
    return unsqueeze.apply(_value(x, "unsqueeze"), dim=dim, name=name)


# -- repeated axes -----------------------------------------------------------------------------------------------------

describe(
    P.broadcast_to,
    domain=(-10, 10),
    note=Note(
        formula="x repeated along new axes and axes of size 1",
        derivative="the cotangent summed over the repeated axes",
        strengths="Costs no memory: kernels read the one element again.",
        weaknesses="If it is stored, it has its full size.",
        use="Seldom needed, since arithmetic broadcasts by itself.",
        source="torch.broadcast_to",
    ),
    sample=lambda graph, shape, dtype: P.broadcast_to(graph.input("x", (*shape, 1), dtype), (*shape, 3)),
)


@op(
    domain=(-10, 10),
    note=Note(
        formula="x repeated along new axes and axes of size 1",
        derivative="the cotangent summed over the repeated axes",
        strengths="Costs no memory: kernels read the one element again.",
        weaknesses="If it is stored, it has its full size.",
        use="Where an op takes equal shapes only, as a loss of two tensors does.",
        source="torch.Tensor.expand",
    ),
)
def expand(x: Value, *, shape: tuple[int, ...]) -> Value:
    """x repeated along new axes and axes of size 1"""
    return P.broadcast_to(x, shape)


expand.sample = lambda graph, shape, dtype: expand(graph.input("x", (*shape, 1), dtype), *(-1 for _ in shape), 3)


@expand.declares
def _(x: Value, *sizes: Any, name: str | None = None) -> Value:
    """`x` repeated to `sizes`, a tuple or one by one: an axis of size 1 takes any size, −1 leaves an axis as it is, and
    more sizes in front make new axes."""
    x = _value(x, "expand")
    listed = _listed(sizes)
    new = len(listed) - len(x.shape)
    if new < 0 or any(size == -1 for size in listed[:new]):
        raise ShapeError(
            f"expand: {x.name!r} of shape {show_shape(x.shape)} to {show_shape(listed)}; give a size for each of its "
            f"{len(x.shape)} axes, where −1 keeps it, behind those of new axes"
        )
    shape = tuple(x.shape[i - new] if size == -1 else size for i, size in enumerate(listed))
    return expand.apply(x, shape=shape, name=name)


# -- the order of axes -------------------------------------------------------------------------------------------------


@op(
    domain=(-10, 10),
    note=Note(
        formula="axis i of the result is axis dims[i] of x",
        derivative="the cotangent in the order of x",
        strengths="Needs no memory if a kernel can read the elements in either order.",
        weaknesses="Later reads are not contiguous: they are narrower, or need a copy.",
        use="Channels last, and heads in front of positions.",
        source="torch.permute",
    ),
)
def permute(x: Value, *, dims: tuple[int, ...]) -> Value:
    """axis i of the result is axis dims[i] of x"""
    rank = len(x.shape)
    if any(not isinstance(d, int) or not -rank <= d < rank for d in dims) or sorted(d % rank for d in dims) != [
        *range(rank)
    ]:
        raise ShapeError(
            f"dims {dims} for {x.name!r} of shape {show_shape(x.shape)}; name each of its {rank} axes once"
        )
    return P.transpose(x, tuple(d % rank for d in dims))


permute.sample = lambda graph, shape, dtype: permute(graph.input("x", shape, dtype), tuple(reversed(range(len(shape)))))


@permute.declares
def _(x: Value, *dims: Any, name: str | None = None) -> Value:
    """`x` with its axes in the order `dims`, a tuple or one by one."""
    return permute.apply(_value(x, "permute"), dims=_listed(dims), name=name)


def transpose(x: Value, dim0: int, dim1: int) -> Value:
    """`x` with the axes `dim0` and `dim1` swapped; `permute` takes a whole order."""
    x = _value(x, "transpose")
    rank = len(x.shape)
    if not isinstance(dim0, int) or not isinstance(dim1, int):
        raise DeclarationError(f"transpose: swaps two axes, got {dim0!r} and {dim1!r}; tn.permute takes a whole order")
    first, second = (_place(dim, max(rank, 1), "transpose") for dim in (dim0, dim1))
    order = list(range(rank))
    if rank:
        order[first], order[second] = second, first
    return P.transpose(x, tuple(order))


describe(
    transpose,
    domain=(-10, 10),
    note=Note(
        formula="x with two axes swapped",
        derivative="the cotangent with the same two axes swapped",
        strengths="Needs no memory if a kernel can read the elements in either order.",
        weaknesses="Later reads are not contiguous: they are narrower, or need a copy.",
        use="Products with a transposed matrix, and channels behind positions.",
        source="torch.transpose",
    ),
    sample=lambda graph, shape, dtype: transpose(graph.input("x", shape, dtype), 0, -1),
)
