"""A small language model: the next word of Python's own reference manual from the eight words before it.

Run it with `python examples/language_model.py`. The text comes with every Python (`pydoc_data.topics`, what `help()`
shows of the language), half a million characters of it. The model is Bengio's of 2003 with today's parts: an embedding
of each word, RMS norm, SwiGLU beside a skip, and a linear layer over the whole vocabulary into the cross entropy: these
two go over the rows of a batch in chunks, so that a score for each row and word never exists for all of them at once.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pydoc_data.topics import topics

import torch
from rich.console import Console

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.demo import DemoResult, run_demo
from tritonnotes.datasets import Dataset

CONTEXT, WIDTH, WORDS = 8, 32, 1000
CHUNK = 64
RARE = 0
EPOCHS = 4


def load_tokens(count: int) -> torch.Tensor:
    """The numbers of the first words of the text, int64 [count]. The WORDS − 1 most frequent words have numbers; all
    others are RARE."""
    text = "\n".join(topics[name] for name in sorted(topics)).lower()
    words = re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text)
    numbers = {word: number for number, (word, _) in enumerate(Counter(words).most_common(WORDS - 1), RARE + 1)}
    return torch.tensor([numbers.get(word, RARE) for word in words[:count]])


def load_words(rows: int = 8192) -> Dataset:
    """`rows` places of the text: the numbers of the words before each, int64 [rows, CONTEXT], and of the one that
    follows. A tenth, from the end, is held out."""
    tokens = load_tokens(rows + CONTEXT)
    places = tokens.unfold(0, CONTEXT + 1, 1)
    x, y = places[:, :CONTEXT].contiguous(), places[:, CONTEXT].contiguous()
    seen = len(y) - len(y) // 10
    return Dataset(x[:seen], y[:seen], x[seen:], y[seen:])


def graph() -> tn.Graph:
    """Embeddings side by side, a projection, two gated layers with skips, and the vocabulary."""
    g = tn.Graph("language_model")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, CONTEXT), dtype="int64")
    y = g.input("y", (batch,), dtype="int64")
    words = tn.embedding(x, WORDS, WIDTH, name="words")
    h = tn.linear(tn.flatten(words, 1), 2 * WIDTH, bias=False, name="context")
    for layer in range(2):
        gates = tn.linear(tn.rms_norm(h, name=f"norm{layer}"), 8 * WIDTH, bias=False, name=f"gates{layer}")
        h = h + tn.linear(tn.swiglu(gates), 2 * WIDTH, bias=False, name=f"mix{layer}")
    logits = tn.linear(tn.rms_norm(h, name="norm"), WORDS, bias=False, name="vocabulary")
    loss = tn.cross_entropy(logits, y)
    # Were the logits an output, all of them would have to be there.
    g.output(loss=loss, accuracy=tn.accuracy(logits, y))
    return g


def train(**settings: object) -> DemoResult:
    """Beside eager PyTorch; `settings` are those of `run_demo`."""
    chosen = {
        "data": load_words(),
        "epochs": EPOCHS,
        "batch_size": 256,
        "logits_budget": CHUNK * WORDS * 4,
        "out": "tritonnotes-demo/language_model",
        **settings,
    }
    return run_demo(graph(), **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    result = train(epochs=epochs_of(__doc__, EPOCHS, argv), console=Console())
    raise SystemExit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
