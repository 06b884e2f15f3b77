"""Normalizations, and the losses."""

from __future__ import annotations

from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import Size
from ...ir.ops import statistics
from ...ir.ops.batch_statistics import batch_norm, instance_norm
from ...ir.ops.losses import cross_entropy, nll_loss
from ...ir.ops.lp_norms import normalize
from ...ir.ops.normalization import group_norm, layer_norm, rms_norm
from ...ir.ops.softmax import log_softmax
from .rows import Node, Row, Table, ints, refuse

IGNORED = -100
"""The label that torch's losses ignore; ONNX's ignore none unless they are told."""


# -- norms -------------------------------------------------------------------------------------------------------------


def _batch_norm_of_inference(
    node: Node, x: Value, scale: Value, bias: Value, mean: Value, var: Value, epsilon: float = 1e-5,
    momentum: float = 0.9, spatial: int = 1,
) -> Any:  # fmt: skip
    refuse(spatial, "has statistics of each position (spatial=0); only those of channels are supported")
    return _batch_norm(node, x, scale, bias, mean, var, epsilon, momentum)


def _batch_norm(
    node: Node, x: Value, scale: Value, bias: Value, mean: Value, var: Value, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0,
) -> Any:  # fmt: skip
    """In training, running statistics that the file holds are moved as ONNX has it: by the biased variance."""
    if not training_mode and not node.training:
        return batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)
    axes = (0, *range(2, len(x.shape)))
    held = mean.op.name == "buffer" and var.op.name == "buffer"
    running = (mean, var) if held else (None, None)
    y = batch_norm(x, *running, scale, bias, training=True, momentum=1 - momentum, eps=epsilon)
    if not held and not node.reads(1) and not node.reads(2):
        return y
    wide = x if x.dtype is mean.dtype else P.cast(x, mean.dtype)
    moved = (
        mean * momentum + statistics.mean(wide, axes) * (1 - momentum),
        var * momentum + statistics.var(wide, axes, correction=0) * (1 - momentum),
    )
    for old, new in zip((mean, var), moved, strict=True):
        if held:
            x.graph.update(old, new)
    return y, *moved


def _instance_norm(x: Value, scale: Value, bias: Value, epsilon: float = 1e-5) -> Value:
    return instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _fitted(parameter: Value | None, shape: tuple[Size, ...]) -> Value | None:
    """A weight or bias of the normalized shape, which it may broadcast to."""
    if parameter is None or parameter.shape == shape:
        return parameter
    return P.broadcast_to(parameter, shape)


def _layer_norm(
    node: Node, x: Value, scale: Value, bias: Value | None = None, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:  # fmt: skip
    at = axis % len(x.shape)
    shape = tuple(ints(x.shape[at:], "the normalized shape"))
    y = layer_norm(x, shape, _fitted(scale, shape), _fitted(bias, shape), epsilon)
    if not node.reads(1) and not node.reads(2):
        return y
    axes = tuple(range(at, len(x.shape)))
    wide = x if x.dtype.itemsize >= 4 else P.cast(x, "float32")
    mean, var = statistics.mean(wide, axes, True), statistics.var(wide, axes, correction=0, keepdim=True)
    return y, mean, P.rsqrt(var + epsilon)


def _rms_norm(x: Value, scale: Value, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    shape = tuple(ints(x.shape[axis % len(x.shape) :], "the normalized shape"))
    return rms_norm(x, shape, _fitted(scale, shape), epsilon)


def _group_norm_by_groups(x: Value, scale: Value, bias: Value, num_groups: int, epsilon: float = 1e-5) -> Value:
    """Before operator set 21 each group has one weight and one bias."""
    channels = ints(x.shape[1:2], "the number of channels")[0]

    def of_channels(given: Value) -> Value:
        wide = P.broadcast_to(P.reshape(given, (num_groups, 1)), (num_groups, channels // num_groups))
        return P.reshape(wide, (channels,))

    return group_norm(x, num_groups, of_channels(scale), of_channels(bias), epsilon)


def _group_norm(
    x: Value, scale: Value, bias: Value, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    return group_norm(x, num_groups, scale, bias, epsilon)


def _lp_norm(x: Value, axis: int = -1, p: int = 2) -> Value:
    return normalize(x, float(p), axis)


def _mean_variance_norm(x: Value, axes: list[int] | None = None) -> Value:
    over = tuple(axis % len(x.shape) for axis in ((0, 2, 3) if axes is None else axes))
    centered = x - statistics.mean(x, over, True)
    return centered / (P.sqrt(statistics.mean(centered * centered, over, True)) + 1e-9)


# -- losses ------------------------------------------------------------------------------------------------------------


def _cross_entropy(
    node: Node, scores: Value, labels: Value, weights: Value | None = None, ignore_index: int = IGNORED,
    reduction: str = "mean",
) -> Any:  # fmt: skip
    loss = cross_entropy(scores, labels, weights, ignore_index=ignore_index, reduction=reduction)
    return (loss, log_softmax(scores, 1)) if node.reads(1) else loss


def _nll_loss(
    scores: Value, labels: Value, weight: Value | None = None, ignore_index: int = IGNORED, reduction: str = "mean"
) -> Value:
    return nll_loss(scores, labels, weight, ignore_index=ignore_index, reduction=reduction)


NORMS: Table = {
    "BatchNormalization": (
        Row(_batch_norm_of_inference, buffers=(3, 4), takes_node=True),
        Row(_batch_norm, 14, buffers=(3, 4), takes_node=True),
    ),
    "InstanceNormalization": (Row(_instance_norm),),
    "LayerNormalization": (Row(_layer_norm, 17, takes_node=True),),
    "RMSNormalization": (Row(_rms_norm, 23),),
    "GroupNormalization": (Row(_group_norm_by_groups, 18), Row(_group_norm, 21)),
    "LpNormalization": (Row(_lp_norm),),
    "MeanVarianceNormalization": (Row(_mean_variance_norm),),
    "SoftmaxCrossEntropyLoss": (Row(_cross_entropy, 12, takes_node=True),),
    "NegativeLogLikelihoodLoss": (Row(_nll_loss, 12),),
}
