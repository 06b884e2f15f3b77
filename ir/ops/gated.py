"""Gated linear units: one half of the features, squashed, scales the other."""

from __future__ import annotations

import math

from .. import primitives as P
from ..core.errors import ShapeError
from ..core.graph import Value
from ..core.op import Op, op
from ..core.registry import Note
from ..core.types import normalize_axes, show_shape
from ..primitives.slices import cat, narrow
from .activations import relu, sigmoid
from .declare import needs_float, torch_order
from .gates import gelu, silu

FAMILY = "activations"

_STRENGTHS = "One half scales the other; the gradient of the scaled half is linear."
_WEAKNESSES = "Needs twice as many input features as it has outputs."


def _halves(x: Value, dim: int) -> tuple[Value, Value]:
    needs_float(x)
    (axis,) = normalize_axes(dim, len(x.shape), "glu")
    size = x.shape[axis]
    if not isinstance(size, int) or size % 2:
        raise ShapeError(
            f"axis {axis} of {x.name!r}, {show_shape(x.shape)}, is {size}; it is halved, so it must be an even int"
        )
    return narrow(x, axis, 0, size // 2), narrow(x, axis, size // 2, size // 2)


@op(
    domain=(-20, 20),
    note=Note(
        formula="a · σ(b), a and b the halves of x along dim",
        derivative="σ(b) for a; a · σ(b) · (1 − σ(b)) for b",
        strengths=_STRENGTHS,
        weaknesses=f"{_WEAKNESSES} Where the gate is near 0 the gradient vanishes.",
        use="Gated convolutions and feed-forward layers.",
        source="torch.nn.functional.glu; Dauphin, Fan, Auli and Grangier, 2016",
    ),
)
def glu(x: Value, *, dim: int = -1) -> Value:
    """a · σ(b), a and b the halves of x along dim"""
    a, b = _halves(x, dim)
    gate = sigmoid(b)
    return a * gate


@glu.gradient
def _(d_y, y, x, *, dim):
    a, b = _halves(x, dim)
    gate = sigmoid(b)
    d_a = d_y * gate
    d_b = d_a * a * (1 - gate)
    return (cat([d_a, d_b], dim),)


@op(
    domain=(-20, 20),
    note=Note(
        formula="a · σ(a) · b, a and b the halves of x along dim",
        derivative="b · σ(a) · (1 + a · (1 − σ(a))) for a; a · σ(a) for b",
        strengths=_STRENGTHS,
        weaknesses=_WEAKNESSES,
        use="The feed-forward layers of most language models today.",
        source="Shazeer, 2020; silu of the first half times the second",
    ),
)
def swiglu(x: Value, *, dim: int = -1) -> Value:
    """silu(a) · b, a and b the halves of x along dim"""
    gate, up = _halves(x, dim)
    return silu(gate) * up


@swiglu.gradient
def _(d_y, y, x, *, dim):
    gate, up = _halves(x, dim)
    sigmoid_gate = sigmoid(gate)
    d_gate = d_y * up * sigmoid_gate * (1 + gate * (1 - sigmoid_gate))
    d_up = d_y * silu(gate)
    return (cat([d_gate, d_up], dim),)


@op(
    domain=(-10, 10),
    note=Note(
        formula="a · Φ(a) · b, a and b the halves of x along dim, Φ the normal distribution function",
        derivative="b · (Φ(a) + a · φ(a)) for a; a · Φ(a) for b",
        strengths=_STRENGTHS,
        weaknesses=f"{_WEAKNESSES} More expensive than swiglu.",
        use="Feed-forward layers of T5 and related models.",
        source="Shazeer, 2020; gelu of the first half times the second",
    ),
)
def geglu(x: Value, *, dim: int = -1) -> Value:
    """gelu(a) · b, a and b the halves of x along dim"""
    gate, up = _halves(x, dim)
    return gelu.apply(gate, approximate="none") * up


@geglu.gradient
def _(d_y, y, x, *, dim):
    gate, up = _halves(x, dim)
    cdf = 0.5 * (1 + P.erf(gate * math.sqrt(0.5)))
    pdf = P.exp(-0.5 * (gate * gate)) / math.sqrt(2 * math.pi)
    d_gate = d_y * up * (cdf + gate * pdf)
    d_up = d_y * (gate * cdf)
    return (cat([d_gate, d_up], dim),)


@op(
    domain=(-20, 20),
    note=Note(
        formula="max(0, a) · b, a and b the halves of x along dim",
        derivative="b where a > 0, else 0, for a; max(0, a) for b",
        strengths=f"{_STRENGTHS} Costs one comparison.",
        weaknesses=f"{_WEAKNESSES} Where the gate is negative, neither half gets a gradient.",
        use="A cheap gated feed-forward layer.",
        source="Shazeer, 2020; relu of the first half times the second",
    ),
)
def reglu(x: Value, *, dim: int = -1) -> Value:
    """relu(a) · b, a and b the halves of x along dim"""
    gate, up = _halves(x, dim)
    return relu(gate) * up


@reglu.gradient
def _(d_y, y, x, *, dim):
    gate, up = _halves(x, dim)
    d_gate = P.where(gate <= 0, 0, d_y * up)
    d_up = d_y * relu(gate)
    return (cat([d_gate, d_up], dim),)


def _sample(made: Op) -> None:
    # Twice the features, so that any size of the last axis will do.
    made.sample = lambda graph, shape, dtype: made(
        graph.input("x", (*shape[:-1], 2 * shape[-1]) if shape else (), dtype)
    )


for _made in (glu, swiglu, geglu, reglu):
    torch_order(_made)
    _sample(_made)
