"""The plan of a graph: its launches in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx

from tritonnotes.ir.core.errors import VerificationError
from tritonnotes.ir.core.graph import Graph, Value

from ..analysis.units import FINALIZE, Units
from ..analysis.views import is_join, memory_of
from ..fusion.candidate import Candidate
from ..fusion.legality import Legality
from ..fusion.partition import Partition
from ..support.sizes import NOMINAL, NOMINAL_SIZES, Sizes, at_sizes
from ..support.text import counted
from .launches import Launch, Piece


@dataclass(frozen=True, eq=False, repr=False)
class FusionPlan:
    """How a graph of primitives becomes launches: the candidate that was chosen, and its kernels as they are launched.
    `kernels` are the generated ones, `launches` all, in order. Nothing of it changes, so copies are the plan itself. A
    pickle holds the graph, what was asked for and which names were `taken`, and is planned anew."""

    candidate: Candidate
    launches: tuple[Launch, ...]
    judge: Callable[[FusionPlan], Iterable[Any]]
    """What says of each edge whether it is fused, and why: `verdicts`."""
    taken: frozenset[str] = frozenset()
    """The names that no launch was to have."""

    @property
    def graph(self) -> Graph:
        return self.units.graph

    @property
    def units(self) -> Units:
        return self.candidate.units

    @property
    def legality(self) -> Legality:
        return self.candidate.legality

    @property
    def partition(self) -> Partition:
        return self.candidate.partition

    @property
    def fusion(self) -> str:
        """How the candidate was found."""
        return self.candidate.how

    @property
    def kernels(self) -> tuple[Launch, ...]:
        return tuple(k for k in self.launches if k.is_generated)

    @property
    def library(self) -> tuple[Launch, ...]:
        """The library calls."""
        return tuple(k for k in self.launches if k.is_library)

    @property
    def loop_count(self) -> int:
        """How many of the launches are loops over chunks of rows."""
        return len(self.launches) - len(self.kernels) - len(self.library)

    def launch_count(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int:
        """All launches of one run, those of every chunk of rows included, and the zeros before them."""
        bound = Sizes(batch, sizes)
        return sum(k.launch_count(bound) for k in self.launches)

    def bytes_moved(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int:
        """Bytes of device memory that one run reads and writes."""
        return sum(k.bytes_moved(batch, **sizes) for k in self.launches)

    def at(self, sizes: Mapping[str, int] = NOMINAL_SIZES) -> str:
        """The `Dim`s of the graph with their sizes, as " at batch 256"; empty where it has none."""
        return at_sizes((value.shape for value in self.graph.values), sizes)

    @cached_property
    def verdicts(self) -> tuple[Any, ...]:
        """One for each edge of the graph: fused or not, the rule, the reason, the bytes."""
        return tuple(self.judge(self))

    def to_networkx(self) -> networkx.DiGraph:
        """Kernel names as nodes (attributes kind, ops, bytes), an edge where one runs before another: it writes what
        that one reads, or reads what it overwrites."""
        result = networkx.DiGraph(name=self.graph.name)
        name = {frozenset(piece.units): k.name for k in self.launches for piece in k.pieces}
        for kernel in self.launches:
            result.add_node(kernel.name, kind=kernel.kind, ops=kernel.ops, bytes=kernel.bytes_moved())
        for late, earlier in self.candidate.waits.items():
            result.add_edges_from((name[early], name[late]) for early in earlier if name[early] != name[late])
        return result

    def __copy__(self) -> FusionPlan:
        return self

    def __deepcopy__(self, memo: object) -> FusionPlan:
        return self

    if TYPE_CHECKING:
        # Bound by pipeline.py, which makes plans.
        def __reduce__(self) -> Any: ...

        # Bound by tritonnotes/views/.
        def to_mermaid(self) -> str: ...

        def to_dot(self) -> str: ...

        def _repr_svg_(self) -> str | None: ...

        def _repr_html_(self) -> str: ...

    @property
    def totals(self) -> str:
        """Launches, bytes and how the plan was found, in a line."""
        loops = f"{counted(self.loop_count, 'loop')} over chunks of rows, "
        return (
            f"{counted(len(self.kernels), 'kernel')} and {counted(len(self.library), 'library call')}, "
            f"{loops if self.loop_count else ''}"
            f"{self.bytes_moved():,} bytes{self.at()}, fusion: {self.fusion}"
        )

    def __repr__(self) -> str:
        return f"FusionPlan({self.graph.name!r}: {self.totals})"

    def __str__(self) -> str:
        lines = [f"plan of {self.graph.name}: {self.totals}"]
        for launch in self.launches:
            lines.append(f"  {launch.name}: {launch.kind}, {launch.bytes_moved():,} bytes")
            lines += [f"    {line}" for line in launch.describe()]
        return "\n".join(lines)


def verify_plan(plan: FusionPlan) -> None:
    """Raise `VerificationError` unless every primitive is in a kernel and the kernels run in an order that feeds
    each.
    """
    placed = [u for k in plan.launches for u in k.units]
    if len(placed) != len(set(placed)) or set(placed) != set(plan.units.units):
        raise VerificationError(f"plan of {plan.graph.name}: some primitive is in no kernel, or in two")
    place = {frozenset(piece.units): i for i, k in enumerate(plan.launches) for piece in k.pieces}
    for kernel, earlier in plan.candidate.waits.items():
        for early in earlier:
            if place[early] > place[kernel]:
                late, first = plan.launches[place[kernel]].name, plan.launches[place[early]].name
                raise VerificationError(f"plan of {plan.graph.name}: {late} runs before {first}, which it waits for")
    written: set[Value] = set()
    for stage in (stage for k in plan.launches for stage in k.stages):
        for piece in stage:
            _verify_fed(plan, piece, written)
        written |= {v for piece in stage for v in (*piece.stores, *piece.partials)}


def _verify_fed(plan: FusionPlan, piece: Piece, written: set[Value]) -> None:
    for value in piece.loads:
        memory = memory_of(value)
        parts = memory.inputs if is_join(memory) else (memory,)
        if not memory.is_leaf and not written.issuperset(parts):
            raise VerificationError(f"plan of {plan.graph.name}: {piece.name} reads {memory.name} before it is written")
    for unit in piece.units:
        if unit.part == FINALIZE and unit.value not in written:
            raise VerificationError(f"plan of {plan.graph.name}: {piece.name} finalizes {unit.value.name} too early")


def memories_of_outputs(plan: FusionPlan) -> dict[str, Value]:
    """The memory that each output of a plan's graph lies in, by the output's name."""
    destinations = plan.units.destinations
    memories = {name: memory_of(value) for name, value in plan.graph.outputs.items()}
    return {name: destinations.get(memory, memory) for name, memory in memories.items()}
