"""Dtypes, symbolic dimensions and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import DeclarationError, DTypeError, ShapeError

MAX_NAME = 100
MAX_SIZE = 2**62
MAX_TEXT = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


def is_name(text: str) -> bool:
    """Whether `text` is made as a name is, of whatever length: derived names outgrow the given ones they join."""
    return _NAME.fullmatch(text) is not None


def check_name(name: object, what: str) -> str:
    """Return `name` if it is fit for graphs, kernels and files, else raise `DeclarationError`.

    A name is ASCII letters, digits and underscores, with dots between parts, as in `fc1.weight`.
    """
    if not isinstance(name, str):
        raise DeclarationError(f"{what}: a name is a str, got {type(name).__name__}; pass a string")
    if len(name) > MAX_NAME:
        raise DeclarationError(f"{what}: a name of {len(name)} characters; use at most {MAX_NAME}")
    if not is_name(name):
        raise DeclarationError(
            f"{what}: {name!r} is no name; use ASCII letters, digits and '_', parts joined by '.', as in 'fc1.weight'"
        )
    return name


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
        if "." in self.name:
            raise DeclarationError(f"Dim: {self.name!r} holds a dot; use letters, digits and '_'")

    def __repr__(self) -> str:
        return self.name


Size = int | Dim
Shape = tuple[Size, ...]


def as_shape(shape: object, what: str) -> Shape:
    """A checked shape: a tuple of non-negative ints and `Dim`s whose known part stays below 2**62 elements."""
    if isinstance(shape, int | Dim):
        shape = (shape,)
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise ShapeError(f"{what}: a shape is a tuple of ints and Dims, got {shape!r}")
    known = 1
    for size in shape:
        if isinstance(size, Dim):
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            shown = repr(size) if not isinstance(size, int) or size > -MAX_SIZE else "a huge negative number"
            raise ShapeError(f"{what}: a shape of {len(shape)} dims holds {shown}; sizes are ints ≥ 0 or Dims")
        known *= max(size, 1)
        if known > MAX_SIZE:
            # The sizes stay out of the message: Python refuses to print an int of 5,000 digits.
            raise ShapeError(f"{what}: a shape of more than 2**62 elements; declare a smaller one")
    return tuple(shape)


def check_plain(value: object, what: str) -> bool | int | float | str | DType | Dim | tuple[object, ...]:
    """An attribute as a plain Python value: a bool, an int that fits int64, a float, a short ASCII str, a `DType`,
    a `Dim`, or a tuple of these. Numpy scalars become Python's, lists tuples; else raises `DeclarationError`."""
    if isinstance(value, tuple | list):
        return tuple(check_plain(part, what) for part in value)
    if not isinstance(value, DType | Dim) and getattr(value, "shape", None) == ():
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, str):
        if len(value) > MAX_TEXT or not (value.isascii() and value.isprintable()):
            raise DeclarationError(
                f"{what}: {value[:40]!a} is no attribute; use at most {MAX_TEXT} printable ASCII characters"
            )
        return str.__str__(value)  # of a str enum the text, not its name
    if isinstance(value, bool | Dim):
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
        count *= sizes[size.name] if isinstance(size, Dim) else size
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
