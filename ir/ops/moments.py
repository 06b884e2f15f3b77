"""What normalizations share: axes, sizes, mean and variance, and how a value is standardized by them."""

from __future__ import annotations

import numpy as np

from .. import primitives as P
from ..core.errors import ShapeError
from ..core.graph import Value
from ..core.types import DType, Shape, float32, show_shape

ABOUT_2 = (-8.0, 12.0)
"""Where x is tested: a mean about 0 is a sum that cancels to nothing, which eager PyTorch takes in float64 on a CPU."""


def over_batch(x: Value) -> tuple[int, ...]:
    """All axes but that of the channels."""
    return tuple(axis for axis in range(len(x.shape)) if axis != 1)


def over_instance(x: Value) -> tuple[int, ...]:
    """The axes behind the channels."""
    return tuple(range(2, len(x.shape)))


def wide_dtype(x: Value) -> DType:
    """What statistics of `x` are computed and kept in: float32 at least."""
    return float32 if x.dtype.itemsize == 2 else x.dtype


def wide(x: Value) -> Value:
    """`x` in the dtype of its statistics."""
    return P.cast(x, wide_dtype(x))


def moments(x: Value, axes: tuple[int, ...]) -> tuple[Value, Value]:
    """Mean and variance over `axes`, which stay with size 1.

    What the first sum rounds away comes back with the second, which the variance needs anyway: the mean of equal
    numbers is that number, and a mean that dwarfs the deviation costs no digits.
    """
    estimate = P.mean(wide(x), axes, keepdim=True)
    off = x - estimate
    error = P.mean(off, axes, keepdim=True)
    mean = estimate + error
    # Where squares overflow, the variance is infinite, and not the difference of two infinities.
    var = P.mean(off * off, axes, keepdim=True) - P.minimum(error * error, float(np.finfo(estimate.dtype.name).max))
    return mean, var


def standardize(x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    """(x − mean) / √(var + eps) and 1 / √(var + eps), for rows: on chip one more sum of what is centred costs little,
    and an infinite variance is one. What the first sum rounds away comes back with the second, as in `moments`."""
    estimate = P.mean(wide(x), axes, keepdim=True)
    mean = estimate + P.mean(x - estimate, axes, keepdim=True)
    centered = x - mean
    var = P.mean(centered * centered, axes, keepdim=True)
    rstd = P.rsqrt(var + eps)
    normalized = centered * rstd
    return normalized, rstd


def standardize_over_batch(x: Value, eps: float) -> tuple[Value, Value]:
    """(x − mean) / √(var + eps) and 1 / √(var + eps) for each channel, in two passes over the batch for both."""
    mean, var = moments(x, over_batch(x))
    centered = x - mean
    rstd = P.rsqrt(var + eps)
    normalized = centered * rstd
    return normalized, rstd


def standardize_gradient(d_normalized: Value, normalized: Value, rstd: Value, axes: tuple[int, ...]) -> Value:
    """The gradient of what was standardized: `d_normalized` less its mean and its part along `normalized`."""
    mean_d_normalized = P.mean(d_normalized, axes, keepdim=True)
    projection = P.mean(d_normalized * normalized, axes, keepdim=True)
    return rstd * (d_normalized - mean_d_normalized - normalized * projection)


def affine(normalized: Value, weight: Value | None, bias: Value | None, dtype: DType) -> Value:
    """normalized · weight + bias in the dtype of what was normalized, which decides, as in torch."""
    scaled = normalized if weight is None else normalized * weight
    return P.cast(scaled if bias is None else scaled + bias, dtype)


def channels(x: Value, what: str) -> int:
    """How many channels `x` (N, C, ...) has. Raises `ShapeError` where there is no second axis of known size."""
    if len(x.shape) < 2 or not isinstance(x.shape[1], int):
        raise ShapeError(
            f"{what}: {x.name!r} has shape {show_shape(x.shape)}; give it a batch and a known number of channels, as "
            "in (N, C) or (N, C, H, W)"
        )
    return x.shape[1]


def elements(shape: Shape) -> int | None:
    """How many elements a shape has, or None where that is known only when tensors are fed."""
    count = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        count *= size
    return count


def its_own_mean(x: Shape, per_instance: bool) -> str | None:
    """What is wrong with statistics of one value, if that is what a channel has."""
    if elements(x[2:] if per_instance else (*x[:1], *x[2:])) != 1:
        return None
    where = "of an instance " if per_instance else ""
    return f"each channel {where}has one value in {show_shape(x)}, which is its own mean; training needs two or more"


def with_positions(shape: Shape) -> Shape:
    """A test's (rows, columns) as rows, channels and positions: with three of these no channel has one value."""
    known = all(isinstance(size, int) for size in shape[1:2])
    return (*shape, 3) if known else (shape[0], 2, *shape[1:], 3)
