"""Models that torch.compile's tests compile: each with an example for a number of rows, and a loss of its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 8


@dataclass(frozen=True)
class Compiled:
    """A module, its inputs for so many rows, and a loss of what it returns. `whole` says that it has no graph break."""

    module: Callable[[], nn.Module]
    example: Callable[[int], tuple[Any, ...]]
    loss: Callable[[Any], Tensor] = lambda result: result.square().mean()
    whole: bool = True


def rows(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, WIDTH),)


def sequences(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 5, WIDTH),)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return out


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens, self.channels = nn.Linear(5, 5), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.gelu(self.tokens(self.first(x).transpose(1, 2))).transpose(1, 2)
        out: Tensor = x + F.gelu(self.channels(self.second(x)))
        return out.mean(dim=1)


class Breaks(nn.Module):
    """A print in the middle ends one graph and begins another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Residual(), Residual()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x)) * 0.5
        torch._dynamo.graph_break()
        out: Tensor = torch.sigmoid(self.second(x)) + 1
        return out


class Embedded(nn.Module):
    """Words and their bags, as recommenders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.bag = nn.Embedding(10, WIDTH, padding_idx=0), nn.EmbeddingBag(10, WIDTH, mode="sum")
        self.top = nn.Sequential(nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, 3))

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.top(torch.tanh(self.words(words)).mean(dim=1) + self.bag(words))
        return out


class InPlace(nn.Module):
    """Activations, sums and residuals that are written over what they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.squash = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        h += x
        out: Tensor = self.down(self.norm(self.squash(h))).mul_(0.5)
        return out.add_(x)


def pictures(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 1, 8, 8),)


def words(count: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 10, (count, 5)),)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.SiLU(),
        nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 5),
    )  # fmt: skip


class Several(nn.Module):
    """A dict of tuples, an input as it came, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, times: int, scale: float) -> dict[str, Any]:
        h = torch.tanh(self.fc(x)) * times
        low, high = h.chunk(2, dim=-1)
        return {"parts": (low * scale, torch.sigmoid(high) + 1), "rows": x.shape[0], "given": x, "sum": h.sum()}


MODELS: dict[str, Compiled] = {
    "MLP": Compiled(lambda: nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, 4), nn.Tanh()), rows),
    "residual": Compiled(lambda: nn.Sequential(Residual(), Residual(), nn.LayerNorm(WIDTH)), rows),
    "mixer": Compiled(Mixer, sequences),
    "batch norm": Compiled(
        lambda: nn.Sequential(
            nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.GELU(), nn.Linear(WIDTH, 3)
        ),
        rows,
    ),
    "embeddings": Compiled(Embedded, words),
    "in place": Compiled(InPlace, rows),
    "convolutions": Compiled(convolutional, pictures),
    "graph break": Compiled(Breaks, rows, whole=False),
    "several results": Compiled(
        Several, lambda n: (*rows(n), 3, 0.5), lambda r: r["parts"][0].sum() + r["parts"][1].square().mean() + r["sum"]
    ),
}
