"""From a launch of several products to its tile programs: each a function of the tile, and of its part of the sum."""

from __future__ import annotations

from dataclasses import dataclass

from tritonnotes.ir.core.types import element_count

from ..analysis.matmul import tiles
from ..cost.matmul import MOST_PROGRAMS
from ..plan.launches import FusionPlan, KernelPlan
from .inline import together
from .kernel import lower_grouped_member
from .tile_ir import CalledKernel, Kernel


@dataclass(frozen=True, eq=False)
class GroupedMatmulKernel(Kernel):
    """A kernel of several products side by side. `sides` are their tile programs, each on arguments of its own;
    `parameters` are those of all, `layout` is the first one's."""

    sides: tuple[CalledKernel, ...] = ()

    @property
    def tiles(self) -> tuple[int, ...]:
        """How many tiles each has."""
        return tuple(tiles_of(side.kernel) for side in self.sides)

    @property
    def split_k(self) -> int:
        """How many programs may share the sum of each tile; 0 where none do."""
        fewest = min(side.kernel.layout.split_k for side in self.sides)
        return min(fewest, max(1, MOST_PROGRAMS // sum(self.tiles)))

    def __str__(self) -> str:
        lines = [f"kernel {self.name}: {self.plan.kind}, side by side"]
        lines += [line for side in self.sides for line in str(side.kernel).splitlines()]
        return "\n".join(lines)


def tiles_of(kernel: Kernel) -> int:
    """How many tiles a kernel with a product of known size has."""
    rows, columns = (element_count(shape, {}) for shape in (kernel.layout.row_shape, kernel.layout.col_shape))
    return tiles(rows, columns, kernel.plan.tile)


def lower_grouped_matmul(plan: FusionPlan, kernel_plan: KernelPlan) -> GroupedMatmulKernel:
    """The tile programs of a launch of several products, verified."""
    members = [lower_grouped_member(plan, member) for member in kernel_plan.members]
    parameters, sides = together(members)
    return GroupedMatmulKernel(kernel_plan, members[0].layout, parameters, (), plan.units.axes, sides=sides)
