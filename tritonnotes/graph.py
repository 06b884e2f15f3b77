"""The graph that users declare: the IR's, with initial state as torch tensors."""

from __future__ import annotations

from torch import Tensor

from .ir.core.graph import Graph as IRGraph
from .tensors.initial import initial_state


class Graph(IRGraph):
    """A model under declaration: `g = tn.Graph("digits")`, then inputs, ops on them, and `g.output(...)`."""

    def state(self, seed: int = 0) -> dict[str, Tensor]:
        """Parameters and buffers by name, initialised as torch.nn's modules would under `torch.manual_seed(seed)`."""
        return initial_state(self, seed)
