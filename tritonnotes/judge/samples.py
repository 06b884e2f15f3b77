"""Random tensors for a graph's inputs, drawn from the ranges on which its ops are tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..ir.core.errors import FeedError
from ..ir.core.graph import Graph, Value, needed_for, shown_by
from ..ir.core.op import DESCRIBED, Op
from ..ir.core.registry import ANY_NUMBER, Primitive
from ..ir.core.types import Size, dims_in, size_at
from ..tensors.dtypes import torch_dtype
from .indices import IndexCheck, IndexUse, index_uses
from .ranges import Range, Ranges

DEFAULT_RANGE = (-3.0, 3.0)


def draw_feeds(
    graph: Graph,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    extremes: bool = False,
    *,
    kinds: Sequence[str] = ("input",),
    state: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """A tensor for each leaf of the given `kinds`, by name, on the CPU, with its declared dtype.

    Values stay in the domain of every op that takes the leaf, directly or through views (the intersection of several),
    or in (−3, 3): half of them normal about the middle, half uniform. A class index lies in [0, C), also where views
    and arithmetic make it of leaves, and of buffers with the numbers of `state`. `extremes` plants the ends of the
    range, its middle, and the smallest steps around zero. `sizes` gives each `Dim` its size. The same seed draws the
    same numbers, and torch's global generator is left alone. Raises `FeedError` where a range cannot be found.
    """
    generator = torch.Generator().manual_seed(seed)
    given, known = dict(sizes or {}), dict(state or {})
    leaves, domains = graph.leaves(*kinds), _domains(graph)
    indices = _index_ranges(graph, leaves, given, known)
    drawn = {
        leaf.name: _draw(leaf, domains.get(leaf, []), indices.get(leaf), given, generator, extremes) for leaf in leaves
    }
    _check_indices(graph, known | drawn, {leaf.name for leaf in leaves}, given)
    return drawn


def _index_ranges(
    graph: Graph, leaves: Sequence[Value], sizes: dict[str, int], state: Mapping[str, Tensor]
) -> dict[Value, Range]:
    """The ranges of leaves that row numbers and class indices are made of."""
    drawn = {leaf.name for leaf in leaves}
    ranges = Ranges(sizes, {name: tensor for name, tensor in state.items() if name not in drawn})
    for use in index_uses(graph):
        needed = needed_for([use.index])
        made_of = next((leaf for leaf in leaves if leaf in needed), None)
        if made_of is not None:
            # Without a class there is no right index; one that is too large says so where it is used.
            ranges.ask(use.index, (0, max(_limit(use, made_of, sizes), 1) - 1))
    return ranges.of_leaves


def _limit(use: IndexUse, leaf: Value, sizes: dict[str, int]) -> int:
    """How many rows or classes there are. Beside an argument of its own shape an index says yes or no."""
    if use.limit is not None:
        return _size(use.limit, leaf, sizes)
    if any(arg is not use.index and arg.shape == use.index.shape for arg in use.user.inputs):
        return 2
    raise FeedError(
        f"{leaf.name!r}: no argument of {use.user.op.name} has one axis more, so its classes are unknown; feed it "
        "yourself"
    )


def _check_indices(graph: Graph, tensors: Mapping[str, Tensor], drawn: set[str], sizes: dict[str, int]) -> None:
    """Raise `FeedError` where the index of an op is made of what was drawn, and is none for it."""
    check = IndexCheck(graph)
    if drawn.isdisjoint(check.leaves) or not all(name in tensors for name in check.leaves):
        return
    found = check.first_outside(tensors, sizes)
    names = [] if found is None else [leaf.name for leaf in found.leaves if leaf.name in drawn]
    if found is not None and found.limit and names:
        use, feeds = found.use, ", ".join(f"{name!r}: ..." for name in names)
        raise FeedError(
            f"{' and '.join(map(repr, names))}: no range is known from which {use.index.name!r} gets numbers of the "
            f"{found.limit} {use.what} of {use.user.op.name} {use.user.name!r}; pass feeds={{{feeds}}}"
        )


def _domains(graph: Graph) -> dict[Value, list[Range]]:
    found: dict[Value, list[Range]] = {}
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
            bounds = domain.get(name)
            if arg is not None and isinstance(bounds, tuple):
                found.setdefault(shown_by(arg), []).append(bounds)
    return found


def _draw(
    leaf: Value,
    domains: list[Range],
    index: Range | None,
    sizes: dict[str, int],
    generator: torch.Generator,
    extremes: bool,
) -> Tensor:
    shape = tuple(_size(s, leaf, sizes) for s in leaf.shape)
    dtype = torch_dtype(leaf.dtype)
    if leaf.dtype.kind == "bool":
        return torch.randint(0, 2, shape, generator=generator, device="cpu").bool()
    low, high = _range(domains, leaf)
    if index is not None:
        first, last = math.ceil(index[0]), math.floor(index[1])
        if first > last:
            raise FeedError(
                f"{leaf.name!r}: no range is known from which all row numbers and class indices made of it are "
                f"valid; pass feeds={{{leaf.name!r}: ...}}"
            )
        return torch.randint(first, last + 1, shape, generator=generator, device="cpu").to(dtype)
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


def _size(size: Size, leaf: Value, sizes: dict[str, int]) -> int:
    for dim in dims_in((size,)):
        if dim.name not in sizes:
            raise FeedError(f"{leaf.name!r}: no size for Dim {dim.name!r}; pass sizes={{{dim.name!r}: 32}}")
    return size_at(size, sizes)
