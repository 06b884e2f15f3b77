"""Memory for tensors, and the error where there is none."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor

from ..ir.core.errors import FeedError


class AllocationError(FeedError, torch.OutOfMemoryError):
    """There is no memory for tensors of these sizes."""


class allocating:
    """Turn what torch raises where it finds no memory, or cannot count that much, into `AllocationError`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, RuntimeError):
            return
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(word in said for word in ("alloc", "overflow")):
            first = said.splitlines()[0]
            raise AllocationError(f"{self._what}: does not fit the memory; use smaller sizes ({first})") from None


def allocated(make: Callable[[], Tensor], what: str) -> Tensor:
    """What `make` gives. Raises `AllocationError` where there is no memory for it."""
    with allocating(what):
        return make()
