"""Numbers that a user gives: as constants, and as the first values of parameters and buffers; and what a dtype holds of
them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import DeclarationError, DTypeError
from .types import DType, bfloat16, float16, float32, float64

Number = int | float | bool
Attrs = Mapping[str, Any]


def plain_number(value: object, what: str) -> Number:
    """A Python bool, int or float from one, or from a numpy scalar; anything else raises `DeclarationError`."""
    item: Callable[[], object] | None = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():
        value = item()
    if not isinstance(value, bool | int | float):
        raise DeclarationError(f"{what}: expected a number, got {type(value).__name__}; pass an int, float or bool")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise DeclarationError(f"{what}: an integer of {value.bit_length()} bits does not fit int64; use a float")
    return value


def whole_number(value: Number, dtype: DType) -> int:
    """`value` as an integer of `dtype`; raises `DTypeError` where that would change it."""
    if isinstance(value, float) and not value.is_integer():
        raise DTypeError(f"constant: {value!r} is no {dtype}; give a whole number, or a float dtype")
    bits = 8 * dtype.itemsize - 1
    if not -(2**bits) <= int(value) < 2**bits:
        raise DTypeError(f"constant: {value!r} does not fit {dtype}; give a smaller number, or another dtype")
    return int(value)


INITS: Mapping[str, Sequence[str]] = {
    "zeros": (),
    "ones": (),
    "constant": ("value",),
    "uniform": ("low", "high"),
    "normal": ("mean", "std"),
    "normal_rows": ("mean", "std", "zero_row"),
    "kaiming_uniform": ("a",),
    "bias_uniform": ("fan_in",),
}


def checked_init(name: str, init: str | Number, how: Mapping[str, Number]) -> Attrs:
    if not isinstance(init, str):
        init, how = "constant", {"value": plain_number(init, f"{name!r}: init")}
    if init not in INITS or set(how) != set(INITS[init]):
        wanted = "; ".join(f"{k}({', '.join(v)})" for k, v in INITS.items())
        raise DeclarationError(f"{name!r}: init {init!r} with {sorted(how)}; use a number or one of {wanted}")
    return {"init": init, **{key: float(plain_number(v, f"{name!r}: {key}")) for key, v in how.items()}}


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
