"""Losses of classification: logits, or log-probabilities, against classes or a distribution over them."""

from __future__ import annotations

import math

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import DType, float32
from .classes import (
    along_classes,
    check_classes,
    check_weight,
    class_axis,
    one_of_classes,
    target_shape,
    weight_of_target,
)
from .declare import needs_float
from .reduction import check_reduction, reduce_loss, spread
from .softmax import log_softmax

FAMILY = "losses"


def _against_target(logits: Value, target: Value, ignore_index: int) -> tuple[Value, Value, Value, Value]:
    """What loss and gradient share: logits less their maximum, Σ exp of them, where the target is, whether it
    counts.
    """
    axis = class_axis(logits)
    row_max = P.max(logits, axis, keepdim=True)
    shifted = logits - row_max
    sum_exp = P.sum(P.exp(shifted), axis, keepdim=True)
    is_target, target_column = one_of_classes(logits, target)
    return shifted, sum_exp, is_target, target_column != ignore_index


def _number(counted: Value, dtype: DType) -> Value:
    """How many rows count; of 16-bit floats in float32, as metrics count: one sum serves both."""
    return P.sum(P.cast(counted, float32 if dtype.itemsize == 2 else dtype))


def _averaged(x: Value, count: Value) -> Value:
    """`x` over the number of rows that count, or over their weight, in the dtype of `x`."""
    return P.cast(P.cast(x, count.dtype) / count, x.dtype)


