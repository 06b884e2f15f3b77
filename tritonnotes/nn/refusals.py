"""What modules of torch.nn can be set to that generated kernels do not do: why, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..ir.core.errors import DeclarationError

UNSUPPORTED: Mapping[str, tuple[Any, str]] = {
    "inplace": (True, "inplace=True overwrites its input, and kernels write a new tensor"),
    "dim": (None, "dim=None lets torch guess the axis"),
    "momentum": (None, "momentum=None weighs all batches alike, so each batch would need a program of its own"),
}
"""Attributes of modules with the value that is not supported, and why not."""


def refusal(module: nn.Module) -> str | None:
    """Why this module, of a class that has a counterpart, is not computed here as it is set; None where it is."""
    for name, (value, reason) in UNSUPPORTED.items():
        if hasattr(module, name) and getattr(module, name) is value:
            return reason
    return None


def check(module: nn.Module) -> None:
    """Raise `DeclarationError` for a module that is set to what is not supported."""
    reason = refusal(module)
    if reason is not None:
        kind = type(module).__name__
        raise DeclarationError(f"tn.nn.{kind}: {reason}; set it otherwise, or use torch.nn.{kind}")
