"""Normalizations of each sample by itself: over its last axes, or over groups of its channels."""

from __future__ import annotations

import numpy as np

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import Shape, float64, show_shape
from .declare import DECLARE, Parameter, instance_name, parameter_or
from .moments import affine, channels, elements, standardize, standardize_gradient, wide

FAMILY = "normalizations"

# -- over the last axes --


def _trailing(x: Value, dims: int) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - dims, len(x.shape)))


def _normalized_shape(x: Value, given: int | tuple[int, ...] | None, what: str) -> Shape:
    """The last sizes of `x` that `given` names; None is the last one alone."""
    if given is None:
        given = x.shape[-1:]  # type: ignore[assignment]
    shape = (given,) if isinstance(given, int) else tuple(given or ())
    if not shape or x.shape[-len(shape) :] != shape or not all(isinstance(s, int) for s in shape):
        raise ShapeError(
            f"{what}: {x.name!r} of shape {show_shape(x.shape)} does not end in normalized_shape "
            f"{show_shape(shape)}; give its last sizes, which must be ints"
        )
    return shape


@op(
    domain={"x": (-10, 10), "weight": (-2, 2), "bias": (-2, 2)},
    note=Note(
        formula="(x − mean) / √(var + eps) · weight + bias, statistics per sample over its features",
        derivative="rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight = Σ d · x̂; d_bias = Σ d",
        strengths="Independent of the batch: the same in training and evaluation, with any batch size.",
        weaknesses="Discards the scale and the mean of each sample, which may be informative.",
        use="Transformers, recurrent networks, small batches.",
        source="torch.nn.functional.layer_norm; Ba, Kiros and Hinton, 2016",
    ),
)
def layer_norm(x: Value, weight: Value | None = None, bias: Value | None = None, *, dims: int, eps: float) -> Value:
    """(x − mean) / √(var + eps) · weight + bias over the last `dims` axes."""
    normalized, _ = standardize(x, _trailing(x, dims), eps)
    return affine(normalized, weight, bias, x.dtype)


layer_norm.sample = lambda graph, shape, dtype: layer_norm(graph.input("x", shape, dtype))


@layer_norm.gradient
def _(d_y, y, x, weight, bias, *, dims, eps):
    axes = _trailing(x, dims)
    normalized, rstd = standardize(x, axes, eps)
    d_normalized = d_y if weight is None else d_y * weight
    d_x = standardize_gradient(d_normalized, normalized, rstd, axes)
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
    shape = _normalized_shape(x, normalized_shape, f"layer_norm {name or ''}")
    name = instance_name(x.graph, "layer_norm", name)
    what = f"layer_norm {name!r}"
    weight = parameter_or(weight, x.graph, f"{name}.weight", shape, x.dtype, {"init": "ones"}, what)
    bias = parameter_or(bias, x.graph, f"{name}.bias", shape, x.dtype, {"init": "zeros"}, what)
    return layer_norm.apply(x, weight, bias, dims=len(shape), eps=float(eps), name=name)


