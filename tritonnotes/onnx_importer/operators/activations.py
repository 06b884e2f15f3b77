"""Activations, softmaxes and dropout."""

from __future__ import annotations

from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import bool_, product_of
from ...ir.ops import activations, gates, piecewise, statistics
from ...ir.ops.comparisons import clamp
from ...ir.ops.dropout import dropout
from ...ir.ops.gated import swiglu
from ...ir.ops.softmax import log_softmax, softmax
from .rows import Array, Node, Row, Table, number, of_one, refuse

SELU = 1.67326319217681884765625, 1.05070102214813232421875


def _relu(x: Value) -> Value:
    return activations.relu(x) if x.dtype.is_float else P.maximum(x, 0)


def _leaky_relu(x: Value, alpha: float = 0.01) -> Value:
    return piecewise.leaky_relu(x, negative_slope=alpha)


def _prelu(x: Value, slope: Value) -> Value:
    """Slopes of channels are our op; all others are multiplied."""
    channels = x.shape[1] if len(x.shape) > 1 else 1
    known = [size for size in slope.shape if isinstance(size, int)]
    if x.dtype.is_float and product_of(slope.shape) == 1:
        return piecewise.prelu(x, P.reshape(slope, (1,)))
    if x.dtype.is_float and slope.shape == (channels, *(1,) * (len(x.shape) - 2)) and known == [*slope.shape]:
        return piecewise.prelu(x, P.reshape(slope, (channels,)))
    return P.where(P.lt(x, 0), x * slope, x)


def _elu(x: Value, alpha: float = 1.0) -> Value:
    return piecewise.elu(x, alpha=alpha)


def _selu(x: Value, alpha: float = SELU[0], gamma: float = SELU[1]) -> Value:
    usual = abs(alpha - SELU[0]) < 1e-6 and abs(gamma - SELU[1]) < 1e-6
    return piecewise.selu(x) if usual else gamma * piecewise.elu(x, alpha=alpha)


def _celu(x: Value, alpha: float = 1.0) -> Value:
    return piecewise.celu(x, alpha=alpha)


def _gelu(x: Value, approximate: str = "none") -> Value:
    return gates.gelu(x, approximate=approximate)


def _hard_sigmoid(x: Value, alpha: float = 0.2, beta: float = 0.5) -> Value:
    return gates.hardsigmoid(x) if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5 else clamp(alpha * x + beta, 0.0, 1.0)


def _thresholded_relu(x: Value, alpha: float = 1.0) -> Value:
    return piecewise.threshold(x, threshold=alpha, value=0.0)


def _shrink(x: Value, bias: float = 0.0, lambd: float = 0.5) -> Value:
    if x.dtype.is_float and bias in (0.0, lambd):
        return piecewise.softshrink(x, lambd=lambd) if bias else piecewise.hardshrink(x, lambd=lambd)
    refuse(x.dtype.is_float, f"shrinks {x.dtype}; cast it to a float first")
    return P.where(P.lt(x, -lambd), x + bias, P.where(P.gt(x, lambd), x - bias, 0.0))


def _swish(x: Value, alpha: float = 1.0) -> Value:
    return gates.silu(x) if alpha == 1 else x * activations.sigmoid(alpha * x)


def _swiglu(a: Value, b: Value, alpha: float = 1.0) -> Value:
    return swiglu(P.cat([a, b], -1)) if alpha == 1 and isinstance(a.shape[-1], int) else _swish(a, alpha) * b


def _softplus(x: Value) -> Value:
    return gates.softplus(x)


# -- softmaxes ---------------------------------------------------------------------------------------------------------


def _hardmax_along(x: Value, dim: int) -> Value:
    found = P.eq(P.index_along(x, dim), statistics.argmax(x, dim, keepdim=True))
    return P.cast(found, x.dtype)


def _along(make: Any) -> Any:
    return lambda x, axis=-1: make(x, axis)


def _of_rows(make: Any) -> Any:
    """Before operator set 13, all axes from `axis` on are one."""

    def over(x: Value, axis: int = 1) -> Value:
        at = axis % len(x.shape)
        if at == len(x.shape) - 1:
            return make(x, -1)
        rows = P.reshape(x, (product_of(x.shape[:at]), product_of(x.shape[at:])))
        return P.reshape(make(rows, -1), x.shape)

    return over


# -- dropout -----------------------------------------------------------------------------------------------------------


def _dropout_of_inference(node: Node, x: Value, ratio: float = 0.5) -> Any:
    return _dropped(node, x, ratio, False)


def _dropout(
    node: Node, x: Value, ratio: Array | None = None, training_mode: Array | None = None, seed: int = 0
) -> Any:
    return _dropped(node, x, 0.5 if ratio is None else number(ratio), bool(number(training_mode)))


def _dropped(node: Node, x: Value, p: float, training: bool) -> Any:
    """In training the numbers are drawn from the seed of a run; the file's seed would draw the same ones each time."""
    training = training or node.training
    kept = x if not training else dropout(x, p, training=True)
    if not node.reads(1):
        return kept
    refuse(not training, "gives the mask of what it keeps, which is drawn in the kernel; read its first result alone")
    ones = P.eq(P.cast(x, "int32") * 0, 0) if x.dtype is not bool_ else x | ~x
    return kept, ones


ACTIVATIONS: Table = {
    **of_one(
        ("Relu", _relu), ("LeakyRelu", _leaky_relu), ("PRelu", _prelu), ("Elu", _elu), ("Selu", _selu), ("Celu", _celu),
        ("Gelu", _gelu), ("Mish", gates.mish), ("Softplus", _softplus), ("Softsign", gates.softsign),
        ("Sigmoid", activations.sigmoid), ("HardSigmoid", _hard_sigmoid), ("HardSwish", gates.hardswish),
        ("ThresholdedRelu", _thresholded_relu), ("Shrink", _shrink), ("Swish", _swish), ("SwiGLU", _swiglu),
    ),
    "Softmax": (Row(_of_rows(softmax)), Row(_along(softmax), 13)),
    "LogSoftmax": (Row(_of_rows(log_softmax)), Row(_along(log_softmax), 13)),
    "Hardmax": (Row(_of_rows(_hardmax_along)), Row(_along(_hardmax_along), 13)),
    "Dropout": (Row(_dropout_of_inference, takes_node=True), Row(_dropout, 12, known=(1, 2), takes_node=True)),
}  # fmt: skip
