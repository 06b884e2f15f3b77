"""What a caller feeds a compiled program: checked, bound to sizes, laid out contiguously."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ir.core.errors import FeedError
from ..ir.core.evaluate import bind_sizes, concrete
from ..ir.core.graph import Graph, Value
from ..ir.core.op import Op
from ..ir.core.types import bind_dims, is_symbolic, show_shape
from ..judge.indices import IndexCheck, Outside
from ..tensors.allocation import allocated
from ..tensors.dtypes import torch_dtype
from . import vetting
from .held import guards

MOST_ACCEPTED = 16
"""Sets of shapes of which it is kept what tensors are taken as they are."""


class TargetError(FeedError, IndexError):
    """A class index lies outside the classes, or a row number outside the table."""


def sized_ops(graph: Graph) -> tuple[Value, ...]:
    """The values of a declared graph whose op may refuse the sizes that its `Dim`s take."""
    return tuple(
        v for v in graph.values if isinstance(v.op, Op) and v.op.refusal and any(is_symbolic(a.shape) for a in v.inputs)
    )


def check_sizes(sized: tuple[Value, ...], sizes: Mapping[str, int]) -> None:
    """Raise `FeedError` for sizes that an op refuses, such as one value per channel in training."""
    for value in sized:
        shapes = [None if a is None else concrete(a.shape, sizes) for a in value.args]
        assert isinstance(value.op, Op) and value.op.refusal is not None
        refused = value.op.refusal(*shapes, **value.attrs)
        if refused:
            raise FeedError(f"{value.op.name} {value.name!r}: {refused}")


def named_feeds(names: Sequence[str], inputs: Sequence[Tensor], feeds: dict[str, Tensor]) -> dict[str, Tensor]:
    """`feeds` with the `inputs` that were given by position, in the order of declaration. Raises `FeedError` for more
    than there are, and for one that is given twice."""
    if not inputs:
        return feeds
    twice = [name for name in names[: len(inputs)] if name in feeds]
    if twice or len(inputs) > len(names):
        wrong = f"input {twice[0]!r} is fed by position and by name" if twice else f"{len(inputs)} tensors are fed"
        raise FeedError(f"{wrong}; by position feed, in this order, {', '.join(names) or 'nothing'}")
    return {**dict(zip(names, inputs, strict=False)), **feeds}


class FeedBinder:
    """Takes what is fed for the inputs of a graph, on one device."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self._name, self._device = graph.name, device
        self._inputs = {v.name: v for v in graph.inputs}
        self._accepted: dict[tuple[torch.Size, ...], tuple[Callable[..., bool], list[int], dict[str, int]]] = {}
        self._what = f"graph {self._name!r}"

    def bind(self, feeds: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Contiguous tensors for the inputs by name, and the size of each `Dim`.

        Raises `FeedError` for a missing or unknown input, a wrong dtype, shape or device, and what kernels cannot read.
        """
        vetting.check_mode(self._what)
        ready = self._ready(feeds)
        return self._bound(feeds) if ready is None else ready

    def _bound(self, feeds: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
        """As `bind`, for tensors that are like none before."""
        inputs = self._inputs
        unknown = [name for name in feeds if name not in inputs]
        missing = [name for name in inputs if name not in feeds]
        if unknown or missing:
            wrong = f"has no input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is not fed"
            raise FeedError(f"graph {self._name!r}: {wrong}; feed {', '.join(inputs) or 'nothing'}")
        sizes: dict[str, int] = {}
        plain = {name: _vetted(value, feeds[name]) for name, value in inputs.items()}
        bind_dims([(value.shape, plain[name].shape) for name, value in inputs.items()], sizes)
        bound = {name: _checked(value, plain[name], self._device, sizes) for name, value in inputs.items()}
        if all(bound[name] is feeds[name] for name in inputs):
            self._accept((*bound.values(),), sizes)
        return bound, sizes

    def _accept(self, tensors: tuple[Tensor, ...], sizes: dict[str, int]) -> None:
        """Note that tensors like these are taken as they are."""
        if len(self._accepted) >= MOST_ACCEPTED:
            self._accepted.clear()
        self._accepted[tuple(t.size() for t in tensors)] = guards(tensors), [t.nbytes for t in tensors], dict(sizes)

    def _ready(self, feeds: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]] | None:
        """What `bind` gives for tensors that are like those of an earlier batch; None for all others."""
        if len(feeds) != len(self._inputs):
            return None
        tensors: list[Any] = [*map(feeds.get, self._inputs)]
        if not vetting.TYPES.issuperset(map(type, tensors)):
            return None
        try:
            known = self._accepted.get((*map(Tensor.size, tensors),))
        except RuntimeError:  # nested tensors have none
            return None
        if known is None:
            return None
        are_alike, sizes_in_bytes, sizes = known
        if not are_alike(*tensors) or not vetting.are_there(tensors, sizes_in_bytes):
            return None
        return dict(zip(self._inputs, tensors, strict=True)), dict(sizes)


def _vetted(value: Value, tensor: object) -> Tensor:
    what = f"input {value.name!r}"
    if not isinstance(tensor, Tensor):
        wanted = f"{value.dtype}{show_shape(value.shape)}"
        raise FeedError(f"{what}: declared {wanted}, got {type(tensor).__name__}; feed a torch.Tensor")
    return vetting.vet(tensor, what)


def _checked(value: Value, plain: Tensor, device: torch.device, sizes: dict[str, int]) -> Tensor:
    what = f"input {value.name!r}"
    if plain.dtype != torch_dtype(value.dtype):
        raise _of_another_dtype(value, plain, what)
    if plain.device != device:
        raise FeedError(f"{what}: lies on {plain.device}, the program on {device}; move it with .to({str(device)!r})")
    bind_sizes(value.shape, tuple(plain.shape), what, sizes)
    return plain if plain.is_contiguous() else allocated(plain.contiguous, what)


def _of_another_dtype(value: Value, plain: Tensor, what: str) -> FeedError:
    """What came in place of the declared dtype, and what to do, given the shape that it has."""
    given, sizes = tuple(plain.shape), dict[str, int]()
    wanted, got = f"{value.dtype}{show_shape(value.shape)}", f"{str(plain.dtype).partition('.')[2]}{show_shape(given)}"
    bind_dims([(value.shape, given)], sizes)
    pairs = zip(value.shape, given, strict=False)
    if len(given) == len(value.shape) and all(concrete((size,), sizes) == (number,) for size, number in pairs):
        return FeedError(f"{what}: declared {wanted}, got {got}; convert it with .to(torch.{value.dtype})")
    is_one_hot = not value.dtype.is_float and len(given) == len(value.shape) + 1
    hint = (
        "; rows with a number for each class, such as one-hot rows, become indices by .argmax(1)" if is_one_hot else ""
    )
    return FeedError(
        f"{what}: declared {wanted}, got {got}; feed a tensor of the declared dtype and shape, both are others{hint}"
    )


def check_held(leaves: Sequence[Value], tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Raise `FeedError` unless each parameter, buffer or slot is still what the program was compiled for: a contiguous
    tensor of its declared dtype and shape, on the program's device."""
    for value in leaves:
        what = f"{value.op.name} {value.name!r}"
        held = tensors.get(value.name)
        wanted = f"{value.dtype}{show_shape(value.shape)}"
        if held is None:
            raise FeedError(f"{what}: declared {wanted}, and gone; put it back, or compile another graph")
        tensor = vetting.vet_held(held, what)
        if tuple(tensor.shape) != value.shape or tensor.dtype != torch_dtype(value.dtype):
            got = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            raise FeedError(f"{what}: declared {wanted}, is {got} now; declare the graph that way and compile it anew")
        if tensor.device != device:
            raise FeedError(f"{what}: lies on {tensor.device}, the program on {device}; compile with device= instead")
        if not tensor.is_contiguous():
            raise FeedError(f"{what}: its strides are {tensor.stride()}; kernels want {wanted} contiguous")


def check_apart(held: Mapping[str, Tensor], updated: Collection[str]) -> None:
    """Raise `FeedError` where a parameter, buffer or slot that a run updates shares memory, in whole or in part, with
    another one."""
    remedy = "declare one parameter and use it twice, or give each a tensor of its own"
    written = {repr(name): held[name] for name in updated}
    vetting.check_apart(written, remedy, read={repr(n): t for n, t in held.items() if n not in updated})


def check_indices(
    indices: IndexCheck, feeds: Mapping[str, Tensor], held: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> None:
    """Raise `TargetError` for row numbers and class indices outside their range that follow from what is fed and from
    buffers, where the host can see them without waiting for a GPU."""
    if not indices:
        return
    tensors = {name: feeds[name] if name in feeds else held[name] for name in indices.leaves}
    found = indices.first_outside(tensors, sizes)
    if found is not None:
        raise TargetError(_of_outside(found))


def _of_outside(found: Outside) -> str:
    """The op, the number and its place, what it may be, and what to do."""
    use, what = found.use, "row" if found.use.what == "rows" else "target"
    at = f" at {list(found.place)}" if found.place else ""
    right = f"0 to {found.limit - 1}" if found.limit else "none"
    if use.ignored is not None:
        right += f", or {use.ignored} to ignore a row"
    if found.leaf is not None:
        where, remedy = f"{found.leaf.op.name} {found.leaf.name!r}{at}", f"use {right}"
    else:
        made_of = " and ".join(f"{leaf.op.name} {leaf.name!r}" for leaf in found.leaves) or "the sizes of the inputs"
        where, remedy = (
            f"{use.index.name!r}{at}, computed from {made_of},",
            f"give what makes {use.index.name!r} {right}",
        )
    return f"{use.user.name}: {what} {found.number} in {where} is out of bounds for {found.limit} {use.what}; {remedy}"
