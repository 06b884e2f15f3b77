"""Elementwise primitives, which broadcast as torch does, and casts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..core.errors import DTypeError, ShapeError
from ..core.graph import Value
from ..core.numbers import Number, rounded
from ..core.op import graph_of
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, as_dtype, bool_, broadcast, float32, host
from .derivative import Cotangents

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _elementwise(
    meaning: Callable[..., Any], *, takes: str = "float", gives: DType | None = None
) -> Callable[..., Any]:
    """Decorator on a derivative. `takes` is 'float' or 'number'; `gives` is the result's dtype where it is another."""

    def make(derivative: Callable[..., Cotangents]) -> Callable[..., Value]:
        name = derivative.__name__.removesuffix("_")
        names = [p for p in inspect.signature(derivative).parameters][2:]

        def infer(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
            if len(args) != len(names):
                raise ShapeError(f"{name}: takes {len(names)} arguments ({', '.join(names)}), got {len(args)}")
            # A condition decides nothing; numbers alone that it chooses among are torch's float32.
            chosen, unknown = (args[1:], float32) if name == "where" else (args, host)
            dtype = next((a.dtype for a in reversed(chosen) if a.dtype is not host), unknown)
            if takes == "float" and not dtype.is_float:
                raise DTypeError(
                    f"{name}: needs a float dtype, got {dtype} for {args[-1].name!r}; cast it first, as in tn.cast(x, "
                    "'float32')"
                )
            if takes == "number" and dtype is bool_:
                raise DTypeError(f"{name}: does not work on bool, got {args[-1].name!r}; cast it, or use &, | and ~")
            return broadcast([a.shape for a in args], name), gives or dtype

        PRIMITIVES[name] = Primitive(name, "elementwise", infer, meaning, derivative, len(names), takes)

        def build(*args: Value | Number) -> Value:
            return graph_of(name, args).call(name, *args)

        build.__name__ = build.__qualname__ = name
        build.__doc__ = derivative.__doc__
        only = inspect.Parameter.POSITIONAL_ONLY
        build.__signature__ = inspect.Signature([inspect.Parameter(n, only) for n in names])  # type: ignore[attr-defined]
        return build

    return make


@_elementwise(np.negative, takes="number")
def neg(d, y, x):
    """−x"""
    return (-d,)


@_elementwise(np.abs, takes="number")
def abs(d, y, x):
    """|x|; the gradient at 0 is 0"""
    return (d * sign(x),)


@_elementwise(lambda x: np.sign(np.where(np.isnan(x), 0, x)), takes="number")
def sign(d, y, x):
    """−1, 0 or 1; 0 for NaN, as in torch"""
    return (None,)


@_elementwise(np.exp)
def exp(d, y, x):
    """eˣ"""
    return (d * y,)


@_elementwise(np.expm1)
def expm1(d, y, x):
    """eˣ − 1, exact near 0"""
    return (d * (y + 1),)


@_elementwise(np.log)
def log(d, y, x):
    """ln x"""
    return (d / x,)


@_elementwise(np.log1p)
def log1p(d, y, x):
    """ln(1 + x), exact near 0"""
    return (d / (1 + x),)


@_elementwise(np.sqrt)
def sqrt(d, y, x):
    """√x"""
    return (d / (2 * y),)


@_elementwise(lambda x: 1 / np.sqrt(x))
def rsqrt(d, y, x):
    """1 / √x"""
    return (d * (-0.5 * y * y * y),)


@_elementwise(np.sin)
def sin(d, y, x):
    """sin x"""
    return (d * cos(x),)


@_elementwise(np.cos)
def cos(d, y, x):
    """cos x"""
    return (-d * sin(x),)


@_elementwise(np.tanh)
def tanh(d, y, x):
    """(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)"""
    return (d * (1 - y * y),)


@_elementwise(_erf)
def erf(d, y, x):
    """The Gauss error function"""
    return (d * (1.1283791670955126 * exp(-x * x)),)


@_elementwise(np.floor, takes="number")
def floor(d, y, x):
    """The largest integer not above x"""
    return (None,)


@_elementwise(np.add, takes="number")
def add(d, y, a, b):
    """a + b"""
    return d, d


@_elementwise(np.subtract, takes="number")
def sub(d, y, a, b):
    """a − b"""
    return d, -d


@_elementwise(np.multiply, takes="number")
def mul(d, y, a, b):
    """a · b"""
    return (2 * d * a, None) if a is b else (d * b, d * a)


@_elementwise(np.divide)
def div(d, y, a, b):
    """a / b"""
    return d / b, -d * y / b


@_elementwise(np.power)
def pow(d, y, a, b):
    """aᵇ"""
    d_b = None if b.op.name == "constant" else where((a == 0) & (b >= 0), 0, d * y * log(a))
    return d * where(b == 0, 0, b * a ** (b - 1)), d_b


@_elementwise(np.maximum, takes="number")
def maximum(d, y, a, b):
    """The larger; NaN if either is; the gradient is halved at a tie"""
    return where(a == b, 0.5 * d, where(a < b, 0, d)), where(a == b, 0.5 * d, where(b < a, 0, d))


@_elementwise(np.minimum, takes="number")
def minimum(d, y, a, b):
    """The smaller; NaN if either is; the gradient is halved at a tie"""
    return where(a == b, 0.5 * d, where(a > b, 0, d)), where(a == b, 0.5 * d, where(b > a, 0, d))


@_elementwise(np.equal, takes="any", gives=bool_)
def eq(d, y, a, b):
    """a = b"""
    return None, None


@_elementwise(np.not_equal, takes="any", gives=bool_)
def ne(d, y, a, b):
    """a ≠ b"""
    return None, None


@_elementwise(np.less, takes="any", gives=bool_)
def lt(d, y, a, b):
    """a < b"""
    return None, None


@_elementwise(np.less_equal, takes="any", gives=bool_)
def le(d, y, a, b):
    """a ≤ b"""
    return None, None


@_elementwise(np.greater, takes="any", gives=bool_)
def gt(d, y, a, b):
    """a > b"""
    return None, None


@_elementwise(np.greater_equal, takes="any", gives=bool_)
def ge(d, y, a, b):
    """a ≥ b"""
    return None, None


@_elementwise(np.logical_and, takes="any", gives=bool_)
def logical_and(d, y, a, b):
    """a and b"""
    return None, None


@_elementwise(np.logical_or, takes="any", gives=bool_)
def logical_or(d, y, a, b):
    """a or b"""
    return None, None


@_elementwise(np.logical_not, takes="any", gives=bool_)
def logical_not(d, y, x):
    """not x"""
    return (None,)


@_elementwise(np.where, takes="any")
def where(d, y, condition, a, b):
    """a where the condition holds, b elsewhere"""
    return None, where(condition, d, 0), where(condition, 0, d)


@_elementwise(lambda x: x, takes="any")
def copy(d, y, x):
    """x, in memory of its own"""
    return (d,)


def _infer_cast(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    return args[0].shape, attrs["dtype"]


_NUMPY = {"int32": np.int32, "int64": np.int64, "bool": np.bool_}


PRIMITIVES["cast"] = Primitive(
    "cast",
    "cast",
    _infer_cast,
    # Between float dtypes a cast keeps the exact number: what rounds is `round_to`.
    lambda x, dtype: np.asarray(x).astype(_NUMPY.get(dtype.name, np.float64)),
    lambda d, y, x, dtype: (cast(d, x.dtype) if x.dtype.is_float else None,),
    1,
)


def cast(x: Value, dtype: object) -> Value:
    """`x` in another dtype. In a declared graph it rounds to the numbers of a float dtype, wherever it is fused; in a
    formula it keeps the number, as float16 and bfloat16 are computed in float32."""
    graph_of("cast", (x,))
    dtype = as_dtype(dtype)
    return x if x.dtype is dtype else x.graph.call("cast", x, dtype=dtype)


PRIMITIVES["round_to"] = Primitive(
    "round_to",
    "cast",
    _infer_cast,
    lambda x, dtype: rounded(x, dtype),
    lambda d, y, x, dtype: (round_to(d, x.dtype) if x.dtype.is_float else None,),
    1,
)


def round_to(x: Value, dtype: object) -> Value:
    """The nearest numbers of a float dtype, that of `x` or another; the gradient is rounded to those of x, as torch
    casts it back."""
    return x.graph.call("round_to", x, dtype=as_dtype(dtype))


def narrowed(x: Value, dtype: DType | None = None) -> Value:
    """`x` as memory would hold it in `dtype`, by default its own: at the numbers of that, if it has 16 bits."""
    dtype = dtype or x.dtype
    return round_to(x, dtype) if dtype.is_float and dtype.itemsize == 2 else x


def same(a: Value, b: Value, dtype: DType | None = None) -> Value:
    """Where a is b, as numbers of `dtype`, by default that of a: a kernel may have one from memory and the other, which
    it computes again, in float32."""
    dtype = dtype or a.dtype
    return narrowed(a, dtype) == narrowed(b, dtype)


def is_comparison(name: str) -> bool:
    """Whether a primitive of this name compares its arguments."""
    return name in ("eq", "ne", "lt", "le", "gt", "ge")
