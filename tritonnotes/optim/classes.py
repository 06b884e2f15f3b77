"""Drop-in optimizers: torch's classes, with a step that is one launch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import optimizers
from .base import UpdateOptimizer


class SGD(UpdateOptimizer, torch.optim.SGD):
    """torch.optim.SGD: momentum, dampening, Nesterov, weight decay."""

    declare = staticmethod(optimizers.sgd)
    counts_steps = False
    refuses_sparse = ""


class Adagrad(UpdateOptimizer, torch.optim.Adagrad):
    """torch.optim.Adagrad."""

    declare = staticmethod(optimizers.adagrad)
    refuses_sparse = ""


class Adadelta(UpdateOptimizer, torch.optim.Adadelta):
    """torch.optim.Adadelta."""

    declare = staticmethod(optimizers.adadelta)


class RMSprop(UpdateOptimizer, torch.optim.RMSprop):
    """torch.optim.RMSprop: centered, momentum."""

    declare = staticmethod(optimizers.rmsprop)


class Adam(UpdateOptimizer, torch.optim.Adam):
    """torch.optim.Adam: amsgrad, weight decay in the gradient or decoupled."""

    declare = staticmethod(optimizers.adam)
    refuses_sparse = "Adam does not support sparse gradients, please consider SparseAdam instead"


class AdamW(UpdateOptimizer, torch.optim.AdamW):
    """torch.optim.AdamW."""

    declare = staticmethod(optimizers.adam)
    refuses_sparse = "Adam does not support sparse gradients, please consider SparseAdam instead"


class NAdam(UpdateOptimizer, torch.optim.NAdam):
    """torch.optim.NAdam."""

    declare = staticmethod(optimizers.nadam)


class RAdam(UpdateOptimizer, torch.optim.RAdam):
    """torch.optim.RAdam."""

    declare = staticmethod(optimizers.radam)


class Adamax(UpdateOptimizer, torch.optim.Adamax):
    """torch.optim.Adamax."""

    declare = staticmethod(optimizers.adamax)


class Lion(UpdateOptimizer):
    """Lion (Chen et al., 2023), which torch does not have, with its authors' arguments and defaults."""

    declare = staticmethod(optimizers.lion)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        capturable: bool = False,
        **fused_options: Any,
    ) -> None:
        optimizers.lion(float(lr), betas, weight_decay)
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "maximize": maximize, "capturable": capturable}, **fused_options)
