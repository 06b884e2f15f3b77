"""From a launch of several products to its tile programs: each a function of the tile, and of its part of the sum."""

from __future__ import annotations

from dataclasses import dataclass

from tritonnotes.ir.core.types import element_count

from ..analysis.matmul import tiles
from ..cost.matmul import MOST_PROGRAMS
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import GroupedMatmul
from .inline import together
from .kernel import lower_grouped_member
from .tile_ir import CalledKernel, Kernel, Parameter, Shared


@dataclass(frozen=True, eq=False)
class GroupedMatmulKernel:
    """A kernel of several products in one launch. `members` are their tile programs, each on arguments of its own;
    `parameters` are those of all. What is `shared` stands for the kernels of several launches."""

    launch: GroupedMatmul
    parameters: tuple[Parameter, ...]
    members: tuple[CalledKernel, ...]
    shared: Shared | None = None

    @property
    def name(self) -> str:
        return self.launch.name

    @property
    def kind(self) -> str:
        return self.launch.kind

    @property
    def arguments(self) -> tuple[tuple[str, Parameter], ...]:
        """What the launch takes, by name."""
        return tuple((p.name, p) for p in self.parameters)

    @property
    def tiles(self) -> tuple[int, ...]:
        """How many tiles each has."""
        return tuple(tiles_of(member.kernel) for member in self.members)

    @property
    def split_k(self) -> int:
        """How many programs may share the sum of each tile; 0 where none do."""
        fewest = min(member.kernel.layout.split_k for member in self.members)
        return min(fewest, max(1, MOST_PROGRAMS // sum(self.tiles)))

    def __str__(self) -> str:
        lines = [f"kernel {self.name}: {self.kind}"]
        lines += [line for member in self.members for line in str(member.kernel).splitlines()]
        return "\n".join(lines)


def tiles_of(kernel: Kernel) -> int:
    """How many tiles a kernel with a product of known size has."""
    rows, columns = (element_count(shape, {}) for shape in (kernel.layout.row_shape, kernel.layout.col_shape))
    return tiles(rows, columns, kernel.plan.tile)


def lower_grouped_matmul(plan: FusionPlan, launch: GroupedMatmul) -> GroupedMatmulKernel:
    """The tile programs of a launch of several products, verified."""
    members = [lower_grouped_member(plan, member) for member in launch.members]
    return GroupedMatmulKernel(launch, *together(members))
