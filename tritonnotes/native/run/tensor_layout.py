"""Where a tensor of torch keeps what it is: in which words of its memory its shape, strides, dtype, device and dispatch
keys lie.

torch has no function that compares all that for many tensors. Its memory is the same from build to build only by and
large, so the places are looked up in a tensor at hand, and tried: a layout is given only if every kind of change shows
in its words, and ordinary use in none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

MOST_AXES = 5
"""The most axes whose sizes and strides lie in the tensor itself."""

_REFERENCES = 16
"""The bytes at the beginning of a tensor's memory that say nothing of it: its functions, and how many hold it."""

_MOST_BYTES = 256
"""Where the keys are looked for: torch's tensors take about 180 bytes."""

_WANTS_GRADIENT = "_ZNK3c1010TensorImpl13requires_gradEv"
"""What C++ calls `c10::TensorImpl::requires_grad() const`."""


@dataclass(frozen=True)
class TensorLayout:
    """Bytes into a Python object at which its class and the address of its tensor lie; how many words of that tensor,
    from `first` bytes on, say what it is; the address of the function that tells whether it wants a gradient."""

    of_class: int
    of_tensor: int
    first: int
    words: int
    wants_gradient: int


Look = Callable[[TensorLayout, Sequence[Tensor]], Callable[[], int]]
"""Makes of some tensors what says later whether they are what they were."""


def tensor_layout(look: Look) -> TensorLayout | None:
    """The layout of this torch's tensors, tried by `look` once; None where it is not found or does not show a change,
    and where it cannot be tried, as under a mode in which torch makes no real tensors."""
    if not _found:
        try:
            found = _tried(look)
        except RuntimeError:  # what torch raises under such modes
            found = None
        if found is None:
            return None
        _found.append(found)
    return _found[0]


_found: list[TensorLayout] = []


def _tried(look: Look) -> TensorLayout | None:
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    try:
        function = ctypes.CDLL(str(library))[_WANTS_GRADIENT]
    except (OSError, AttributeError):
        return None
    wants_gradient = ctypes.cast(function, ctypes.c_void_p).value or 0
    probe = _probe(3, 5)
    keys = torch._C._dispatch_keys(probe).raw_repr()
    of_class, of_tensor = _place(id(probe), id(Tensor), 8, 32), _place(id(probe), probe._cdata, 8, 48)
    if not of_class or not of_tensor:
        return None
    last = _place(probe._cdata, keys, _REFERENCES, _MOST_BYTES)
    if not last:
        return None
    found = TensorLayout(of_class, of_tensor, _REFERENCES, (last - _REFERENCES) // 8 + 1, wants_gradient)
    return found if _is_right(found, look) else None


def _probe(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float32, device="cpu")


def _place(address: int, wanted: int, first: int, end: int) -> int:
    """How many bytes after an address a word lies; 0 where it does not before the `end`."""
    words = (at for at in range(first, end, 8) if ctypes.c_uint64.from_address(address + at).value == wanted)
    return next(words, 0)


def _is_right(layout: TensorLayout, look: Look) -> bool:
    """Whether each change shows, and using a tensor does not."""
    for shape, change in _CHANGES:
        tensors = [_probe(5, 3), _probe(*shape), _probe(5, 3)]
        are_the_same = look(layout, tensors)
        _use(tensors[1])
        if not are_the_same():
            return False
        change(tensors[1])
        if are_the_same():
            return False
    return True


def _use(tensor: Tensor) -> None:
    """Take views of a tensor, read it, write to it in place and count its version, as training does."""
    others = [tensor, tensor.detach(), tensor.reshape(-1)]
    tensor.add_(1.0)
    torch.autograd.graph.increment_version(tensor)
    torch.dot(others[2], others[2])


def _swap(tensor: Tensor) -> None:
    torch.utils.swap_tensors(tensor, _probe(5, 3))


def _set_data(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    def changed(tensor: Tensor) -> None:
        tensor.data = change(tensor.data)

    return changed


_MATRIX, _MOST = (5, 3), (2, 1, 3, 2, 5)
assert len(_MOST) == MOST_AXES

_CHANGES: tuple[tuple[tuple[int, ...], Callable[[Tensor], object]], ...] = (
    (_MATRIX, Tensor.t_),
    (_MATRIX, Tensor.requires_grad_),
    (_MATRIX, lambda t: t.resize_(3, 5)),
    (_MATRIX, lambda t: t.resize_(5, 2)),
    (_MATRIX, lambda t: t.resize_(15)),
    (_MATRIX, lambda t: t.as_strided_((5, 3), (3, 0))),
    (_MATRIX, lambda t: t.set_(t.untyped_storage(), 1, (2, 3), (3, 1))),
    (_MATRIX, lambda t: t.untyped_storage().resize_(0)),
    (_MATRIX, lambda t: setattr(t, "__class__", nn.Parameter)),
    (_MATRIX, _set_data(Tensor.clone)),
    (_MATRIX, _set_data(Tensor.t)),
    (_MATRIX, _set_data(lambda t: t.view(torch.int32))),
    (_MATRIX, _set_data(Tensor._neg_view)),
    (_MATRIX, _set_data(lambda t: t[:3])),
    (_MATRIX, _swap),
    (_MOST, lambda t: t.transpose_(3, 4)),
    (_MOST, lambda t: t.transpose_(0, 2)),
    (_MOST, lambda t: t.resize_(2, 1, 3, 5, 2)),
    (_MOST, lambda t: t.as_strided_(_MOST, (30, 30, 10, 5, 0))),
)
"""A shape, and what may be done to a tensor that stays the same object."""
