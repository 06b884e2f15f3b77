"""Metrics. They have no gradient."""

from __future__ import annotations

from .. import primitives as P
from ..errors import DTypeError, ShapeError
from ..graph import Value
from ..registry import Note, op
from ..types import show_shape


@op(
    domain={"logits": (-30, 30), "target": "class"},
    note=Note(
        formula="share of rows whose largest logit is the target's",
        derivative="none: a count does not change under small changes",
        strengths="What people mean by 'how often is it right'.",
        weaknesses="With unequal classes the trivial answer scores high; says nothing of confidence.",
        use="Balanced classification; beside a loss, never in its place.",
        source="mean of (logits.argmax(-1) == target), as in scikit-learn's accuracy_score",
    ),
)
def accuracy(logits: Value, target: Value) -> Value:
    """share of rows whose largest logit is the target's"""
    predicted = P.argmax(logits, -1)
    correct = P.cast(predicted == target, "float32")
    return P.mean(correct)


accuracy.sample = lambda graph, shape, dtype: accuracy(
    graph.input("logits", shape, dtype), graph.input("target", shape[:-1], "int64")
)


@accuracy.declares
def _(logits: Value, target: Value, *, name: str | None = None) -> Value:
    """float32 share of rows of `logits` (..., C) whose argmax equals `target` (...); NaN for an empty batch."""
    if target.dtype.kind != "int":
        raise DTypeError(f"accuracy: target {target.name!r} is {target.dtype}; class indices are int64 (or int32)")
    if not logits.shape or target.shape != logits.shape[:-1]:
        raise ShapeError(
            f"accuracy: logits {logits.name!r} of shape {show_shape(logits.shape)} want targets of shape "
            f"{show_shape(logits.shape[:-1])}, got {target.name!r} of shape {show_shape(target.shape)}"
        )
    return accuracy.apply(logits, target, name=name)
