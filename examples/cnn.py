"""LeNet on MNIST's digits, an ordinary torch module: beside eager PyTorch and `torch.compile`.

Run it with `python examples/cnn.py`. Convolutions and pooling have no formula here: each is one call of torch in the
program, and activations, the layers at the end, the loss and Adam are fused around them. `step.explain()` says which.
"""

from collections.abc import Sequence

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.beside import Trained, train_beside
from tritonnotes.datasets import load_mnist

EPOCHS = 3


class LeNet(nn.Module):
    """LeCun et al., 1998, with today's activations: 784 pixels to scores of 10 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 1, 28, 28)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def train(**settings: object) -> dict[str, Trained]:
    """Side by side; `settings` are those of `train_beside`."""
    torch.manual_seed(0)
    chosen = {"data": load_mnist(), "epochs": EPOCHS, "batch_size": 128, **settings}
    return train_beside(LeNet(), loss=F.cross_entropy, **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    train(epochs=epochs_of(__doc__, EPOCHS, argv), console=Console())


if __name__ == "__main__":
    main()
