"""Division by a norm: vectors of length 1, and weights as a direction and a length."""

from __future__ import annotations

import math

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError, ShapeError
from ..core.graph import Graph, Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import DType, Shape, normalize_axes, show_shape
from .declare import needs_float
from .moments import wide

FAMILY = "normalizations"


def _lp_norm(x: Value, axes: tuple[int, ...], p: float) -> Value:
    """(Σ |x|ᵖ)^(1/p) over `axes`, which stay with size 1."""
    x = wide(x)
    if p == 2:
        return P.sqrt(P.sum(x * x, axes, keepdim=True))
    if p == 1:
        return P.sum(P.abs(x), axes, keepdim=True)
    if math.isinf(p):
        return (P.max if p > 0 else P.min)(P.abs(x), axes, keepdim=True)
    if p == 0:
        return P.sum(P.cast(x != 0, x.dtype), axes, keepdim=True)
    return P.sum(P.abs(x) ** p, axes, keepdim=True) ** (1 / p)


def _norm_slope(x: Value, norm: Value, axes: tuple[int, ...], p: float, dtype: DType) -> Value | None:
    """The derivative of the norm by each element, 0 where the element is, as torch has it; None where it is 0. Elements
    were given in `dtype`."""
    if p == 0:
        return None
    if p == 1:
        return P.sign(x)
    if math.isinf(p):
        reached = P.cast(P.same(P.abs(x), norm, dtype), norm.dtype)
        return P.sign(x) * (reached / P.sum(reached, axes, keepdim=True))
    if p == 2:
        return x / norm
    return P.where(x == 0, 0, P.sign(x) * (P.abs(x) / norm) ** (p - 1))


def _axes(x: Value, dim: tuple) -> tuple[int, ...]:
    """The axes as reductions take them: none for a 0-dim value, along which torch takes dim 0 and −1."""
    if not x.shape and set(dim) <= {0, -1}:
        return ()
    return normalize_axes(dim, len(x.shape), "normalize")


@op(
    domain={"x": (-10, 10)},
    note=Note(
        formula="x / max(‖x‖ₚ, eps)",
        derivative="(d − Σ(d · y) · ∂‖x‖ₚ/∂x) / ‖x‖ₚ; d / eps where the norm is below eps",
        strengths="Keeps directions: the dot product of two results is the cosine of their angle.",
        weaknesses="Discards lengths; amplifies small differences near 0.",
        use="Embeddings that are compared by angle; contrastive losses.",
        source="torch.nn.functional.normalize",
    ),
)
def normalize(x: Value, *, p: float, dim: tuple, eps: float) -> Value:
    """x / max(‖x‖ₚ, eps)"""
    needs_float(x)
    norm = _lp_norm(x, _axes(x, dim), p)
    normalized = x / P.maximum(norm, eps)
    return P.cast(normalized, x.dtype)


normalize.sample = lambda graph, shape, dtype: normalize(graph.input("x", (*shape, 3), dtype), dim=(-2, -1))


@normalize.gradient
def _(d_y, y, x, *, p, dim, eps):
    axes = _axes(x, dim)
    dtype = x.dtype
    d_y, x = wide(d_y), wide(x)
    norm = _lp_norm(x, axes, p)
    length = P.maximum(norm, eps)
    normalized = x / length
    slope = _norm_slope(x, norm, axes, p, dtype)
    if slope is None:
        return (d_y / length,)
    projection = P.sum(d_y * normalized, axes, keepdim=True)
    return ((d_y - P.where(norm >= eps, projection * slope, 0)) / length,)


@normalize.declares
def _(
    x: Value, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12, *, name: str | None = None
) -> Value:
    """`x` divided by its `p`-norm along `dim`, or by `eps` where the norm is smaller. `p` is any number or ±inf: at 0
    the norm counts what is not 0, at −inf it is the smallest magnitude. Raises `ShapeError` where there is no `dim`.
    """
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    return normalize.apply(x, p=float(p), dim=axes, eps=float(eps), name=name)


def _norm_axes(v: Value, dim: int) -> tuple[int, ...]:
    """The axes that share one length: all but `dim`, or all for −1."""
    if not -1 <= dim < len(v.shape):
        raise ShapeError(f"dim is {dim} for {v.name!r} of shape {show_shape(v.shape)}; use one of its dims, or None")
    return tuple(axis for axis in range(len(v.shape)) if axis != dim)


@op(
    domain={"v": (-5, 5), "g": (0.5, 2)},
    note=Note(
        formula="g · v / ‖v‖, the norm over all dims but one",
        derivative="d_g = Σ(d · v) / ‖v‖; d_v = g / ‖v‖ · (d − v · Σ(d · v) / ‖v‖²)",
        strengths="Learns the length of each unit's weights separately from their direction; independent of the batch.",
        weaknesses="NaN if the direction is zero; does not normalize activations.",
        use="Recurrent and generative networks, where batch norm is unsuitable.",
        source="torch.nn.utils.parametrizations.weight_norm; Salimans and Kingma, 2016",
    ),
)
def weight_norm(v: Value, g: Value, *, dim: int) -> Value:
    """g · v / ‖v‖"""
    axes = _norm_axes(v, dim)
    needs_float(v)
    if g.dtype is not v.dtype:
        raise DTypeError(f"{v.name!r} is {v.dtype} and {g.name!r} is {g.dtype}; give both one dtype")
    if g.shape != _lengths_shape(v, dim):
        raise ShapeError(
            f"{g.name!r} has shape {show_shape(g.shape)}, but there are lengths for "
            f"{show_shape(_lengths_shape(v, dim))}; give it that shape"
        )
    norm = _lp_norm(v, axes, 2.0)
    weight = v * (g / norm)
    return P.cast(weight, v.dtype)


def _lengths_shape(v: Value, dim: int) -> Shape:
    """The shape of one length for each index along `dim`, as torch keeps it: () for one length in all."""
    return () if dim == -1 else tuple(size if axis == dim else 1 for axis, size in enumerate(v.shape))


def _sample(graph: Graph, shape: Shape, dtype: DType) -> Value:
    v = graph.input("v", (*shape, 3), dtype)
    return weight_norm(v, graph.input("g", _lengths_shape(v, 0), dtype))


weight_norm.sample = _sample


@weight_norm.gradient
def _(d_y, y, v, g, *, dim):
    axes = _norm_axes(v, dim)
    norm = _lp_norm(v, axes, 2.0)
    d_g = P.sum(wide(d_y) * v, axes, keepdim=True) / norm
    scale = g / norm
    d_v = scale * d_y - scale * d_g / norm * v
    return d_v, P.reshape(d_g, g.shape)


@weight_norm.declares
def _(v: Value, g: Value, dim: int | None = 0, *, name: str | None = None) -> Value:
    """A weight from its direction `v` (out, in, ...) and its lengths `g`, for `linear(x, weight=...)` and the like.

    `g` has the shape of `v` with every size but that of `dim` 1, as (out, 1) for a linear layer's weight; `dim=None`
    is one length in all, of shape (). torch calls the two `parametrizations.weight.original1` and `.original0`.
    Raises `ShapeError` or `DTypeError` where they do not fit.
    """
    if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
        raise DeclarationError(f"weight_norm: dim is {dim!r}; give an int, or None for one length in all")
    return weight_norm.apply(v, g, dim=-1 if dim is None else dim, name=name)
