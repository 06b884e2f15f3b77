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


def pictures(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 3, 8, 8),)


def sequences(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 5, WIDTH),)


def words(count: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 10, (count, 5)),)


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


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(self.table(ids)))
        return out


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


class Several(nn.Module):
    """A dict of tuples, an input as it came, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, times: int, scale: float) -> dict[str, Any]:
        h = torch.tanh(self.fc(x)) * times
        low, high = h.chunk(2, dim=-1)
        return {"parts": (low * scale, torch.sigmoid(high) + 1), "rows": x.shape[0], "given": x, "sum": h.sum()}


class InPlace(nn.Module):
    """Activations and sums in place, a counter, slices that are written, and a mask."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = F.leaky_relu(self.norm(self.fc(x)), inplace=True)
        h = F.silu(h)
        h += x
        out = torch.zeros_like(h)
        out[:, 1:] = h[:, 1:] * 2
        out.mul_(0.5)
        return torch.where(out > 0, out, out.exp() - 1) * self.calls


class Precise(nn.Module):
    """Part of it in another precision, and part of it without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = F.gelu(self.first(x)) * 2
        with torch.no_grad():
            scale = 1 + torch.sigmoid(x.mean(dim=-1, keepdim=True))
        out: Tensor = torch.tanh(self.second(h.to(x.dtype))) * scale
        return out


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.GELU(),
    )  # fmt: skip


def _classes(result: Tensor) -> Tensor:
    logits = result.flatten(0, -2)
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


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
    "convolutional": Compiled(_convolutional, pictures),
    "encoder": Compiled(Encoder, words, _classes),
    "graph break": Compiled(Breaks, rows, whole=False),
    "several results": Compiled(
        Several, lambda n: (*rows(n), 3, 0.5), lambda r: r["parts"][0].sum() + r["parts"][1].square().mean() + r["sum"]
    ),
    "in place": Compiled(InPlace, rows),
}
