"""Which op of ours a call of torch is: one row for each overload of `aten` that has a formula here.

Ops that write into their argument (`relu_`) need no row: they are the op of the same name, and the walk assigns the
result. Whatever is missing goes through `unknown` in `walk.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import primitives as P
from ...ir.ops import (
    activations,
    binary,
    comparisons,
    divergences,
    dropout,
    elementary,
    gated,
    gates,
    linear,
    losses,
    margins,
    normalization,
    piecewise,
    rankings,
    regression,
    shapes,
    softmax,
    statistics,
)
from . import rules
from .calls import Row, row

X = "self"
_UNARY = {
    "abs": P.abs, "cos": P.cos, "erf": P.erf, "exp": P.exp, "expm1": P.expm1, "floor": P.floor, "log": P.log,
    "log1p": P.log1p, "logical_not": P.logical_not, "bitwise_not": P.logical_not, "neg": P.neg, "rsqrt": P.rsqrt,
    "sgn": P.sign, "sign": P.sign, "sin": P.sin, "sqrt": P.sqrt, "tanh": P.tanh, "special_erf": P.erf,
    "square": elementary.square, "reciprocal": elementary.reciprocal, "relu": activations.relu,
    "sigmoid": activations.sigmoid, "relu6": piecewise.relu6, "selu": piecewise.selu, "silu": gates.silu,
    "mish": gates.mish, "hardsigmoid": gates.hardsigmoid, "hardswish": gates.hardswish, "log_sigmoid": gates.logsigmoid,
    "detach": shapes.detach, "t": rules.turned, "numpy_T": rules.turned, "clone": rules.same,
    "contiguous": rules.same, "alias": rules.same, "lift_fresh_copy": rules.same, "squeeze": shapes.squeeze,
    "max": statistics.amax, "min": statistics.amin,
}  # fmt: skip
"""Ops of one tensor and nothing else."""

_BINARY = {
    "mul": P.mul, "maximum": P.maximum, "minimum": P.minimum, "logical_and": P.logical_and,
    "logical_or": P.logical_or, "logical_xor": P.ne, "eq": P.eq, "ne": P.ne, "lt": P.lt, "le": P.le, "gt": P.gt,
    "ge": P.ge, "bitwise_and": P.logical_and, "bitwise_or": P.logical_or, "div": P.div, "true_divide": P.div,
}  # fmt: skip
"""Ops of two tensors, or of a tensor and a number."""

_MORE: dict[str, Row] = {
    # arithmetic
    "add.Tensor": row(rules.add, X, "other", "alpha"),
    "add.Scalar": row(rules.add, X, "other", "alpha"),
    "sub.Tensor": row(rules.sub, X, "other", "alpha"),
    "sub.Scalar": row(rules.sub, X, "other", "alpha"),
    "rsub.Tensor": row(rules.rsub, X, "other", "alpha"),
    "rsub.Scalar": row(rules.rsub, X, "other", "alpha"),
    "div.Tensor_mode": row(rules.div, X, "other", "rounding_mode"),
    "div.Scalar_mode": row(rules.div, X, "other", "rounding_mode"),
    "pow.Tensor_Scalar": row(rules.power, X, "exponent"),
    "pow.Tensor_Tensor": row(rules.power, X, "exponent"),
    "pow.Scalar": row(rules.rpow, X, "exponent"),
    "max.other": row(P.maximum, X, "other"),
    "min.other": row(P.minimum, X, "other"),
    "where.self": row(P.where, "condition", X, "other"),
    "where.ScalarOther": row(P.where, "condition", X, "other"),
    "where.ScalarSelf": row(P.where, "condition", X, "other"),
    "where.Scalar": row(P.where, "condition", X, "other"),
    "masked_fill.Scalar": row(rules.where_masked, X, "mask", "value"),
    "masked_fill.Tensor": row(rules.where_masked, X, "mask", "value"),
    "clamp.default": row(comparisons.clamp, X, min="min", max="max"),
    "clamp.Tensor": row(comparisons.clamp, X, min="min", max="max"),
    "clamp_min.default": row(rules.clamp_min, X, "min"),
    "clamp_max.default": row(rules.clamp_max, X, "max"),
    "matmul.default": row(rules.matmul, X, "other"),
    "mm.default": row(rules.matmul, X, "mat2"),
    "addmm.default": row(rules.addmm, X, "mat1", "mat2"),
    "scaled_dot_product_attention.default": row(
        rules.attention, "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale"
    ),
    # dtypes
    "to.dtype": row(rules.cast, X, "dtype"),
    "to.dtype_layout": row(rules.cast, X, "dtype"),
    "to.device": row(rules.cast, X, "dtype"),
    "to.other": row(rules.cast_as, X, "other"),
    "type_as.default": row(rules.cast_as, X, "other"),
    "_to_copy.default": row(rules.cast, X, "dtype"),
    # views
    "view.default": row(rules.reshape, X, "size"),
    "reshape.default": row(rules.reshape, X, "shape"),
    "_unsafe_view.default": row(rules.reshape, X, "size"),
    "view_as.default": row(rules.reshape_as, X, "other"),
    "reshape_as.default": row(rules.reshape_as, X, "other"),
    "flatten.using_ints": row(shapes.flatten, X, "start_dim", "end_dim"),
    "unflatten.int": row(rules.unflattened, X, "dim", "sizes"),
    "squeeze.dim": row(shapes.squeeze, X, "dim"),
    "squeeze.dims": row(shapes.squeeze, X, "dim"),
    "unsqueeze.default": row(shapes.unsqueeze, X, "dim"),
    "permute.default": row(rules.permute, X, "dims"),
    "transpose.int": row(shapes.transpose, X, "dim0", "dim1"),
    "swapaxes.default": row(shapes.transpose, X, "axis0", "axis1"),
    "expand.default": row(rules.expand, X, "size"),
    "expand_as.default": row(rules.expand_as, X, "other"),
    "broadcast_tensors.default": row(rules.broadcast_tensors, "tensors"),
    "slice.Tensor": row(rules.sliced, X, "dim", "start", "end", "step"),
    "narrow.default": row(P.narrow, X, "dim", "start", "length"),
    "select.int": row(rules.selected, X, "dim", "index"),
    "unbind.int": row(rules.unbound, X, "dim"),
    "chunk.default": row(rules.chunks, X, "chunks", "dim"),
    "split.Tensor": row(rules.parts, X, "split_size", "dim"),
    "split_with_sizes.default": row(rules.parts, X, "split_sizes", "dim"),
    "cat.default": row(rules.cat, "tensors", "dim"),
    "stack.default": row(rules.stack, "tensors", "dim"),
    # reductions
    "sum.default": row(rules.total_of_all, X, "dtype"),
    "sum.dim_IntList": row(rules.total, X, "dim", "keepdim", "dtype"),
    "mean.default": row(rules.mean_of_all, X, "dtype"),
    "mean.dim": row(rules.mean, X, "dim", "keepdim", "dtype"),
    "amax.default": row(rules.largest, X, "dim", "keepdim"),
    "amin.default": row(rules.smallest, X, "dim", "keepdim"),
    "max.dim": row(rules.largest_and_where, X, "dim", "keepdim"),
    "argmax.default": row(statistics.argmax, X, "dim", "keepdim"),
    "var.correction": row(rules.spread("var"), X, "dim", "correction", "keepdim"),
    "std.correction": row(rules.spread("std"), X, "dim", "correction", "keepdim"),
    "var.dim": row(rules.spread("var"), X, "dim", "unbiased", "keepdim"),
    "std.dim": row(rules.spread("std"), X, "dim", "unbiased", "keepdim"),
    "logsumexp.default": row(statistics.logsumexp, X, "dim", "keepdim"),
    # activations with numbers
    "gelu.default": row(gates.gelu, X, approximate="approximate"),
    "softplus.default": row(gates.softplus, X, "beta", "threshold"),
    "elu.default": row(piecewise.elu, X, "alpha"),
    "celu.default": row(piecewise.celu, X, "alpha"),
    "leaky_relu.default": row(piecewise.leaky_relu, X, "negative_slope"),
    "hardtanh.default": row(piecewise.hardtanh, X, "min_val", "max_val"),
    "softshrink.default": row(piecewise.softshrink, X, "lambd"),
    "hardshrink.default": row(piecewise.hardshrink, X, "lambd"),
    "threshold.default": row(piecewise.threshold, X, "threshold", "value"),
    "glu.default": row(gated.glu, X, "dim"),
    "softmax.int": row(rules.in_dtype(softmax.softmax), X, "dim", "dtype"),
    "log_softmax.int": row(rules.in_dtype(softmax.log_softmax), X, "dim", "dtype"),
    # layers
    "linear.default": row(linear.linear, "input", weight="weight", bias="bias", takes_name=True),
    "prelu.default": row(piecewise.prelu, X, "weight", takes_name=True),
    "embedding.default": row(rules.embedded, "weight", "indices", "padding_idx", takes_name=True),
    "dropout.default": row(dropout.dropout, "input", "p", "train", takes_name=True),
    "layer_norm.default": row(
        rules.layer_normed, "input", "normalized_shape", "weight", "bias", "eps", takes_name=True
    ),
    "rms_norm.default": row(rules.rms_normed, "input", "normalized_shape", "weight", "eps", takes_name=True),
    "group_norm.default": row(
        normalization.group_norm, "input", "num_groups", "weight", "bias", "eps", takes_name=True
    ),
    "batch_norm.default": row(
        rules.batch_normed, "input", "running_mean", "running_var", "weight", "bias", training="training",
        momentum="momentum", eps="eps", takes_name=True,
    ),
    "instance_norm.default": row(
        rules.instance_normed, "input", "running_mean", "running_var", "weight", "bias",
        use_input_stats="use_input_stats", momentum="momentum", eps="eps", takes_name=True,
    ),
    # losses
    "cross_entropy_loss.default": row(
        losses.cross_entropy, X, "target", "weight", reduction="reduction", ignore_index="ignore_index",
        label_smoothing="label_smoothing",
    ),
    "nll_loss_nd.default": row(
        losses.nll_loss, X, "target", "weight", reduction="reduction", ignore_index="ignore_index"
    ),
    "mse_loss.default": row(regression.mse_loss, X, "target", reduction="reduction"),
    "l1_loss.default": row(regression.l1_loss, X, "target", reduction="reduction"),
    "smooth_l1_loss.default": row(regression.smooth_l1_loss, X, "target", reduction="reduction", beta="beta"),
    "huber_loss.default": row(regression.huber_loss, X, "target", reduction="reduction", delta="delta"),
    "poisson_nll_loss.default": row(
        regression.poisson_nll_loss, "input", "target", "log_input", "full", "eps", reduction="reduction"
    ),
    "binary_cross_entropy.default": row(binary.binary_cross_entropy, X, "target", "weight", reduction="reduction"),
    "binary_cross_entropy_with_logits.default": row(
        binary.binary_cross_entropy_with_logits, X, "target", "weight", "pos_weight", reduction="reduction"
    ),
    "kl_div.default": row(divergences.kl_div, X, "target", reduction="reduction", log_target="log_target"),
    "soft_margin_loss.default": row(margins.soft_margin_loss, X, "target", reduction="reduction"),
    "cosine_embedding_loss.default": row(
        rankings.cosine_embedding_loss, "input1", "input2", "target", "margin", reduction="reduction"
    ),
    "margin_ranking_loss.default": row(
        rankings.margin_ranking_loss, "input1", "input2", "target", "margin", reduction="reduction"
    ),
    "triplet_margin_loss.default": row(
        rankings.triplet_margin_loss, "anchor", "positive", "negative", "margin", "p", "eps", "swap",
        reduction="reduction",
    ),
    "multi_margin_loss.default": row(
        rankings.multi_margin_loss, X, "target", "p", "margin", "weight", reduction="reduction"
    ),
}  # fmt: skip

TABLE: Mapping[str, Row] = {
    **{f"{name}.default": row(make, X) for name, make in _UNARY.items()},
    **{f"{name}.{kind}": row(make, X, "other") for name, make in _BINARY.items() for kind in ("Tensor", "Scalar")},
    **{f"{name}.default": row(_BINARY[name], X, "other") for name in _BINARY if name.startswith(("m", "logical"))},
    **_MORE,
}
"""By the overload's name without its `aten.`."""

UNCOUNTED = frozenset(
    ("_assert_tensor_metadata.default", "_assert_scalar.default", "_assert_async.msg", "sym_constrain_range.default",
     "sym_constrain_range_for_size.default")
)  # fmt: skip
"""Checks that an export leaves behind, and that shapes and dtypes of a graph make again."""
