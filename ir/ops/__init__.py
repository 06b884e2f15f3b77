"""The ops: each one block, holding formula, gradient where it is hand-written, domain and note."""

from . import (
    activations,
    arithmetic,
    binary,
    divergences,
    gates,
    linear,
    losses,
    margins,
    metrics,
    normalization,
    piecewise,
    regression,
    softmax,
)

__all__ = [
    "activations",
    "arithmetic",
    "binary",
    "divergences",
    "gates",
    "linear",
    "losses",
    "margins",
    "metrics",
    "normalization",
    "piecewise",
    "regression",
    "softmax",
]
