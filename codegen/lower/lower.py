"""Every generated launch of a plan becomes a tile program, or several in one launch."""

from __future__ import annotations

from ..plan.fusion_plan import FusionPlan
from ..plan.launches import ForeachLaunch, GroupedMatmul, Launch, TileLaunch
from .foreach import ForeachKernel, lower_foreach
from .grouped_matmul import GroupedMatmulKernel, lower_grouped_matmul
from .kernel import lower_tile_launch
from .tile_ir import Kernel

GeneratedKernel = Kernel | ForeachKernel | GroupedMatmulKernel
"""What a generated launch is lowered to: one tile program, one for each form of update, or one for each product. All
have a `name`, a `kind`, and `arguments`: what the launch takes, by name."""


def lower(plan: FusionPlan) -> tuple[GeneratedKernel, ...]:
    """The tile programs of every generated launch of a plan, verified."""
    return tuple(lower_launch(plan, launch) for launch in plan.kernels)


def lower_launch(plan: FusionPlan, launch: Launch) -> GeneratedKernel:
    """The tile programs of one generated launch, verified."""
    match launch:
        case TileLaunch():
            return lower_tile_launch(plan, launch)
        case ForeachLaunch():
            return lower_foreach(plan, launch)
        case GroupedMatmul():
            return lower_grouped_matmul(plan, launch)
    raise TypeError(f"{launch.name}: a launch of kind {launch.kind} has no kernel of its own")


def tile_programs(kernel: GeneratedKernel) -> tuple[Kernel, ...]:
    """The tile programs that a generated launch is made of."""
    match kernel:
        case ForeachKernel():
            return tuple(block.kernel for block in kernel.blocks)
        case GroupedMatmulKernel():
            return tuple(member.kernel for member in kernel.members)
        case Kernel():
            return (kernel,)
