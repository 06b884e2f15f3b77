"""Small models of sequences: recurrent, convolutional, and with attention. Each gives logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, CLASSES, WORDS, LENGTH = 8, 4, 11, 5


class LSTMClassifier(nn.Module):
    """Two layers of an LSTM; the last state says what the words are about."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(WORDS, WIDTH), nn.LSTM(WIDTH, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        _, (h, _) = self.lstm(self.words(ids))
        out: Tensor = self.head(h[-1])
        return out


class GRUTagger(nn.Module):
    """A GRU in both directions, and a class for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.gru = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.gru(self.words(ids))
        out: Tensor = self.head(states)
        return out


class TextCNN(nn.Module):
    """Windows of two and three words, and the largest answer of each filter."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.convs = nn.ModuleList(nn.Conv1d(WIDTH, 3, width) for width in (2, 3))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).transpose(1, 2)
        found = [F.relu(conv(x)).max(dim=2).values for conv in self.convs]
        out: Tensor = self.head(torch.cat(found, dim=1))
        return out


class WaveNet(nn.Module):
    """Causal convolutions that look ever farther back, gated, with what each skips past the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.gates = nn.ModuleList(nn.Conv1d(WIDTH, 2 * WIDTH, 2, dilation=d) for d in (1, 2))
        self.head = nn.Conv1d(WIDTH, WORDS, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).transpose(1, 2)
        skipped = torch.zeros_like(x)
        for gate in self.gates:
            left, right = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, dim=1)
            h = torch.tanh(left) * torch.sigmoid(right)
            x, skipped = x + h, skipped + h
        return self.head(F.relu(skipped)).transpose(1, 2)


class Encoder(nn.Module):
    """torch's own encoder, over words and their places."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.words(ids) + self.places).mean(dim=1))
        return out


class Decoder(nn.Module):
    """torch's own decoder: what is written looks at what was read, and at what was written before."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.written = nn.Embedding(WORDS, WIDTH), nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerDecoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder, self.head = nn.TransformerDecoder(layer, 1), nn.Linear(WIDTH, WORDS)

    def forward(self, read: Tensor, written: Tensor, following: Tensor) -> dict[str, Tensor]:
        mask = nn.Transformer.generate_square_subsequent_mask(written.size(1), dtype=self.read.weight.dtype)
        states = self.decoder(self.written(written), self.read(read), tgt_mask=mask, tgt_is_causal=True)
        logits = self.head(states)
        return {"loss": F.cross_entropy(logits.transpose(1, 2), following), "logits": logits}


class Attention(nn.Module):
    """Causal attention of several heads, from one layer for queries, keys and values."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (p.view(b, t, self.heads, c // self.heads).transpose(1, 2) for p in self.qkv(x).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).contiguous().view(b, t, c))
        return out


class GPTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))
        return out


class GPT(nn.Module):
    """A block, and a table of words that is the last layer's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.h, self.ln_f = nn.ModuleList([GPTBlock()]), nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1), device=ids.device))
        for block in self.h:
            x = block(x)
        out: Tensor = self.lm_head(self.ln_f(x))
        return out


class RMSNorm(nn.Module):
    """As LLaMA writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class LlamaBlock(nn.Module):
    """Rotary places, fewer keys than queries, SwiGLU; no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, half = RMSNorm(), RMSNorm(), WIDTH // 2
        self.q, self.o = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = nn.Linear(WIDTH, half, bias=False), nn.Linear(WIDTH, half, bias=False)
        self.gate, self.up = nn.Linear(WIDTH, 12, bias=False), nn.Linear(WIDTH, 12, bias=False)
        self.down = nn.Linear(12, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        h = self.first(x)
        q = rotated(self.q(h).view(b, t, 2, -1).transpose(1, 2), cos, sin)
        k = rotated(self.k(h).view(b, t, 1, -1).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, 1, -1).transpose(1, 2)
        k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.second(x)
        out: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


class Llama(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.block, self.norm = nn.Embedding(WORDS, WIDTH), LlamaBlock(), RMSNorm()
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        angles = torch.outer(torch.arange(LENGTH).float(), 1.0 / 10000.0 ** (torch.arange(0, 4, 2) / 4))
        self.register_buffer("cos", torch.cat([angles, angles], dim=-1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], dim=-1).sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.size(1)
        out: Tensor = self.head(self.norm(self.block(self.words(ids), self.cos[:t], self.sin[:t])))
        return out


class VisionTransformer(nn.Module):
    """Patches of a picture behind a token that asks for its class."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.asks = nn.Conv2d(1, WIDTH, 4, stride=4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places, self.head = nn.Parameter(torch.randn(1, 5, WIDTH)), nn.Linear(WIDTH, CLASSES)
        self.norm, self.attention = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.asks.expand(x.size(0), -1, -1), h], dim=1) + self.places
        n = self.norm(h)
        h = h + self.attention(n, n, n, need_weights=False)[0]
        out: Tensor = self.head(h[:, 0])
        return out
