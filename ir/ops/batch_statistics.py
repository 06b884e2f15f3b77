"""Batch norm and instance norm: statistics of channels, with running ones for evaluation."""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import DType
from .declare import DECLARE, Declare, Parameter, buffer_or, instance_name, parameter_or
from .moments import (
    ABOUT_2,
    affine,
    channels,
    its_own_mean,
    over_batch,
    over_instance,
    standardize,
    standardize_gradient,
    standardize_over_batch,
    wide,
    wide_dtype,
    with_positions,
)
from .running_statistics import track

FAMILY = "normalizations"


def _per_channel(statistic: Value, x: Value) -> Value:
    """(C,) as it lies to `x` (N, C, ...)."""
    return P.reshape(statistic, (*statistic.shape, *(1 for _ in x.shape[2:])))


def scaled(normalized: Value, weight: Value | None, bias: Value | None, x: Value) -> Value:
    """normalized · weight + bias for each channel, in the dtype of `x`."""
    scale = None if weight is None else _per_channel(weight, x)
    shift = None if bias is None else _per_channel(bias, x)
    return affine(normalized, scale, shift, x.dtype)


def of_parameter(sums: Value, parameter: Value | None) -> Value | None:
    """The gradient of a parameter (C,) from sums for each channel, or None where there is no parameter."""
    return None if parameter is None else P.reshape(sums, parameter.shape)


def _fixed(x: Value, running_mean: Value, running_var: Value, eps: float) -> tuple[Value, Value]:
    """`x` standardized by running statistics, and 1 / √(running_var + eps)."""
    centered = x - _per_channel(running_mean, x)
    rstd = P.rsqrt(wide(_per_channel(running_var, x)) + eps)
    normalized = centered * rstd
    return normalized, rstd


def _check_dtypes(x: Value, *given: Value | None) -> None:
    """Torch's rule: parameters and running statistics have one dtype, that of x, or float32 beside a 16-bit x."""
    dtypes = {value.dtype for value in given if value is not None}
    if len(dtypes) > 1 or not dtypes <= {x.dtype, wide_dtype(x)}:
        shown = ", ".join(f"{v.name!r} is {v.dtype}" for v in (x, *given) if v is not None)
        raise DTypeError(f"{shown}; give weight, bias and running statistics one dtype, {x.dtype} or {wide_dtype(x)}")


def _check_given(running_mean: object, running_var: object) -> None:
    if (running_mean is None) != (running_var is None):
        raise DeclarationError("one of running_mean and running_var is None; give both, or neither")


# -- batch norm --


@op(
    domain={"x": ABOUT_2, "running_mean": (-2, 2), "running_var": (0.25, 4), "weight": (-2, 2), "bias": (-2, 2)},
    note=Note(
        formula="(x − mean) / √(var + eps) · weight + bias, statistics per channel over the batch; "
        "in evaluation running ones",
        derivative="rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight, in evaluation rstd · d̂; "
        "d_weight = Σ d · x̂; d_bias = Σ d",
        strengths="Allows large learning rates; in evaluation it is a scale and a shift, which can be fused.",
        weaknesses="In training, results depend on the other samples; noisy in small batches; differs in evaluation.",
        use="Convolutional networks and multilayer perceptrons with batches of 16 and more.",
        source="torch.nn.functional.batch_norm; Ioffe and Szegedy, 2015",
    ),
)
def batch_norm(
    x: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    training: bool,
    eps: float,
) -> Value:
    """(x − mean) / √(var + eps) · weight + bias for each channel."""
    channels(x, "batch_norm")
    _check_given(running_mean, running_var)
    _check_dtypes(x, running_mean, running_var, weight, bias)
    if training or running_mean is None or running_var is None:
        normalized, _ = standardize_over_batch(x, eps)
    else:
        normalized, _ = _fixed(x, running_mean, running_var, eps)
    return scaled(normalized, weight, bias, x)


