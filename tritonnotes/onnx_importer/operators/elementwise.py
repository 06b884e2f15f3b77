"""Operators of each element by itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import as_dtype, bool_, float32
from ...ir.ops.comparisons import clamp
from ...ir.ops.elementary import reciprocal
from .package import dtype_name
from .rows import Array, Row, Table, ints, number, of_one
from .shapes import padded
from .torch_call import torch_call


def _of_torch(name: str) -> Callable[[Value], Value]:
    return lambda x: torch_call(f"aten.{name}.default", x)


def _unchanged_ints(make: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """Rounding, which leaves ints as they are."""
    return lambda x: make(x) if x.dtype.is_float else x


def _div(a: Value, b: Value) -> Value:
    """Quotients of ints are rounded towards 0."""
    return P.div(a, b) if a.dtype.is_float else torch_call("aten.div.Tensor_mode", a, b, rounding_mode="trunc")


def _pow(x: Value, exponent: Value) -> Value:
    """A power has the dtype of its base."""
    if x.dtype.is_float:
        return P.pow(x, exponent if exponent.dtype is x.dtype else P.cast(exponent, x.dtype))
    power = torch_call("aten.pow.Tensor_Tensor", x, exponent)
    return power if power.dtype is x.dtype else P.cast(power, x.dtype)


def _mod(a: Value, b: Value, fmod: int = 0) -> Value:
    return torch_call("aten.fmod.Tensor" if fmod else "aten.remainder.Tensor", a, b)


def _folded(build: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    """An operator of any number of inputs from ours of two."""
    return lambda *values: functools.reduce(build, values)


def _mean(*values: Value) -> Value:
    return functools.reduce(P.add, values) / len(values)


def _xor(a: Value, b: Value) -> Value:
    return P.ne(a, b)


def _where(condition: Value, a: Value, b: Value) -> Value:
    return P.where(condition, a, b)


def _is_inf(x: Value, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    if detect_negative and detect_positive:
        return P.eq(P.abs(x), math.inf)
    if not detect_negative and not detect_positive:
        return P.ne(x, x) & P.eq(x, x)
    return P.eq(x, math.inf if detect_positive else -math.inf)


def _is_nan(x: Value) -> Value:
    return P.ne(x, x)


def _clip_by_attributes(x: Value, min: float = -math.inf, max: float = math.inf) -> Value:
    return clamp(x, min, max)


def _clip(x: Value, low: Any = None, high: Any = None) -> Value:
    bounds = [number(bound) for bound in (low, high)]
    return x if bounds[0] is None and bounds[1] is None else clamp(x, *bounds)


def _cast(x: Value, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    dtype = as_dtype(dtype_name(to))
    if x.dtype is dtype:
        return x
    return P.ne(x, 0) if dtype is bool_ else P.cast(x, dtype)


def _cast_like(x: Value, like: Value, saturate: int = 1, round_mode: str = "up") -> Value:
    return x if x.dtype is like.dtype else P.ne(x, 0) if like.dtype is bool_ else P.cast(x, like.dtype)


def _trilu(x: Value, k: Array | None = None, upper: int = 1) -> Value:
    return torch_call("aten.triu.default" if upper else "aten.tril.default", x, 0 if k is None else number(k))


def _cum_sum(x: Value, axis: Array, exclusive: int = 0, reverse: int = 0) -> Value:
    at = number(axis)
    turned = torch_call("aten.flip.default", x, (at,)) if reverse else x
    total = torch_call("aten.cumsum.default", turned, at)
    total = total if total.dtype is x.dtype else P.cast(total, x.dtype)
    total = total - turned if exclusive else total
    return torch_call("aten.flip.default", total, (at,)) if reverse else total


def _cum_prod(x: Value, axis: Array, exclusive: int = 0, reverse: int = 0) -> Value:
    at = number(axis) % len(x.shape)
    turned = torch_call("aten.flip.default", x, (at,)) if reverse else x
    if exclusive:
        (size,) = ints(x.shape[at : at + 1], "the axis that is multiplied along")
        pads = [0] * (2 * len(x.shape))
        pads[at] = 1
        turned = padded(P.narrow(turned, at, 0, size - 1), pads, value=1)
    total = torch_call("aten.cumprod.default", turned, at, dtype=x.dtype)
    return torch_call("aten.flip.default", total, (at,)) if reverse else total


def _bitwise(name: str) -> Callable[..., Value]:
    return lambda *values: torch_call(f"aten.{name}", *values)


def _erf(x: Value) -> Value:
    return P.erf(x) if x.dtype.is_float else P.erf(P.cast(x, float32))


def _identity(x: Value) -> Value:
    return x


OF_TORCH = {
    "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "Cosh": "cosh", "Sinh": "sinh", "Tan": "tan", "Det": "det",
}  # fmt: skip
"""Operators that are one call of torch, by its name there."""

ELEMENTWISE: Table = {
    **of_one(
        ("Abs", P.abs), ("Neg", P.neg), ("Sign", P.sign), ("Exp", P.exp), ("Log", P.log), ("Sqrt", P.sqrt),
        ("Sin", P.sin), ("Cos", P.cos), ("Erf", _erf), ("Tanh", P.tanh), ("Reciprocal", reciprocal),
        ("Floor", _unchanged_ints(P.floor)), ("Ceil", _unchanged_ints(_of_torch("ceil"))),
        ("Round", _unchanged_ints(_of_torch("round"))), ("Not", P.logical_not), ("Identity", _identity),
        ("Add", P.add), ("Sub", P.sub), ("Mul", P.mul), ("Div", _div), ("Pow", _pow), ("Mod", _mod),
        ("Max", _folded(P.maximum)), ("Min", _folded(P.minimum)), ("Sum", _folded(P.add)), ("Mean", _mean),
        ("Equal", P.eq), ("Greater", P.gt), ("GreaterOrEqual", P.ge), ("Less", P.lt), ("LessOrEqual", P.le),
        ("And", P.logical_and), ("Or", P.logical_or), ("Xor", _xor), ("Where", _where), ("IsInf", _is_inf),
        ("IsNaN", _is_nan), ("Cast", _cast), ("CastLike", _cast_like), ("BitwiseNot", _bitwise("bitwise_not.default")),
        ("BitwiseAnd", _bitwise("bitwise_and.Tensor")), ("BitwiseOr", _bitwise("bitwise_or.Tensor")),
        ("BitwiseXor", _bitwise("bitwise_xor.Tensor")),
        *((name, _of_torch(torchs)) for name, torchs in OF_TORCH.items()),
    ),
    "Clip": (Row(_clip_by_attributes), Row(_clip, 11, numbers=(1, 2))),
    "Trilu": (Row(_trilu, known=(1,)),),
    "CumSum": (Row(_cum_sum, known=(1,)),),
    "CumProd": (Row(_cum_prod, known=(1,)),),
}  # fmt: skip
