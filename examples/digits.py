"""A small classifier of handwritten digits: declared, compiled, trained beside eager PyTorch, checked.

Run it with `python examples/digits.py`; it is what `tritonnotes demo` does. To see the kernels:
`tritonnotes show examples/digits.py:graph --emit triton`.
"""

from collections.abc import Sequence

from rich.console import Console

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.demo import run_demo


def graph() -> tn.Graph:
    """Two hidden layers with layer norm and a residual, 64 pixels to 10 digits."""
    g = tn.Graph("digits")
    batch = tn.Dim("batch")  # symbolic: one compile serves every batch size
    x = g.input("x", (batch, 64))
    y = g.input("y", (batch,), dtype="int64")
    h = tn.relu(tn.layer_norm(tn.linear(x, 128, name="fc1"), name="ln1"))
    h = tn.tanh(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2")) + h
    logits = tn.linear(h, 10, name="fc3")
    loss = tn.cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=tn.accuracy(logits, y))
    return g


def main(argv: Sequence[str] | None = None) -> None:
    result = run_demo(graph(), epochs=epochs_of(__doc__, 10, argv), console=Console())
    raise SystemExit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
