"""Batch norm over the rows of all processes: the form of a declared graph in which its statistics are those of all.

The formulas are those of `ops/batch_statistics.py` with `all_reduce` at each sum over the batch. What is ready at the
same time travels together: the number of rows with the first sum, the two sums of the second pass, and, backwards, the
two that the gradient of x needs. The gradients of weight and bias stay sums over this process's own rows, as those of
every other parameter: they are added up across processes later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.op import Op
from ..core.rewrite import copy_value
from ..ops.batch_statistics import batch_norm, of_parameter, scaled
from ..ops.moments import over_batch, wide
from ..ops.running_statistics import moved, rate_of, running_mean, running_var
from ..primitives.slices import cat, narrow


def across_ranks(graph: Graph) -> Graph:
    """`graph` (declared) with batch statistics, and running ones, over the rows of all processes. Where batch norm uses
    running statistics alone it stays as it is; a graph without batch norm is returned as it is."""
    if not any(_other(value) for value in graph.values):
        return graph
    made = Graph(graph.name, level=graph.level)
    new: dict[Value, Value] = {}
    for value in graph.values:
        args = tuple(None if a is None else new[a] for a in value.args)
        other = _other(value)
        if other is None:
            new[value] = copy_value(made, value, args)
        else:
            made.scope = value.scope
            new[value] = made.append(other, args, value.attrs, value.shape, value.dtype, value._name)
            new[value].hint = value.hint
    made.outputs = {name: new[v] for name, v in graph.outputs.items()}
    made.updates = {name: new[v] for name, v in graph.updates.items()}
    return made


def _other(value: Value) -> Op | None:
    """The op that takes the statistics of all processes in place of a value's own; None where it takes none."""
    if value.op is batch_norm and (value.attrs["training"] or value.args[1] is None):
        return _batch_norm
    if value.op in (running_mean, running_var) and not value.attrs["per_instance"]:
        return _running_mean if value.op is running_mean else _running_var
    return None


@dataclass(frozen=True)
class _Moments:
    """Of each channel, over all processes: the number of values, their mean as the first pass has it and as the second
    corrects it, and their variance."""

    count: Value
    estimate: Value
    mean: Value
    var: Value


def _totals(*parts: Value) -> Sequence[Value]:
    """Numbers of channels (1, C, ...) added up over processes, in one exchange."""
    joined = P.all_reduce(cat(parts, 1))
    joined.hint = "over_ranks"
    found, start = [], 0
    for part in parts:
        size = part.shape[1]
        assert isinstance(size, int)
        found.append(narrow(joined, 1, start, size))
        start += size
    return found


def _moments(x: Value) -> _Moments:
    """As `moments` of `ops/moments.py`, over the rows of all processes."""
    axes = over_batch(x)
    total = P.sum(wide(x), axes, keepdim=True)
    rows = P.count_along(x, axes)
    own_count = x.graph.constant(rows, total.dtype) if isinstance(rows, int) else P.cast(rows, total.dtype)
    all_total, count = _totals(total, P.reshape(own_count, (1,) * len(x.shape)))
    estimate = all_total / count
    off = x - estimate
    errors, squares = _totals(P.sum(off, axes, keepdim=True), P.sum(off * off, axes, keepdim=True))
    error = errors / count
    mean = estimate + error
    var = squares / count - P.minimum(error * error, float(np.finfo(estimate.dtype.name).max))
    return _Moments(count, estimate, mean, var)


def _standardized(x: Value, eps: float) -> tuple[Value, Value, Value]:
    """(x − mean) / √(var + eps), 1 / √(var + eps), and the number of values of a channel."""
    of_all = _moments(x)
    centered = x - of_all.mean
    rstd = P.rsqrt(of_all.var + eps)
    normalized = centered * rstd
    return normalized, rstd, of_all.count


def _batch_norm_formula(
    x: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    *,
    training: bool,
    eps: float,
) -> Value:
    """(x − mean) / √(var + eps) · weight + bias for each channel, over the rows of all processes."""
    normalized, _, _ = _standardized(x, eps)
    return scaled(normalized, weight, bias, x)


def _running_mean_formula(
    x: Value, running_mean: Value, batches: Value | None = None, *, momentum: float, per_instance: bool
) -> Value:
    """(1 − rate) · running_mean + rate · mean for each channel, over the rows of all processes."""
    rate = rate_of(momentum, batches, running_mean)
    of_all = _moments(x)
    # An infinite mean stays one: there is nothing to make good.
    mean = P.where(of_all.mean == of_all.mean, of_all.mean, of_all.estimate)
    return _unless_empty(moved(running_mean, mean, rate), running_mean, of_all.count)


def _running_var_formula(
    x: Value, running_var: Value, batches: Value | None = None, *, momentum: float, per_instance: bool
) -> Value:
    """(1 − rate) · running_var + rate · var · n / (n − 1) for each channel, over the rows of all processes."""
    rate = rate_of(momentum, batches, running_var)
    of_all = _moments(x)
    correction = of_all.count / (of_all.count - 1)
    unbiased = of_all.var * correction
    return _unless_empty(moved(running_var, unbiased, rate), running_var, of_all.count, fewest=2)


def _unless_empty(updated: Value, running: Value, count: Value, fewest: int = 1) -> Value:
    """`updated`, or `running` as it was where all processes together have fewer than the `fewest` rows it takes."""
    return P.where(P.reshape(count, (1,)) < fewest, running, updated)


def _variant(of: Op, formula) -> Op:  # type: ignore[no-untyped-def]
    """An op under the name and the note of another one. It refuses no size, as other processes may have rows."""
    return Op(of.name, formula, domain=of.domain, note=of.note, sample=None)


_batch_norm = _variant(batch_norm, _batch_norm_formula)
_running_mean = _variant(running_mean, _running_mean_formula)
_running_var = _variant(running_var, _running_var_formula)


@_batch_norm.gradient
def _(d_y, y, x, running_mean, running_var, weight, bias, *, training, eps):
    axes = over_batch(x)
    normalized, rstd, count = _standardized(x, eps)
    d_bias = P.sum(wide(d_y), axes, keepdim=True)
    d_weight = P.sum(d_y * normalized, axes, keepdim=True)
    all_d_bias, all_d_weight = _totals(d_bias, d_weight)
    d_centered = d_y - all_d_bias / count - normalized * (all_d_weight / count)
    d_normalized = scaled(d_centered, weight, None, d_centered)
    d_x = d_normalized * rstd
    return d_x, None, None, of_parameter(d_weight, weight), of_parameter(d_bias, bias)


def _no_gradient(d_y, y, x, running, batches, **attrs):
    return None, None, None


_running_mean.gradient(_no_gradient)
_running_var.gradient(_no_gradient)
