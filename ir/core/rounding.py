"""Rounding to the numbers of a dtype, as torch and kernels round: to the nearest, ties to even."""

from __future__ import annotations

from typing import Any

import numpy as np

from .types import DType, bfloat16, float16, float32, float64

_NUMPY = {float16: np.float16, float32: np.float32}


def rounded(x: Any, dtype: DType) -> Any:
    """`x` (numpy, float64) at the nearest numbers of a floating `dtype`, in float64 again. What is too large becomes
    infinite. 16 bits are rounded to from float32, as torch does it."""
    if dtype is float64:
        return np.asarray(x).astype(np.float64)
    with np.errstate(over="ignore"):
        single = np.asarray(x).astype(np.float32)
        narrow = _to_bfloat16(single) if dtype is bfloat16 else single.astype(_NUMPY[dtype])
    return narrow.astype(np.float64)


def is_exact(number: float, dtype: DType) -> bool:
    """Whether a number is one of a floating `dtype`, NaN and infinities included."""
    held = float(rounded(number, dtype))
    return held == number or number != number


def _to_bfloat16(x: Any) -> Any:
    """float32 numbers of which the upper 16 bits are kept, those below rounded into them."""
    bits = x.view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, kept.astype(np.uint32).view(np.float32))
