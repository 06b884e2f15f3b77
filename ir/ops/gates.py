"""Activations that are smooth, or that scale their input by a gate made of it."""

from __future__ import annotations

import math

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from .activations import sigmoid
from .declare import needs_float, torch_order

FAMILY = "activations"


@op(
    domain=(-10, 10),
    note=Note(
        formula="x · Φ(x), Φ the normal distribution function; 'tanh' approximates it",
        derivative="Φ(x) + x · φ(x)",
        strengths="Smooth; nonzero gradient for small negative inputs; used in most transformers.",
        weaknesses="More expensive than relu; not monotonic; NaN at −∞.",
        use="Transformers; approximate='tanh' only to match weights trained with it.",
        source="torch.nn.functional.gelu; Hendrycks and Gimpel, 2016",
    ),
)
def gelu(x: Value, *, approximate: str = "none") -> Value:
    """x · Φ(x)"""
    needs_float(x)
    if approximate == "none":
        return 0.5 * x * (1 + P.erf(x * math.sqrt(0.5)))
    if approximate != "tanh":
        raise DeclarationError(f"approximate is {approximate!r}; use 'none' or 'tanh'")
    return 0.5 * x * (1 + _tanh_of_cubic(x))


def _tanh_of_cubic(x: Value) -> Value:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
    return P.tanh(inner)


gelu.sample = lambda graph, shape, dtype: gelu(graph.input("x", shape, dtype))


@gelu.gradient
def _(d_y, y, x, *, approximate):
    if approximate == "none":
        cdf = 0.5 * (1 + P.erf(x * math.sqrt(0.5)))
        pdf = P.exp(-0.5 * (x * x)) / math.sqrt(2 * math.pi)
        return (d_y * (cdf + x * pdf),)
    tanh_inner = _tanh_of_cubic(x)
    d_inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * (x * x))
    slope = 0.5 * (1 + tanh_inner) + 0.5 * x * (1 - tanh_inner * tanh_inner) * d_inner
    return (d_y * slope,)


@op(
    domain=(-30, 30),
    note=Note(
        formula="x · σ(x) = x / (1 + e⁻ˣ)",
        derivative="σ(x) · (1 + x · (1 − σ(x)))",
        strengths="Smooth, unbounded above; nonzero gradient for negative inputs, where relu has none.",
        weaknesses="Costs an exponential; not monotonic; NaN at −∞.",
        use="Convolutional networks, and the gate of gated feed-forward layers.",
        source="torch.nn.functional.silu; Elfwing, Uchibe and Doya, 2017",
    ),
)
def silu(x: Value) -> Value:
    """x / (1 + e⁻ˣ)"""
    return x / (1 + P.exp(-x))


silu.sample = lambda graph, shape, dtype: silu(graph.input("x", shape, dtype))


@silu.gradient
def _(d_y, y, x):
    gate = sigmoid(x)
    return (d_y * gate * (1 + x * (1 - gate)),)


def positive_part_and_tail(x: Value) -> Value:
    """ln(1 + eˣ) as max(x, 0) + ln(1 + e^−|x|), which never overflows."""
    positive_part = P.where(x < 0, 0, x)
    return positive_part + P.log1p(P.exp(-abs(x)))


@op(
    domain=(-30, 30),
    note=Note(
        formula="x · tanh(ln(1 + eˣ))",
        derivative="t + x · σ(x) · (1 − t²) with t = tanh(ln(1 + eˣ))",
        strengths="Infinitely differentiable; slightly negative for negative inputs.",
        weaknesses="Three transcendental functions in forward and backward; NaN at −∞.",
        use="Detection networks of the YOLO family; silu is cheaper and usually as good.",
        source="torch.nn.functional.mish; Misra, 2019",
    ),
)
def mish(x: Value) -> Value:
    """x · tanh(softplus(x))"""
    gate = P.tanh(positive_part_and_tail(x))
    return x * gate


mish.sample = lambda graph, shape, dtype: mish(graph.input("x", shape, dtype))


@mish.gradient
def _(d_y, y, x):
    gate = P.tanh(positive_part_and_tail(x))
    d_gate = sigmoid(x) * (1 - gate * gate)
    return (d_y * (gate + x * d_gate),)