@op(
    domain={"logits": (-30, 30), "target": "class", "weight": (0.1, 2)},
    note=Note(
        formula="log Σ exp(logits) − logits[target], averaged over the targets that are not ignore_index",
        derivative="(softmax(logits) − one_hot(target)) / count",
        strengths="Convex in the logits; the gradient is the error in probability, large for wrong predictions.",
        weaknesses="Never 0, so logits keep growing, which makes predictions overconfident; sensitive to wrong labels.",
        use="Classification with one right class; feed logits, not probabilities.",
        source="torch.nn.functional.cross_entropy",
    ),
)
def cross_entropy(
    logits: Value,
    target: Value,
    weight: Value | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Value:
    """log Σ exp(logits) − logits[target]"""
    check_reduction(reduction)
    shifted, sum_exp, is_target, counted = _against_target(logits, target, ignore_index)
    axis = class_axis(logits)
    # The maximum over one class, so that a target outside the classes makes the loss ∞, never a wrong number.
    target_logit = P.max(P.where(is_target, shifted, -math.inf), axis, keepdim=True)
    nll = P.log(sum_exp) - target_logit
    if weight is not None:
        target_weight = weight_of_target(logits, weight, is_target)
        nll = nll * target_weight
    if label_smoothing:
        each_nll = P.log(sum_exp) - shifted
        smooth = P.sum(each_nll if weight is None else each_nll * along_classes(logits, weight), axis, keepdim=True)
        nll = (1 - label_smoothing) * nll + _share(logits, label_smoothing) * smooth
    losses = P.where(counted, nll, 0)
    if reduction == "none":
        return P.reshape(losses, target.shape)
    total = P.sum(losses)
    if reduction == "sum":
        return total
    count = _number(counted, logits.dtype) if weight is None else P.sum(P.where(counted, target_weight, 0))
    return _averaged(total, count)


def _share(logits: Value, label_smoothing: float) -> float | Value:
    """What each class gets of the smoothed label."""
    return label_smoothing / P.count_along(logits, class_axis(logits))


cross_entropy.sample = lambda graph, shape, dtype: cross_entropy(
    graph.input("logits", shape, dtype), graph.input("target", target_shape(shape), "int64")
)


@cross_entropy.gradient
def _(d_y, y, logits, target, weight, *, ignore_index, label_smoothing, reduction):
    shifted, sum_exp, is_target, counted = _against_target(logits, target, ignore_index)
    axis = class_axis(logits)
    target_weight = None if weight is None else weight_of_target(logits, weight, is_target)
    if reduction == "mean":
        count = _number(counted, logits.dtype) if weight is None else P.sum(P.where(counted, target_weight, 0))
        d_y = _averaged(d_y, count)
    elif reduction == "none":
        d_y = P.reshape(d_y, counted.shape)
    d_row = P.where(counted, d_y, 0)
    softmax = P.exp(shifted) / sum_exp
    one_hot = P.cast(is_target, logits.dtype)
    if weight is None and not label_smoothing:
        return (softmax - one_hot) * d_row, None, None
    wanted = one_hot if target_weight is None else one_hot * target_weight
    if label_smoothing:
        smooth = _share(logits, label_smoothing)
        wanted = (1 - label_smoothing) * wanted + (smooth if weight is None else smooth * along_classes(logits, weight))
    mass = P.sum(wanted, axis, keepdim=True)
    return (softmax * mass - wanted) * d_row, None, None


@cross_entropy.declares
def _(
    input: Value,
    target: Value,
    weight: Value | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    name: str | None = None,
) -> Value:
    """Logits `input` (N, C), (C,) or (N, C, ...) against class indices `target` (N,), () or (N, ...), int64, or
    against probabilities of the shape of `input`.

    Rows whose target is `ignore_index` count neither in the loss nor in the mean. `weight` (C,) weighs classes and gets
    no gradient; the mean over class indices divides by the sum of the weights. A target outside the classes raises
    where the host can see it (CPU); on a GPU it makes the loss infinite.
    """
    if not 0 <= label_smoothing <= 1:
        raise DeclarationError(f"cross_entropy: label_smoothing is {label_smoothing}; it lies between 0 and 1")
    if not target.dtype.is_float or target.shape != input.shape or not input.shape:
        check_classes("cross_entropy", input, target, weight)
        attrs = {"ignore_index": int(ignore_index), "label_smoothing": label_smoothing, "reduction": reduction}
        return cross_entropy.apply(input, target, weight, name=name, **attrs)
    if ignore_index >= 0:
        raise DeclarationError(
            f"cross_entropy: ignore_index is {ignore_index}, but {target.name!r} holds probabilities, which have no "
            "index to ignore; leave it out"
        )
    check_weight("cross_entropy", input, weight)
    return cross_entropy_of_probabilities.apply(
        input, target, weight, label_smoothing=label_smoothing, reduction=reduction, name=name
    )


@op(
    domain={"logits": (-30, 30), "target": (0, 1), "weight": (0.1, 2)},
    note=Note(
        formula="−Σ target · log softmax(logits) over classes, averaged over rows",
        derivative="(softmax(logits) · Σ target − target) / rows; −log softmax(logits) / rows for target",
        strengths="Learns from a whole distribution: smoothed, mixed or taken from another model.",
        weaknesses="A target must be stored and read for every class.",
        use="Distillation, mixup and labels that are uncertain; declared by cross_entropy with float targets.",
        source="torch.nn.functional.cross_entropy with class probabilities",
    ),
)
def cross_entropy_of_probabilities(
    logits: Value,
    target: Value,
    weight: Value | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Value:
    """−Σ target · log softmax(logits) over classes"""
    axis = class_axis(logits)
    wanted = _smoothed(logits, target, weight, label_smoothing)
    losses = -P.sum(wanted * log_softmax.apply(logits, dim=axis), axis)
    # The mean is over rows whatever the weights are, as in torch.
    return reduce_loss(losses, reduction)


def _smoothed(logits: Value, target: Value, weight: Value | None, label_smoothing: float) -> Value:
    wanted = (1 - label_smoothing) * target + _share(logits, label_smoothing) if label_smoothing else target
    return wanted if weight is None else wanted * along_classes(logits, weight)


@cross_entropy_of_probabilities.gradient
def _(d_y, y, logits, target, weight, *, label_smoothing, reduction):
    axis = class_axis(logits)
    wanted = _smoothed(logits, target, weight, label_smoothing)
    log_probability = log_softmax.apply(logits, dim=axis)
    row = P.sum(wanted, axis)
    d_row = P.reshape(
        P.broadcast_to(spread(d_y, row, reduction), row.shape),
        tuple(1 if a == axis else size for a, size in enumerate(logits.shape)),
    )
    mass = P.sum(wanted, axis, keepdim=True)
    d_target = (label_smoothing - 1) * log_probability * d_row
    d_target = d_target if weight is None else d_target * along_classes(logits, weight)
    return (P.exp(log_probability) * mass - wanted) * d_row, d_target, None


cross_entropy_of_probabilities.sample = lambda graph, shape, dtype: cross_entropy_of_probabilities.apply(
    graph.input("logits", shape, dtype), graph.input("target", shape, dtype), None
)


@op(
    domain={"input": (-10, 0), "target": "class", "weight": (0.1, 2)},
    note=Note(
        formula="−input[target], averaged over the targets that are not ignore_index",
        derivative="−1/count at the target, 0 elsewhere",
        strengths="Accepts any log-probabilities.",
        weaknesses="Input must be normalized: without log_softmax, any large number lowers the loss.",
        use="After log_softmax; cross_entropy does both in one.",
        source="torch.nn.functional.nll_loss",
    ),
)
def nll_loss(
    input: Value, target: Value, weight: Value | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Value:
    """−input[target]"""
    needs_float(input)
    check_reduction(reduction)
    is_target, target_column = one_of_classes(input, target)
    counted = target_column != ignore_index
    # As in cross_entropy, a target outside the classes makes the loss ∞.
    nll = -P.max(P.where(is_target, input, -math.inf), class_axis(input), keepdim=True)
    if weight is not None:
        target_weight = weight_of_target(input, weight, is_target)
        nll = nll * target_weight
    losses = P.where(counted, nll, 0)
    if reduction == "none":
        return P.reshape(losses, target.shape)
    total = P.sum(losses)
    if reduction == "sum":
        return total
    count = _number(counted, input.dtype) if weight is None else P.sum(P.where(counted, target_weight, 0))
    return _averaged(total, count)


nll_loss.sample = lambda graph, shape, dtype: nll_loss(
    graph.input("input", shape, dtype), graph.input("target", target_shape(shape), "int64")
)


@nll_loss.gradient
def _(d_y, y, input, target, weight, *, ignore_index, reduction):
    is_target, target_column = one_of_classes(input, target)
    counted = target_column != ignore_index
    target_weight = None if weight is None else weight_of_target(input, weight, is_target)
    if reduction == "mean":
        count = _number(counted, input.dtype) if weight is None else P.sum(P.where(counted, target_weight, 0))
        d_y = _averaged(d_y, count)
    elif reduction == "none":
        d_y = P.reshape(d_y, counted.shape)
    d_target = -d_y if target_weight is None else -d_y * target_weight
    return P.where(is_target & counted, d_target, 0), None, None


@nll_loss.declares
def _(
    input: Value,
    target: Value,
    weight: Value | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    name: str | None = None,
) -> Value:
    """Log-probabilities `input` (N, C), (C,) or (N, C, ...) against class indices `target` without the class axis;
    `weight` (C,) weighs classes, and the mean divides by its sum over the targets."""
    check_classes("nll_loss", input, target, weight)
    return nll_loss.apply(input, target, weight, ignore_index=int(ignore_index), reduction=reduction, name=name)
