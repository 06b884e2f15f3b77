"""Dtypes, symbolic dimensions and shapes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from .errors import DeclarationError, DTypeError, ShapeError

MAX_NAME = 100
MAX_SIZE = 2**62
MAX_TEXT = 100
ROWS_OF_A_CHUNK = "chunk.rows"
"""The name of the one `Dim` that is ours: its dot keeps it apart from those that users declare."""
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def is_name(text: str) -> bool:
    """Whether `text` is made as a name is, of whatever length: derived names outgrow the given ones they join."""
    return _NAME.fullmatch(text) is not None


def check_name(name: object, what: str, longest: float = MAX_NAME) -> str:
    """Return `name` if it is fit for graphs, kernels and files, else raise `DeclarationError`.

    A name is ASCII letters, digits and underscores, with dots between parts, as in `fc1.weight` or `0.weight`.
    """
    if not isinstance(name, str):
        raise DeclarationError(f"{what}: a name is a str, got {type(name).__name__}; pass a string")
    if len(name) > longest:
        raise DeclarationError(f"{what}: a name of {len(name)} characters; use at most {longest}")
    if not is_name(name):
        raise DeclarationError(
            f"{what}: {name!r} is no name; use ASCII letters, digits and '_', parts joined by '.', as in 'fc1.weight'"
        )
    return name


OURS = "tritonnotes"
"""What stands before a name of ours where the user calls something else so."""


def own_name(name: str, given: Collection[str], *, apart: bool = False) -> str:
    """What a thing of ours is called in a graph whose user has `given` names: `name` where that is free. With `apart`
    nobody's name may be what stands before its last dot either, as what belongs to that is called so too."""
    if name not in given and not (apart and name.rpartition(".")[0] in given):
        return name
    first = OURS
    while any(other == first or other.startswith(f"{first}.") for other in given):
        first += "_"
    return f"{first}.{name}"


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. `name` is torch's; `kind` is 'float', 'int' or 'bool'; `itemsize` is in bytes."""

    name: str
    kind: str
    itemsize: int

    def __repr__(self) -> str:
        return self.name

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    def __reduce__(self) -> Any:
        # There is one of each: dtypes are told apart by identity.
        return _dtype_of, (self.name,)


float16 = DType("float16", "float", 2)
bfloat16 = DType("bfloat16", "float", 2)
float32 = DType("float32", "float", 4)
float64 = DType("float64", "float", 8)
int32 = DType("int32", "int", 4)
int64 = DType("int64", "int", 8)
bool_ = DType("bool", "bool", 1)
host = DType("host", "float", 8)
"""A number that the host knows before a launch (a learning rate, a row count): weakly typed, as a Python float is."""

DTYPES: Mapping[str, DType] = {d.name: d for d in (float16, bfloat16, float32, float64, int32, int64, bool_)}


def _dtype_of(name: str) -> DType:
    return host if name == host.name else DTYPES[name]


_RANK = {d: rank for rank, d in enumerate((bool_, int32, int64, float16, bfloat16, float32, float64))}


def as_dtype(dtype: object) -> DType:
    """The `DType` named by a `DType`, a string such as 'float32' or a torch dtype."""
    if isinstance(dtype, DType):
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise DTypeError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def promote(dtypes: Iterable[DType]) -> DType:
    """The dtype that an elementwise op computes in, as torch promotes tensors: host numbers are weak."""
    given = list(dtypes)
    if given and given.count(given[0]) == len(given):
        return given[0]  # nearly always
    known = set(given)
    strong = known - {host}
    if not strong:
        return host
    if {float16, bfloat16} <= strong:
        strong |= {float32}
    result = max(strong, key=_RANK.__getitem__)
    return float32 if host in known and not result.is_float else result


@dataclass(frozen=True, slots=True)
class Dim:
    """A symbolic dimension, such as the batch: its size is known only when tensors are fed.

    Two `Dim`s of one name are the same dimension.
    """

    name: str

    def __post_init__(self) -> None:
        check_name(self.name, "Dim")
        if "." in self.name and self.name != ROWS_OF_A_CHUNK:
            raise DeclarationError(f"Dim: {self.name!r} holds a dot; use letters, digits and '_'")

    def __repr__(self) -> str:
        return f"<{self.name}>" if self.name[0].isdigit() else self.name

    def __mul__(self, other: Size) -> Size:
        return product_of((self, other)) if _is_size(other) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        return _exact_quotient(self, other) if _is_size(other) else NotImplemented


