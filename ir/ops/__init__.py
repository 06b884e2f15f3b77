"""The ops: each one block, holding formula, gradient where it is hand-written, domain and note."""

from . import activations, arithmetic, linear, losses, metrics, normalization

__all__ = ["activations", "arithmetic", "linear", "losses", "metrics", "normalization"]
