"""The norm of all gradients of an optimizer, and how far it scales them down: one launch, which waits for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ..codegen.optimizer.norm import BLOCK, GRADIENTS, PARTIALS
from ..ir.core.errors import FeedError
from ..runtime.executors.execution import Execution
from .launching import Recorded, load_norm, run
from .tables import Blocks, block_table, dtype_of, is_aligned, upload

NORM_WORK = 4
"""Elements that are computed for one of a gradient."""


@dataclass(frozen=True, eq=False)
class NormPlan:
    """Tables for the launch. They hold as long as `key` says the same of the gradients."""

    key: object
    module: ModuleType
    gradients: Tensor
    blocks: Blocks
    partial: Tensor
    arrived: Tensor
    max_norm: Tensor
    norm: Tensor
    coefficient: Tensor
    how: Execution
    recorded: Recorded

    def launch(self, gradients: Sequence[Tensor], max_norm: float, grad_scale: Tensor | None) -> None:
        """Leave the norm in `norm`, and in `coefficient` what brings it down to `max_norm` (1 where it is lower)."""
        self.max_norm.fill_(max_norm)
        given = [self.gradients, self.blocks.table, self.partial, self.arrived, self.max_norm, self.norm]
        given += [self.coefficient] if grad_scale is None else [self.coefficient, grad_scale]
        options = {"BLOCK": self.blocks.size, "PARTIALS": PARTIALS}
        run(self.module, "run", self.gradients.device, given, options, gradients, self.how, self.recorded)


def norm_key(gradients: Sequence[Tensor], unscales: bool) -> object:
    """Where the gradients lie."""
    addresses, sizes = list(map(Tensor.data_ptr, gradients)), list(map(Tensor.numel, gradients))
    return unscales, addresses, sizes, [g.dtype for g in gradients]


def make_norm_plan(key: object, gradients: Sequence[Tensor], unscales: bool, how: Execution) -> NormPlan:
    """Lay out the tables for gradients that fill their memory, complex ones as pairs of numbers. Raises `FeedError` for
    gradients on several devices."""
    devices = list(dict.fromkeys(g.device for g in gradients))
    if len(devices) > 1:
        raise FeedError(
            f"optimizer: max_norm over gradients on {', '.join(map(str, devices))}; clip with "
            "torch.nn.utils.clip_grad_norm_, which gathers their norms"
        )
    (device,) = devices
    dtypes = [dtype_of(g, f"gradient {i}") for i, g in enumerate(gradients)]
    distinct = tuple(sorted(dict.fromkeys(dtypes), key=str))
    rows = [
        GRADIENTS.row([g.data_ptr()], size=g.numel(), aligned=int(is_aligned([g])), kind=distinct.index(dtype))
        for g, dtype in zip(gradients, dtypes, strict=True)
    ]
    blocks = block_table([g.numel() for g in gradients], device, how, BLOCK)

    def number(dtype: torch.dtype, count: int = 1) -> Tensor:
        return torch.zeros(count, dtype=dtype, device=device)

    return NormPlan(
        key,
        load_norm(distinct, unscales),
        upload(torch.tensor(rows, dtype=torch.int64, device="cpu"), device),
        blocks,
        number(torch.float64, max(len(blocks.table), 1)),
        number(torch.int32),
        number(torch.float64),
        number(torch.float32),
        number(torch.float64) + 1,
        how,
        Recorded(NORM_WORK * sum(g.numel() for g in gradients)),
    )
