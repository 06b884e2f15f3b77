"""What torch may hand in: one place that says which tensors kernels can read, and makes plain ones of the rest.

Kernels see an address and strides. A tensor whose numbers are not there as they stand (sparse, negated when it is read,
wrapped by a transform) gives wrong results or a crash, so it is made plain here, or refused with the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..ir.core.errors import FeedError
from ..tensors.allocation import allocated


@dataclass(frozen=True)
class _Refusal:
    """A kind of tensor that kernels cannot read: how it is known, what it is, and what to do about it."""

    holds: Callable[[Tensor], bool]
    kind: str
    remedy: str


def _dispatches(tensor: Tensor) -> bool:
    """Whether operations on the tensor are Python code of its class, as those of wrappers are."""
    kind = type(tensor)
    return kind.__torch_dispatch__ is not Tensor.__torch_dispatch__


def _interposes(tensor: Tensor) -> bool:
    """Whether functions of torch mean something else for the class of this tensor."""
    plain = (_function_of(Tensor), torch._C._disabled_torch_function_impl)
    return _function_of(type(tensor)) not in plain


def _function_of(kind: type[Tensor]) -> Any:
    return getattr(kind.__torch_function__, "__func__", kind.__torch_function__)


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


_FAKE_MODE = torch._C._TorchDispatchModeKey.FAKE

TYPES = frozenset({Tensor, torch.nn.Parameter})
"""The classes of tensors that may be taken as they are."""

_plain: set[int] = set()
"""The dispatch keys of tensors that were found plain: what torch would do with a tensor of these keys, kernels may."""


def dispatch_keys(tensor: Any) -> int:
    """What tells torch how to read a tensor."""
    keys: int = torch._C._dispatch_keys(tensor).raw_repr()
    return keys


def _is_lazy(tensor: Tensor) -> bool:
    """Whether its numbers are others than those in its memory."""
    return tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor()


_REFUSALS = (
    _Refusal(
        lambda t: isinstance(t, torch.nn.UninitializedParameter | torch.nn.UninitializedBuffer),
        "a parameter without a shape yet",
        "run the lazy module once, or give the parameter its shape",
    ),
    _Refusal(
        torch._C._functorch.is_functorch_wrapped_tensor,
        "what a transform of torch.func hands them",
        "use torch.autograd.grad for gradients, and a Dim of the graph for what vmap maps over",
    ),
    _Refusal(
        lambda t: torch._is_functional_tensor(t) or isinstance(t, torch._subclasses.FakeTensor),
        "a FakeTensor or a functional tensor",
        "feed a real tensor, or trace the model by torch.compile or torch.export",
    ),
    _Refusal(
        lambda t: t.layout is not torch.strided,
        "a tensor of layout {layout}",
        "make it dense with .to_dense(), or torch.nested.to_padded_tensor",
    ),
    _Refusal(lambda t: t.is_nested, "a nested tensor", "pass torch.nested.to_padded_tensor(…), and a mask"),
    _Refusal(
        _dispatches,
        "a {kind}, a wrapper around other tensors",
        "pass the tensor that it wraps, such as .to_local() or .full_tensor() of a DTensor",
    ),
    _Refusal(
        _interposes,
        "a {kind}, for which functions of torch mean something of their own",
        "pass .as_subclass(torch.Tensor)",
    ),
    _Refusal(lambda t: t.is_quantized, "a quantized tensor", "pass .dequantize()"),
    _Refusal(lambda t: t.is_meta, "a tensor on the meta device", "make it on a real device"),
    _Refusal(
        _has_tangent,
        "a dual tensor of forward-mode differentiation",
        "use backward-mode differentiation, torch.autograd.grad",
    ),
)


def are_there(tensors: Sequence[Tensor], sizes: Sequence[int]) -> bool:
    """Whether `vet` would hand out contiguous tensors of these sizes in bytes as they are, of the same kinds as some
    that it did: none has a tangent, and each has its memory."""
    if forward_ad._current_level >= 0:
        return False
    for tensor, size in zip(tensors, sizes, strict=True):
        reached = tensor.storage_offset() * tensor.itemsize + size
        if tensor.untyped_storage().nbytes() < reached:
            return False
    return True


def vet(tensor: object, what: str) -> Tensor:
    """A plain tensor of the same numbers, whose address and strides say where they lie: negated and conjugated views
    are resolved, and a tensor of a subclass without a meaning of its own is taken as what it is. Raises `FeedError`,
    which begins with `what`, for every other kind."""
    if type(tensor) in TYPES and forward_ad._current_level < 0 and dispatch_keys(tensor) in _plain:
        return _with_storage(tensor, what)  # type: ignore[arg-type]
    if not isinstance(tensor, Tensor):
        raise FeedError(f"{what}: wanted a torch.Tensor, got {type(tensor).__name__}; make one with torch.as_tensor")
    for refusal in _REFUSALS:
        if refusal.holds(tensor):
            kind = refusal.kind.format(kind=type(tensor).__name__, layout=tensor.layout)
            raise FeedError(f"{what}: kernels cannot read {kind}; {refusal.remedy}")
    if type(tensor) is not Tensor and not isinstance(tensor, torch.nn.Parameter):
        tensor = tensor.as_subclass(Tensor)
    if _is_lazy(tensor):
        lazy = tensor
        tensor = allocated(lambda: lazy.clone().resolve_conj().resolve_neg(), what)
    _plain.add(dispatch_keys(tensor))
    return _with_storage(tensor, what)


def _with_storage(tensor: Tensor, what: str) -> Tensor:
    held, reached = tensor.untyped_storage().nbytes(), tensor.storage_offset() * tensor.itemsize + _reach(tensor)
    if reached > held:
        raise FeedError(
            f"{what}: its storage holds {held} bytes, and its shape and strides reach {reached}; it was freed or "
            "resized, make the tensor anew"
        )
    return tensor


def vet_held(tensor: object, what: str) -> Tensor:
    """As `vet`, for a tensor that a run writes: it must be what is written to, so views that are negated or conjugated
    when they are read are refused."""
    plain = vet(tensor, what)
    if isinstance(tensor, Tensor) and _is_lazy(tensor):
        raise FeedError(f"{what}: is a view that is negated or conjugated when it is read; pass its .clone()")
    return plain


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether `vet` would hand out all of these as they are, as far as their kinds tell: at the speed of `map`."""
    if not {*map(type, tensors)} <= TYPES or has_dual_level():
        return False
    return {*map(torch._C.DispatchKeySet.raw_repr, map(torch._C._dispatch_keys, tensors))} <= _plain


