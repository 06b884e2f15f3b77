"""Scores of classification, of one class or averaged over the classes: ratios of counts. They have no gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.graph import Value
from ..core.op import Op, op
from ..core.registry import Note
from .classes import class_axis, target_shape
from .metrics import FEEDS, check_targets, decide, is_binary

FAMILY = "metrics"

AVERAGES = ("binary", "micro", "macro", "weighted", "none")


@dataclass(frozen=True)
class _Counts:
    """Of each class, or of yes alone: how often it is predicted and true, predicted, true, and how many rows count."""

    hit: Value
    predicted: Value
    true: Value
    rows: Value


def _counts(logits: Value, target: Value, average: str, threshold: float, ignore_index: int) -> _Counts:
    predicted, true, counted = decide(logits, target, threshold, ignore_index)
    if is_binary(logits, target):
        is_predicted = predicted & counted
        is_true = true & counted
        of_yes = _sums(is_predicted, is_true, counted, tuple(range(len(target.shape))))
        return of_yes if average == "binary" else _of_both(of_yes)
    axis = class_axis(logits)
    if average == "binary":
        if logits.shape[axis] != 2:
            raise DeclarationError(
                f"average is 'binary', but there are {logits.shape[axis]} classes; use 'micro', 'macro', 'weighted' or "
                "None (with 'binary', class 1 of two counts, or a target of the shape of one logit says yes or no)"
            )
        everything = tuple(range(len(logits.shape)))
        return _sums((predicted == 1) & counted, (true == 1) & counted, counted, everything)
    index = P.index_along(logits, axis)
    is_predicted = (index == predicted) & counted
    is_true = (index == true) & counted
    return _sums(is_predicted, is_true, counted, tuple(a for a in range(len(logits.shape)) if a != axis))


def _sums(is_predicted: Value, is_true: Value, counted: Value, axes: tuple[int, ...]) -> _Counts:
    is_hit = is_predicted & is_true
    hit = P.sum(P.cast(is_hit, "int64"), axes)
    predicted = P.sum(P.cast(is_predicted, "int64"), axes)
    true = P.sum(P.cast(is_true, "int64"), axes)
    rows = P.sum(P.cast(counted, "int64"))
    return _Counts(hit, predicted, true, rows)


def _of_both(yes: _Counts) -> _Counts:
    """The counts of no and of yes, given those of yes."""
    is_yes = P.index_along(P.broadcast_to(yes.hit, (2,)), 0) == 1
    neither = yes.rows - yes.predicted - yes.true + yes.hit
    hit = P.where(is_yes, yes.hit, neither)
    predicted = P.where(is_yes, yes.predicted, yes.rows - yes.predicted)
    true = P.where(is_yes, yes.true, yes.rows - yes.true)
    return _Counts(hit, predicted, true, yes.rows)


def _averaged(hits: Value, outof: Value, weight: Value, average: str, zero_division: float) -> Value:
    """The ratio of each class, or their average: over classes, by weight, or of all counts together."""
    if average not in AVERAGES:
        raise DeclarationError(f"average is {average!r}; use 'binary', 'micro', 'macro', 'weighted' or None")
    if zero_division not in (0, 1) and zero_division == zero_division:
        raise DeclarationError(f"zero_division is {zero_division!r}; use 0, 1 or nan")
    if average == "micro":
        hits, outof = P.sum(hits), P.sum(outof)
    # Where the ratio is 0 / 0 it is what the caller says.
    ratio = P.where(outof == 0, zero_division, P.cast(hits, "float32") / P.cast(outof, "float32"))
    if average not in ("macro", "weighted"):
        return ratio
    if average == "macro" and not math.isnan(zero_division):
        return P.mean(ratio)
    # As in scikit-learn: a class whose ratio is NaN does not count, and where all weights are 0 they are all 1.
    is_known = ratio == ratio
    known = P.where(is_known, ratio, 0)
    weights = P.cast(is_known, "float32")
    if average == "weighted":
        by_rows = P.where(is_known, P.cast(weight, "float32"), 0)
        weights = P.where(P.sum(by_rows) == 0, weights, by_rows)
    return P.sum(known * weights) / P.sum(weights)


_NO_SLOPE = "none: a count does not change under small changes"


@op(
    domain=FEEDS,
    note=Note(
        formula="share of the rows predicted as a class that are of it",
        derivative=_NO_SLOPE,
        strengths="The share of positive predictions that are correct.",
        weaknesses="Ignores missed positives: a single correct positive prediction gives 1.",
        use="Where false alarms are costly; together with recall.",
        source="sklearn.metrics.precision_score",
    ),
)
def precision(
    logits: Value,
    target: Value,
    *,
    average: str = "binary",
    threshold: float = 0.0,
    zero_division: float = 0.0,
    ignore_index: int = -100,
) -> Value:
    """share of the rows predicted as a class that are of it"""
    n = _counts(logits, target, average, threshold, ignore_index)
    return _averaged(n.hit, n.predicted, n.true, average, zero_division)


@op(
    domain=FEEDS,
    note=Note(
        formula="share of the rows of a class that are predicted as it",
        derivative=_NO_SLOPE,
        strengths="The share of positives that are found; also called sensitivity.",
        weaknesses="Predicting positive everywhere gives 1.",
        use="Where a miss is costly, as in screening; together with precision or specificity.",
        source="sklearn.metrics.recall_score",
    ),
)
def recall(
    logits: Value,
    target: Value,
    *,
    average: str = "binary",
    threshold: float = 0.0,
    zero_division: float = 0.0,
    ignore_index: int = -100,
) -> Value:
    """share of the rows of a class that are predicted as it"""
    n = _counts(logits, target, average, threshold, ignore_index)
    return _averaged(n.hit, n.true, n.true, average, zero_division)


@op(
    domain=FEEDS,
    note=Note(
        formula="2 · hits / (predicted + true): the harmonic mean of precision and recall",
        derivative=_NO_SLOPE,
        strengths="High only if both precision and recall are high, so rare classes count.",
        weaknesses="Ignores true negatives; weighs misses and false alarms equally.",
        use="Unequal classes; macro to count every class alike, over an epoch and not as a mean of batches.",
        source="sklearn.metrics.f1_score; van Rijsbergen, 1979",
    ),
)
def f1(
    logits: Value,
    target: Value,
    *,
    average: str = "binary",
    threshold: float = 0.0,
    zero_division: float = 0.0,
    ignore_index: int = -100,
) -> Value:
    """2 · hits / (predicted + true)"""
    n = _counts(logits, target, average, threshold, ignore_index)
    return _averaged(2 * n.hit, n.predicted + n.true, n.true, average, zero_division)


@op(
    domain=FEEDS,
    note=Note(
        formula="share of the rows not of a class that are not predicted as it",
        derivative=_NO_SLOPE,
        strengths="The share of negatives that are recognized; independent of the share of positives.",
        weaknesses="With many classes nearly all rows are negatives of each class, so it is near 1.",
        use="Together with recall, as in medical tests.",
        source="tn / (tn + fp) of sklearn.metrics.confusion_matrix",
    ),
)
def specificity(
    logits: Value,
    target: Value,
    *,
    average: str = "binary",
    threshold: float = 0.0,
    zero_division: float = 0.0,
    ignore_index: int = -100,
) -> Value:
    """share of the rows not of a class that are not predicted as it"""
    n = _counts(logits, target, average, threshold, ignore_index)
    neither = n.rows - n.predicted - n.true + n.hit
    return _averaged(neither, n.rows - n.true, n.true, average, zero_division)


def _scores(made: Op) -> None:
    @made.declares
    def _(
        logits: Value,
        target: Value,
        *,
        average: str | None = "binary",
        threshold: float = 0.0,
        zero_division: float = 0.0,
        ignore_index: int = -100,
        name: str | None = None,
    ) -> Value:
        """float32, as in scikit-learn with labels=range(C). `average` is 'binary' (of yes alone, where `target` has
        the shape of `logits`; of class 1 of two), 'micro' (all counts together), 'macro' (classes alike), 'weighted'
        (classes by their rows) or None (one score for each class, (C,)). A ratio 0 / 0 is `zero_division`, 0, 1 or nan;
        nan leaves the class out of an average. The other arguments are those of accuracy."""
        check_targets(made, logits, target)
        attrs = {"threshold": threshold, "zero_division": zero_division, "ignore_index": ignore_index}
        return made.apply(logits, target, average="none" if average is None else average, name=name, **attrs)

    made.sample = lambda graph, shape, dtype: made(
        graph.input("logits", shape, dtype), graph.input("target", target_shape(shape), "int64"), average="macro"
    )


for _made in (precision, recall, f1, specificity):
    _scores(_made)
