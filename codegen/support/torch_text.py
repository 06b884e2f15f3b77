"""Calls of torch that a graph names, in Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tritonnotes.ir.core.types import Dim, DimProduct, DType
from tritonnotes.ir.primitives.library import DEVICE, NONE, TENSOR, TEXT

from .arguments import SizeText


def call_text(attrs: Mapping[str, Any], tensors: str, sizes: SizeText, device: str) -> str:
    """A call over the list `tensors`, on a device."""

    def text(part: Any) -> str:
        match part:
            case tuple():
                return f"[{', '.join(map(text, part))}]"
            case Dim() | DimProduct():
                return str(sizes.size(part))
            case DType():
                return f"torch.{part.name}"
            case float() if not math.isfinite(part):
                return f'float("{part}")'
            case str() if part.startswith(TEXT):
                return repr(part[1:])
            case str() if part.startswith(TENSOR):
                return f"{tensors}[{int(part[1:])}]"
            case str():
                return {NONE: "None", DEVICE: device}.get(part, part)
        return repr(part)

    options = [f"{name}={text(part)}" for name, part in attrs["options"]]
    return f"torch.ops.{attrs['call']}({', '.join([*map(text, attrs['arguments']), *options])})"
