"""What is measured at which sizes, and the tiny stand-ins with which everything runs on a machine without a GPU."""

from __future__ import annotations

Shape = tuple[int, ...]

ROWS: tuple[Shape, ...] = (
    (32768, 256),
    (32768, 512),
    (32768, 1024),
    (16384, 2048),
    (8192, 4096),
    (4096, 5120),
    (8192, 8192),
    (4096, 16384),
    (2048, 32768),
    (1024, 65536),
    (8192, 769),
    (8192, 3000),
    (4096, 12289),
    (1, 4096),
    (128, 4096),
)
"""Rows and columns: every width that models have, awkward ones, and few rows."""

LOGITS: tuple[Shape, ...] = ((8192, 1000), (8192, 32000), (8192, 50257), (8192, 128256), (65536, 10), (65536, 100))
"""Rows and classes."""

CHANNELS: tuple[Shape, ...] = ((128, 64, 56, 56), (64, 256, 28, 28), (32, 2048, 7, 7), (65536, 512))
"""Batch, channels, and space where there is any."""

GATED: tuple[Shape, ...] = ((8192, 3072), (8192, 11008), (8192, 14336))
"""Rows and columns of the gate, and of what it lets through."""

ELEMENTWISE: tuple[Shape, ...] = ((64, 1024), (65536, 1024))
"""2**16 and 2**26 elements; bias and scale lie along the last axis."""

TINY: dict[tuple[Shape, ...], tuple[Shape, ...]] = {
    ROWS: ((5, 33),),
    LOGITS: ((6, 7),),
    CHANNELS: ((3, 2, 5),),
    GATED: ((3, 17),),
    ELEMENTWISE: ((4, 9),),
}

BATCHES = (64, 1024, 8192)
LAYERS = (784, 512, 512, 10)
TINY_BATCHES = (6,)
TINY_LAYERS = (9, 8, 8, 3)

_NORM = [(768,), (768,)]
_BLOCK = [*_NORM, (768, 2304), (2304,), (768, 768), (768,), *_NORM, (768, 3072), (3072,), (3072, 768), (768,)]

GPT2: list[Shape] = [(50257, 768), (1024, 768), *_BLOCK * 12, *_NORM]
"""The parameters of GPT-2 small."""

PARAMETERS: dict[str, list[Shape]] = {
    "1x2**24": [(2**24,)],
    "1x2**28": [(2**28,)],
    "10x2**20": [(2**20,)] * 10,
    "1000x1024": [(1024,)] * 1000,
    "10000x64": [(64,)] * 10_000,
    "gpt2": GPT2,
}
"""Parameters of an optimizer by name."""

TINY_PARAMETERS = ("3x64",)


def text(shape: Shape) -> str:
    """`8192x4096`."""
    return "x".join(map(str, shape))
