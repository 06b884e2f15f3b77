"""`tn.compile` and `tn.compile_step`."""

from __future__ import annotations

import torch

from .ir.graph import Graph
from .ir.registry import Optimizer
from .model import Model
from .training import TrainingStep


def compile(
    graph: Graph,
    *,
    training: bool = False,
    fusion: str = "greedy",
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Model:
    """Compile a declared graph to a `Model`: a torch module whose forward and backward are generated kernels.

    `training=False` compiles the evaluation form: batch norm uses its running statistics, dropout keeps everything,
    buffers stay. `training=True` compiles the graph as declared, and a call updates the buffers in place.
    `fusion` is 'greedy' or 'off'; `device` None picks the GPU where there is one, else kernels run under Triton's
    interpreter on the CPU; `seed` is that of the initial weights.
    """
    return Model(graph, training=training, fusion=fusion, device=device, seed=seed)


def compile_step(
    graph: Graph,
    loss: str = "loss",
    optimizer: Optimizer | None = None,
    *,
    fusion: str = "greedy",
    device: torch.device | str | None = None,
    seed: int = 0,
) -> TrainingStep:
    """Compile forward, backward and update of a declared graph to one program, in its training form.

    `loss` names the output to minimise, a float of shape (); `optimizer` is an update rule with its numbers, such as
    `tn.adam(lr=1e-3)`. The rest as for `compile`.
    """
    return TrainingStep(graph, loss, optimizer, fusion=fusion, device=device, seed=seed)  # type: ignore[arg-type]
