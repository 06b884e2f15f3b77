"""From a launch of many updates to its tile programs: one for each form of update, which stands for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import DType, element_count
from tritonnotes.ir.optim.update import G_NAME, P_NAME

from ..analysis.units import UnitSet
from ..analysis.views import is_alias
from ..fusion.horizontal import table_width
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import ForeachLaunch
from ..support.names import Names, identifier
from .kernel import lower_kernel
from .tile_ir import Kernel, Parameter, Step


@dataclass(frozen=True, eq=False)
class BlockProgram:
    """What is done to one block of each of `rows`, the tensors of one update each: the tile program `kernel`, as a
    function called `name`. `pointers` are its names for the tensors of a row, in order, with their dtypes."""

    name: str
    kernel: Kernel
    rows: tuple[tuple[Value, ...], ...]
    pointers: tuple[Parameter, ...]
    alike: tuple[Mapping[str, Value], ...] = ()
    """For each row the values that the steps of `kernel` stand for, by the names of its own."""

    @property
    def updated(self) -> list[str]:
        """The leaf that each row updates, by the last that it leaves something in: state goes before the parameter."""
        place = max(place for place, p in enumerate(self.pointers) if p.role != "in")
        return [tensors[place].name for tensors in self.rows]

    @property
    def arguments(self) -> tuple[Parameter, ...]:
        """What it takes besides: numbers, and memories that all updates share."""
        return tuple(p for p in self.kernel.parameters if p not in self.pointers)


@dataclass(frozen=True, eq=False)
class ForeachKernel:
    """A kernel of many updates, whose tensors lie in a table. `blocks` are its programs by form."""

    launch: ForeachLaunch
    blocks: tuple[BlockProgram, ...]

    @property
    def name(self) -> str:
        return self.launch.name

    @property
    def kind(self) -> str:
        return self.launch.kind

    @property
    def rows(self) -> tuple[tuple[Value, ...], ...]:
        """The tensors of each update, in the order of the table."""
        return tuple(tensors for block in self.blocks for tensors in block.rows)

    @property
    def width(self) -> int:
        """Columns of the table."""
        return table_width(self.launch.group)

    @property
    def arguments(self) -> tuple[tuple[str, Parameter], ...]:
        """What the launch takes besides the table, each once, by the names that it gives them."""
        names = Names()
        names.taken |= {"program", "segment", "sizes", "ends", "is_before", "index", "row", "is_wide"}
        found: dict[tuple[Value | None, DType], tuple[str, Parameter]] = {}
        for parameter in (p for block in self.blocks for p in block.arguments):
            if (parameter.value, parameter.dtype) not in found:
                stem = names.claim(parameter.name.removesuffix("_ptr"))
                name = f"{stem}_ptr" if parameter.is_pointer else stem
                found[parameter.value, parameter.dtype] = name, parameter
        return tuple(found.values())

    def sizes(self) -> list[int]:
        """Elements of each update's tensors."""
        return [element_count(tensors[0].shape, {}) for tensors in self.rows]

    def programs(self, block: int) -> int:
        """How many programs share the work, a block of one update each."""
        return sum(-(-size // block) for size in self.sizes())

    def __str__(self) -> str:
        lines = [f"kernel {self.name}: {self.kind}, block by block"]
        for block in self.blocks:
            many = f"{len(block.rows)} update{'s' if len(block.rows) > 1 else ''}"
            first, *rest = str(block.kernel).splitlines()
            lines += [f"{block.name}: {many}, of {', '.join(block.updated)}", *rest]
        return "\n".join(lines)


def lower_foreach(plan: FusionPlan, launch: ForeachLaunch) -> ForeachKernel:
    """The tile programs of a launch of many updates, verified."""
    members = {frozenset(m.units): m for m in launch.members}
    names = Names()
    blocks = []
    for alike in launch.group:
        shown = alike.tensors[alike.kernels.index(alike.shown)]
        called = dict(zip(shown, _called(shown), strict=True))
        kernel = _masked(lower_kernel(plan, members[alike.shown], called))
        pointers = tuple(next(p for p in kernel.parameters if p.value is memory) for memory in shown)
        name = f"{launch.name}_block"
        if len(launch.group) > 1:
            name = names.claim(f"{name}_{kernel.plan.storage[kernel.plan.stores[-1]].name}")
        same = tuple(_corresponding(plan.graph, alike.shown, shown, row) for row in alike.rows)
        blocks.append(BlockProgram(name, kernel, alike.rows, pointers, same))
    return ForeachKernel(launch, tuple(blocks))


def _corresponding(
    graph: Graph, kernel: UnitSet, shown: Sequence[Value], tensors: Sequence[Value]
) -> Mapping[str, Value]:
    """The values of another update, by the names of those in the place of which they stand in the update of `kernel`:
    both are followed from what they leave in their tensors to what they read."""
    inside = {unit.value for unit in kernel}
    found: dict[str, Value] = {}
    todo = list(zip(shown, tensors, strict=True))
    todo += [(graph.updates[a.name], graph.updates[b.name]) for a, b in todo if a.name in graph.updates]
    while todo:
        mine, other = todo.pop()
        if mine.name not in found:
            found[mine.name] = other
            if mine in inside or is_alias(mine):
                todo += zip(mine.inputs, other.inputs, strict=False)
    return found


def _called(tensors: Sequence[Value]) -> Iterator[str]:
    """What the tensors of one update are called in a program that stands for all: `p`, `g`, `exp_avg`."""
    for memory in tensors:
        if memory.op.name == "parameter":
            yield P_NAME
        elif memory.is_leaf:
            yield identifier(memory.name.rpartition(".")[2])
        else:
            yield G_NAME


def _masked(kernel: Kernel) -> Kernel:
    """A tile program for tensors of any size, which speaks of the parameter `p` whichever it is."""

    def said(step: Step) -> Step:
        if step.scope is None or step.scope.phase != "update" or not step.scope.name:
            return step
        return replace(step, scope=replace(step.scope, name=P_NAME))

    layout = replace(kernel.layout, masks_rows=True)
    return replace(kernel, layout=layout, steps=tuple(map(said, kernel.steps)))
