"""Scores of classification from the counts of a confusion matrix, in torch alone, with scikit-learn's conventions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError, FeedError

AVERAGES = ("binary", "micro", "macro", "weighted", None)

Ratio = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
RATIOS: dict[str, Ratio] = {
    "precision": lambda hit, predicted, true, rows: (hit, predicted),
    "recall": lambda hit, predicted, true, rows: (hit, true),
    "f1": lambda hit, predicted, true, rows: (2 * hit, predicted + true),
    "specificity": lambda hit, predicted, true, rows: (rows - predicted - true + hit, rows - true),
}
"""What each score is a ratio of, from how often a class is predicted rightly, predicted, true, and from all rows."""


def score(metric: str, counts: Tensor, average: str | None = "binary", zero_division: float = 0.0) -> Tensor:
    """A score in float64 from `counts`, a confusion matrix (C, C) whose rows are true classes.

    `metric` is 'precision', 'recall', 'f1' or 'specificity'; `average` is 'binary' (class 1 of two), 'micro', 'macro',
    'weighted' or None, which gives one score for each class; a ratio 0 / 0 is `zero_division`: 0, 1 or nan. Waits for
    no device. Raises `DeclarationError` for another average or number, `FeedError` for what is no such matrix.
    """
    if average not in AVERAGES:
        raise DeclarationError(f"{metric}: average is {average!r}; use 'binary', 'micro', 'macro', 'weighted' or None")
    if zero_division not in (0, 1) and zero_division == zero_division:
        raise DeclarationError(f"{metric}: zero_division is {zero_division!r}; use 0, 1 or nan")
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise FeedError(f"{metric}: counts have shape {tuple(counts.shape)}; a confusion matrix is (C, C)")
    if average == "binary" and len(counts) != 2:
        raise DeclarationError(
            f"{metric}: average is 'binary', but there are {len(counts)} classes; "
            "use 'micro', 'macro', 'weighted' or None"
        )
    true = counts.sum(1)
    hits, outof = RATIOS[metric](counts.diagonal(), counts.sum(0), true, counts.sum())
    if average == "micro":
        hits, outof = hits.sum(), outof.sum()
    ratio = torch.where(outof == 0, zero_division, hits.double() / outof)
    if average == "binary":
        return ratio[1]
    if average == "macro":
        return ratio.nanmean()
    if average == "weighted":
        known = ~ratio.isnan()
        weights = true * known
        weights = torch.where(weights.sum() == 0, known.to(weights.dtype), weights)
        return (ratio.nan_to_num(0.0) * weights).sum() / weights.sum()
    return ratio


def accuracy(counts: Tensor) -> Tensor:
    """The share of all rows that lie on the diagonal of a confusion matrix, in float64; NaN where there are none."""
    return counts.diagonal().sum().double() / counts.sum()
