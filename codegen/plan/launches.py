"""The launches of a plan, and the plan that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx

from tritonnotes.ir.core.errors import VerificationError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import DType, Shape, Size, element_count
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..analysis.axes import Space
from ..analysis.matmul import summed, tiles
from ..analysis.units import FINALIZE, PRODUCT, Unit, Units, destinations_of
from ..analysis.views import is_join, memory_of
from ..cost.matmul import splits_of
from ..cost.traffic import Traffic, launch_traffic
from ..fusion.candidate import Candidate
from ..fusion.horizontal import Alike, table_bytes
from ..fusion.last_block import GROUP
from ..fusion.legality import Legality
from ..fusion.partition import Partition
from ..support.sizes import NOMINAL, Sizes


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """One launch: a generated kernel, or a library call.

    `kind` is 'library', 'product', 'elementwise', 'row', 'column', 'row and column' or 'finish'. `loads` and `stores`
    are whole values in memory; `partials` are sums that leave the kernel as one row for each program, `combines` those
    it adds up. `walks` says how often a kernel that walks along long rows reads each load; it is None where rows are
    held.

    Where the last program of a launch finishes sums, `parts` are the kernel, then what that program carries out; all
    else speaks of both together.

    `alone` is the shape of the rows where they are so long that each program takes one, and leaves its sums.

    `tile` has the rows and columns of a tile with matrix products; up to `shares` programs share the sum of each (0:
    one does it all).

    Of kind 'chunks' is one that goes over rows chunk by chunk: `chunks` has the launches that it makes for each.

    Of kind 'updates' is a launch that carries out its `members` side by side; `group` has them by what they do. Of kind
    'products' is one whose `members` each compute a product, and what follows from it.
    """

    name: str
    kind: str
    units: tuple[Unit, ...]
    recomputed: tuple[Value, ...]
    space: Space
    loads: tuple[Value, ...]
    stores: tuple[Value, ...]
    partials: tuple[Value, ...]
    finalizes: tuple[Value, ...]
    loop_reads: Mapping[Value, int] | None
    storage: Mapping[Value, DType]
    parts: tuple[KernelPlan, ...] = ()
    members: tuple[KernelPlan, ...] = ()
    group: tuple[Alike, ...] = ()
    tile: tuple[int, int] = (0, 0)
    split_k: int = 0
    row_per_program: Shape | None = None
    chunks: Chunks | None = None

    @property
    def is_library(self) -> bool:
        """Whether it is no generated kernel: a library call, or a loop over the kernels of a chunk."""
        return self.kind in ("library", CHUNK_LOOP)

    @property
    def products(self) -> tuple[Value, ...]:
        """The matrix products that are computed in its tiles."""
        return tuple(u.value for u in self.units if u.part == PRODUCT)

    @property
    def ops(self) -> tuple[str, ...]:
        """The instances of the declared ops that the kernel covers, in order."""
        return tuple(dict.fromkeys(u.value.scope.name or u.value.name for u in self.units))

    @property
    def values(self) -> tuple[Value, ...]:
        """The primitives computed here, recomputed ones included, in order."""
        return tuple(sorted({*(u.value for u in self.units), *self.recomputed}, key=lambda v: v.index))

    def bytes_moved(self, batch: int = 256, **sizes: int) -> int:
        """Bytes of device memory read and written; as `traffic`."""
        return self.traffic(batch, **sizes).total

    def traffic(self, batch: int = NOMINAL, *, programs: int = 0, **sizes: int) -> Traffic:
        """Bytes of device memory that one launch reads and writes; `Dim`s not named in `sizes` are `batch`.

        Partial sums are counted for `programs` that share them. By default they are left out: there are as many as the
        GPU holds at once, and read again at once they stay in its cache.
        """
        bound = Sizes(batch, sizes)
        if self.chunks is not None:
            return self.chunks.traffic(bound, programs)
        if self.row_per_program is not None and programs:
            programs = element_count(self.row_per_program, bound)
        moved = launch_traffic(
            self.units, self.loads, self.stores, self.storage, bound, programs, self.loop_reads or {}
        )
        moved = replace(moved, read=moved.read + table_bytes(self.group))
        for kernel in self.members or (self,):
            if programs and kernel.split_k:
                left, count = kernel._left_by_split_k(bound)
                moved = Traffic(moved.read + left, moved.written + left + 4 * count, moved.reread)
        if not self.parts or not programs:
            return moved
        # The programs' arrivals are counted in memory; what they left is read again where it was written.
        counts = 1 + (-(-programs // GROUP) if self.finalizes_columns else 0)
        return Traffic(moved.read, moved.written + 4 * counts, moved.reread)

    def _left_by_split_k(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Bytes that programs which share sums of a product leave, and the number of its tiles."""
        (value,) = self.products
        parts = splits_of(element_count(summed(value), sizes), self.split_k)
        rows, columns = (element_count((s,), sizes) for s in value.shape)
        return 4 * parts * element_count(value.shape, sizes), tiles(rows, columns, self.tile)

    @property
    def finalizes_columns(self) -> bool:
        """Whether the last program finishes sums of more than one number, which groups of programs add up first."""
        return any(part.space.rows for part in self.parts[1:])