@batch_norm.gradient
def _(d_y, y, x, running_mean, running_var, weight, bias, *, training, eps):
    axes = over_batch(x)
    uses_batch = training or running_mean is None
    if uses_batch:
        normalized, rstd = standardize_over_batch(x, eps)
    else:
        normalized, rstd = _fixed(x, running_mean, running_var, eps)
    # The sums over the batch serve twice: as gradients of bias and weight, and in that of x.
    d_bias = P.sum(wide(d_y), axes, keepdim=True)
    d_weight = P.sum(d_y * normalized, axes, keepdim=True)
    count = P.count_along(x, axes)
    d_centered = d_y - d_bias / count - normalized * (d_weight / count) if uses_batch else d_y
    d_normalized = d_centered if weight is None else d_centered * _per_channel(weight, x)
    d_x = d_normalized * rstd
    return d_x, None, None, of_parameter(d_weight, weight), of_parameter(d_bias, bias)


@batch_norm.refuses
def _(x, running_mean, running_var, weight, bias, *, training, eps):
    return its_own_mean(x, per_instance=False) if training or running_mean is None else None


# -- instance norm --


@op(
    domain={"x": ABOUT_2, "running_mean": (-2, 2), "running_var": (0.25, 4), "weight": (-2, 2), "bias": (-2, 2)},
    note=Note(
        formula="(x − mean) / √(var + eps) · weight + bias, statistics per sample and channel over its positions",
        derivative="rstd · (d̂ − mean(d̂) − x̂ · mean(d̂ · x̂)) with d̂ = d · weight; d_weight = Σ d · x̂; d_bias = Σ d",
        strengths="Removes the contrast of each channel of a sample; independent of the batch.",
        weaknesses="Discards the magnitude of a channel, which classifiers need.",
        use="Style transfer and image generation.",
        source="torch.nn.functional.instance_norm; Ulyanov, Vedaldi and Lempitsky, 2016",
    ),
)
def instance_norm(
    x: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    training: bool,
    eps: float,
) -> Value:
    """(x − mean) / √(var + eps) · weight + bias for each channel of each sample."""
    channels(x, "instance_norm")
    _check_given(running_mean, running_var)
    _check_dtypes(x, running_mean, running_var, weight, bias)
    if training or running_mean is None or running_var is None:
        normalized, _ = standardize(x, over_instance(x), eps)
    else:
        normalized, _ = _fixed(x, running_mean, running_var, eps)
    return scaled(normalized, weight, bias, x)


@instance_norm.gradient
def _(d_y, y, x, running_mean, running_var, weight, bias, *, training, eps):
    axes = over_instance(x)
    uses_instance = training or running_mean is None
    if uses_instance:
        normalized, rstd = standardize(x, axes, eps)
    else:
        normalized, rstd = _fixed(x, running_mean, running_var, eps)
    d_normalized = wide(d_y) if weight is None else wide(d_y) * _per_channel(weight, x)
    d_x = standardize_gradient(d_normalized, normalized, rstd, axes) if uses_instance else rstd * d_normalized
    d_weight = P.sum(d_y * normalized, over_batch(x))
    d_bias = P.sum(wide(d_y), over_batch(x))
    return d_x, None, None, of_parameter(d_weight, weight), of_parameter(d_bias, bias)


@instance_norm.refuses
def _(x, running_mean, running_var, weight, bias, *, training, eps):
    return its_own_mean(x, per_instance=True) if training or running_mean is None else None


batch_norm.sample = lambda graph, shape, dtype: batch_norm(graph.input("x", with_positions(shape), dtype))
instance_norm.sample = lambda graph, shape, dtype: instance_norm(
    graph.input("x", (*shape[:1], 2, *shape[1:], 3), dtype), affine=True, track_running_stats=True
)


# -- declaring --


def _parameters(
    x: Value, weight: Parameter, bias: Parameter, name: str, what: str
) -> tuple[Value | None, Value | None, DType]:
    """Weight and bias of the channels, and the dtype that running statistics share with them."""
    shape = (channels(x, what),)
    weight = parameter_or(weight, x.graph, f"{name}.weight", shape, x.dtype, {"init": "ones"}, what)
    bias = parameter_or(bias, x.graph, f"{name}.bias", shape, x.dtype, {"init": "zeros"}, what)
    given = weight if weight is not None else bias
    return weight, bias, x.dtype if given is None else given.dtype


def _statistics(
    x: Value, mean: Parameter, var: Parameter, dtype: DType, name: str, what: str
) -> tuple[Value | None, Value | None, Value | None]:
    """Running mean, running variance, and the count of batches where both are declared."""
    shape = (channels(x, what),)
    counts = isinstance(mean, Declare) and isinstance(var, Declare)
    mean = buffer_or(mean, x.graph, f"{name}.running_mean", shape, dtype, 0.0, what)
    var = buffer_or(var, x.graph, f"{name}.running_var", shape, dtype, 1.0, what)
    return mean, var, x.graph.buffer(f"{name}.num_batches_tracked", (), dtype="int64") if counts else None


