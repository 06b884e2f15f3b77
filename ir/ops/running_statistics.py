"""Running statistics: what evaluation needs to know of the batches that training saw."""

from __future__ import annotations

from collections.abc import Callable

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.op import Op, op
from ..core.registry import Note
from ..core.types import DType, Shape
from .moments import (
    ABOUT_2,
    channels,
    its_own_mean,
    moments,
    over_batch,
    over_instance,
    wide,
    wide_dtype,
    with_positions,
)

FAMILY = "normalizations"


def track(
    x: Value, mean: Value, var: Value, batches: Value | None, momentum: float, per_instance: bool, name: str
) -> None:
    """Say that training moves both statistics. Where an earlier op of the graph moves them too, from there on."""
    attrs = {"momentum": float(momentum), "per_instance": per_instance}
    updates = x.graph.updates
    for rule, statistic in ((running_mean, mean), (running_var, var)):
        before = updates.get(statistic.name, statistic)
        new = rule.apply(x, before, batches, name=f"{name}.updated_{rule.name}", **attrs)
        x.graph.update(statistic, new)


def rate_of(momentum: float, batches: Value | None, running: Value) -> Value | float:
    """How much the new batch counts: `momentum`, over the number of batches where all are to count alike."""
    if batches is None:
        return momentum
    rate = momentum / P.cast(batches, wide_dtype(running))
    return rate


def moved(running: Value, statistic: Value, rate: Value | float) -> Value:
    """`running` moved towards a batch's `statistic`."""
    kept = (1 - rate) * wide(running)
    added = rate * P.reshape(statistic, running.shape)
    return P.cast(kept + added, running.dtype)


def _unless_empty(moved: Value, running: Value, x: Value) -> Value:
    """`moved`, or `running` as it was where the batch is empty and has no statistic."""
    count = P.count_along(x, over_batch(x))
    if isinstance(count, int):
        return moved if count else running
    return P.where(count == 0, running, moved)


@op(
    domain={"x": ABOUT_2, "running_mean": (-2, 2), "batches": (1, 100)},
    note=Note(
        formula="(1 − rate) · running_mean + rate · mean, rate = momentum, or momentum / batches",
        derivative="none: running statistics are outside the gradient",
        strengths="The statistics that evaluation needs: one number for each channel.",
        weaknesses="Lags behind weights that change fast; the first batches still weigh much after few steps.",
        use="Declared by batch_norm and instance_norm.",
        source="torch.nn.BatchNorm1d, running_mean",
    ),
)
def running_mean(
    x: Value, running_mean: Value, batches: Value | None = None, *, momentum: float, per_instance: bool
) -> Value:
    """(1 − rate) · running_mean + rate · mean for each channel; the mean of each instance's mean is the same."""
    channels(x, "running_mean")
    rate = rate_of(momentum, batches, running_mean)
    axes = over_instance(x) if per_instance else over_batch(x)
    exact, _ = moments(x, axes)
    # An infinite mean stays one: there is nothing to make good.
    mean = P.where(exact == exact, exact, P.mean(wide(x), axes, keepdim=True))
    if per_instance:
        return moved(running_mean, P.mean(mean, over_batch(x), keepdim=True), rate)
    return _unless_empty(moved(running_mean, mean, rate), running_mean, x)


@op(
    domain={"x": ABOUT_2, "running_var": (0.25, 4), "batches": (1, 100)},
    note=Note(
        formula="(1 − rate) · running_var + rate · var · n / (n − 1), rate = momentum, or momentum / batches",
        derivative="none: running statistics are outside the gradient",
        strengths="Unbiased: the variance of n values about their own mean is too small by (n − 1) / n on average.",
        weaknesses="Not the variance that training divides by; the two differ most where batches are small.",
        use="Declared by batch_norm and instance_norm.",
        source="torch.nn.BatchNorm1d, running_var",
    ),
)
def running_var(
    x: Value, running_var: Value, batches: Value | None = None, *, momentum: float, per_instance: bool
) -> Value:
    """(1 − rate) · running_var + rate · var · n / (n − 1) for each channel; of instances the mean variance."""
    channels(x, "running_var")
    rate = rate_of(momentum, batches, running_var)
    axes = over_instance(x) if per_instance else over_batch(x)
    _, var = moments(x, axes)
    n = P.count_along(x, axes)
    correction = n / (n - 1)
    unbiased = var * correction
    if per_instance:
        return moved(running_var, P.mean(unbiased, over_batch(x), keepdim=True), rate)
    return _unless_empty(moved(running_var, unbiased, rate), running_var, x)


def _no_gradient(d_y, y, x, running, batches, **attrs):
    return None, None, None


def _refused(x, running, batches, *, momentum, per_instance):
    return its_own_mean(x, per_instance)


running_mean.gradient(_no_gradient)
running_mean.refuses(_refused)
running_var.gradient(_no_gradient)
running_var.refuses(_refused)


def _running_sample(made: Op, per_instance: bool) -> Callable[..., Value]:
    def sample(graph: Graph, shape: Shape, dtype: DType) -> Value:
        x = graph.input("x", with_positions(shape), dtype)
        running = graph.buffer(made.name, (channels(x, made.name),), init=1.0, dtype=dtype)
        return made.apply(x, running, momentum=0.1, per_instance=per_instance)

    return sample


running_mean.sample = _running_sample(running_mean, per_instance=False)
running_var.sample = _running_sample(running_var, per_instance=False)
