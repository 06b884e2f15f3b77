"""A small GPT on Python's own reference manual, made of torch's transformer layers: beside eager and `torch.compile`.

Run it with `python examples/gpt.py`. Attention is one call of torch in the program; norms, activations, residuals, the
loss over all words and Adam are fused around it and around the products.
"""

from collections.abc import Sequence

import torch
from language_model import RARE, WORDS, load_tokens
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.beside import Trained, train_beside
from tritonnotes.datasets import Dataset

TIME, WIDTH, HEADS, LAYERS = 32, 64, 4, 2
EPOCHS = 3


class GPT(nn.Module):
    """Numbers of words, [batch, time], to scores of the word that follows each, [batch, time, WORDS]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        nn.init.normal_(self.words.weight, std=0.02)
        self.places = nn.Parameter(torch.randn(TIME, WIDTH) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TIME))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.words(tokens) + self.places
        for layer in self.layers:
            h = layer(h, src_mask=self.mask, is_causal=True)
        # The words' own embeddings score them, as in GPT-2.
        return F.linear(self.norm(h), self.words.weight)


def next_word_loss(scores: Tensor, following: Tensor) -> Tensor:
    """Cross entropy over all places whose next word is one of the vocabulary."""
    return F.cross_entropy(scores.flatten(0, 1), following.flatten(), ignore_index=RARE)


def load_text(rows: int = 2048) -> Dataset:
    """`rows` stretches of the text, int64 [rows, TIME], and of each place the word that follows. A tenth, from the end,
    is held out."""
    places = load_tokens(rows * TIME + 1).unfold(0, TIME + 1, TIME)
    x, y = places[:, :TIME].contiguous(), places[:, 1:].contiguous()
    seen = len(y) - len(y) // 10
    return Dataset(x[:seen], y[:seen], x[seen:], y[seen:])


def train(**settings: object) -> dict[str, Trained]:
    """Side by side; `settings` are those of `train_beside`."""
    torch.manual_seed(0)
    chosen = {"data": load_text(), "epochs": EPOCHS, "batch_size": 32, **settings}
    return train_beside(GPT(), loss=next_word_loss, **chosen)


def main(argv: Sequence[str] | None = None) -> None:
    train(epochs=epochs_of(__doc__, EPOCHS, argv), console=Console())


if __name__ == "__main__":
    main()
