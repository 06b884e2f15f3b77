"""What torch's tensors have as methods too: the functions of the same names, with the value as their first argument."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from .. import primitives as P
from ..core.errors import ShapeError
from ..core.graph import Value
from ..core.types import show_shape
from . import activations, comparisons, elementary, shapes, softmax, statistics

METHODS: Mapping[str, Callable[..., Value]] = {
    "to": P.cast,
    "abs": P.abs,
    "exp": P.exp,
    "log": P.log,
    "sqrt": P.sqrt,
    "rsqrt": P.rsqrt,
    "tanh": P.tanh,
    "pow": P.pow,
    "eq": P.eq,
    "ne": P.ne,
    "lt": P.lt,
    "le": P.le,
    "gt": P.gt,
    "ge": P.ge,
    "relu": activations.relu,
    "sigmoid": activations.sigmoid,
    "softmax": softmax.softmax,
    "log_softmax": softmax.log_softmax,
    "clamp": comparisons.clamp,
    "square": elementary.square,
    "reciprocal": elementary.reciprocal,
    "sum": statistics.sum,
    "mean": statistics.mean,
    "var": statistics.var,
    "std": statistics.std,
    "amax": statistics.amax,
    "amin": statistics.amin,
    "argmax": statistics.argmax,
    "logsumexp": statistics.logsumexp,
    "reshape": shapes.reshape,
    "detach": shapes.detach,
    "flatten": shapes.flatten,
    "squeeze": shapes.squeeze,
    "unsqueeze": shapes.unsqueeze,
    "expand": shapes.expand,
    "permute": shapes.permute,
    "transpose": shapes.transpose,
}
"""`max` and `min` are not among them: torch's methods of these names give indices beside the values."""


def _method(name: str, function: Callable[..., Value]) -> Callable[..., Value]:
    @functools.wraps(function)
    def method(self: Value, *args: object, **kwargs: object) -> Value:
        return function(self, *args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"Value.{name}"
    return method


def _transposed(self: Value) -> Value:
    """A matrix with its axes swapped."""
    if len(self.shape) > 2:
        raise ShapeError(f"T: {self.name!r} of shape {show_shape(self.shape)} is no matrix; use transpose or permute")
    return P.transpose(self, tuple(reversed(range(len(self.shape)))))


for _name, _function in METHODS.items():
    setattr(Value, _name, _method(_name, _function))
Value.T = property(_transposed)  # type: ignore[assignment]
