"""The primitives: a closed set. Each is one block: its numpy meaning and its derivative, and so the function users
call.

A derivative takes `d`, the cotangent of the result `y`, then the arguments, and returns a cotangent for each argument
(None: no gradient flows). Elementwise primitives broadcast as torch does; whoever applies a derivative sums the
cotangents back to the shapes of the arguments.
"""

from __future__ import annotations

import builtins
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .apply import graph_of
from .errors import DeclarationError, DTypeError, ShapeError
from .graph import Graph, Number, Value
from .registry import ANY_NUMBER, PRIMITIVES, Primitive
from .types import (
    MAX_TEXT,
    Dim,
    DType,
    Shape,
    Size,
    as_dtype,
    as_shape,
    bool_,
    broadcast,
    float32,
    host,
    int64,
    normalize_axes,
    show_shape,
)

Cotangents = tuple[Value | None, ...]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _no_gradient(d: Value, y: Value, *args: Value, **attrs: Any) -> Cotangents:
    return (None,) * len(args)


# -- leaves: values that no primitive computes
# ---------------------------------------------------------------------------


def _leaf(name: str, evaluate: Callable[..., Any] | None = None) -> Primitive:
    def known(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
        raise AssertionError(f"{name} is appended with its shape and dtype")

    def fed(**attrs: Any) -> Any:
        raise AssertionError(f"{name} is fed")

    PRIMITIVES[name] = primitive = Primitive(name, "leaf", known, evaluate or fed, _no_gradient)
    return primitive


for _name in ("input", "parameter", "buffer", "slot", "scalar", "dim_size"):
    _leaf(_name)
_leaf("constant", lambda value: np.asarray(value))


def _infer_iota(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    return tuple(attrs["size"] if axis == 0 else 1 for axis in range(-attrs["before"], attrs["after"] + 1)), int64


PRIMITIVES["iota"] = Primitive(
    "iota",
    "leaf",
    _infer_iota,
    lambda size, before, after: np.arange(size).reshape((1,) * before + (size,) + (1,) * after),
    _no_gradient,
)


def index_along(x: Value, axis: int = -1) -> Value:
    """The index of each element of `x` along `axis`: int64, size 1 in all other dims."""
    (axis,) = normalize_axes(axis, len(x.shape), "index_along")
    attrs = {"size": x.shape[axis], "before": axis, "after": len(x.shape) - axis - 1}
    return x.graph.append("iota", (), attrs, *_infer_iota((), attrs))


def count_along(x: Value, axis: int | Sequence[int] | None = None) -> Value | int:
    """How many elements `x` has along `axis`: an int, or a host number where a `Dim` is among the sizes."""
    sizes = [x.shape[a] for a in normalize_axes(axis, len(x.shape), "count_along")]
    known = math.prod(s for s in sizes if isinstance(s, int))
    count: Any = known
    for size in sizes:
        if isinstance(size, Dim):
            dim = x.graph.append("dim_size", (), {"dim": size.name}, (), host)
            count = dim if count is known and known == 1 else dim * count
    if isinstance(count, Value) and not count.is_leaf:
        count.hint = "count"
    return count


# -- elementwise
# -----------------------------------------------------------------------------------------------------------


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

        PRIMITIVES[name] = Primitive(name, "elementwise", infer, meaning, derivative, len(names))

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
    # The oracle works in float64 throughout: a cast between float dtypes keeps the exact value.
    lambda x, dtype: np.asarray(x).astype(_NUMPY.get(dtype.name, np.float64)),
    lambda d, y, x, dtype: (cast(d, x.dtype) if x.dtype.is_float else None,),
    1,
)


def cast(x: Value, dtype: object) -> Value:
    """`x` in another dtype. Inside a kernel float16 and bfloat16 are computed in float32."""
    dtype = as_dtype(dtype)
    return x if x.dtype is dtype else x.graph.call("cast", x, dtype=dtype)


# -- reductions: the reduced axes stay, with size 1
# ------------------------------------------------------------------------


def _reduction(
    name: str, meaning: Callable[..., Any], vjp: Callable[..., Cotangents], *, empty: bool
) -> Callable[..., Value]:
    def infer(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
        (x,) = args
        axes = attrs["axes"]
        if x.dtype is bool_:
            raise DTypeError(
                f"{name}: does not work on bool, got {x.name!r}; cast it first, as in tn.cast(x, 'float32')"
            )
        if not empty and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(
                f"{name}: {x.name!r} of shape {show_shape(x.shape)} is empty along {axes}; it has no {name}"
            )
        return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), x.dtype

    PRIMITIVES[name] = Primitive(name, "reduction", infer, lambda x, axes: meaning(x, axis=axes, keepdims=True), vjp, 1)

    def build(x: Value, axis: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
        axes = normalize_axes(axis, len(x.shape), name)
        kept = x.graph.call(name, x, axes=axes) if axes else x
        shape = tuple(size for a, size in enumerate(x.shape) if a not in axes)
        return kept if keepdim else reshape(kept, shape)

    build.__name__ = build.__qualname__ = name
    return build


def _extremum_vjp(d: Value, y: Value, x: Value, axes: tuple[int, ...]) -> Cotangents:
    reached = cast(x == y, x.dtype)
    return (d * reached / sum(reached, axes, keepdim=True),)


sum = _reduction("sum", np.sum, lambda d, y, x, axes: (broadcast_to(d, x.shape),), empty=True)
sum.__doc__ = "The sum over `axis` (None: all axes)."
max = _reduction("max", np.max, _extremum_vjp, empty=False)
max.__doc__ = "The largest over `axis`; NaN if any is; tied elements share the gradient, as in torch.amax."
min = _reduction("min", np.min, _extremum_vjp, empty=False)
min.__doc__ = "The smallest over `axis`; NaN if any is; tied elements share the gradient, as in torch.amin."


def mean(x: Value, axis: int | Sequence[int] | None = None, keepdim: bool = False) -> Value:
    """The mean over `axis` (None: all axes)."""
    return sum(x, axis, keepdim) / count_along(x, axis)


LARGEST_INDEX = 2**31 - 1
"""No index along an axis is larger: kernels count along axes in int32."""


def argmax(x: Value, axis: int = -1, keepdim: bool = False) -> Value:
    """The index of the largest along `axis`: NaN counts as largest, a tie goes to the lowest index, as in torch."""
    largest = max(x, axis, keepdim=True)
    index = index_along(x, axis)
    is_largest = (x == largest) | (x != x)
    size = x.shape[axis]
    beyond = size if isinstance(size, int) else LARGEST_INDEX
    return min(where(is_largest, index, beyond), axis, keepdim)


# -- shape
# ---------------------------------------------------------------------------------------------------------------


def _split_sizes(shape: Shape) -> tuple[int, list[str]]:
    known = 1
    for size in shape:
        known *= size if isinstance(size, int) else 1
    return known, sorted(size.name for size in shape if isinstance(size, Dim))


def _infer_reshape(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    shape = as_shape(attrs["shape"], "reshape")
    if _split_sizes(x.shape) != _split_sizes(shape):
        raise ShapeError(
            f"reshape: {x.name!r} of shape {show_shape(x.shape)} does not have as many elements as {show_shape(shape)}"
        )
    return shape, x.dtype


PRIMITIVES["reshape"] = Primitive(
    "reshape",
    "shape",
    _infer_reshape,
    lambda x, shape: np.reshape(x, shape),
    lambda d, y, x, shape: (reshape(d, x.shape),),
    1,
)


def reshape(x: Value, shape: Sequence[int | Dim]) -> Value:
    """`x` with the same elements in the same order under another shape."""
    shape = tuple(shape)
    return x if x.shape == shape else x.graph.call("reshape", x, shape=shape)


def _infer_transpose(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    if set(attrs["axes"]) != set(range(len(x.shape))) or len(attrs["axes"]) != len(x.shape):
        raise ShapeError(f"transpose: {attrs['axes']} is no permutation of the {len(x.shape)} axes of {x.name!r}")
    return tuple(x.shape[a] for a in attrs["axes"]), x.dtype


PRIMITIVES["transpose"] = Primitive(
    "transpose",
    "shape",
    _infer_transpose,
    lambda x, axes: np.transpose(x, axes),
    lambda d, y, x, axes: (transpose(d, tuple(axes.index(a) for a in range(len(axes)))),),
    1,
)


def transpose(x: Value, axes: Sequence[int]) -> Value:
    """`x` with its axes in another order: axis i of the result is axis `axes[i]` of `x`, as in torch.permute."""
    return x.graph.call("transpose", x, axes=tuple(axes))


def _infer_broadcast_to(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (x,) = args
    shape = as_shape(attrs["shape"], "broadcast_to")
    if broadcast([x.shape, shape], "broadcast_to") != shape:
        raise ShapeError(
            f"broadcast_to: {x.name!r} of shape {show_shape(x.shape)} does not expand to {show_shape(shape)}"
        )
    return shape, x.dtype


PRIMITIVES["broadcast_to"] = Primitive(
    "broadcast_to",
    "shape",
    _infer_broadcast_to,
    lambda x, shape: np.broadcast_to(x, shape),
    lambda d, y, x, shape: (sum_to(d, x.shape),),
    1,
)


def broadcast_to(x: Value, shape: Shape) -> Value:
    """`x` repeated along new axes and axes of size 1, as in torch.Tensor.expand."""
    return x if x.shape == shape else x.graph.call("broadcast_to", x, shape=shape)


def sum_to(x: Value, shape: Shape) -> Value:
    """`x` summed over the axes along which `shape` broadcasts to its shape: the adjoint of `broadcast_to`."""
    if x.shape == shape:
        return x
    extra = len(x.shape) - len(shape)
    axes = [a for a, size in enumerate(x.shape) if a < extra or (shape[a - extra] == 1 and size != 1)]
    return reshape(sum(x, axes, keepdim=True), shape)


# -- contractions: closed under differentiation
# ------------------------------------------------------------------------------


def _float_pair(name: str, a: Value, b: Value) -> DType:
    if a.dtype is not b.dtype or not a.dtype.is_float:
        raise DTypeError(
            f"{name}: {a.name!r} is {a.dtype} and {b.name!r} is {b.dtype}; both must have one float dtype, cast "
            "one of them"
        )
    return a.dtype


def _infer_matmul(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    a, b = args
    dtype = _float_pair("matmul", a, b)
    inner, outer = (b.shape[::-1] if attrs["transpose_b"] else b.shape) if len(b.shape) == 2 else (None, 0)
    if not a.shape or a.shape[-1] != inner:
        order = "(columns, K)" if attrs["transpose_b"] else "(K, columns)"
        raise ShapeError(
            f"matmul: {a.name!r} of shape {show_shape(a.shape)} and {b.name!r} of shape {show_shape(b.shape)} do "
            "not fit; "
            f"(..., K) meets {order} with the same K"
        )
    return (*a.shape[:-1], outer), dtype


def _matmul_vjp(d: Value, y: Value, a: Value, b: Value, transpose_b: bool) -> Cotangents:
    return matmul(d, b, not transpose_b), matmul_over_rows(d, a) if transpose_b else matmul_over_rows(a, d)


PRIMITIVES["matmul"] = Primitive(
    "matmul",
    "contraction",
    _infer_matmul,
    lambda a, b, transpose_b: a @ (b.T if transpose_b else b),
    _matmul_vjp,
    2,
)


def matmul(a: Value, b: Value, transpose_b: bool = False) -> Value:
    """(..., K) times (K, N), or times the transpose of (N, K): (..., N)."""
    return a.graph.call("matmul", a, b, transpose_b=transpose_b)


def _infer_matmul_over_rows(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    a, b = args
    dtype = _float_pair("matmul_over_rows", a, b)
    if not a.shape or a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(
            f"matmul_over_rows: {a.name!r} of shape {show_shape(a.shape)} and {b.name!r} of shape "
            f"{show_shape(b.shape)} "
            "differ before their last axis; give both the same leading axes"
        )
    return (a.shape[-1], b.shape[-1]), dtype


PRIMITIVES["matmul_over_rows"] = Primitive(
    "matmul_over_rows",
    "contraction",
    _infer_matmul_over_rows,
    lambda a, b: np.einsum("...m,...n->mn", a, b, optimize=True),
    lambda d, y, a, b: (matmul(b, d, True), matmul(a, d)),
    2,
)


def matmul_over_rows(a: Value, b: Value) -> Value:
    """(..., M) and (..., N), contracted over all leading axes: (M, N). The gradient of a weight."""
    return a.graph.call("matmul_over_rows", a, b)


# -- processes
# ----------------------------------------------------------------------------------------------------------------------


PRIMITIVES["all_reduce"] = Primitive(
    "all_reduce",
    "collective",
    lambda args, attrs: (args[0].shape, args[0].dtype),
    lambda x: x,
    lambda d, y, x: (all_reduce(d),),
    1,
)


def all_reduce(x: Value) -> Value:
    """`x` added up over all processes that run the graph; of one alone, `x`."""
    return x.graph.call("all_reduce", x)


# -- regions of rows: made by a pass, of what is local to a row
# ------------------------------------------------------------------------------

CHUNK_ROWS = Dim("chunk_rows")
"""The rows of a chunk, in the graph of a region."""


def as_lines(region: Graph) -> tuple[object, ...]:
    """A graph of primitives as an attribute: its text without comments, each line in pieces that an attribute takes."""
    made: list[object] = []
    for line in str(region).splitlines():
        line = line.split("  # ")[0]
        pieces = tuple(line[i : i + MAX_TEXT] for i in range(0, len(line), MAX_TEXT))
        made.append(pieces[0] if len(pieces) == 1 else pieces)
    return tuple(made)


def _pieces_of(line: object) -> tuple[object, ...]:
    if not isinstance(line, tuple):
        raise DeclarationError(f"chunked: {line!r} is no line of a region, nor the pieces of one")
    return line


@lru_cache(maxsize=64)
def region_of(lines: tuple[object, ...]) -> Graph:
    """The graph of a region that `as_lines` wrote. Raises `DeclarationError` for what is none."""
    from .text import parse_graph

    joined = [line if isinstance(line, str) else "".join(map(str, _pieces_of(line))) for line in lines]
    if any("= chunked(" in line for line in joined):
        raise DeclarationError("chunked: a region holds no regions of its own")
    region: Graph = parse_graph("\n".join(joined))
    odd = [v for v in region.values if v.op.name in ("parameter", "buffer", "slot", "uniform", "dim_size")]
    if region.level != "primitive" or odd or region.updates or not region.outputs:
        raise DeclarationError("chunked: region is no graph of primitives with inputs, scalars and outputs alone")
    return region


def _infer_chunked(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    region = region_of(attrs["region"])
    leaves = region.leaves("input", "scalar")
    sizes: dict[str, Size] = {}
    if len(leaves) != len(args):
        raise ShapeError(f"chunked: the region takes {len(leaves)} arguments, got {len(args)}")
    for leaf, arg in zip(leaves, args, strict=True):
        fits = leaf.dtype is arg.dtype and len(leaf.shape) == len(arg.shape)
        for want, got in zip(leaf.shape, arg.shape, strict=False):
            fits = fits and got == (sizes.setdefault(want.name, got) if want == CHUNK_ROWS else want)
        if not fits:
            raise ShapeError(
                f"chunked: {arg.name!r} is {arg.dtype}{show_shape(arg.shape)}, and {leaf.name!r} of the region "
                f"{leaf.dtype}{show_shape(leaf.shape)}"
            )
    outputs = list(region.outputs.values())
    if not 0 <= attrs["which"] < len(outputs) or attrs["rows"] < 1 or CHUNK_ROWS.name not in sizes:
        raise ShapeError(
            f"chunked: result {attrs['which']} of {len(outputs)}, {attrs['rows']} rows a chunk; there is none"
        )
    out = outputs[attrs["which"]]
    return tuple(sizes[CHUNK_ROWS.name] if s == CHUNK_ROWS else s for s in out.shape), out.dtype


def _evaluate_chunked(*arrays: Any, region: tuple[object, ...], which: int, rows: int) -> Any:
    # Rows do not know of each other, so that all of them at once mean the same as chunk after chunk.
    from .evaluate import evaluate

    graph = region_of(region)
    out = list(graph.outputs.values())[which]
    feeds = {leaf.name: a for leaf, a in zip(graph.leaves("input", "scalar"), arrays, strict=True)}
    return evaluate(graph, feeds, wanted=[*graph.leaves("input"), out])[out]


def _chunked_vjp(d: Value, y: Value, *args: Value, **attrs: Any) -> Cotangents:
    raise DeclarationError(f"{y.name!r} is computed in chunks of rows; take its gradient before it is chunked")


PRIMITIVES["chunked"] = Primitive("chunked", "contraction", _infer_chunked, _evaluate_chunked, _chunked_vjp, ANY_NUMBER)


def zeros_like(x: Value) -> Value:
    """Zeros of the shape and dtype of `x`."""
    return broadcast_to(x.graph.constant(0, x.dtype if x.dtype is not host else float32), x.shape)


def is_comparison(name: str) -> builtins.bool:
    """Whether a primitive of this name compares its arguments."""
    return name in ("eq", "ne", "lt", "le", "gt", "ge")
