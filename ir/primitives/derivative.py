"""What derivatives of primitives have in common.

A derivative takes `d`, the cotangent of the result `y`, then the arguments, and returns a cotangent for each argument
(None: no gradient flows). Elementwise primitives broadcast as torch does; the caller of a derivative sums the
cotangents back to the shapes of the arguments.
"""

from __future__ import annotations

from typing import Any

from ..core.graph import Value

Cotangents = tuple[Value | None, ...]


def no_gradient(d: Value, y: Value, *args: Value, **attrs: Any) -> Cotangents:
    return (None,) * len(args)
