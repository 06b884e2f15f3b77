"""Every generated launch of a plan becomes a tile program."""

from __future__ import annotations

from ..fusion.horizontal import GROUPED_MATMUL
from ..plan.launches import FusionPlan, KernelPlan
from .foreach import lower_foreach
from .grouped_matmul import lower_grouped_matmul
from .kernel import lower_kernel
from .tile_ir import Kernel


def lower(plan: FusionPlan) -> tuple[Kernel, ...]:
    """The tile program of every generated kernel of a plan, verified."""
    return tuple(_lowered(plan, kernel) for kernel in plan.kernels)


def _lowered(plan: FusionPlan, kernel: KernelPlan) -> Kernel:
    if kernel.members:
        return lower_grouped_matmul(plan, kernel) if kernel.kind == GROUPED_MATMUL else lower_foreach(plan, kernel)
    return lower_kernel(plan, kernel)
