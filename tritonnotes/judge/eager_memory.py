"""What eager PyTorch holds at its peak in a training step: counted with torch alone, on tensors that need no memory.

The executor runs the declared graph on torch's `meta` device, whose tensors have storages with sizes and nothing in
them; autograd runs backward from the loss, and the gradients of all parameters are held to the end, as a `.grad` is. A
`TorchDispatchMode` sees every storage that an op makes, and learns when it is freed. What is there before the step
(inputs, weights, buffers, optimizer state) is not counted, nor is what the update needs besides, which differs between
torch's implementations, nor memory that an op frees before it returns: all three in favour of eager.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tritonnotes.ir.core.types import size_at

from ..ir.core.graph import Graph, Value
from ..tensors.dtypes import torch_dtype
from .executor import eager

META = torch.device("meta")


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the storages that ops make while it is entered: `live` now, and `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def leave_out(self, tensors: Mapping[str, Tensor]) -> None:
        """Storages that were there before."""
        for tensor in tensors.values():
            self._know(tensor.untyped_storage(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._know(storage, storage.nbytes())
        return out

    def _know(self, storage: Any, size: int) -> None:
        key = id(storage)
        if key in self._known:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def freed(_: object) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, freed)


def eager_peak_bytes(graph: Graph, loss: str, sizes: Mapping[str, int]) -> int | None:
    """Bytes that eager holds at the peak of forward and backward of `loss`, with `sizes` for the `Dim`s. None where an
    op's reference looks at values, so that nothing is known without running it. Outputs that the loss does not need,
    such as metrics, are left out, in favour of eager too."""
    alone = copy.copy(graph)
    alone.outputs = {loss: alone.outputs[loss]}
    with torch.device(META):
        feeds = {v.name: _meta(v, sizes) for v in graph.leaves("input")}
        state = {v.name: _meta(v, sizes) for v in graph.leaves("parameter", "buffer")}
        weights = [state[v.name].requires_grad_() for v in graph.leaves("parameter") if v.dtype.is_float]
        memory = LiveMemory()
        memory.leave_out({**feeds, **state})
        try:
            with memory:
                (root,) = eager(alone, feeds, state, training=True, seed=0).values()
                gradients = torch.autograd.grad(root, weights, allow_unused=True)
                del gradients
        except RuntimeError as error:
            # What depends on data has no meta form: NotImplementedError, or a plain error that says so.
            if isinstance(error, NotImplementedError) or "meta tensor" in str(error):
                return None
            raise
    return memory.peak


def _meta(value: Value, sizes: Mapping[str, int]) -> Tensor:
    shape = [size_at(s, sizes) for s in value.shape]
    return torch.empty(shape, dtype=torch_dtype(value.dtype), device=META)