@dataclass(frozen=True, slots=True)
class DimProduct:
    """The size of merged axes: `Dim`s, sorted by name, times a number. `product_of` makes one: of two axes of sizes
    `batch` and `time` it is `batch*time`, in whatever order they are given."""

    dims: tuple[Dim, ...]
    known: int = 1

    def __repr__(self) -> str:
        return "*".join(map(str, (self.known, *self.dims) if self.known != 1 else self.dims))

    def __mul__(self, other: Size) -> Size:
        return product_of((self, other)) if _is_size(other) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        return _exact_quotient(self, other) if _is_size(other) else NotImplemented


Size = int | Dim | DimProduct
Shape = tuple[Size, ...]
MAX_FACTORS = 16
"""The most `Dim`s of one product."""


def _is_size(value: object) -> bool:
    return isinstance(value, int | Dim | DimProduct) and not isinstance(value, bool)


def known_factor(sizes: Iterable[Size]) -> int:
    """The known part of the product of some sizes."""
    return prod(s if isinstance(s, int) else s.known if isinstance(s, DimProduct) else 1 for s in sizes)


def dims_in(sizes: Iterable[object]) -> Iterator[Dim]:
    """The `Dim`s that sizes are made of, in order, as often as they occur; what is no size is passed over."""
    for size in sizes:
        if isinstance(size, Dim):
            yield size
        elif isinstance(size, DimProduct):
            yield from size.dims


def is_symbolic(shape: Iterable[Size]) -> bool:
    """Whether some size is known only when tensors are fed."""
    return any(not isinstance(size, int) for size in shape)


def product_of(sizes: Iterable[Size]) -> Size:
    """The size of axes of these sizes that are merged: equal for equal factors, in whatever order. Raises `ShapeError`
    where it grows beyond reason."""
    listed = tuple(sizes)
    known, dims = known_factor(listed), sorted(dims_in(listed), key=lambda dim: dim.name)
    if known == 0 or not dims:
        return known
    if known > MAX_SIZE or len(dims) > MAX_FACTORS:
        raise ShapeError(f"a product of {len(dims)} Dims and {known}: at most {MAX_FACTORS} Dims and 2**62 fit a size")
    return dims[0] if len(dims) == 1 and known == 1 else DimProduct(tuple(dims), known)


def quotient(size: Size, by: Size) -> Size | None:
    """What times `by` is `size`; None where that is no size for every size of the `Dim`s."""
    if by == 0:
        return None
    have, used = Counter(dims_in((size,))), Counter(dims_in((by,)))
    whole, rest = divmod(known_factor((size,)), known_factor((by,)))
    return None if rest or used - have else product_of((whole, *(have - used).elements()))


def _exact_quotient(size: Size, by: Size) -> Size:
    found = quotient(size, by)
    if found is None:
        raise ShapeError(f"{size} // {by}: is no whole size for every size of the Dims; divide by a factor of {size}")
    return found


def size_at(size: Size, sizes: Mapping[str, int]) -> int:
    """A size once the `Dim`s have `sizes`."""
    return element_count((size,), sizes)


def bind_dims(fed: Iterable[tuple[Shape, Sequence[int]]], sizes: dict[str, int]) -> None:
    """Note in `sizes` what tensors of the declared shapes tell of the `Dim`s, given their sizes: an axis of a `Dim` is
    its size, and a product of which one factor is unknown is divided. What does not fit is left for a check."""
    pairs = [pair for shape, given in fed if len(shape) == len(given) for pair in zip(shape, given, strict=True)]
    for want, got in pairs:
        if isinstance(want, Dim):
            sizes.setdefault(want.name, got)
    merged = [(want, got) for want, got in pairs if isinstance(want, DimProduct)]
    while merged:
        left = [(want, got) for want, got in merged if not _divided(want, got, sizes)]
        if len(left) == len(merged):
            return
        merged = left


def _divided(product: DimProduct, size: int, sizes: dict[str, int]) -> bool:
    """Whether the one unknown factor of a product is known now."""
    unknown = [dim for dim in product.dims if dim.name not in sizes]
    known = product.known * prod(sizes[dim.name] for dim in product.dims if dim.name in sizes)
    if len(unknown) != 1 or known == 0:
        return False
    sizes[unknown[0].name] = size // known
    return True


def bindable(shapes: Iterable[Shape]) -> set[Dim]:
    """The `Dim`s that `bind_dims` finds the sizes of."""
    sizes: dict[str, int] = {}
    bind_dims([(shape, (1,) * len(shape)) for shape in shapes], sizes)
    return {Dim(name) for name in sizes}


