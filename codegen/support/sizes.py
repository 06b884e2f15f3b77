"""The nominal sizes that a plan is made for, and sizes that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from tritonnotes.ir.core.types import Shape, dims_in

NOMINAL = 256
"""The size that every `Dim` is taken to have while choices are made."""


class Sizes(dict[str, int]):
    """The sizes of `Dim`s by name; those that nobody named have the `default`. Where all are named, in a mapping that
    stands in the default's place, a `Dim` may be called as some argument of a function is."""

    def __init__(self, default: int | Mapping[str, int] = NOMINAL, sizes: Mapping[str, int] | None = None) -> None:
        named = default if isinstance(default, Mapping) else {}
        super().__init__({**named, **(sizes or {})})
        self.default = default if isinstance(default, int) else getattr(default, "default", NOMINAL)

    def __missing__(self, name: str) -> int:
        return self.default


NOMINAL_SIZES = Sizes()


def at_sizes(shapes: Iterable[Shape], sizes: Mapping[str, int] = NOMINAL_SIZES) -> str:
    """The `Dim`s of some shapes and the sizes that figures were taken at, as " at batch 256, tokens 64"; empty where
    there are no `Dim`s."""
    names = dict.fromkeys(dim.name for shape in shapes for dim in dims_in(shape))
    return f" at {', '.join(f'{name} {sizes[name]}' for name in names)}" if names else ""


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def static_size(shape: Shape) -> int | None:
    """The product of a shape, None if it holds a `Dim`."""
    product = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        product *= size
    return product


def known_size(shape: Shape) -> int | None:
    """The product of some sizes, None if there is a `Dim` among them."""
    known = [s for s in shape if isinstance(s, int)]
    return prod(known) if len(known) == len(shape) else None