def has_dual_level() -> bool:
    """Whether tensors may have tangents of forward-mode differentiation."""
    return forward_ad._current_level >= 0


def check_mode(what: str) -> None:
    """Raise `FeedError` where torch makes no real tensors at present, as under a FakeTensorMode."""
    if torch._C._get_dispatch_mode(_FAKE_MODE) is not None:
        raise FeedError(f"{what}: runs under a FakeTensorMode, where tensors have no numbers; leave the mode first")


# -- memory that tensors share -----------------------------------------------------------------------------------------


def span(tensor: Tensor) -> tuple[int, int]:
    """The addresses from the first byte of a tensor to behind its last one."""
    start = tensor.data_ptr()
    return start, start + _reach(tensor)


def check_apart(written: Mapping[str, Tensor], remedy: str, read: Mapping[str, Tensor] | None = None) -> None:
    """Raise `FeedError` where two of the tensors that a run writes have a byte in common, or one of them and one that
    it reads."""
    tensors = {**(read or {}), **written}
    spans = sorted((*span(tensor), name) for name, tensor in tensors.items() if tensor.numel())
    reached = -1
    for place, (start, end, name) in enumerate(spans):
        if start < reached:
            for _, other_end, other in spans[:place]:
                is_harm = start < other_end and (name in written or other in written)
                if is_harm and share_memory(tensors[name], tensors[other]):
                    what = "both are" if name in written and other in written else "one of them is"
                    raise FeedError(f"{other} and {name} share memory, and {what} updated; {remedy}")
        reached = max(reached, end)


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have a byte in common."""
    (start, end), (other_start, other_end) = span(one), span(other)
    if max(start, other_start) >= min(end, other_end):
        return False
    if _fills_its_span(one) and _fills_its_span(other):
        return True
    return bool(torch.isin(_bytes_of(one), _bytes_of(other)).any())


def _reach(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to behind its last one."""
    if not tensor.numel():
        return 0
    if tensor.is_contiguous():
        return tensor.nbytes
    furthest = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (furthest + 1) * tensor.itemsize


def _fills_its_span(tensor: Tensor) -> bool:
    return _reach(tensor) == tensor.nbytes


def _bytes_of(tensor: Tensor) -> Tensor:
    """The addresses of all bytes of a tensor; only for tensors whose spans overlap and have gaps, which are few."""
    found = torch.arange(tensor.itemsize, device="cpu") + tensor.data_ptr()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = (found.unsqueeze(-1) + torch.arange(size, device="cpu") * (stride * tensor.itemsize)).flatten()
    return found
