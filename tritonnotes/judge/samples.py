"""Random tensors for a graph's inputs, drawn from the ranges on which its ops are tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..ir.core.errors import FeedError
from ..ir.core.graph import Graph, Value, shown_by
from ..ir.core.op import DESCRIBED, Op
from ..ir.core.registry import ANY_NUMBER, Primitive
from ..ir.core.types import Size, dims_in, size_at
from ..tensors.dtypes import torch_dtype

DEFAULT_RANGE = (-3.0, 3.0)


def draw_feeds(
    graph: Graph,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    extremes: bool = False,
    *,
    kinds: Sequence[str] = ("input",),
) -> dict[str, Tensor]:
    """A tensor for each leaf of the given `kinds`, by name, on the CPU, with its declared dtype.

    Values stay in the domain of every op that takes the leaf, directly or through views (the intersection of several),
    or in (−3, 3): half of them normal about the middle, half uniform. A class index lies in [0, C). `extremes` plants
    the ends of the range, its middle, and the smallest steps around zero. `sizes` gives each `Dim` its size. The same
    seed draws the same numbers, and torch's global generator is left alone. Raises `FeedError` where a range cannot be
    found.
    """
    generator = torch.Generator().manual_seed(seed)
    users = _domains(graph)
    return {
        leaf.name: _draw(leaf, users.get(leaf, []), dict(sizes or {}), generator, extremes)
        for leaf in graph.leaves(*kinds)
    }


Use = tuple[tuple[float, float] | str, Value, Value]
"""A domain, the value that uses the leaf under it, and the argument of it that shows the leaf."""


def _domains(graph: Graph) -> dict[Value, list[Use]]:
    found: dict[Value, list[Use]] = {}
    for value in graph.values:
        if isinstance(value.op, Op):
            domain, names = value.op.domain, value.op.arg_names
        elif isinstance(value.op, Primitive) and value.op.name in DESCRIBED:
            domain = DESCRIBED[value.op.name].domain
            names = list(domain)
            if value.op.arity == ANY_NUMBER:
                names = names[:1] * len(value.args)
        else:
            continue
        for arg, name in zip(value.args, names, strict=True):
            if arg is not None and name in domain:
                found.setdefault(shown_by(arg), []).append((domain[name], value, arg))
    return found


def _draw(leaf: Value, uses: list[Use], sizes: dict[str, int], generator: torch.Generator, extremes: bool) -> Tensor:
    shape = tuple(_size(s, leaf, sizes) for s in leaf.shape)
    dtype = torch_dtype(leaf.dtype)
    if leaf.dtype.kind == "bool":
        return torch.randint(0, 2, shape, generator=generator, device="cpu").bool()
    low, high = _range([domain for domain, *_ in uses if not isinstance(domain, str)], leaf)
    classes = [_classes(shown, user, sizes) for domain, user, shown in uses if domain == "class"]
    classes += [_size(user.inputs[-1].shape[0], leaf, sizes) for domain, user, _ in uses if domain == "row"]
    if classes:
        # Without a class there is no right index; one that is too large says so where it is used.
        return torch.randint(0, max(min(classes), 1), shape, generator=generator, device="cpu").to(dtype)
    if leaf.dtype.kind == "int":
        return torch.randint(int(low), int(high) + 1, shape, generator=generator, device="cpu").to(dtype)
    drawn = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float64) + (low + high) / 2
    uniform = low + (high - low) * torch.rand(shape, generator=generator, device="cpu", dtype=torch.float64)
    is_uniform = torch.rand(shape, generator=generator, device="cpu") < 0.5
    drawn = torch.where(is_uniform, uniform, drawn).clamp(low, high)
    if extremes:
        _plant(drawn, low, high, dtype, generator)
    return drawn.to(dtype)


def _plant(drawn: Tensor, low: float, high: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    tiny = torch.finfo(dtype).tiny
    wanted = [v for v in (low, high, (low + high) / 2, 0.0, -0.0, tiny, -tiny, 1.0, -1.0) if low <= v <= high]
    flat = drawn.view(-1)
    places = torch.randperm(len(flat), generator=generator, device="cpu")[: len(wanted)]
    flat[places] = torch.tensor(wanted, dtype=drawn.dtype, device="cpu")[: len(places)]


def _range(ranges: list[tuple[float, float]], leaf: Value) -> tuple[float, float]:
    low, high = (
        max((r[0] for r in ranges), default=DEFAULT_RANGE[0]),
        min((r[1] for r in ranges), default=DEFAULT_RANGE[1]),
    )
    if low > high:
        shown = " and ".join(map(str, ranges))
        raise FeedError(
            f"{leaf.name!r}: the ops that take it are meant for {shown}, which share no number; feed it yourself"
        )
    return low, high


def _classes(leaf: Value, user: Value, sizes: dict[str, int]) -> int:
    """The size of the axis that the logits have and the class index has not.

    Where two axes would do, all from one to the other have one size, so any of them is right. Beside an argument of
    its own shape the index says yes or no.
    """
    for arg in user.inputs:
        for axis in range(len(arg.shape)):
            if arg is not leaf and arg.shape[:axis] + arg.shape[axis + 1 :] == leaf.shape:
                return _size(arg.shape[axis], leaf, sizes)
    if any(arg is not leaf and arg.shape == leaf.shape for arg in user.inputs):
        return 2
    raise FeedError(
        f"{leaf.name!r}: no argument of {user.op.name} has one axis more, so its classes are unknown; feed it yourself"
    )


def _size(size: Size, leaf: Value, sizes: dict[str, int]) -> int:
    for dim in dims_in((size,)):
        if dim.name not in sizes:
            raise FeedError(f"{leaf.name!r}: no size for Dim {dim.name!r}; pass sizes={{{dim.name!r}: 32}}")
    return size_at(size, sizes)
