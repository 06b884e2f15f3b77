"""Memory for tensors, and the error where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..ir.core.errors import FeedError


class AllocationError(FeedError, torch.OutOfMemoryError):
    """There is no memory for tensors of these sizes."""


@contextmanager
def allocating(what: str) -> Iterator[None]:
    """Turn what torch raises where it finds no memory, or cannot count that much, into `AllocationError`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(w in str(error) for w in ("alloc", "overflow")):
            raise
        first = str(error).splitlines()[0]
        raise AllocationError(f"{what}: does not fit the memory; use smaller sizes ({first})") from None


def allocated(make: Callable[[], Tensor], what: str) -> Tensor:
    """What `make` gives. Raises `AllocationError` where there is no memory for it."""
    with allocating(what):
        return make()
