"""Awkward tensors like those given: other sizes, other layouts, other numbers.

Axes of equal size are taken to be one size of the kernel, as the 128 of x[64, 128] and weight[128], and change
together. A size of 1 stays. Whether the sizes make sense is for the reference to say: where it raises an error, there
is no case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

SIZES = (1, 2, 7, 33)
"""What a size becomes, one size at a time: a single one, a pair, and two that fill no block."""

SMALL = (5, 7, 3)
"""What all sizes become at once, in turn."""

Arguments = tuple[Any, ...]


def shape_cases(arguments: Arguments, seed: int) -> Iterator[tuple[str, Arguments]]:
    """Tensors of other sizes, with numbers drawn like those given."""
    sizes = sorted({size for a in arguments if isinstance(a, Tensor) for size in a.shape if size > 1}, reverse=True)
    changes = [(f"size {old} as {new}", {old: new}) for old in sizes for new in SIZES if new != old]
    if len(sizes) > 1:
        small = {old: SMALL[i % len(SMALL)] for i, old in enumerate(sizes)}
        changes.append((f"sizes as {', '.join(f'{old}→{new}' for old, new in small.items())}", small))
    changes += [(f"size {old} as 0", {old: 0}) for old in sizes]
    generator = torch.Generator().manual_seed(seed)
    for name, change in changes:
        yield name, tuple(_of_sizes(a, change, generator) for a in arguments)


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
    """The same numbers, one tensor lying in memory otherwise: its last two axes swapped, and with gaps around it."""
    for place, given in enumerate(arguments):
        if not isinstance(given, Tensor) or not given.numel():
            continue
        if given.ndim >= 2 and min(given.shape[-2:]) > 1:
            yield f"argument {place} with swapped strides", _with(arguments, place, _swapped(given))
        if given.ndim >= 1:
            yield f"argument {place} as part of a larger tensor", _with(arguments, place, _inside(given))


def _swapped(given: Tensor) -> Tensor:
    return given.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)


def _inside(given: Tensor) -> Tensor:
    """A view of a tensor that is three longer on each axis; what lies around it is no part of it."""
    around = given.new_full([size + 3 for size in given.shape], 77 if given.dtype is not torch.bool else True)
    view = around[tuple(slice(1, 1 + size) for size in given.shape)]
    return view.copy_(given)


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


def value_cases(arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The same shapes with other numbers in the first float tensor."""
    place = next((i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()), None)
    if place is None or not arguments[place].numel():
        return
    mean = MEANS.get(arguments[place].dtype, 0)
    if mean:
        name = f"argument {place} with a mean of {mean} standard deviations"
        yield name, _with(arguments, place, _shifted(arguments[place].detach(), mean))
    for name, change in VALUES.items():
        yield f"{name} in argument {place}", _with(arguments, place, change(arguments[place].detach().clone()))


def _shifted(x: Tensor, deviations: int) -> Tensor:
    """All numbers moved up, as far as half the largest number of the dtype."""
    finite = x[x.isfinite()].double()
    spread = float(finite.std()) if finite.numel() > 1 else 0.0
    return x + min(deviations * (spread or 1.0), torch.finfo(x.dtype).max / 2)


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
