"""Benign or malignant: yes or no from 30 numbers, with precision, recall and F1 over the patients held out.

Run it with `python examples/breast_cancer.py`. Here 1 says malignant, so recall is the share of malignant tumours that
are found, and precision the share of alarms that are right.
"""

from collections.abc import Sequence

from rich.console import Console

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.demo import DemoResult, run_demo
from tritonnotes.datasets import load_breast_cancer

EPOCHS = 15


def graph() -> tn.Graph:
    """One hidden layer with layer norm; a positive logit says yes."""
    g = tn.Graph("breast_cancer")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, 30))
    y = g.input("y", (batch,))  # 1.0 or 0.0
    h = tn.silu(tn.layer_norm(tn.linear(x, 32, name="fc1"), name="ln1"))
    logit = tn.reshape(tn.linear(h, 1, name="fc2"), (batch,))
    loss = tn.binary_cross_entropy_with_logits(logit, y)
    g.output(logit=logit, loss=loss, accuracy=tn.accuracy(logit, y), confusion=tn.confusion_matrix(logit, y))
    g.output(precision=tn.precision(logit, y), recall=tn.recall(logit, y), f1=tn.f1(logit, y))
    return g


def train(**settings: object) -> DemoResult:
    """Beside eager PyTorch; `settings` are those of `run_demo`."""
    chosen = {"epochs": EPOCHS, "batch_size": 64, "out": "tritonnotes-demo/breast_cancer", **settings}
    return run_demo(graph(), load_breast_cancer(), **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    result = train(epochs=epochs_of(__doc__, EPOCHS, argv), console=Console())
    raise SystemExit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
