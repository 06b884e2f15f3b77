"""Losses and metrics of a running step, read without waiting for the device."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError


@dataclass(frozen=True)
class Report:
    """What a batch gave: `batch` counts calls of the step from 1, `values` are its outputs of shape () by name."""

    batch: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Pending:
    batch: int
    values: Mapping[str, Tensor]
    arrived: torch.cuda.Event | None


class Progress:
    """Calls `callback` with a `Report` of every `every`-th batch, in order, as soon as its numbers have arrived.

    On a GPU they are copied to pinned memory behind the step's own launches and handed out at a later call, once their
    event is done: a report comes a few batches late, and nothing stalls. `finish()` waits for those still under way.
    On the CPU a report comes at once. What `callback` raises does not take the outputs of a finished batch with it: the
    next step raises it, or `finish()`. `names` picks outputs of shape (); None means all of them.
    """

    def __init__(
        self, callback: Callable[[Report], object], every: int = 1, names: Sequence[str] | None = None
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise DeclarationError(f"on_progress: every is {every!r}; it counts batches, so an int ≥ 1")
        self.callback, self.every, self.names = callback, every, names
        self._pending: deque[_Pending] = deque()
        self._held_back: Exception | None = None

    def update(self, batch: int, outputs: Mapping[str, Tensor]) -> None:
        """Take note of a batch, and hand out what has arrived by now."""
        if batch % self.every == 0:
            chosen = [n for n, t in outputs.items() if not t.shape] if self.names is None else self.names
            self._pending.append(_sent(batch, {n: outputs[n] for n in chosen}))
        while self._pending and _is_there(self._pending[0]):
            self._hand_out()

    def finish(self) -> None:
        """Wait for all reports under way, and hand them out. Raises what the callback raised."""
        while self._pending:
            arrived = self._pending[0].arrived
            if arrived is not None:
                arrived.synchronize()
            self._hand_out()
        self.raise_held_back()

    def raise_held_back(self) -> None:
        """Raise what the callback raised since the last time."""
        error, self._held_back = self._held_back, None
        if error is not None:
            raise error

    def _hand_out(self) -> None:
        first = self._pending.popleft()
        try:
            self.callback(Report(first.batch, {n: t.item() for n, t in first.values.items()}))
        except Exception as error:
            self._held_back = self._held_back or error
            warnings.warn(
                f"on_progress: the callback raised {error!r} for batch {first.batch}; that batch is finished and its "
                "outputs are returned, the error is raised by the next step or by finish()",
                RuntimeWarning,
                stacklevel=2,
            )


def raise_held_back(all_progress: Sequence[Progress]) -> None:
    """Raise what a callback raised since the last step, before another one begins."""
    for progress in all_progress:
        progress.raise_held_back()


def _sent(batch: int, values: Mapping[str, Tensor]) -> _Pending:
    if all(not t.is_cuda for t in values.values()):
        return _Pending(batch, {n: t.detach() for n, t in values.items()}, None)
    pinned = {n: torch.empty((), dtype=t.dtype, device="cpu", pin_memory=True) for n, t in values.items()}
    for name, tensor in values.items():
        pinned[name].copy_(tensor.detach(), non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(tensor.device))
    return _Pending(batch, pinned, arrived)


def _is_there(pending: _Pending) -> bool:
    return pending.arrived is None or pending.arrived.query()
