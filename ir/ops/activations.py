"""relu, sigmoid and tanh. Other activations are in `piecewise.py`, `gates.py`, `gated.py` and `softmax.py`."""

from __future__ import annotations

from .. import primitives as P
from ..core.graph import Value
from ..core.op import describe, op
from ..core.registry import Note
from .declare import as_float, needs_number

FAMILY = "activations"


@op(
    domain=(-20, 20),
    note=Note(
        formula="max(0, x)",
        derivative="1 where x > 0, else 0",
        strengths="One comparison; the gradient does not shrink for positive inputs; outputs are sparse.",
        weaknesses="A unit whose input is always negative gets no gradient; outputs are not centred on zero.",
        use="The first choice for a deep network; use a moderate learning rate, or a leaky variant.",
        source="torch.nn.functional.relu; Nair and Hinton, 2010",
    ),
)
def relu(x: Value) -> Value:
    """max(0, x); NaN stays NaN and −0 stays −0, as in torch."""
    needs_number(x)
    return P.where(x < 0, 0, x)


relu.sample = lambda graph, shape, dtype: relu(graph.input("x", shape, dtype))


@relu.gradient
def _(d_y, y, x):
    return (P.where(x <= 0, 0, d_y),)


@op(
    domain=(-50, 50),
    note=Note(
        formula="1 / (1 + e⁻ˣ)",
        derivative="σ(x) · (1 − σ(x))",
        strengths="Smooth, between 0 and 1, so the output can be a probability or a gate.",
        weaknesses="The slope is at most 1/4 and near 0 for large inputs, so gradients vanish; not centred on zero.",
        use="Gates, and the last layer of a binary classifier; not between the layers of a deep network.",
        source="torch.nn.functional.sigmoid",
    ),
)
def sigmoid(x: Value) -> Value:
    """1 / (1 + e⁻ˣ)"""
    return 1 / (1 + P.exp(-x))


@sigmoid.declares
def _(x: Value, *, name: str | None = None) -> Value:
    """1 / (1 + e⁻ˣ)"""
    return sigmoid.apply(as_float(x), name=name)


sigmoid.sample = lambda graph, shape, dtype: sigmoid(graph.input("x", shape, dtype))


@sigmoid.gradient
def _(d_y, y, x):
    return (d_y * y * (1 - y),)


describe(
    P.tanh,
    domain=(-20, 20),
    note=Note(
        formula="(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)",
        derivative="1 − tanh²(x)",
        strengths="Centred on zero and four times as steep at 0 as the sigmoid, so layers below learn faster.",
        weaknesses="Saturates: gradients vanish for inputs beyond ±3.",
        use="Recurrent cells and bounded outputs.",
        source="torch.nn.functional.tanh",
    ),
    sample=lambda graph, shape, dtype: P.tanh(graph.input("x", shape, dtype)),
)
