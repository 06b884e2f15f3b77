"""torch's dtypes of declared values."""

from __future__ import annotations

import torch

from ..ir.core.types import DType


def torch_dtype(dtype: DType) -> torch.dtype:
    """torch's dtype of the same name; a host number is a float64."""
    return torch.float64 if dtype.name == "host" else getattr(torch, dtype.name)
