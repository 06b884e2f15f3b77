"""What each Triton operation computes on numpy arrays, where Triton's own interpreter differs from a GPU.

- bfloat16: casts round to nearest even through float32; `tl.dot` multiplies values; any other arithmetic
  would act on bit patterns and is an error.
- `tl.dot` adds in one fixed order, which neither the processor nor the number of rows changes.
- NaN: `tl.maximum`, `tl.minimum` and `tl.clamp` drop a NaN unless told `propagate_nan=tl.PropagateNan.ALL`;
  `tl.max`, `tl.min`, `tl.argmax` and `tl.argmin` skip NaN (of a row that is all NaN: NaN, and index 0).
- Reductions with a combine function of the kernel's own halve the axis, as a GPU does, and take log2(n)
  steps.
- Memory accesses go through the launch's `Memory` when it has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as upstream
from triton._C.libtriton import ir
from triton.runtime.interpreter import TensorHandle

from tritonnotes.ir.core.errors import KernelError

from . import bfloat16
from .fastpaths import Semantic
from .memory import Access, Memory

_ELEMENTS = upstream._interpreter
_NP_DTYPES: dict[str, np.dtype] = {}

# The overflow check that Triton adds to integer arithmetic never fires without `debug`, and costs more than
# all else.
RELAXED = dataclasses.replace(upstream.InterpreterOptions(), sanitize_overflow=False)
# With `debug`, `tl.device_assert` is honoured.
STRICT = dataclasses.replace(RELAXED, debug=True)


def np_dtype(dtype: tl.dtype) -> np.dtype:
    """The numpy dtype that holds `dtype`: uint64 for pointers, uint16 for bfloat16 (cached by name)."""
    name = dtype.scalar.name
    known = _NP_DTYPES.get(name)
    if known is None:
        known = _NP_DTYPES[name] = _upstream_np_dtype(dtype)
    return known


_upstream_np_dtype = upstream._get_np_dtype


def _poison(dtype: tl.dtype, kind: np.dtype) -> Any:
    """A value that no correct kernel lets through to its results."""
    if dtype.name == "bf16":
        return 0x7FC0
    if kind.kind == "f":
        return np.nan
    return True if kind.kind == "b" else np.iinfo(kind).max // 3


def _lanes(mask: Any, addresses: np.ndarray) -> np.ndarray:
    """Which lanes take part (bool, the shape of `addresses`)."""
    if mask is None:
        return np.ones(addresses.shape, bool)
    # A tensor descriptor of Triton before 3.9 passes its mask as a bare array.
    lanes = mask.data if isinstance(mask, TensorHandle) else mask
    if lanes.shape != addresses.shape or lanes.dtype != np.bool_:
        lanes = np.array(np.broadcast_to(lanes, addresses.shape), dtype=bool)
    return lanes


def _in_half(x: TensorHandle) -> np.ndarray:
    """Numbers of 8 bits as those of 16 that they are."""
    return upstream._convert_float(x.data, x.dtype, tl.float16, None).view(np.float16)


def _multiplied(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """`a @ b + total`, term by term along the inner axis, each product added with one rounding as a GPU's FMA does. A
    BLAS adds in an order that depends on the processor and on how many rows there are."""
    if total.dtype == np.float32:
        a, b = a.astype(np.float64), b.astype(np.float64)  # in which a product of two float32 is exact
    for k in range(a.shape[-1]):
        total = (a[..., :, k, None] * b[..., k, None, :] + total).astype(total.dtype, copy=False)
    return total


def _refuse_bfloat16(what: str, *handles: TensorHandle) -> None:
    for handle in handles:
        if handle.dtype.scalar.name == "bf16":
            raise KernelError(
                f"{what} on bfloat16: the interpreter holds bit patterns; cast to float32 right after the "
                "load and back once before the store"
            )


class Builder(upstream.InterpreterBuilder):
    """Triton's builder with the differences above. `memory` is None unless the launch is strict."""

    def __init__(self) -> None:
        super().__init__()
        self.options = RELAXED
        self.memory: Memory | None = None
        self.grid_idx = (0, 0, 0)
        self.sums: dict[str, None] | None = None
        """Where a launch adds floats by atomic operations, as `place` says, where anybody wants to know."""
        self.place: Callable[[], str] = str

    # Casts

    def cast_impl(self, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
        source, target = src.dtype.scalar.name, dst_type.scalar.name
        data = src.data
        if source == "bf16":
            data = bfloat16.to_float32(data)
        if target == "bf16":
            data = bfloat16.from_float32(data.astype(np.float32, copy=False))
        else:
            data = data.astype(np_dtype(dst_type))
        return TensorHandle(data, dst_type.scalar)

    def create_fp_to_fp(self, src: TensorHandle, dst_type: tl.dtype, rounding_mode: Any) -> TensorHandle:
        source, target = src.dtype.scalar, dst_type.scalar
        if source.name == "bf16":
            wide = TensorHandle(bfloat16.to_float32(src.data), tl.float32)
            return wide if target.name == "fp32" else self.create_fp_to_fp(wide, dst_type, rounding_mode)
        if target.name == "bf16":
            narrow = src.data.astype(np.float32) if source.is_standard_floating() else None
            if narrow is None:
                narrow = super().create_fp_to_fp(src, tl.float32, None).data
            return TensorHandle(bfloat16.from_float32(narrow, rounding_mode == ir.ROUNDING_MODE.RTZ), target)
        return super().create_fp_to_fp(src, dst_type, rounding_mode)

    # Arithmetic

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable[..., Any]) -> TensorHandle:
        if lhs.dtype.scalar.name == "bf16":
            _refuse_bfloat16(f"`{op.__name__}`", lhs)
        return super().binary_op(lhs, rhs, op)

    def unary_op(self, arg: TensorHandle, op: Callable[..., Any]) -> TensorHandle:
        _refuse_bfloat16(f"`{op.__name__}`", arg)
        return super().unary_op(arg, op)

    def create_rsqrt(self, arg: TensorHandle) -> TensorHandle:
        _refuse_bfloat16("`rsqrt`", arg)
        return super().create_rsqrt(arg)

    def create_erf(self, arg: TensorHandle) -> TensorHandle:
        # torch works on whole arrays; Triton's interpreter calls math.erf once a lane.
        _refuse_bfloat16("`erf`", arg)
        return TensorHandle(torch.erf(torch.from_numpy(np.array(arg.data))).numpy(), arg.dtype.scalar)

    def create_fma(self, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        _refuse_bfloat16("`fma`", x, y, z)
        if z.data.dtype == np.float32:
            # One rounding: the float64 product is exact.
            wide = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data
            return TensorHandle(wide.astype(np.float32), z.dtype.scalar)
        return super().create_fma(x, y, z)

    def create_maxnumf(self, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
        return self.binary_op(lhs, rhs, np.fmax)

    def create_minnumf(self, lhs: TensorHandle, rhs: TensorHandle) -> TensorHandle:
        return self.binary_op(lhs, rhs, np.fmin)

    def create_clampf(self, arg: TensorHandle, lo: TensorHandle, hi: TensorHandle, propagate_nans: Any) -> TensorHandle:
        everywhere = propagate_nans == ir.PROPAGATE_NAN.ALL
        raised = self.binary_op(arg, lo, np.maximum if everywhere else np.fmax)
        return self.binary_op(raised, hi, np.minimum if everywhere else np.fmin)

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, *options: Any) -> TensorHandle:
        if a.dtype.scalar.name == "bf16":
            a = TensorHandle(bfloat16.to_float32(a.data), tl.float32)
        if b.dtype.scalar.name == "bf16":
            b = TensorHandle(bfloat16.to_float32(b.data), tl.float32)
        halves = (_in_half(x) if x.dtype.scalar.is_fp8() else x.data for x in (a, b))
        left, right = (x.astype(d.data.dtype, copy=False) for x in halves)
        return TensorHandle(_multiplied(left, right, d.data), d.dtype.scalar)

    # Memory

    def create_load(self, ptr: TensorHandle, *hints: Any) -> TensorHandle:
        return self._load(ptr, None, None)

    def create_masked_load(
        self, ptrs: TensorHandle, mask: Any, other: TensorHandle | None, *hints: Any, **more: Any
    ) -> TensorHandle:
        return self._load(ptrs, mask, other)

    def create_store(self, ptr: TensorHandle, val: TensorHandle, *hints: Any) -> None:
        self._store(ptr, val, None)

    def create_masked_store(self, ptrs: TensorHandle, value: TensorHandle, mask: Any, *hints: Any) -> None:
        self._store(ptrs, value, mask)

    def create_atomic_rmw(
        self, rmwOp: Any, ptr: TensorHandle, val: TensorHandle, mask: TensorHandle, sem: Any, scope: Any
    ) -> TensorHandle:
        _refuse_bfloat16("an atomic", val)
        if self.sums is not None and rmwOp == ir.ATOMIC_OP.FADD:
            self.sums[self.place()] = None
        if self.memory is None:
            return super().create_atomic_rmw(rmwOp, ptr, val, mask, sem, scope)
        live = _lanes(mask, ptr.data)
        real = TensorHandle(self._watch(ptr, live, Access.ATOMIC, sem), ptr.dtype)
        result = super().create_atomic_rmw(rmwOp, real, val, mask, sem, scope)
        if not live.all():
            result.data[~live] = _poison(val.dtype.scalar, result.data.dtype)
        return result

    def create_atomic_cas(
        self, ptr: TensorHandle, cmp: TensorHandle, val: TensorHandle, sem: Any, scope: Any
    ) -> TensorHandle:
        if self.memory is not None:
            ptr = TensorHandle(self._watch(ptr, None, Access.ATOMIC, sem), ptr.dtype)
        return super().create_atomic_cas(ptr, cmp, val, sem, scope)

    def create_atomic_load(self, ptr: TensorHandle, mask: Any, sem: Any, scope: Any) -> TensorHandle:
        return self._load(ptr, mask, None, Access.ATOMIC, sem)

    def create_atomic_store(self, ptr: TensorHandle, val: TensorHandle, mask: Any, sem: Any, scope: Any) -> None:
        self._store(ptr, val, mask, Access.ATOMIC, sem)

    def _watch(self, ptrs: TensorHandle, live: np.ndarray | None, access: Access, order: Any = None) -> np.ndarray:
        """Checks the `live` lanes of `ptrs` (all if None); returns the addresses, without the tags."""
        assert self.memory is not None
        size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        return self.memory.check(ptrs.data, live, size, access, order)

    def _load(
        self,
        ptrs: TensorHandle,
        mask: Any,
        other: TensorHandle | None,
        access: Access = Access.LOAD,
        order: Any = None,
    ) -> TensorHandle:
        element = ptrs.get_element_ty()
        kind = np_dtype(element)
        addresses = ptrs.data
        lanes = _lanes(mask, addresses)
        if self.memory is not None:
            live = None if mask is None or lanes.all() else lanes
            addresses = self._watch(ptrs, live, access, order)
            if other is None and live is not None:
                other = TensorHandle(np.full(addresses.shape, _poison(element, kind), kind), element)
        values = np.zeros(addresses.shape, kind) if other is None else other.data
        return TensorHandle(_ELEMENTS.load(addresses, lanes, values, kind), element)

    def _store(
        self,
        ptrs: TensorHandle,
        value: TensorHandle,
        mask: Any,
        access: Access = Access.STORE,
        order: Any = None,
    ) -> None:
        addresses = ptrs.data
        lanes = _lanes(mask, addresses)
        if self.memory is not None:
            live = None if mask is None or lanes.all() else lanes
            addresses = self._watch(ptrs, live, access, order)
        _ELEMENTS.store(addresses, value.data, lanes)


class Reduction(upstream.ReduceOps):
    """`tl.reduce` along one axis; a kernel's own combine function is applied to whole halves of the axis."""

    def apply_impl(self, input: tuple[tl.tensor, ...]) -> Any:
        _refuse_bfloat16("a reduction", *(tensor.handle for tensor in input))
        standard, data = tl.standard, input[0].handle.data
        combine = self.combine_fn
        if combine is standard._elementwise_max:
            return self.to_tensor(np.fmax.reduce(data, axis=self.axis, keepdims=self.keep_dims), input[0].dtype)
        if combine is standard._elementwise_min:
            return self.to_tensor(np.fmin.reduce(data, axis=self.axis, keepdims=self.keep_dims), input[0].dtype)
        if combine in (standard._argmax_combine_tie_break_left, standard._argmax_combine_tie_break_fast):
            return self._arg(input, np.fmax, np.argmax)
        if combine in (standard._argmin_combine_tie_break_left, standard._argmin_combine_tie_break_fast):
            return self._arg(input, np.fmin, np.argmin)
        if combine is standard._sum_combine:
            return self._total(input[0])
        return self._halves(input)

    def _total(self, input: tl.tensor) -> Any:
        """The sum in pairs, as a GPU adds: numpy does so along the last axis alone, along others one by one."""
        data, axis = input.handle.data, self.axis
        if axis is None or data.dtype.kind != "f":
            return self.sum(input)
        total = np.ascontiguousarray(np.moveaxis(data, axis, -1)).sum(-1)
        return self.to_tensor(np.expand_dims(total, axis) if self.keep_dims else total, input.dtype)

    def _arg(self, input: tuple[tl.tensor, ...], best: np.ufunc, index_of: Callable[..., Any]) -> Any:
        values, indices = (tensor.handle.data for tensor in input[:2])
        if values.dtype.kind == "f":
            # NaN must not win: give it the value that loses every comparison.
            loser = values.dtype.type(-np.inf if best is np.fmax else np.inf)
            values = np.where(np.isnan(values), loser, values)
        axis = self.axis
        if axis is None:
            values, indices, axis = values.reshape(-1), indices.reshape(-1), 0
        at = np.expand_dims(index_of(values, axis=axis), axis)
        value = best.reduce(input[0].handle.data.reshape(values.shape), axis=axis, keepdims=True)
        outputs = value, np.take_along_axis(indices, at, axis)
        return [
            self.to_tensor(self._shaped(out, axis, input[0]), tensor.dtype)
            for out, tensor in zip(outputs, input, strict=True)
        ]

    def _halves(self, input: tuple[tl.tensor, ...]) -> Any:
        axis = self.axis
        parts = [tensor.handle.data for tensor in input]
        if axis is None:
            parts, axis = [part.reshape(-1) for part in parts], 0
        while parts[0].shape[axis] > 1:
            half = parts[0].shape[axis] // 2
            low = [self._block(part.take(range(half), axis), t.dtype) for part, t in zip(parts, input, strict=True)]
            high = [
                self._block(part.take(range(half, 2 * half), axis), t.dtype)
                for part, t in zip(parts, input, strict=True)
            ]
            combined = self.combine_fn(*low, *high)
            combined = combined if isinstance(combined, (tuple, list)) else (combined,)
            parts = [c.handle.data.astype(part.dtype) for c, part in zip(combined, parts, strict=True)]
        return [
            self.to_tensor(self._shaped(part, axis, input[0]), tensor.dtype)
            for part, tensor in zip(parts, input, strict=True)
        ]

    def _block(self, data: np.ndarray, dtype: tl.dtype) -> tl.tensor:
        return tl.tensor(TensorHandle(data, dtype.scalar), tl.block_type(dtype, list(data.shape)))

    def _shaped(self, data: np.ndarray, axis: int, original: tl.tensor) -> Any:
        """`data` has length 1 along `axis`: dropped unless `keep_dims`, a scalar when nothing is left."""
        if self.keep_dims:
            return data if self.axis is not None else data.reshape([1] * len(original.shape))
        data = data.squeeze(axis)
        return data if data.shape else data[()]


builder = Builder()
semantic = Semantic(builder)