@dataclass(frozen=True, eq=False)
class FusionPlan:
    """How a graph of primitives becomes launches: the candidate that was chosen, and its kernels as they are launched.
    `kernels` are the generated ones, `launches` all, in order."""

    candidate: Candidate
    launches: tuple[KernelPlan, ...]
    judge: Callable[[FusionPlan], Iterable[Any]]
    """What says of each edge whether it is fused, and why: `verdicts`."""

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
    def joins(self) -> bool:
        """Whether last programs finish sums, and updates that nothing waits for share a launch."""
        return not self.candidate.options.is_off

    @property
    def kernels(self) -> tuple[KernelPlan, ...]:
        return tuple(k for k in self.launches if not k.is_library)

    @property
    def library(self) -> tuple[KernelPlan, ...]:
        """The library calls."""
        return tuple(k for k in self.launches if k.is_library and k.chunks is None)

    @property
    def _loops(self) -> str:
        count = sum(k.chunks is not None for k in self.launches)
        return f"{count} loop{'' if count == 1 else 's'} over chunks of rows, " if count else ""

    def launch_count(self, batch: int = NOMINAL, **sizes: int) -> int:
        """All launches of one run, those of every chunk of rows included, and the zeros before them."""
        bound = Sizes(batch, sizes)
        return sum(1 if k.chunks is None else k.chunks.launches(bound) for k in self.launches)

    def bytes_moved(self, batch: int = 256, **sizes: int) -> int:
        """Bytes of device memory that one run reads and writes."""
        return sum(k.bytes_moved(batch, **sizes) for k in self.launches)

    @cached_property
    def verdicts(self) -> tuple[Any, ...]:
        """One for each edge of the graph: fused or not, the rule, the reason, the bytes."""
        return tuple(self.judge(self))

    def to_networkx(self) -> networkx.DiGraph:
        """Kernel names as nodes (attributes kind, ops, bytes), an edge where one runs before another: it writes what
        that one reads, or reads what it overwrites."""
        result = networkx.DiGraph(name=self.graph.name)
        name = {frozenset(p.units): k.name for k in self.launches for p in k.members or k.parts or (k,)}
        for kernel in self.launches:
            result.add_node(kernel.name, kind=kernel.kind, ops=kernel.ops, bytes=kernel.bytes_moved())
        for late, earlier in self.candidate.waits.items():
            result.add_edges_from((name[early], name[late]) for early in earlier if name[early] != name[late])
        return result

    def __str__(self) -> str:
        lines = [
            f"plan of {self.graph.name}: {len(self.kernels)} kernels and {len(self.library)} library calls, "
            f"{self._loops}"
            f"{self.bytes_moved():,} bytes at batch 256, fusion {self.fusion}"
        ]
        for kernel in self.launches:
            lines.append(f"  {kernel.name}: {kernel.kind}, {kernel.bytes_moved():,} bytes")
            if kernel.members and not kernel.chunks:
                lines.append(f"    joins  {', '.join(m.name for m in kernel.members)}")
            lines.append(f"    reads  {_names(kernel.loads)}{_and_sums(kernel.finalizes)}")
            lines.append(f"    covers {_names(u.value for u in kernel.units)}")
            if kernel.products:
                lines.append(f"    multiplies {_names(kernel.products)}")
            if kernel.recomputed:
                lines.append(f"    again  {_names(kernel.recomputed)}")
            lines.append(f"    writes {_names(kernel.stores)}{_and_sums(kernel.partials)}")
            if kernel.chunks:
                inner = ", ".join(k.name for k in kernel.chunks.plan.launches)
                lines.append(f"    {kernel.chunks.rows:,} of {kernel.chunks.size} rows at a time: {inner}")
            if kernel.parts:
                finalized = dict.fromkeys(v for part in kernel.parts[1:] for v in part.finalizes)
                lines.append(f"    its last program finishes {_names(finalized)}")
        return "\n".join(lines)


