"""What a caller feeds a compiled program: checked, bound to sizes, laid out contiguously."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir.core.errors import FeedError
from ..ir.core.evaluate import bind_sizes, concrete
from ..ir.core.graph import Graph, Value
from ..ir.core.op import Op
from ..ir.core.types import Dim, Shape, Size, show_shape


class TargetError(FeedError, IndexError):
    """A class index lies outside the classes."""


@dataclass(frozen=True)
class ClassInput:
    """An input that holds indices below `classes`, or `ignore_index`, where there is one; `op` is what reads them, and
    `what` says of what: 'classes', or 'rows' of an embedding's table."""

    name: str
    classes: int
    ignore_index: int | None
    op: str
    what: str = "classes"


def class_inputs(graph: Graph) -> tuple[ClassInput, ...]:
    """The inputs of a declared graph that a loss or a metric takes class indices from, or an embedding row numbers."""
    found = []
    for value in graph.values:
        if not isinstance(value.op, Op):
            continue
        given = dict(zip(value.op.arg_names, value.args, strict=True))
        for name, domain in value.op.domain.items():
            target = given.get(name)
            if target is None or target.op.name != "input":
                continue
            classes: Size | None = None
            if domain == "row":
                classes = value.inputs[-1].shape[0]
            elif domain == "class":
                classes = _classes(value.inputs[0].shape, target.shape)
            if isinstance(classes, int):
                what = "rows" if domain == "row" else "classes"
                found.append(ClassInput(target.name, classes, value.attrs.get("ignore_index"), value.name, what))
    return tuple(found)


def _classes(logits: Shape, target: Shape) -> Size | None:
    """The size of the axis that the logits have and the target has not; None where the target says yes or no."""
    return next((logits[a] for a in range(len(logits)) if logits[:a] + logits[a + 1 :] == target), None)


def sized_ops(graph: Graph) -> tuple[Value, ...]:
    """The values of a declared graph whose op may refuse the sizes that its `Dim`s take."""
    return tuple(
        v
        for v in graph.values
        if isinstance(v.op, Op) and v.op.refusal and any(isinstance(s, Dim) for a in v.inputs for s in a.shape)
    )


def check_sizes(sized: tuple[Value, ...], sizes: Mapping[str, int]) -> None:
    """Raise `FeedError` for sizes that an op refuses, such as one value per channel in training."""
    for value in sized:
        shapes = [None if a is None else concrete(a.shape, sizes) for a in value.args]
        assert isinstance(value.op, Op) and value.op.refusal is not None
        refused = value.op.refusal(*shapes, **value.attrs)
        if refused:
            raise FeedError(f"{value.op.name} {value.name!r}: {refused}")


def bind_feeds(
    graph: Graph, feeds: Mapping[str, Tensor], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Contiguous tensors for the inputs of `graph` by name, and the size of each `Dim`.

    Raises `FeedError` for a missing or unknown input, a wrong dtype, shape or device.
    """
    inputs = {v.name: v for v in graph.inputs}
    unknown = [name for name in feeds if name not in inputs]
    missing = [name for name in inputs if name not in feeds]
    if unknown or missing:
        wrong = f"has no input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is not fed"
        raise FeedError(f"graph {graph.name!r}: {wrong}; feed {', '.join(inputs) or 'nothing'}")
    sizes: dict[str, int] = {}
    bound = {name: _checked(inputs[name], feeds[name], device, sizes) for name in inputs}
    return bound, sizes


def _checked(value: Value, tensor: object, device: torch.device, sizes: dict[str, int]) -> Tensor:
    what = f"input {value.name!r}"
    wanted = f"{value.dtype}{show_shape(value.shape)}"
    if not isinstance(tensor, Tensor):
        raise FeedError(f"{what}: declared {wanted}, got {type(tensor).__name__}; feed a torch.Tensor")
    if str(tensor.dtype) != f"torch.{value.dtype}":
        raise FeedError(f"{what}: declared {wanted}, got {tensor.dtype}; convert it with .to(torch.{value.dtype})")
    if tensor.device.type != device.type:
        raise FeedError(f"{what}: lies on {tensor.device}, the program on {device}; move it with .to({str(device)!r})")
    bind_sizes(value.shape, tuple(tensor.shape), what, sizes)
    return tensor.contiguous()


def check_held(leaves: Sequence[Value], tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Raise `FeedError` unless each parameter, buffer or slot is still what the program was compiled for: a contiguous
    tensor of its declared dtype and shape, on the program's device."""
    for value in leaves:
        what = f"{value.op.name} {value.name!r}"
        tensor = tensors.get(value.name)
        wanted = f"{value.dtype}{show_shape(value.shape)}"
        if tensor is None:
            raise FeedError(f"{what}: declared {wanted}, and gone; put it back, or compile another graph")
        if tuple(tensor.shape) != value.shape or str(tensor.dtype) != f"torch.{value.dtype}":
            got = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            raise FeedError(f"{what}: declared {wanted}, is {got} now; declare the graph that way and compile it anew")
        if tensor.device.type != device.type:
            raise FeedError(f"{what}: lies on {tensor.device}, the program on {device}; compile with device= instead")
        if not tensor.is_contiguous():
            raise FeedError(f"{what}: its strides are {tensor.stride()}; kernels want {wanted} contiguous")


def check_apart(tensors: Mapping[str, Tensor]) -> None:
    """Raise `FeedError` where two of the tensors that a run writes to begin in one place."""
    places: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and places.setdefault(tensor.data_ptr(), name) != name:
            other = places[tensor.data_ptr()]
            raise FeedError(f"{name!r} shares its memory with {other!r}; declare one parameter and use it twice")


def check_targets(checks: tuple[ClassInput, ...], feeds: Mapping[str, Tensor]) -> None:
    """Raise `TargetError` for class indices outside the classes, where the host can see them without waiting for a
    GPU.
    """
    for check in checks:
        target = feeds[check.name]
        if target.device.type != "cpu" or target.numel() == 0:
            continue
        outside = (target < 0) | (target >= check.classes)
        if check.ignore_index is not None:
            outside &= target != check.ignore_index
        if bool(outside.any()):
            value = int(target[outside].flatten()[0])
            what = "row" if check.what == "rows" else "target"
            ignored = "" if check.ignore_index is None else f", or {check.ignore_index} to ignore a row"
            raise TargetError(
                f"{check.op}: {what} {value} in input {check.name!r} is out of bounds for {check.classes} "
                f"{check.what}; use 0 to {check.classes - 1}{ignored}"
            )