def _root_mean_square(x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    mean_square = P.mean(wide(x) * wide(x), axes, keepdim=True)
    rstd = P.rsqrt(mean_square + eps)
    normalized = x * rstd
    return normalized, rstd


@op(
    domain={"x": (-10, 10), "weight": (-2, 2)},
    note=Note(
        formula="x / √(mean(x²) + eps) · weight, the mean per sample over its features",
        derivative="rstd · (d̂ − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight = Σ d · x̂",
        strengths="One statistic in place of layer norm's two, and no bias: cheaper, and as good in large models.",
        weaknesses="Does not remove the mean, which may dominate; discards the scale of each sample.",
        use="Transformers, before each block.",
        source="torch.nn.functional.rms_norm; Zhang and Sennrich, 2019",
    ),
)
def rms_norm(x: Value, weight: Value | None = None, *, dims: int, eps: float) -> Value:
    """x / √(mean(x²) + eps) · weight over the last `dims` axes."""
    normalized, _ = _root_mean_square(x, _trailing(x, dims), eps)
    return affine(normalized, weight, None, x.dtype)


rms_norm.sample = lambda graph, shape, dtype: rms_norm(graph.input("x", (*shape, 3), dtype), (*shape[-1:], 3))


@rms_norm.gradient
def _(d_y, y, x, weight, *, dims, eps):
    axes = _trailing(x, dims)
    normalized, rstd = _root_mean_square(x, axes, eps)
    d_normalized = d_y if weight is None else d_y * weight
    projection = P.mean(d_normalized * normalized, axes, keepdim=True)
    d_x = rstd * (d_normalized - normalized * projection)
    return d_x, None if weight is None else d_y * normalized


@rms_norm.declares
def _(
    x: Value,
    normalized_shape: int | tuple[int, ...] | None = None,
    weight: Parameter = DECLARE,
    eps: float | None = None,
    *,
    name: str | None = None,
) -> Value:
    """Each sample of `x` (..., *normalized_shape) divided by the root of its mean square over its last axes (None: the
    last one), then scaled by `<name>.weight`, which it declares (ones) unless it is given or None. `eps=None` is the
    machine epsilon of the dtype that torch computes in: float64's for float64, else float32's.
    """
    shape = _normalized_shape(x, normalized_shape, f"rms_norm {name or ''}")
    name = instance_name(x.graph, "rms_norm", name)
    weight = parameter_or(weight, x.graph, f"{name}.weight", shape, x.dtype, {"init": "ones"}, f"rms_norm {name!r}")
    if eps is None:
        eps = float(np.finfo(np.float64 if x.dtype is float64 else np.float32).eps)
    return rms_norm.apply(x, weight, dims=len(shape), eps=float(eps), name=name)


# -- over groups of channels --


def _grouped(x: Value, num_groups: int) -> Value:
    """(N, C, ...) as (N, groups, C / groups, ...)."""
    count = channels(x, "group_norm")
    if num_groups < 1 or count % num_groups:
        raise ShapeError(f"{count} channels do not make {num_groups} groups; use a divisor of {count}")
    return P.reshape(x, (x.shape[0], num_groups, count // num_groups, *x.shape[2:]))


def _as_grouped(parameter: Value, grouped: Value) -> Value:
    """A parameter (C,) as it lies to (N, groups, C / groups, ...)."""
    return P.reshape(parameter, (*grouped.shape[1:3], *(1 for _ in grouped.shape[3:])))


@op(
    domain={"x": (-10, 10), "weight": (-2, 2), "bias": (-2, 2)},
    note=Note(
        formula="(x − mean) / √(var + eps) · weight + bias, statistics per sample and group of channels",
        derivative="rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight = Σ d · x̂; d_bias = Σ d",
        strengths="Independent of the batch, and finer than layer norm: a channel shares statistics with its group.",
        weaknesses="One more choice, the number of groups; a group of few elements has noisy statistics.",
        use="Convolutional networks whose batches are small.",
        source="torch.nn.functional.group_norm; Wu and He, 2018",
    ),
)
def group_norm(
    x: Value, weight: Value | None = None, bias: Value | None = None, *, num_groups: int, eps: float
) -> Value:
    """(x − mean) / √(var + eps) · weight + bias over each group of channels of each sample."""
    grouped = _grouped(x, num_groups)
    normalized, _ = standardize(grouped, tuple(range(2, len(grouped.shape))), eps)
    weight = None if weight is None else _as_grouped(weight, grouped)
    bias = None if bias is None else _as_grouped(bias, grouped)
    return P.reshape(affine(normalized, weight, bias, x.dtype), x.shape)


group_norm.sample = lambda graph, shape, dtype: group_norm(
    graph.input("x", (*shape[:1], 6, *shape[1:]), dtype), num_groups=2
)


@group_norm.gradient
def _(d_y, y, x, weight, bias, *, num_groups, eps):
    grouped, d_grouped = _grouped(x, num_groups), wide(_grouped(d_y, num_groups))
    axes = tuple(range(2, len(grouped.shape)))
    normalized, rstd = standardize(grouped, axes, eps)
    d_normalized = d_grouped if weight is None else d_grouped * _as_grouped(weight, grouped)
    d_x = standardize_gradient(d_normalized, normalized, rstd, axes)
    over_samples = (0, *axes[1:])
    d_weight = None if weight is None else P.reshape(P.sum(d_grouped * normalized, over_samples), weight.shape)
    d_bias = None if bias is None else P.reshape(P.sum(d_grouped, over_samples), bias.shape)
    return P.reshape(d_x, x.shape), d_weight, d_bias


@group_norm.refuses
def _(x, weight, bias, *, num_groups, eps):
    if elements((*x[:1], *x[2:])) == 1 and x[1:2] == (num_groups,):
        return f"each group has one value in {show_shape(x)}, which is its own mean; give fewer groups"
    return None


@group_norm.declares
def _(
    x: Value,
    num_groups: int,
    weight: Parameter = DECLARE,
    bias: Parameter = DECLARE,
    eps: float = 1e-5,
    *,
    name: str | None = None,
) -> Value:
    """Each of the `num_groups` groups of channels of each sample of `x` (N, C, ...) standardized, then each channel
    scaled and shifted by `<name>.weight` and `<name>.bias` (C,), which it declares (ones and zeros) unless they are
    given or None. Raises `ShapeError` where C is no multiple of `num_groups`.
    """
    if not isinstance(num_groups, int) or isinstance(num_groups, bool):
        raise DeclarationError(f"group_norm {name or ''}: num_groups is {num_groups!r}; give an int")
    shape = (channels(x, f"group_norm {name or ''}"),)
    name = instance_name(x.graph, "group_norm", name)
    what = f"group_norm {name!r}"
    weight = parameter_or(weight, x.graph, f"{name}.weight", shape, x.dtype, {"init": "ones"}, what)
    bias = parameter_or(bias, x.graph, f"{name}.bias", shape, x.dtype, {"init": "zeros"}, what)
    return group_norm.apply(x, weight, bias, num_groups=num_groups, eps=float(eps), name=name)
