"""Scores of a whole epoch, from what each batch returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError, FeedError
from ..judge import scores


class MetricAccumulator:
    """Accumulates the outputs of a model or a training step over the batches of an epoch. The F1 of an epoch is then
    that of all its rows, not a mean of the batches' F1s.

        epoch = tn.MetricAccumulator(means=["loss"], counts=["confusion"])
        for x, y in batches:
            epoch.update(step(x=x, y=y), rows=len(x))
        print(epoch.mean("loss"), epoch.f1(average="macro"))

    `means` names outputs that are means over a batch (0-dim floats), `counts` outputs of `tn.confusion_matrix`. Sums
    are float64 and int64, on the device of the outputs; neither `update` nor a score waits for it. Scores are float64
    tensors, with the conventions of the metrics of the same name: `average` is 'binary', 'micro', 'macro', 'weighted'
    or None, and `zero_division` is 0, 1 or nan, as in scikit-learn. If there are several counts, name one of them.
    """

    def __init__(self, *, means: Sequence[str] = (), counts: Sequence[str] = ()) -> None:
        for what, names in (("means", means), ("counts", counts)):
            if isinstance(names, str) or not all(isinstance(n, str) for n in names):
                raise DeclarationError(f"MetricAccumulator: {what} is {names!r}; give a list of outputs' names")
        if not means and not counts:
            raise DeclarationError(
                "MetricAccumulator: nothing to add up; name outputs, as in means=['loss'], counts=['confusion']"
            )
        self._means, self._counts = tuple(means), tuple(counts)
        self.reset()

    def reset(self) -> None:
        """Reset all sums, for the next epoch."""
        self._sums: dict[str, Tensor] = {}
        self._rows: float | Tensor = 0.0

    @torch.no_grad()
    def update(self, outputs: Mapping[str, Tensor], rows: float | Tensor | None = None) -> None:
        """Add the outputs of one batch. `rows` is the number of rows over which its means were taken (a number, or a
        0-dim tensor on the outputs' device); a batch of 0 rows changes no mean. Raises `FeedError`, before anything is
        changed, for an output that is missing or of another kind than it was named for."""
        if self._means and rows is None:
            raise FeedError(f"MetricAccumulator: {self._means[0]!r} is a mean over how many rows? Pass rows=len(x)")
        taken = {name: self._checked(name, outputs) for name in (*self._means, *self._counts)}
        for name, value in taken.items():
            if name in self._means:
                value = _weighted(value.double(), rows)
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        if rows is not None:
            self._rows = self._rows + (rows.detach() if isinstance(rows, Tensor) else rows)

    def mean(self, name: str) -> Tensor:
        """The mean over all rows of an output named in `means`; NaN where there were none."""
        if name not in self._means:
            raise FeedError(f"MetricAccumulator: {name!r} is none of its means, which are {list(self._means)}")
        return self._sum(name) / self._rows

    def confusion_matrix(self, counts: str | None = None) -> Tensor:
        """The counts so far, int64 (C, C): rows are true classes, columns predicted ones."""
        return self._sum(self._named(counts)).clone()

    def accuracy(self, counts: str | None = None) -> Tensor:
        """The share of rows predicted rightly; NaN where there were none."""
        return scores.accuracy(self._sum(self._named(counts)))

    def error_rate(self, counts: str | None = None) -> Tensor:
        """The share of rows predicted wrongly; NaN where there were none."""
        return 1 - self.accuracy(counts)

    def precision(
        self, counts: str | None = None, *, average: str | None = "binary", zero_division: float = 0.0
    ) -> Tensor:
        """The share of the rows predicted as a class that are of it."""
        return self._score("precision", counts, average, zero_division)

    def recall(
        self, counts: str | None = None, *, average: str | None = "binary", zero_division: float = 0.0
    ) -> Tensor:
        """The share of the rows of a class that are predicted as it."""
        return self._score("recall", counts, average, zero_division)

    def f1(self, counts: str | None = None, *, average: str | None = "binary", zero_division: float = 0.0) -> Tensor:
        """The harmonic mean of precision and recall."""
        return self._score("f1", counts, average, zero_division)

    def specificity(
        self, counts: str | None = None, *, average: str | None = "binary", zero_division: float = 0.0
    ) -> Tensor:
        """The share of the rows not of a class that are not predicted as it."""
        return self._score("specificity", counts, average, zero_division)

    # -- inside --

    def _score(self, metric: str, counts: str | None, average: str | None, zero_division: float) -> Tensor:
        return scores.score(metric, self._sum(self._named(counts)), average, zero_division)

    def _named(self, counts: str | None) -> str:
        if counts is None and len(self._counts) == 1:
            return self._counts[0]
        if counts not in self._counts:
            given = "no counts are named" if counts is None else f"{counts!r} is none of its counts"
            raise FeedError(f"MetricAccumulator: {given}; it adds up {list(self._counts)}")
        return counts

    def _sum(self, name: str) -> Tensor:
        if name not in self._sums:
            raise FeedError(f"MetricAccumulator: no batch has been added, so {name!r} is unknown; call update first")
        return self._sums[name]

    def _checked(self, name: str, outputs: Mapping[str, Tensor]) -> Tensor:
        value = outputs.get(name)
        if not isinstance(value, Tensor):
            raise FeedError(f"MetricAccumulator: output {name!r} is missing; there are {list(outputs)}")
        got = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if name in self._means and (value.ndim or not value.is_floating_point()):
            raise FeedError(f"MetricAccumulator: {name!r} is {got}; a mean over a batch is one float")
        if name in self._counts:
            known = self._sums.get(name)
            wanted = f"int64{list(known.shape)}" if known is not None else "int64[C, C]"
            square = value.ndim == 2 and value.shape[0] == value.shape[1]
            if value.dtype != torch.int64 or not square or (known is not None and known.shape != value.shape):
                raise FeedError(
                    f"MetricAccumulator: {name!r} is {got}, wanted {wanted}; name an output of tn.confusion_matrix"
                )
        return value.detach()


def _weighted(mean: Tensor, rows: float | Tensor | None) -> Tensor:
    """The sum that a mean over `rows` rows comes from: 0 for none, whose mean is NaN."""
    if isinstance(rows, Tensor):
        return torch.where(rows == 0, 0.0, mean * rows)
    return mean * rows if rows else torch.zeros_like(mean)
