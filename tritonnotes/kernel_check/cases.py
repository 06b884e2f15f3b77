"""Awkward tensors like those given: other sizes, other layouts, other numbers.

Axes of equal size are taken to be one size of the kernel, as the 128 of x[64, 128] and weight[128], and change
together. A size of 1 stays. Whether the sizes make sense is for the reference to say: where it raises an error, there
is no case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

SIZES = (1, 2, 7, 33)
"""What a size becomes, one size at a time: a single one, a pair, and two that fill no block."""

MOST_ELEMENTS = 2**20
"""Of the largest tensor, where a size becomes larger than it is given."""

SMALL = (5, 7, 3)
"""What all sizes become at once, in turn."""

Arguments = tuple[Any, ...]


def shape_cases(arguments: Arguments, seed: int) -> Iterator[tuple[str, Arguments]]:
    """Tensors of other sizes, with numbers drawn like those given."""
    sizes = sizes_of(arguments)
    grown = larger(arguments)
    becomes = {old: dict.fromkeys([*SIZES, *([grown[old]] if old in grown else [])]) for old in sizes}
    changes = [(changed(old, new), {old: new}) for old, made in becomes.items() for new in made if new != old]
    if len(sizes) > 1:
        small = {old: SMALL[i % len(SMALL)] for i, old in enumerate(sizes)}
        changes.append((f"sizes as {', '.join(f'{old}→{new}' for old, new in small.items())}", small))
    changes += [(changed(old, 0), {old: 0}) for old in sizes]
    generator = torch.Generator().manual_seed(seed)
    for name, change in changes:
        yield name, tuple(_of_sizes(a, change, generator) for a in arguments)


def sizes_of(arguments: Arguments) -> list[int]:
    """The sizes that change, the largest first."""
    return sorted({size for a in arguments if isinstance(a, Tensor) for size in a.shape if size > 1}, reverse=True)


def changed(old: int, new: int) -> str:
    """The name of a case that changes one size."""
    return f"size {old} as {new}"


def larger(arguments: Arguments) -> dict[int, int]:
    """Of each size a larger one, beyond the power of two that a row of the given size is padded to: a constant block
    that is long enough for the sizes given is too short for it. Those that make a tensor too large are left out."""
    shapes = [a.shape for a in arguments if isinstance(a, Tensor)]
    made = {old: max(2 * old + 1, *SIZES) for old in sizes_of(arguments)}

    def elements(old: int, new: int) -> int:
        return max(math.prod(new if size == old else size for size in shape) for shape in shapes)

    return {old: new for old, new in made.items() if elements(old, new) <= MOST_ELEMENTS}


def untried(arguments: Arguments, ran: Collection[str]) -> str:
    """A sentence about the sizes that no case has. `ran` are the names of those that the kernel ran."""
    grown = larger(arguments)
    largest = {
        old: max([old, *(new for new in (*SIZES, grown.get(old, 0)) if changed(old, new) in ran)])
        for old in sizes_of(arguments)
    }
    shown = [f"{new:,}" if new == old else f"{new:,} ({old:,} given)" for old, new in largest.items()]
    return f"sizes above {' and '.join(shown)} were not tried" if shown else ""


def _of_sizes(given: Any, change: dict[int, int], generator: torch.Generator) -> Any:
    if not isinstance(given, Tensor) or not any(size in change for size in given.shape):
        return given.clone() if isinstance(given, Tensor) else given
    shape = [change.get(size, size) for size in given.shape]
    flat = given.reshape(-1)
    if not flat.numel():
        return given.new_empty(shape)
    count = int(torch.tensor(shape).prod())
    chosen = torch.randint(flat.numel(), (count,), generator=generator)
    return flat[chosen.to(given.device)].reshape(shape)


def layout_cases(arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The same numbers, one tensor lying in memory otherwise: its last two axes swapped, with gaps around it, and of a
    vector with gaps between its elements."""
    for place, given in enumerate(arguments):
        if not isinstance(given, Tensor) or not given.numel():
            continue
        if given.ndim >= 2 and min(given.shape[-2:]) > 1:
            yield f"argument {place} with swapped strides", _with(arguments, place, _swapped(given))
        if given.ndim >= 1:
            yield f"argument {place} as part of a larger tensor", _with(arguments, place, _inside(given))
        if given.ndim == 1 and given.numel() > 1:
            yield f"argument {place} as every other element of a vector", _with(arguments, place, _spread(given))


def _swapped(given: Tensor) -> Tensor:
    return given.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)


