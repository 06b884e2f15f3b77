"""Shortcuts for what every operation does: make a tensor, name its type, bring two operands to one shape; and a load
of one lane put right.

Triton describes each value anew, with a constexpr object per dimension and a type whose name spells out the
shape. A kernel has few shapes, so here each is described once. Results equal Triton's own; only the time
differs (by a third).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime.interpreter import TensorHandle

_original_init = tl.tensor.__init__
_original_with_element_ty = tl.block_type.with_element_ty
_described: dict[tuple[int, ...], tuple[Any, Any]] = {}
_block_types: dict[tuple[str, tuple[int, ...]], tl.block_type] = {}
_FIELDS = {"handle", "shape", "numel", "type", "dtype"}


def tensor_init(self: tl.tensor, handle: TensorHandle, type: tl.dtype) -> None:
    """`tl.tensor.__init__`, with `shape` and `numel` shared between tensors of one shape."""
    key = tuple(type.shape) if type.is_block() else ()
    known = _described.get(key)
    if known is None:
        _original_init(self, handle, type)
        if vars(self).keys() == _FIELDS:  # another version of Triton may keep more
            _described[key] = self.shape, self.numel
        return
    self.handle = handle
    self.type = type
    self.dtype = type.scalar
    self.shape, self.numel = known


def with_element_ty(self: tl.block_type, scalar_ty: tl.dtype) -> tl.block_type:
    """`tl.block_type.with_element_ty`, one type object per element type and shape."""
    key = scalar_ty.name, tuple(self.shape)
    known = _block_types.get(key)
    if known is None:
        known = _block_types[key] = _original_with_element_ty(self, scalar_ty)
    return known


class Semantic(TritonSemantic):
    """Triton's semantic with the two usual cases of broadcasting, equal shapes and a scalar, taken first."""

    def _load_legacy(self, ptr: tl.tensor, mask: tl.tensor | None, other: tl.tensor | None, *more: Any) -> tl.tensor:
        # Triton asks whether there is an `other` by its truth, which during a launch is that of its one element, if it
        # has only one: an `other` of 0 for a single lane gets lost.
        loaded = super()._load_legacy(ptr, mask, other, *more)
        if mask is None or other is None or loaded.handle.data.size != 1:
            return loaded
        return self.where(mask, loaded, self.cast(other, loaded.dtype))

    def broadcast_impl_value(self, lhs: tl.tensor, rhs: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
        left, right = lhs.type, rhs.type
        if left.is_block():
            if not right.is_block():
                return lhs, self._splat(rhs, left)
            if left.shape is right.shape or list(left.shape) == list(right.shape):
                return lhs, rhs
            return super().broadcast_impl_value(lhs, rhs)
        return (self._splat(lhs, right), rhs) if right.is_block() else (lhs, rhs)

    def _splat(self, scalar: tl.tensor, like: tl.block_type) -> tl.tensor:
        handle = scalar.handle
        data = np.empty(tuple(like.shape), handle.data.dtype)
        data.fill(handle.data.item())
        dtype = scalar.type.scalar
        return self.tensor(TensorHandle(data, dtype), with_element_ty(like, dtype))
