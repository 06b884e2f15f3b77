"""How far diabetes will have progressed in a year: a number from 10 numbers, by Huber's loss.

Run it with `python examples/diabetes.py`. Targets are standardized, so the errors are in standard deviations, and a
mean squared error of 1 is what the mean of all patients would give.
"""

from collections.abc import Sequence

from rich.console import Console

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.demo import DemoResult, run_demo
from tritonnotes.datasets import load_diabetes

EPOCHS = 15


def graph() -> tn.Graph:
    """One hidden layer; beyond one standard deviation an error counts in proportion, not by its square."""
    g = tn.Graph("diabetes")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, 10))
    y = g.input("y", (batch,))
    h = tn.elu(tn.linear(x, 32, name="fc1"))
    prediction = tn.reshape(tn.linear(h, 1, name="fc2"), (batch,))
    loss = tn.huber_loss(prediction, y)
    g.output(prediction=prediction, loss=loss)
    g.output(mean_absolute_error=tn.l1_loss(prediction, y), mean_squared_error=tn.mse_loss(prediction, y))
    return g


def train(**settings: object) -> DemoResult:
    """Beside eager PyTorch; `settings` are those of `run_demo`."""
    chosen = {"epochs": EPOCHS, "batch_size": 64, "out": "tritonnotes-demo/diabetes", **settings}
    return run_demo(graph(), load_diabetes(), **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    result = train(epochs=epochs_of(__doc__, EPOCHS, argv), console=Console())
    raise SystemExit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