def _inside(given: Tensor) -> Tensor:
    """A view of a tensor that is three longer on each axis; what lies around it is no part of it."""
    around = given.new_full([size + 3 for size in given.shape], _stranger(given))
    view = around[tuple(slice(1, 1 + size) for size in given.shape)]
    return view.copy_(given)


def _spread(given: Tensor) -> Tensor:
    """A vector of stride 2; what lies between its elements is no part of it."""
    return given.new_full([2 * given.shape[0]], _stranger(given))[::2].copy_(given)


def _stranger(given: Tensor) -> int | bool:
    return 77 if given.dtype is not torch.bool else True


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "a NaN": lambda x: _planted(x, float("nan")),
    "an infinity": lambda x: _planted(x, float("inf")),
    "zeros": torch.zeros_like,
    "numbers times 1e4": lambda x: x * 1e4,
    "numbers times 1e-4": lambda x: x * 1e-4,
    "one number everywhere": lambda x: torch.full_like(x, 3.0),
}


MEANS = {torch.float64: 8192, torch.float32: 16, torch.float16: 1024, torch.bfloat16: 1024}
"""Numbers of a mean that is large beside their spread, where E[x²] - E[x]² subtracts away what it seeks. In float32 a
mean of more deviations is rounded by so much that eager's own error is a matter of luck. 16-bit numbers are computed in
float32."""


LOW_MEAN, LOW_SPREAD = -1024, 64
"""Of numbers so far below 0 that exp(x) is 0 in every dtype. A maximum over padding of 0 finds the padding. The mean is
16 deviations, and 16-bit numbers hold it."""


def value_cases(arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The same shapes with other numbers in the first float tensor, and with every mask all true and all false."""
    yield from _number_cases(arguments)
    for place, given in enumerate(arguments):
        if isinstance(given, Tensor) and given.dtype is torch.bool and given.numel():
            for truth in (False, True):
                made = torch.full_like(given, truth)
                yield f"all {truth} in argument {place}", _with(arguments, place, made)


def _number_cases(arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    place = next((i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()), None)
    if place is None or not arguments[place].numel():
        return
    mean = MEANS.get(arguments[place].dtype, 0)
    if mean:
        name = f"argument {place} with a mean of {mean} standard deviations"
        yield name, _with(arguments, place, _shifted(arguments[place].detach(), mean))
        name = f"argument {place} with mean {LOW_MEAN} and standard deviation {LOW_SPREAD}"
        yield name, _with(arguments, place, _far_below(arguments[place].detach()))
    for name, change in VALUES.items():
        yield f"{name} in argument {place}", _with(arguments, place, change(arguments[place].detach().clone()))


def _shifted(x: Tensor, deviations: int) -> Tensor:
    """All numbers moved up, as far as half the largest number of the dtype."""
    _, spread = _mean_and_spread(x)
    return x + min(deviations * spread, torch.finfo(x.dtype).max / 2)


def _far_below(x: Tensor) -> Tensor:
    mean, spread = _mean_and_spread(x)
    return ((x.double() - mean) * (LOW_SPREAD / spread) + LOW_MEAN).to(x.dtype)


def _mean_and_spread(x: Tensor) -> tuple[float, float]:
    """Of the finite numbers; a spread of 1 where they do not differ."""
    finite = x[x.isfinite()].double()
    if not finite.numel():
        return 0.0, 1.0
    return float(finite.mean()), float(finite.std(correction=0)) or 1.0


def _planted(x: Tensor, number: float) -> Tensor:
    x[tuple(size // 2 for size in x.shape)] = number
    return x


def normal_draw(arguments: Arguments, seed: int) -> Arguments:
    """The same shapes, with normal numbers of both signs in every float tensor; what is no float stays."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(a.shape, generator=generator).to(a)
        if isinstance(a, Tensor) and a.is_floating_point()
        else a.clone() if isinstance(a, Tensor) else a
        for a in arguments
    )  # fmt: skip


def _with(arguments: Sequence[Any], place: int, made: Tensor) -> Arguments:
    return tuple(made if i == place else a.clone() if isinstance(a, Tensor) else a for i, a in enumerate(arguments))


def drawn_again(arguments: Arguments, seed: int) -> Arguments:
    """Tensors of the same shapes, with numbers drawn from those given."""
    generator = torch.Generator().manual_seed(seed)
    same = {size: size for a in arguments if isinstance(a, Tensor) for size in a.shape}
    return tuple(_of_sizes(a, same, generator) for a in arguments)