@batch_norm.declares
def _(
    x: Value,
    running_mean: Parameter = DECLARE,
    running_var: Parameter = DECLARE,
    weight: Parameter = DECLARE,
    bias: Parameter = DECLARE,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    track_running_stats: bool = True,
    name: str | None = None,
) -> Value:
    """Each channel of `x` (N, C), (N, C, L) or (N, C, H, W) standardized over the batch, then scaled and shifted.

    Declares, unless they are given or None, the parameters `<name>.weight` and `<name>.bias` (C,) of ones and zeros,
    and the buffers `<name>.running_mean`, `<name>.running_var` (C,) and `<name>.num_batches_tracked`, an int64, as
    torch.nn.BatchNorm2d does. Training uses the batch's statistics and moves the running ones by `momentum`
    (None: each batch seen counts alike); evaluation uses the running ones, or the batch's where there are none
    (`track_running_stats=False`). `training=False` uses the running ones in training too, and leaves them. Weight,
    bias and statistics have one dtype: that of `x`, or float32. Raises `ShapeError` where training would see one value
    per channel, or `FeedError` at the call where a `Dim` decides.
    """
    name = instance_name(x.graph, "batch_norm", name)
    what = f"batch_norm {name!r}"
    weight, bias, dtype = _parameters(x, weight, bias, name, what)
    if not track_running_stats:
        running_mean = running_var = None
    mean, var, tracked = _statistics(x, running_mean, running_var, dtype, name, what)
    y = batch_norm.apply(x, mean, var, weight, bias, training=training, eps=float(eps), name=name)
    if mean is None or var is None or not training:
        return y
    batches = None
    if tracked is not None:
        counted = x.graph.call("add", tracked, 1, name=f"{name}.updated_num_batches_tracked")
        x.graph.update(tracked, counted)
        batches = counted if momentum is None else None
    if momentum is None and batches is None:
        raise DeclarationError(
            f"{what}: momentum=None weighs each batch alike, so it counts them; let the op declare its running "
            "statistics, or give a number"
        )
    track(x, mean, var, batches, 1.0 if momentum is None else momentum, per_instance=False, name=name)
    return y


@instance_norm.declares
def _(
    x: Value,
    running_mean: Parameter = None,
    running_var: Parameter = None,
    weight: Parameter = None,
    bias: Parameter = None,
    use_input_stats: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    affine: bool = False,
    track_running_stats: bool = False,
    name: str | None = None,
) -> Value:
    """Each channel of each sample of `x` (N, C, ...) standardized over its positions, then scaled and shifted.

    As in torch.nn.InstanceNorm2d there are no parameters and no running statistics unless they are asked for:
    `affine=True` declares `<name>.weight` and `<name>.bias` (C,), `track_running_stats=True` the buffers that
    `batch_norm` has, of which evaluation then uses the running ones (`num_batches_tracked` stays 0, as torch's does).
    `use_input_stats=False` uses running statistics in training too, and leaves them; `momentum=None` is 0, as in
    torch. Raises `ShapeError` where there is one position, or `FeedError` at the call where a `Dim` decides.
    """
    name = instance_name(x.graph, "instance_norm", name)
    what = f"instance_norm {name!r}"
    if affine:
        weight, bias = (DECLARE if given is None else given for given in (weight, bias))
    weight, bias, dtype = _parameters(x, weight, bias, name, what)
    if track_running_stats:
        running_mean, running_var = (DECLARE if given is None else given for given in (running_mean, running_var))
    mean, var, _ = _statistics(x, running_mean, running_var, dtype, name, what)
    if mean is None and not use_input_stats:
        raise DeclarationError(f"{what}: use_input_stats=False needs running_mean and running_var; give them")
    y = instance_norm.apply(x, mean, var, weight, bias, training=use_input_stats, eps=float(eps), name=name)
    if mean is not None and var is not None and use_input_stats:
        track(x, mean, var, None, 0.0 if momentum is None else momentum, per_instance=True, name=name)
    return y
