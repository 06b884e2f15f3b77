"""A residual MLP-mixer on MNIST's digits: one MLP mixes the patches of an image, another the channels of a patch.

Run it with `python examples/mixer.py`. Mixing over patches is a linear layer on the transposed rows, so an image goes
back and forth between (patches, channels) and (channels, patches); no copy is written where a kernel can read through.
"""

from collections.abc import Sequence

from rich.console import Console

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.demo import DemoResult, run_demo
from tritonnotes.datasets import load_mnist

PATCHES, PIXELS, CHANNELS = 49, 16, 32
EPOCHS = 3


def patches(x: tn.Value) -> tn.Value:
    """Images of 28×28 as 7×7 patches of 4×4 pixels: (batch, 784) to (batch, 49, 16)."""
    batch = x.shape[0]
    split = tn.permute(tn.reshape(x, (batch, 7, 4, 7, 4)), 0, 1, 3, 2, 4)
    return tn.reshape(split, (batch, PATCHES, PIXELS))


def mlp(x: tn.Value, hidden: int, name: str) -> tn.Value:
    """Over the last axis, from its width to `hidden` and back."""
    h = tn.gelu(tn.linear(x, hidden, name=f"{name}.fc1"))
    return tn.linear(h, x.shape[-1], name=f"{name}.fc2")


def mixer(h: tn.Value, name: str) -> tn.Value:
    """One layer of Tolstikhin et al., 2021: over patches, then over channels, each behind a norm and beside a skip."""
    turned = tn.permute(tn.layer_norm(h, name=f"{name}.ln1"), 0, 2, 1)
    h = h + tn.permute(mlp(turned, 32, f"{name}.patches"), 0, 2, 1)
    return h + mlp(tn.layer_norm(h, name=f"{name}.ln2"), 64, f"{name}.channels")


def graph() -> tn.Graph:
    """Two mixer layers, the mean over patches, and a linear head for the 10 digits."""
    g = tn.Graph("mixer")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, PATCHES * PIXELS))
    y = g.input("y", (batch,), dtype="int64")
    h = tn.linear(patches(x), CHANNELS, name="embed")
    for layer in range(2):
        h = mixer(h, f"mixer{layer}")
    logits = tn.linear(tn.mean(tn.layer_norm(h, name="ln"), 1), 10, name="head")
    loss = tn.cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=tn.accuracy(logits, y))
    return g


def train(**settings: object) -> DemoResult:
    """Beside eager PyTorch; `settings` are those of `run_demo`."""
    chosen = {"data": load_mnist(), "epochs": EPOCHS, "batch_size": 128, "out": "tritonnotes-demo/mixer", **settings}
    return run_demo(graph(), **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    result = train(epochs=epochs_of(__doc__, EPOCHS, argv), console=Console())
    raise SystemExit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
