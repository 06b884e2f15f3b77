"""Dropout, whose mask is never stored: what needs it draws the same numbers again."""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import Graph, Value, is_seed
from ..core.op import op
from ..core.registry import Note
from ..core.types import int64, own_name
from ..primitives.philox import uniform
from .declare import needs_float

FAMILY = "layers"

SEED = "dropout.seed"
"""The name of the number that all dropout of a graph draws from, where it is free: one for each run, an exact int."""


def _mask(x: Value, seed: Value, p: float, stream: int) -> Value:
    """1 / (1 − p) where an element is kept, else 0."""
    drawn = uniform(seed, x.shape, stream)
    kept = drawn >= p
    scale = x.graph.constant(1 / (1 - p) if p < 1 else 0.0, x.dtype)
    return P.where(kept, scale, 0.0)


@op(
    domain={"x": (-10, 10), "seed": (0, 2**31 - 1)},
    note=Note(
        formula="x / (1 − p) with probability 1 − p, else 0; x itself in evaluation",
        derivative="1 / (1 − p) where x was kept, else 0",
        strengths="Units cannot rely on single other units; the mean of each output is the same as in evaluation.",
        weaknesses="Adds noise, so training takes longer; moves the variance that a batch norm behind it has learned.",
        use="Between wide layers, p from 0.1 to 0.5; not in front of batch norm.",
        source="torch.nn.functional.dropout; Srivastava et al., 2014",
    ),
)
def dropout(x: Value, seed: Value | None = None, *, p: float, training: bool, stream: int) -> Value:
    """x / (1 − p) with probability 1 − p, else 0; x itself in evaluation"""
    needs_float(x)
    if not 0 <= p <= 1:
        raise DeclarationError(f"p is {p!r}; it is the probability that an element is zeroed, from 0 to 1")
    if not training or p == 0:
        return x
    if seed is None:
        raise DeclarationError(f"in training it takes the seed of its graph, the scalar {SEED!r}")
    mask = _mask(x, seed, p, stream)
    return x * mask  # a product, so that NaN and infinities go where torch's go


dropout.sample = lambda graph, shape, dtype: dropout(graph.input("x", shape, dtype))


@dropout.gradient
def _(d_y, y, x, seed, *, p, training, stream):
    if not training or p == 0:
        return d_y, None
    mask = _mask(x, seed, p, stream)
    return d_y * mask, None


@dropout.declares
def _(x: Value, p: float = 0.5, training: bool = True, *, name: str | None = None) -> Value:
    """Each element of `x` zeroed with probability `p` and else divided by 1 − p, in the training form of the graph;
    `x` itself in the evaluation form, or wherever `training` is False.

    Every instance draws from a stream of its own, every run anew (see `tritonnotes.tensors.seeds`); an element's fate
    hangs on its place in `x`, and not on how many rows there are.
    """
    if not isinstance(x, Value):
        raise DeclarationError(f"dropout: takes a Value of a graph, got {x!r}; start from g.input(...)")
    if isinstance(p, bool) or not isinstance(p, int | float) or not isinstance(training, bool):
        raise DeclarationError(f"dropout: p is {p!r}, training {training!r}; give a number from 0 to 1, and a bool")
    if x.graph.level != "declared":
        raise DeclarationError(
            "dropout: has a random stream of its own, which a formula cannot declare; call it where the graph is "
            "declared"
        )
    stream = sum(v.op is dropout for v in x.graph.values)
    seed = _seed_of(x.graph) if training and p > 0 else None
    return dropout.apply(x, seed, p=float(p), training=training, stream=stream, name=name)


def _seed_of(graph: Graph) -> Value:
    found = next((v for v in graph.leaves("scalar") if is_seed(v)), None)
    return graph.host_scalar(own_name(SEED, graph.given_names), int64) if found is None else found
