"""Random numbers that need no state: Philox 4x32-10, which makes four words of a counter and a key.

The number of an element depends on the seed, the stream and the element's place alone: not on how a kernel cuts its
tiles, nor on how many elements there are, and what needs it makes it again. Source: Salmon, Moraes, Dror and Shaw,
Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import DeclarationError, DTypeError
from ..core.graph import Value
from ..core.registry import PRIMITIVES, Primitive
from ..core.types import DType, Shape, as_shape, float32, int64, show_shape

Words = tuple[Any, Any, Any, Any]

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Words, key: tuple[int, int], rounds: int = 10) -> Words:
    """Four words of 32 bits, from four (arrays or ints) and a key of two."""
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(rounds):
        first, second = c0 * np.uint64(_MULTIPLIERS[0]), c2 * np.uint64(_MULTIPLIERS[1])
        c0, c1 = (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0), second & np.uint64(_WORD)
        c2, c3 = (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1), first & np.uint64(_WORD)
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _uniform(seed: Any, shape: tuple[int, ...], stream: int) -> np.ndarray:
    key = int(seed)
    place = np.arange(math.prod(shape), dtype=np.uint64)
    counter = (place & np.uint64(_WORD), place >> np.uint64(32), stream, 0)
    word, *_ = philox(counter, (key & _WORD, key >> 32 & _WORD))
    # As tl.rand makes a float of a word: 31 bits, and the largest factor that keeps them all below 1.
    bits = np.where(word >> np.uint64(31), word ^ np.uint64(_WORD), word)
    return (bits.astype(np.float32) * np.float32(4.6566127342e-10)).reshape(shape)


def _infer_uniform(args: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Shape, DType]:
    (seed,) = args
    if seed.dtype is not int64 or seed.shape:
        raise DTypeError(
            f"uniform: the seed {seed.name!r} is {seed.dtype}{show_shape(seed.shape)}; it is one int64 of the host"
        )
    if not 0 <= attrs["stream"] < 2**32:
        raise DeclarationError(f"uniform: stream is {attrs['stream']}; it is a word of 32 bits")
    return as_shape(attrs["shape"], "uniform"), float32


PRIMITIVES["uniform"] = Primitive("uniform", "leaf", _infer_uniform, _uniform, lambda d, y, seed, **attrs: (None,), 1)


def uniform(seed: Value, shape: Shape, stream: int) -> Value:
    """float32 numbers in [0, 1) of `shape`. The number of the element at place i in contiguous order is the first word
    of Philox 4x32-10 for the key `seed` and the counter (i, stream, 0), i taking two words: tl.rand for stream 0."""
    attrs = {"shape": tuple(shape), "stream": stream}
    return seed.graph.append("uniform", (seed,), attrs, *_infer_uniform((seed,), attrs))