@op(
    domain=(-30, 30),
    note=Note(
        formula="ln(1 + e^(beta · x)) / beta; x itself where beta · x > threshold",
        derivative="σ(beta · x); 1 where beta · x > threshold",
        strengths="A smooth relu that is positive everywhere.",
        weaknesses="Costs an exponential and a logarithm; never exactly zero.",
        use="Outputs that must be positive, such as a variance or a rate.",
        source="torch.nn.functional.softplus",
    ),
)
def softplus(x: Value, *, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """ln(1 + e^(beta · x)) / beta"""
    if beta == 0:
        raise DeclarationError("beta is 0, by which the result is divided; use another number")
    needs_float(x)
    scaled = x * beta
    return P.where(scaled > threshold, x, P.log1p(P.exp(scaled)) / beta)


softplus.sample = lambda graph, shape, dtype: softplus(graph.input("x", shape, dtype))


@softplus.gradient
def _(d_y, y, x, *, beta, threshold):
    scaled = x * beta
    return (P.where(scaled > threshold, d_y, d_y * sigmoid(scaled)),)


@op(
    domain=(-100, 100),
    note=Note(
        formula="x / (1 + |x|)",
        derivative="1 / (1 + |x|)²",
        strengths="Bounded like tanh with no exponential, and it saturates slowly.",
        weaknesses="Approaches its bounds slowly; the gradient decreases with the square of x.",
        use="Bounded outputs where exponentials are expensive.",
        source="torch.nn.functional.softsign",
    ),
)
def softsign(x: Value) -> Value:
    """x / (1 + |x|)"""
    return x / (1 + abs(x))


softsign.sample = lambda graph, shape, dtype: softsign(graph.input("x", shape, dtype))


@softsign.gradient
def _(d_y, y, x):
    size = 1 + abs(x)
    # At ±∞ the result is NaN, and so is torch's gradient; 1 / size² alone would be 0.
    return (P.where(y == y, d_y / (size * size), y),)


@op(
    domain=(-50, 50),
    note=Note(
        formula="ln σ(x) = −ln(1 + e⁻ˣ)",
        derivative="σ(−x)",
        strengths="A log-probability that neither overflows nor underflows.",
        weaknesses="Costs an exponential and a logarithm.",
        use="Binary log-likelihoods written out by hand, such as preference losses.",
        source="torch.nn.functional.logsigmoid",
    ),
)
def logsigmoid(x: Value) -> Value:
    """min(x, 0) − ln(1 + e^−|x|)"""
    negative_part = P.where(x < 0, x, 0)
    return negative_part - P.log1p(P.exp(-abs(x)))


logsigmoid.sample = lambda graph, shape, dtype: logsigmoid(graph.input("x", shape, dtype))


@logsigmoid.gradient
def _(d_y, y, x):
    return (d_y / (1 + P.exp(x)),)


def _hard_gate(x: Value) -> Value:
    return P.where(x <= -3, 0, P.where(x >= 3, 1, (x + 3) / 6))


@op(
    domain=(-6, 6),
    note=Note(
        formula="0 where x ≤ −3, 1 where x ≥ 3, else (x + 3) / 6",
        derivative="1/6 strictly inside, else 0",
        strengths="A sigmoid without an exponential.",
        weaknesses="Gradient 0 outside ±3, so a gate may stop learning.",
        use="Gates in mobile networks.",
        source="torch.nn.functional.hardsigmoid",
    ),
)
def hardsigmoid(x: Value) -> Value:
    """x / 6 + 1/2 limited to [0, 1]"""
    return _hard_gate(x)


hardsigmoid.sample = lambda graph, shape, dtype: hardsigmoid(graph.input("x", shape, dtype))


@hardsigmoid.gradient
def _(d_y, y, x):
    return (P.where((x > -3) & (x < 3), d_y / 6, 0),)


@op(
    domain=(-6, 6),
    note=Note(
        formula="x · hardsigmoid(x)",
        derivative="0 where x ≤ −3, 1 where x ≥ 3, else x/3 + 1/2",
        strengths="Close to silu, but needs only comparisons.",
        weaknesses="The slope jumps at ±3; no gradient below −3; NaN at −∞.",
        use="Mobile networks, and silu networks that must be quantized.",
        source="torch.nn.functional.hardswish; Howard et al., 2019",
    ),
)
def hardswish(x: Value) -> Value:
    """x · hardsigmoid(x)"""
    gate = _hard_gate(x)
    return x * gate


hardswish.sample = lambda graph, shape, dtype: hardswish(graph.input("x", shape, dtype))


@hardswish.gradient
def _(d_y, y, x):
    return (P.where(x <= -3, 0, P.where(x < 3, d_y * (x / 3 + 0.5), d_y)),)


@op(
    domain=(-20, 20),
    note=Note(
        formula="x − tanh(x)",
        derivative="tanh²(x)",
        strengths="Suppresses small inputs smoothly; large inputs change by at most 1.",
        weaknesses="The slope is 0 at 0, so small inputs get little gradient; loses accuracy for small x.",
        use="Sparse autoencoders; seldom elsewhere.",
        source="torch.nn.functional.tanhshrink",
    ),
)
def tanhshrink(x: Value) -> Value:
    """x − tanh(x)"""
    return x - P.tanh(x)


tanhshrink.sample = lambda graph, shape, dtype: tanhshrink(graph.input("x", shape, dtype))


@tanhshrink.gradient
def _(d_y, y, x):
    tanh_x = P.tanh(x)
    return (d_y * (tanh_x * tanh_x),)


torch_order(softplus)