def verify_plan(plan: FusionPlan) -> None:
    """Raise `VerificationError` unless every primitive is in a kernel and the kernels run in an order that feeds
    each.
    """
    placed = [u for k in plan.launches for u in k.units]
    if len(placed) != len(set(placed)) or set(placed) != set(plan.units.units):
        raise VerificationError(f"plan of {plan.graph.name}: some primitive is in no kernel, or in two")
    place = {k.name: i for i, k in enumerate(plan.launches)}
    for early, late in plan.to_networkx().edges:
        if place[early] > place[late]:
            raise VerificationError(f"plan of {plan.graph.name}: {late} runs before {early}, which it waits for")
    written: set[Value] = set()
    for kernel in (part for k in plan.launches for part in k.parts or (k,)):
        for value in kernel.loads:
            memory = memory_of(value)
            parts = memory.inputs if is_join(memory) else (memory,)
            if not memory.is_leaf and not written.issuperset(parts):
                raise VerificationError(
                    f"plan of {plan.graph.name}: {kernel.name} reads {memory.name} before it is written"
                )
        for unit in kernel.units:
            if unit.part == FINALIZE and unit.value not in written:
                raise VerificationError(
                    f"plan of {plan.graph.name}: {kernel.name} finishes {unit.value.name} too early"
                )
        written |= {*kernel.stores, *kernel.partials}


def _names(values: Iterable[Value]) -> str:
    return ", ".join(v.name for v in values) or "nothing"


def _and_sums(values: Iterable[Value]) -> str:
    return "".join(f", partials of {v.name}" for v in values)


CHUNK_LOOP = "chunks"


@dataclass(frozen=True, eq=False)
class Chunks:
    """How a launch goes over `size` rows, so many `rows` at a time: `plan` is that of one chunk.

    `inputs` are its leaves with the values of the graph around that they are, `results` the names of its buffers with
    those values that it leaves. The `sums` are what each chunk adds to: slots, or results that a library call
    multiplies on top of (`multiplied`).
    """

    plan: FusionPlan
    rows: int
    size: Size
    inputs: tuple[tuple[Value, Value], ...]
    results: tuple[tuple[str, Value], ...]
    sums: tuple[tuple[str, Value], ...]
    multiplied: frozenset[str] = frozenset()

    def count(self, sizes: Mapping[str, int]) -> int:
        """How many chunks there are."""
        return -(-element_count((self.size,), sizes) // self.rows)

    def launches(self, sizes: Mapping[str, int]) -> int:
        """All launches, those included that set sums to 0."""
        return len(self.sums) + self.count(sizes) * len(self.plan.launches)

    def traffic(self, sizes: Sizes, programs: int = 0) -> Traffic:
        """What all chunks move, and zeros for the sums."""
        whole, rest = divmod(element_count((self.size,), sizes), self.rows)
        read = recomputed = 0
        written = sum(element_count(v.shape, sizes) * v.dtype.itemsize for _, v in self.sums)
        for times, rows in ((whole, self.rows), (1, rest)):
            for launch in self.plan.launches if times and rows else ():
                moved = launch.traffic(sizes.default, programs=programs, **{**sizes, CHUNK_ROWS.name: rows})
                read, written = read + times * moved.read, written + times * moved.written
                recomputed += times * moved.reread
        # A product on top of a sum reads what it adds to.
        added = [v for name, v in self.sums if name in self.multiplied]
        read += self.count(sizes) * sum(element_count(v.shape, sizes) * v.dtype.itemsize for v in added)
        return Traffic(read, written, recomputed)


def inner_names(chunks: Chunks) -> set[str]:
    """What the launches of a chunk are called."""
    return {k.name for k in chunks.plan.launches}


def memories_of_outputs(plan: FusionPlan) -> dict[str, Value]:
    """The memory that each output of a plan's graph lies in, by the output's name."""
    destinations = destinations_of(plan.units)
    memories = {name: memory_of(value) for name, value in plan.graph.outputs.items()}
    return {name: destinations.get(memory, memory) for name, memory in memories.items()}
