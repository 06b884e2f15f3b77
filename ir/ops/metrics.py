"""Metrics that count: how often a prediction is right, and what is taken for what. They have no gradient.

Every metric takes either logits with class indices, or one score for each element with a target of the same shape,
which says yes or no.
"""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import Op, op
from ..core.registry import Domain, Note
from ..core.types import show_shape
from .classes import check_classes, class_axis, one_of_classes, target_shape

MOST_CELLS = 1024
"""Counts of a confusion matrix that are carried down the rows: more of them are a product of matrices."""


def is_binary(logits: Value, target: Value) -> bool:
    """Whether the target says yes or no to each score, and is no index into classes."""
    return logits.shape == target.shape


def decide(logits: Value, target: Value, threshold: float, ignore_index: int) -> tuple[Value, Value, Value]:
    """What is predicted, what is true, and whether a row counts: of classes their indices, with a class axis of size 1,
    else yes or no for each element."""
    if is_binary(logits, target):
        return logits > threshold, target > 0.5, target != ignore_index
    _, target_column = one_of_classes(logits, target)
    predicted = P.argmax(logits, class_axis(logits), keepdim=True)
    return predicted, target_column, target_column != ignore_index


def _hits(logits: Value, target: Value, k: int, threshold: float, ignore_index: int) -> tuple[Value, Value]:
    """How many predictions are right and how many count, in float32."""
    _check_k(logits, target, k)
    if k == 1:
        predicted, true, counted = decide(logits, target, threshold, ignore_index)
        is_right = predicted == true
    else:
        is_right, counted = _is_among_largest(logits, target, k, ignore_index)
    right = P.sum(P.cast(is_right & counted, "float32"))
    count = P.sum(P.cast(counted, "float32"))
    return right, count


def _check_k(logits: Value, target: Value, k: int) -> None:
    classes = 1 if is_binary(logits, target) else logits.shape[class_axis(logits)]
    if type(k) is not int or k < 1 or (isinstance(classes, int) and k > classes):
        what = "one score for each target" if is_binary(logits, target) else f"{classes} classes"
        raise DeclarationError(f"k is {k!r}, with {what}; it is an int between 1 and the number of classes")


def _is_among_largest(logits: Value, target: Value, k: int, ignore_index: int) -> tuple[Value, Value]:
    """Whether fewer than `k` classes are placed before the target's, and whether a row counts.

    Counting them needs no sorting. NaN is placed first, and of equal logits the one of the lower index.
    """
    is_target, target_column = one_of_classes(logits, target)
    axis = class_axis(logits)
    target_logit = P.max(P.where(is_target, logits, -float("inf")), axis, keepdim=True)
    is_nan, target_is_nan = logits != logits, target_logit != target_logit
    is_tied = (logits == target_logit) | (is_nan & target_is_nan)
    is_larger = (logits > target_logit) | (is_nan & ~target_is_nan)
    is_before = is_larger | (is_tied & (P.index_along(logits, axis) < target_column))
    place = P.sum(P.cast(is_before, "int32"), axis, keepdim=True)
    return place < k, target_column != ignore_index


def check_targets(made: Op, logits: Value, target: Value) -> None:
    """Raise unless `target` has the shape of `logits`, or holds class indices for its rows."""
    if is_binary(logits, target):
        return
    if len(target.shape) >= len(logits.shape):
        raise ShapeError(
            f"{made.name}: logits {logits.name!r} of shape {show_shape(logits.shape)} want class indices of shape "
            f"{show_shape(target_shape(logits.shape))}, or yes and no of their own shape, got {target.name!r} of shape "
            f"{show_shape(target.shape)}"
        )
    check_classes(made.name, logits, target)


FEEDS: Domain = {"logits": (-30.0, 30.0), "target": "class"}

FAMILY = "metrics"


@op(
    domain=FEEDS,
    note=Note(
        formula="share of rows whose target is among the k largest logits",
        derivative="none: a count does not change under small changes",
        strengths="The share of correct predictions; easy to understand.",
        weaknesses="With unequal classes a constant prediction scores high; ignores confidence.",
        use="Balanced classification; beside a loss, never in its place.",
        source="mean of (logits.argmax(1) == target); scikit-learn's accuracy_score and top_k_accuracy_score",
    ),
)
def accuracy(logits: Value, target: Value, *, k: int = 1, threshold: float = 0.0, ignore_index: int = -100) -> Value:
    """share of rows whose target is among the k largest logits"""
    right, count = _hits(logits, target, k, threshold, ignore_index)
    return right / count


