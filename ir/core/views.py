"""Ops that show the elements of their argument, and compute nothing."""

from __future__ import annotations

from .graph import Value

VIEWS = frozenset(
    ("reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "expand", "broadcast_to", "detach")
)
"""Their names, among ops and primitives."""


def shown_by(value: Value) -> Value:
    """The value whose elements `value` shows, under whatever shape and in whatever order: itself if it is no view."""
    while value.op.name in VIEWS:
        (value,) = value.inputs
    return value
