"""Runs a kernel as machine code and in the strict interpreter, over the same memory, and compares what they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tritonnotes.interpreter import launch as interpret
from tritonnotes.native import launch

ULPS = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-18, torch.float64: 2.0**-44}
"""How far results may lie apart, relative to the largest: sums are taken in another order."""


def differences(found: Tensor, expected: Tensor) -> str:
    """What differs beyond rounding; empty where nothing does."""
    if not expected.dtype.is_floating_point:
        wrong = int((found != expected).sum())
        return f"{wrong} of {found.numel()} differ" if wrong else ""
    a, b = found.double(), expected.double()
    if not torch.equal(a.isnan(), b.isnan()):
        return f"NaN at {int(a.isnan().sum())} places, not {int(b.isnan().sum())}"
    if not torch.equal(a.isinf() * a.sign(), b.isinf() * b.sign()):
        return "other infinities"
    finite = b.isfinite()
    if not finite.any():
        return ""
    error = (a[finite] - b[finite]).abs().max().item()
    scale = max(b[finite].abs().max().item(), 1e-30)
    limit = ULPS[expected.dtype] * scale
    return f"{error:.3g} off at a scale of {scale:.3g}" if error > limit else ""


def run_both(
    kernel: Any,
    grid: Sequence[int],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tensors: Sequence[Tensor] = (),
    **how: Any,
) -> str:
    """Runs a kernel both ways; what native code left stays in the tensors. Gives what differs."""
    watched = [value for value in (*args, *tensors) if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in watched]
    interpret(kernel, grid, *args, **{k: v for k, v in kwargs.items() if k != "enable_fp_fusion"}, tensors=tensors)
    expected = [tensor.clone() for tensor in watched]
    for tensor, value in zip(watched, before, strict=True):
        tensor.copy_(value)
    launch(kernel, grid, *args, **kwargs, **how)
    wrong = []
    for number, (tensor, value) in enumerate(zip(watched, expected, strict=True)):
        found = differences(tensor, value)
        if found:
            wrong.append(f"tensor {number}: {found}")
    return "; ".join(wrong)
