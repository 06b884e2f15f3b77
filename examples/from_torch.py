"""A torch module trained as everyone does it, with one changed line: an MLP on the digits.

Run it with `python examples/from_torch.py`. `ordinary_loop` is what a project has already; it runs with the module, and
with the module compiled by `model = tn.compile(model, example)`. Then the whole step is compiled, loss and update
included, and trained beside eager PyTorch and `torch.compile`.
"""

from collections.abc import Sequence

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.beside import Trained, train_beside
from tritonnotes.datasets import Dataset, load_digits

BATCH, EPOCHS = 128, 40


def mlp() -> nn.Module:
    """What a project has already: 64 pixels to scores of 10 digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10))


def ordinary_loop(model: nn.Module, data: Dataset, epochs: int) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _, x, y in data.batches(BATCH, epochs, seed=0):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def one_changed_line(data: Dataset, epochs: int = 3) -> tuple[list[float], list[float]]:
    """Losses of the module, and of the module with one line more; both begin from the same weights."""
    eager = ordinary_loop(mlp(), data, epochs)
    model = mlp()
    model = tn.compile(model, data.x[:BATCH], training=True, device="cpu")  # the changed line
    return eager, ordinary_loop(model, data, epochs)


def train(**settings: object) -> dict[str, Trained]:
    """The whole step compiled, side by side; `settings` are those of `train_beside`."""
    chosen = {"data": load_digits(), "epochs": EPOCHS, "batch_size": BATCH, **settings}
    return train_beside(mlp(), loss=F.cross_entropy, **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    epochs = epochs_of(__doc__, EPOCHS, argv)
    console = Console()
    eager, compiled = one_changed_line(load_digits())
    apart = max(abs(a - b) for a, b in zip(eager, compiled, strict=True))
    console.print(f"One changed line: loss {eager[-1]:.4f} and {compiled[-1]:.4f}, at most {apart:.1e} apart.")
    train(epochs=epochs, console=console)


if __name__ == "__main__":
    main()
