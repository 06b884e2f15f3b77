"""bfloat16 as bit patterns: numpy has no such dtype, so Triton's interpreter keeps the bits in uint16."""

from __future__ import annotations

import numpy as np


def from_float32(values: np.ndarray, toward_zero: bool = False) -> np.ndarray:
    """Bits (uint16, same shape) of float32 `values`, rounded to nearest even, or cut off if `toward_zero`.

    A NaN stays a NaN, quiet, with its sign; an overflow becomes infinity when rounding to nearest.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).reshape(np.shape(values))
    high = bits >> np.uint32(16)
    half = np.uint32(0) if toward_zero else np.uint32(0x7FFF) + (high & np.uint32(1))
    rounded = (bits + half) >> np.uint32(16)
    # Rounding the bits of a NaN can carry into the exponent and out of it: set the quiet bit instead.
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, high | np.uint32(0x40), rounded).astype(np.uint16)


def to_float32(bits: np.ndarray) -> np.ndarray:
    """float32 values (same shape, exact) of bfloat16 `bits` (uint16)."""
    wide = np.ascontiguousarray(bits).astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32).reshape(np.shape(bits))
