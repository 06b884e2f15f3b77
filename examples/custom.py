"""An op and an update rule of your own: a formula and its torch reference, and everything else follows.

Gradient, fusion, kernels and the numerics certificate come from the formulas below. Run it with
`python examples/custom.py`.
"""

from collections.abc import Sequence

import torch

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.datasets import load_digits


@tn.op(reference=torch.nn.functional.mish, domain=(-100, 100))
def mish(x):
    """x · tanh(softplus(x))"""
    softplus = tn.maximum(x, 0) + tn.log1p(tn.exp(-abs(x)))
    return x * tn.tanh(softplus)


def lion_in_plain_torch(p, g, m, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Lion (Chen et al., 2023), with torch alone: what the kernels are judged by."""
    direction = torch.sign(beta1 * m + (1 - beta1) * g)
    return p - lr * (direction + weight_decay * p), beta2 * m + (1 - beta2) * g


@tn.update_rule(state=("m",), reference=lion_in_plain_torch)
def lion(p, g, m, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Step by the sign of an interpolated momentum, decoupled decay."""
    direction = tn.sign(beta1 * m + (1 - beta1) * g)
    return p - lr * (direction + weight_decay * p), beta2 * m + (1 - beta2) * g


def graph() -> tn.Graph:
    """The model of examples/digits.py with mish for its activations."""
    g = tn.Graph("digits_mish")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, 64))
    y = g.input("y", (batch,), dtype="int64")
    h = mish(tn.layer_norm(tn.linear(x, 128, name="fc1"), name="ln1"))
    h = mish(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2")) + h
    logits = tn.linear(h, 10, name="fc3")
    loss = tn.cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=tn.accuracy(logits, y))
    return g


def train(epochs: int = 6, seed: int = 0) -> tuple[Sequence[float], float]:
    """The loss of every step, and the accuracy on images that training never saw."""
    data = load_digits(seed)
    step = tn.compile_step(graph(), optimizer=lion(lr=1e-3, weight_decay=0.1), seed=seed)
    losses = [float(step(x=x, y=y)["loss"]) for _, x, y in data.batches(128, epochs, seed)]
    with torch.no_grad():
        tested = step.model(x=data.test_x, y=data.test_y)
    return losses, float(tested["accuracy"])


def main(argv: Sequence[str] | None = None) -> None:
    losses, accuracy = train(epochs_of(__doc__, 6, argv))
    print(f"mish and lion: loss {losses[0]:.3f} to {losses[-1]:.3f}, test accuracy {accuracy:.2%}\n")
    certificate = tn.check(graph(), optimizer=lion(lr=1e-3, weight_decay=0.1))
    print(certificate)
    raise SystemExit(0 if certificate.ok else 1)


if __name__ == "__main__":
    main()