def unbound(size: Size, sizes: Mapping[str, int]) -> str:
    """Why a size cannot be told, for a message; empty where it can."""
    missing = [dim.name for dim in dims_in((size,)) if dim.name not in sizes]
    shown = " and ".join(dict.fromkeys(missing))
    return (
        f"the size of {shown} cannot be told from {size}; feed a tensor with an axis of {shown} alone" if shown else ""
    )


def as_shape(shape: object, what: str) -> Shape:
    """A checked shape: a tuple of non-negative ints and `Dim`s whose known part stays below 2**62 elements."""
    if isinstance(shape, int | Dim | DimProduct):
        shape = (shape,)
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ShapeError(f"{what}: a shape is a tuple of ints and Dims, got {shape!r}")
    known = 1
    for size in shape:
        if isinstance(size, Dim):
            continue
        if isinstance(size, DimProduct):
            known *= size.known
            if known > MAX_SIZE:
                raise ShapeError(f"{what}: a shape of more than 2**62 elements; declare a smaller one")
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            shown = repr(size) if not isinstance(size, int) or size > -MAX_SIZE else "a huge negative number"
            raise ShapeError(f"{what}: a shape of {len(shape)} dims holds {shown}; sizes are ints ≥ 0 or Dims")
        known *= max(size, 1)
        if known > MAX_SIZE:
            # The sizes stay out of the message: Python refuses to print an int of 5,000 digits.
            raise ShapeError(f"{what}: a shape of more than 2**62 elements; declare a smaller one")
    return tuple(shape)


def check_plain(value: object, what: str) -> bool | int | float | str | DType | Dim | DimProduct | tuple[object, ...]:
    """An attribute as a plain Python value: a bool, an int that fits int64, a float, a short ASCII str, a `DType`,
    a `Dim` or a product of them, or a tuple of these. Numpy scalars become Python's, lists tuples; else raises
    `DeclarationError`."""
    if isinstance(value, tuple | list):
        return tuple(check_plain(part, what) for part in value)
    if not isinstance(value, DType | Dim | DimProduct) and getattr(value, "shape", None) == ():
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, str):
        if len(value) > MAX_TEXT or not (value.isascii() and value.isprintable()):
            raise DeclarationError(
                f"{what}: {value[:40]!a} is no attribute; use at most {MAX_TEXT} printable ASCII characters"
            )
        return str.__str__(value)  # of a str enum the text, not its name
    if isinstance(value, bool | Dim | DimProduct):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise DeclarationError(f"{what}: an integer of {value.bit_length()} bits does not fit int64")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, DType) and value in (*DTYPES.values(), host):
        return DTYPES.get(value.name, host)
    raise DeclarationError(
        f"{what}: a {type(value).__name__} is no attribute; use bools, numbers, strings, dtypes, Dims and tuples "
        "of them (tensors are arguments: give them positionally, as Values)"
    )


def show_shape(shape: Shape) -> str:
    """`(batch, 64)` as `[batch, 64]`."""
    return "[" + ", ".join(map(str, shape)) + "]"


def broadcast(shapes: Sequence[Shape], what: str) -> Shape:
    """The shape that `shapes` broadcast to, as torch's do; a `Dim` meets itself or 1 only."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result: list[Size] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            shown = " and ".join(show_shape(s) for s in shapes)
            raise ShapeError(
                f"{what}: shapes {shown} do not broadcast, they differ in axis {axis} "
                f"({' vs '.join(map(str, sorted(sizes, key=str)))}); make these sizes equal, or one of them 1"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def element_count(shape: Shape, sizes: Mapping[str, int]) -> int:
    """How many elements a tensor of `shape` has once the `Dim`s have `sizes`."""
    count = 1
    for size in shape:
        if isinstance(size, int):
            count *= size
        elif isinstance(size, Dim):
            count *= sizes[size.name]
        else:
            count *= size.known * prod(sizes[dim.name] for dim in size.dims)
    return count


def normalize_axes(axes: int | Sequence[int] | None, rank: int, what: str) -> tuple[int, ...]:
    """Axes as sorted non-negative ints; None means all of them."""
    if axes is None:
        return tuple(range(rank))
    listed = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in listed:
        if not isinstance(axis, int) or isinstance(axis, bool):
            raise ShapeError(f"{what}: axis {axis!r} is no int; use -{rank} to {rank - 1}")
    result = sorted({axis % rank if rank and -rank <= axis < rank else _bad_axis(axis, rank, what) for axis in listed})
    if len(result) != len(listed):
        raise ShapeError(f"{what}: axes {listed} name one axis twice; name each once")
    return tuple(result)


def _bad_axis(axis: int, rank: int, what: str) -> int:
    raise ShapeError(f"{what}: axis {axis} of a value with {rank} dims; use -{rank} to {rank - 1}")
