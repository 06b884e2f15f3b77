"""Scores of a classifier as scikit-learn has them, and specificity, which it lacks, from its confusion matrices."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from edges import NAN
from sklearn import metrics as sk

SCORES = ("precision", "recall", "f1", "specificity")
AVERAGES = ("micro", "macro", "weighted", None)
ZERO_DIVISIONS = (0.0, 1.0, NAN)
CLASSES = 4


def expected(
    true: Sequence[int], predicted: Sequence[int], average: Any, zero_division: float, classes: int = CLASSES
) -> dict[str, Any]:
    """Every score by name; scikit-learn has three of them."""
    labels = range(classes) if average != "binary" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that do not occur
        found = sk.precision_recall_fscore_support(
            true, predicted, labels=labels, average=average, zero_division=zero_division
        )
        scores = dict(zip(SCORES, found, strict=False))
        return scores | {"specificity": specificity(true, predicted, average, zero_division, classes)}


def specificity(true: Sequence[int], predicted: Sequence[int], average: Any, zero_division: float, classes: int) -> Any:
    """By hand, from the confusion matrix of each class against the rest."""
    labels = [1] if average == "binary" else range(classes)
    tables = sk.multilabel_confusion_matrix(true, predicted, labels=labels)
    negatives = [(int(t[0, 0]), int(t[0, 0] + t[0, 1])) for t in tables]
    if average == "micro":
        negatives = [tuple(map(sum, zip(*negatives, strict=True)))]  # type: ignore[list-item]
    each = [right / of if of else zero_division for right, of in negatives]
    if average is None or average == "binary":
        return each if average is None else each[0]
    weights = [int(t[1].sum()) for t in tables] if average == "weighted" else [1] * len(each)
    kept = [(e, w) for e, w in zip(each, weights, strict=True) if e == e]
    if not kept:
        return NAN
    total = sum(w for _, w in kept)
    return sum(e * w for e, w in kept) / total if total else sum(e for e, _ in kept) / len(kept)
