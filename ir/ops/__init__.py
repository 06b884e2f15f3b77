"""The ops: each one block, holding formula, gradient where it is hand-written, domain and note."""

from . import (
    activations,
    arithmetic,
    binary,
    divergences,
    embedding,
    gated,
    gates,
    linear,
    losses,
    margins,
    metrics,
    normalization,
    parts,
    piecewise,
    regression,
    softmax,
)

__all__ = [
    "activations",
    "arithmetic",
    "binary",
    "divergences",
    "embedding",
    "gated",
    "gates",
    "linear",
    "losses",
    "margins",
    "metrics",
    "normalization",
    "parts",
    "piecewise",
    "regression",
    "softmax",
]
