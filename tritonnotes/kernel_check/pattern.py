"""What the sizes of failing cases have in common that those of right ones have not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

FEWEST = 2
"""Sizes on either side; one alone has something in common with itself."""

PROPERTIES: tuple[tuple[str, Callable[[int], bool]], ...] = (
    ("no power of two", lambda size: size & (size - 1) != 0),
    *((f"no multiple of {block}", lambda size, block=block: size % block != 0) for block in (16, 32, 64, 128, 256)),
    ("odd", lambda size: size % 2 == 1),
)
"""Of the size of a last axis, the most telling first: kernels pad rows to powers of two, and cut them in blocks."""


def shared_by_failing(failing: Sequence[tuple[Any, ...]], right: Sequence[tuple[Any, ...]]) -> str:
    """A sentence about the arguments of failing and of right cases, or '' where nothing tells them apart. Cases without
    elements say nothing."""
    kept, held = ([case for case in cases if _has_elements(case)] for cases in (failing, right))
    for place, first in enumerate(kept[0] if kept else ()):
        if not isinstance(first, Tensor) or not first.ndim:
            continue
        wrong, fine = (sorted({int(case[place].shape[-1]) for case in cases}) for cases in (kept, held))
        if min(len(wrong), len(fine)) < FEWEST:
            continue
        for name, has in PROPERTIES:
            if all(map(has, wrong)) and not any(map(has, fine)):
                sizes, others = (", ".join(map(str, found)) for found in (wrong, fine))
                return (
                    f"in every failing case the last axis of argument {place} is {name} ({sizes}), in no right one "
                    f"({others})"
                )
    return ""


def _has_elements(case: tuple[Any, ...]) -> bool:
    return all(a.numel() for a in case if isinstance(a, Tensor))
