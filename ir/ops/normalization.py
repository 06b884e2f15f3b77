"""Normalizations."""

from __future__ import annotations

from .. import primitives as P
from ..errors import ShapeError
from ..graph import Value
from ..registry import Note, op
from ..types import show_shape
from .declare import DECLARE, Parameter, instance_name, parameter_or

FAMILY = "normalizations"


def _standardize(x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    """(x − mean) / √(var + eps) and 1 / √(var + eps), the variance from centred values: no cancellation at large
    means.
    """
    mean = P.mean(x, axes, keepdim=True)
    centered = x - mean
    var = P.mean(centered * centered, axes, keepdim=True)
    rstd = P.rsqrt(var + eps)
    normalized = centered * rstd
    return normalized, rstd


def _trailing(x: Value, dims: int) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - dims, len(x.shape)))


@op(
    domain={"x": (-10, 10), "weight": (-2, 2), "bias": (-2, 2)},
    note=Note(
        formula="(x − mean) / √(var + eps) · weight + bias, statistics per sample over its features",
        derivative="rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight = Σ d · x̂; d_bias = Σ d",
        strengths="Independent of the batch: the same in training and evaluation, with any batch size.",
        weaknesses="Forgets the scale and the mean of each sample, which may carry meaning.",
        use="Transformers, recurrent networks, small batches.",
        source="torch.nn.functional.layer_norm; Ba, Kiros and Hinton, 2016",
    ),
)
def layer_norm(x: Value, weight: Value | None = None, bias: Value | None = None, *, dims: int, eps: float) -> Value:
    """(x − mean) / √(var + eps) · weight + bias over the last `dims` axes."""
    normalized, _ = _standardize(x, _trailing(x, dims), eps)
    scaled = normalized if weight is None else normalized * weight
    shifted = scaled if bias is None else scaled + bias
    return P.cast(shifted, x.dtype)  # weight and bias may be wider than x, which decides, as in torch


layer_norm.sample = lambda graph, shape, dtype: layer_norm(graph.input("x", shape, dtype))


@layer_norm.gradient
def _(d_y, y, x, weight, bias, *, dims, eps):
    axes = _trailing(x, dims)
    normalized, rstd = _standardize(x, axes, eps)
    d_normalized = d_y if weight is None else d_y * weight
    mean_d_normalized = P.mean(d_normalized, axes, keepdim=True)
    projection = P.mean(d_normalized * normalized, axes, keepdim=True)
    d_x = rstd * (d_normalized - mean_d_normalized - normalized * projection)
    d_weight = None if weight is None else d_y * normalized
    return d_x, d_weight, d_y


@layer_norm.declares
def _(
    x: Value,
    normalized_shape: int | tuple[int, ...] | None = None,
    weight: Parameter = DECLARE,
    bias: Parameter = DECLARE,
    eps: float = 1e-5,
    *,
    name: str | None = None,
) -> Value:
    """Each sample of `x` (..., *normalized_shape) standardized over its last axes (None: the last one), then scaled and
    shifted by `<name>.weight` and `<name>.bias`, which it declares (ones and zeros) unless they are given or None."""
    if normalized_shape is None:
        normalized_shape = x.shape[-1:]  # type: ignore[assignment]
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape or ())
    if not shape or x.shape[-len(shape) :] != shape or not all(isinstance(s, int) for s in shape):
        raise ShapeError(
            f"layer_norm {name or ''}: {x.name!r} of shape {show_shape(x.shape)} does not end in normalized_shape "
            f"{show_shape(shape)}; give its last sizes, which must be ints"
        )
    name = instance_name(x.graph, "layer_norm", name)
    what = f"layer_norm {name!r}"
    weight = parameter_or(weight, x.graph, f"{name}.weight", shape, x.dtype, {"init": "ones"}, what)
    bias = parameter_or(bias, x.graph, f"{name}.bias", shape, x.dtype, {"init": "zeros"}, what)
    return layer_norm.apply(x, weight, bias, dims=len(shape), eps=float(eps), name=name)