@op(
    domain=FEEDS,
    note=Note(
        formula="share of rows whose target is not among the k largest logits",
        derivative="none: a count does not change under small changes",
        strengths="Shows progress where accuracy is near 1.",
        weaknesses="As for accuracy: misleading with unequal classes; ignores confidence.",
        use="Reporting good classifiers, by top-1 and top-5.",
        source="1 − accuracy, counted and not subtracted",
    ),
)
def error_rate(logits: Value, target: Value, *, k: int = 1, threshold: float = 0.0, ignore_index: int = -100) -> Value:
    """share of rows whose target is not among the k largest logits"""
    right, count = _hits(logits, target, k, threshold, ignore_index)
    return (count - right) / count


@op(
    domain=FEEDS,
    note=Note(
        formula="entry (i, j) counts the rows of class i that are predicted as class j",
        derivative="none: a count does not change under small changes",
        strengths="Holds every other metric of classes, and adds up over batches without error.",
        weaknesses="Grows as the square of the classes.",
        use="As the output that a MetricAccumulator adds up; to see which classes are mistaken for which.",
        source="sklearn.metrics.confusion_matrix",
    ),
)
def confusion_matrix(logits: Value, target: Value, *, threshold: float = 0.0, ignore_index: int = -100) -> Value:
    """entry (i, j) counts the rows of class i that are predicted as class j"""
    classes = 2 if is_binary(logits, target) else logits.shape[class_axis(logits)]
    predicted, true, counted = decide(logits, target, threshold, ignore_index)
    rows = true.shape
    if isinstance(classes, int) and classes * classes <= MOST_CELLS:
        cells = P.broadcast_to(_behind(true, 2), (*rows, classes, classes))
        is_true = (P.index_along(cells, -2) == _behind(true, 2)) & _behind(counted, 2)
        is_predicted = P.index_along(cells, -1) == _behind(predicted, 2)
        is_both = is_true & is_predicted
        return P.sum(P.cast(is_both, "int64"), tuple(range(len(rows))))
    # Every program of a sum over rows holds all that it sums, and so many cells are too much for one.
    index = P.index_along(P.broadcast_to(_behind(true, 1), (*rows, classes)), -1)
    is_true = P.cast((index == _behind(true, 1)) & _behind(counted, 1), "float32")
    is_predicted = P.cast(index == _behind(predicted, 1), "float32")
    return P.cast(P.matmul_over_rows(is_true, is_predicted), "int64")


def _behind(x: Value, axes: int) -> Value:
    """`x` with axes of size 1 behind its own."""
    return P.reshape(x, (*x.shape, *(1,) * axes))


def _k_largest(made: Op) -> None:
    @made.declares
    def _(
        logits: Value,
        target: Value,
        k: int = 1,
        *,
        threshold: float = 0.0,
        ignore_index: int = -100,
        name: str | None = None,
    ) -> Value:
        """float32; NaN where nothing counts. Either `logits` (N, C), (C,) or (N, C, ...) with class indices `target`
        (N,), () or (N, ...), as for cross_entropy, where NaN is taken for the largest logit and of equal ones the
        first; or a score for each element with a `target` of the same shape, where more than 0.5 says yes, and
        a score above `threshold` does: 0 suits logits, 0.5 probabilities. Targets equal to `ignore_index` do not
        count."""
        check_targets(made, logits, target)
        return made.apply(logits, target, k=k, threshold=threshold, ignore_index=ignore_index, name=name)


@confusion_matrix.declares
def _(
    logits: Value, target: Value, *, threshold: float = 0.0, ignore_index: int = -100, name: str | None = None
) -> Value:
    """int64 counts (C, C): rows are true classes, columns predicted ones; (2, 2) where `target` says yes or no. The
    arguments are those of accuracy. Counts above 32 classes are exact up to 2**24 a batch."""
    check_targets(confusion_matrix, logits, target)
    return confusion_matrix.apply(logits, target, threshold=threshold, ignore_index=ignore_index, name=name)


for _made in (accuracy, error_rate):
    _k_largest(_made)
for _made in (accuracy, error_rate, confusion_matrix):
    _made.sample = lambda graph, shape, dtype, made=_made: made(
        graph.input("logits", shape, dtype), graph.input("target", target_shape(shape), "int64")
    )
