"""One run of a kernel or of its reference: what it returns, and what it leaves in its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from ..ir.core.errors import DeclarationError

Results = dict[str, Tensor]


@dataclass(frozen=True)
class Raw:
    """A kernel launched by its own arguments, on `grid`: what it writes are its results. The reference takes the
    tensors that are not `outputs`, which are places among the arguments."""

    kernel: JITFunction
    grid: Any
    constexprs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: Any) -> None:
        self.kernel[self.grid](*arguments, **self.constexprs)


def is_kernel(thing: object) -> bool:
    return isinstance(thing, JITFunction | Autotuner | Heuristics)


def copied(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same tensors in other memory, lying there as they did."""
    return tuple(_copied(a) if isinstance(a, Tensor) else a for a in arguments)


def _copied(given: Tensor) -> Tensor:
    """A tensor of the same strides and offset, in a copy of the whole storage."""
    given = given.detach()
    storage = given.untyped_storage().clone()
    return torch.empty(0, dtype=given.dtype, device=given.device).set_(
        storage, given.storage_offset(), given.shape, given.stride()
    )


@dataclass(frozen=True)
class Ran:
    """One run on copies of the arguments: the tensors that it returned by name, the arguments as it leaves them, and
    the places of those that it changed."""

    returned: Results
    arguments: tuple[Any, ...]
    changed: frozenset[int]

    def results(self, written: frozenset[int]) -> Results:
        """What it gives where the arguments at the places `written` are results: these, and what it returned. A
        function that returns such an argument gives it once."""
        left = {place: self.arguments[place] for place in sorted(written) if isinstance(self.arguments[place], Tensor)}
        returned = {n: t for n, t in self.returned.items() if not any(_is_one(t, held) for held in left.values())}
        return {**returned, **{f"argument {place}": tensor for place, tensor in left.items()}}


def _is_one(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same memory, read the same way."""
    return one.dtype == other.dtype and one.is_set_to(other)


def ran(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Ran:
    """Run `function` on copies of the arguments."""
    given = copied(arguments)
    returned = dict(named_tensors("result", function(*given)))
    pairs = enumerate(zip(arguments, given, strict=True))
    changed = (i for i, (before, after) in pairs if isinstance(before, Tensor) and not same_bits(before, after))
    return Ran(returned, given, frozenset(changed))


def named_tensors(name: str, returned: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of what a function returns: itself, or parts of tuples and dicts."""
    if isinstance(returned, Tensor):
        yield name, returned.detach()
    elif isinstance(returned, tuple | list):
        for place, part in enumerate(returned):
            yield from named_tensors(f"{name}[{place}]", part)
    elif isinstance(returned, Mapping):
        for key, part in returned.items():
            yield from named_tensors(f"{name}[{key!r}]", part)
    elif returned is not None and not isinstance(returned, bool | int | float):
        raise DeclarationError(f"check: a result is a {type(returned).__name__}; return tensors, or write in arguments")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaNs in the same places included."""
    return one.shape == other.shape and one.dtype == other.dtype and not bool(different(one, other).any())


def different(one: Tensor, other: Tensor) -> Tensor:
    """Where two tensors of one shape and dtype differ in some bit; any NaN is like any other."""
    if not one.is_floating_point():
        return one != other
    is_same = (one == other) & (one.signbit() == other.signbit())
    return ~(is_same | (one.isnan() & other.isnan()))


class Filled(TorchDispatchMode):
    """Memory that is allocated without being set holds `number`; of integers and bools, `integer` and `truth`."""

    def __init__(self, number: float, integer: int, truth: bool) -> None:
        super().__init__()
        self.number, self.integer, self.truth = number, integer, truth

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in _EMPTY and isinstance(made, Tensor) and made.numel():
            whole = self.truth if made.dtype is torch.bool else self.integer
            made.fill_(self.number if made.is_floating_point() or made.is_complex() else whole)
        return made


_EMPTY = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Machine code on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
