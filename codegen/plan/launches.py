"""The launches of a plan, one class for each way in which a launch runs kernels of the partition.

A loop over chunks of rows is a launch too (`chunk_loops.py`): it holds a plan of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, Shape, element_count

from ..analysis.axes import Space
from ..analysis.matmul import summed, tiles
from ..analysis.units import PRODUCT, Unit
from ..cost.matmul import splits_of
from ..cost.traffic import Traffic, launch_traffic
from ..fusion.horizontal import FOREACH, GROUPED_MATMUL, Alike, table_bytes
from ..fusion.last_block import GROUP
from ..support.sizes import NOMINAL, Sizes, at_sizes
from ..support.text import counted

LIBRARY = "library"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Piece:
    """What one kernel of the partition computes, reads and writes; a launch runs one or more.

    `loads` and `stores` are whole values in memory, `storage` is the dtype that each memory has. `partials` are sums
    that leave the kernel as one row for each program, `finalizes` those that it adds up. What is in `rounded` has 16
    bits in memory, and so it has wherever it is computed.
    """

    name: str
    kind: str
    units: tuple[Unit, ...]
    loads: tuple[Value, ...]
    stores: tuple[Value, ...]
    storage: Mapping[Value, DType]
    recomputed: tuple[Value, ...] = ()
    partials: tuple[Value, ...] = ()
    finalizes: tuple[Value, ...] = ()
    rounded: frozenset[Value] = frozenset()


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class KernelPlan(Piece):
    """A kernel of the partition that becomes a tile program.

    `kind` is 'matmul', 'elementwise', 'row', 'column', 'row and column' or 'finalize'. `loop_reads` says how often a
    kernel that loops along long rows reads each load; it is None where rows are held.

    `long_rows` is the shape of the rows where they are so long that each program takes one, and leaves its sums.
    `tile` has the rows and columns of a tile with matrix products; up to `split_k` programs share the sum of each (0:
    one does it all).
    """

    space: Space
    loop_reads: Mapping[Value, int] | None = None
    tile: tuple[int, int] = (0, 0)
    split_k: int = 0
    long_rows: Shape | None = None

    @property
    def products(self) -> tuple[Value, ...]:
        """The matrix products that are computed in its tiles."""
        return products_of(self.units)

    @property
    def values(self) -> tuple[Value, ...]:
        """The primitives computed here, recomputed ones included, in order."""
        return values_of(self)

    def split_k_traffic(self, sizes: Mapping[str, int]) -> Traffic:
        """What programs that share sums of a product leave for each other, and count themselves in."""
        if not self.split_k:
            return Traffic()
        (value,) = self.products
        splits = splits_of(element_count(summed(value), sizes), self.split_k)
        left = 4 * splits * element_count(value.shape, sizes)
        rows, columns = (element_count((s,), sizes) for s in value.shape)
        return Traffic(left, left + 4 * tiles(rows, columns, self.tile))


@dataclass(frozen=True, eq=False, repr=False)
class Launch(ABC):
    """One launch of a plan: a generated kernel, a library call, or a loop over chunks of rows."""

    name: str
    kind: str

    is_generated: ClassVar[bool] = True
    """Whether it launches a generated kernel of its own."""
    is_library: ClassVar[bool] = False
    """Whether it calls a library."""

    def __repr__(self) -> str:
        moved = f"{self.bytes_moved():,} bytes{self.at}"
        return f"{type(self).__name__}({self.name!r}: {self.kind}, {counted(len(self.units), 'primitive')}, {moved})"

    @property
    @abstractmethod
    def stages(self) -> tuple[tuple[Piece, ...], ...]:
        """The kernels of the partition that it runs: stage after stage, those of one stage in any order."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The kernels of the partition that it runs."""
        return tuple(piece for stage in self.stages for piece in stage)

    @property
    def joins(self) -> tuple[str, ...]:
        """The kernels that share it, by name; none where it is one kernel's own."""
        return ()

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What it computes."""
        return tuple(u for piece in self.pieces for u in piece.units)

    @cached_property
    def loads(self) -> tuple[Value, ...]:
        """The values in memory that it reads."""
        return self._of_all(lambda piece: piece.loads)

    @cached_property
    def stores(self) -> tuple[Value, ...]:
        """The values that it writes to memory."""
        return self._of_all(lambda piece: piece.stores)

    @property
    def at(self) -> str:
        """The `Dim`s of what it reads, computes and writes, with the sizes that a plan is made for."""
        return at_sizes(v.shape for v in (*self.loads, *(u.value for u in self.units)))

    @cached_property
    def recomputed(self) -> tuple[Value, ...]:
        """What it computes although another launch does, too."""
        return self._of_all(lambda piece: piece.recomputed)

    @cached_property
    def partials(self) -> tuple[Value, ...]:
        """The sums of which each of its programs leaves a part."""
        return self._of_all(lambda piece: piece.partials)

    @cached_property
    def finalizes(self) -> tuple[Value, ...]:
        """The sums that it adds up, of the parts that programs left."""
        return self._of_all(lambda piece: piece.finalizes)

    @property
    def storage(self) -> Mapping[Value, DType]:
        """The dtype that each memory has."""
        return self.pieces[0].storage

    @property
    def products(self) -> tuple[Value, ...]:
        """The matrix products that are computed in its tiles."""
        return products_of(self.units)

    @property
    def values(self) -> tuple[Value, ...]:
        """The primitives computed here, recomputed ones included, in order."""
        return values_of(self)

    @property
    def ops(self) -> tuple[str, ...]:
        """The instances of the declared ops that it covers, in order."""
        return tuple(dict.fromkeys(u.value.scope.name or u.value.name for u in self.units))

    def bytes_moved(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int:
        """Bytes of device memory read and written; as `traffic`."""
        return self.traffic(batch, **sizes).total

    def traffic(self, batch: int | Mapping[str, int] = NOMINAL, *, programs: int = 0, **sizes: int) -> Traffic:
        """Bytes of device memory that one launch reads and writes; `Dim`s not named in `sizes` are `batch`.

        Partial sums are counted for `programs` that share them. By default they are left out: there are as many as the
        GPU holds at once, and read again at once they stay in its cache.
        """
        return self._traffic(Sizes(batch, sizes), programs)

    def launch_count(self, sizes: Mapping[str, int]) -> int:
        """How many launches it makes."""
        return 1

    def describe(self) -> Iterator[str]:
        """What it reads, computes and writes, in lines."""
        yield f"reads  {names_of(self.loads)}{_and_sums(self.finalizes)}"
        yield f"covers {names_of(u.value for u in self.units)}"
        if self.products:
            yield f"multiplies {names_of(self.products)}"
        if self.recomputed:
            yield f"recomputes {names_of(self.recomputed)}"
        yield f"writes {names_of(self.stores)}{_and_sums(self.partials)}"

    def _traffic(self, sizes: Sizes, programs: int) -> Traffic:
        return self._moved(sizes, programs)

    def _moved(self, sizes: Sizes, programs: int, loop_reads: Mapping[Value, int] | None = None) -> Traffic:
        """What its values take, and the partial sums of so many programs."""
        return launch_traffic(self.units, self.loads, self.stores, self.storage, sizes, programs, loop_reads or {})

    def _of_all(self, what: Callable[[Piece], tuple[Value, ...]]) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(v for piece in self.pieces for v in what(piece)))


@dataclass(frozen=True, eq=False, repr=False)
class TileLaunch(Launch):
    """The launch of one tile program. Its last program to arrive runs the kernels of `last_block`, which finalize
    sums; where they finalize none, its first program does."""

    kernel: KernelPlan
    last_block: tuple[KernelPlan, ...] = ()

    @property
    def stages(self) -> tuple[tuple[KernelPlan, ...], ...]:
        return ((self.kernel,), *((piece,) for piece in self.last_block))

    @property
    def loop_reads(self) -> Mapping[Value, int] | None:
        """How often a kernel that loops along rows reads each load, together with its last program."""
        known = self.kernel.loop_reads
        if known is None:
            return None
        again = Counter(v for piece in self.last_block for v in piece.loads if v in known)
        return {v: count + again[v] for v, count in known.items()}

    @property
    def counts_arrivals(self) -> bool:
        """Whether its programs have to find out which of them is the last."""
        return any(piece.finalizes for piece in self.last_block)

    @property
    def finalizes_columns(self) -> bool:
        """Whether the last program finalizes sums of more than one number, which groups of programs add up first."""
        return any(piece.space.rows for piece in self.last_block)

    def describe(self) -> Iterator[str]:
        yield from super().describe()
        if self.counts_arrivals:
            finalized = dict.fromkeys(v for piece in self.last_block for v in piece.finalizes)
            yield f"last block finalizes {names_of(finalized)}"

    def _traffic(self, sizes: Sizes, programs: int) -> Traffic:
        if self.kernel.long_rows is not None and programs:
            programs = element_count(self.kernel.long_rows, sizes)
        moved = self._moved(sizes, programs, self.loop_reads)
        if programs:
            moved += self.kernel.split_k_traffic(sizes)
        if programs and self.counts_arrivals:
            # The programs' arrivals are counted in memory; what they left is read again where it was written.
            counts = 1 + (-(-programs // GROUP) if self.finalizes_columns else 0)
            moved += Traffic(written=4 * counts)
        return moved


def tile_launch(kernel: KernelPlan, last_block: Iterable[KernelPlan] = ()) -> TileLaunch:
    """The launch of a kernel whose last program runs others."""
    return TileLaunch(kernel.name, kernel.kind, kernel, tuple(last_block))


@dataclass(frozen=True, eq=False, repr=False)
class LibraryCall(Launch):
    """A call to torch's library, for what `piece` computes. It also does what `adding` does, which adds a bias to that:
    the sum alone reaches memory."""

    piece: Piece
    adding: Piece | None = None

    is_generated = False
    is_library = True

    @property
    def stages(self) -> tuple[tuple[Piece, ...], ...]:
        return ((self.piece,),) if self.adding is None else ((self.piece,), (self.adding,))

    @property
    def unit(self) -> Unit:
        """What it computes, before a bias is added."""
        (unit,) = self.piece.units
        return unit

    @property
    def bias(self) -> Value | None:
        """What is added to each row of a product; None where nothing is."""
        return next((v for v in (self.adding.loads if self.adding else ()) if v is not self.unit.value), None)

    @cached_property
    def loads(self) -> tuple[Value, ...]:
        return tuple(v for v in self._of_all(lambda piece: piece.loads) if v is not self.unit.value)

    @cached_property
    def stores(self) -> tuple[Value, ...]:
        return (self.adding or self.piece).stores

    def describe(self) -> Iterator[str]:
        yield from super().describe()
        if self.bias is not None:
            yield f"adds   {self.bias.name} in the same call"


def library_call(piece: Piece, adding: Piece | None = None) -> LibraryCall:
    """The library call that computes what a kernel of the partition does, and what adds a bias to it."""
    return LibraryCall(piece.name, piece.kind, piece, adding)


@dataclass(frozen=True, eq=False, repr=False)
class TorchCall(Launch):
    """One call of torch that the graph names, for all `parts` of it that are wanted: results, or gradients."""

    parts: tuple[Piece, ...]

    is_generated = False
    is_library = True

    @property
    def stages(self) -> tuple[tuple[Piece, ...], ...]:
        return (self.parts,)

    @property
    def call(self) -> str:
        """What torch calls it."""
        return str(self.units[0].value.attrs["call"])

    def describe(self) -> Iterator[str]:
        yield f"calls  {self.call}"
        yield from super().describe()


def torch_call(parts: Iterable[Piece]) -> TorchCall:
    """The call of torch that computes what some kernels of the partition do."""
    first, *rest = parts
    return TorchCall(first.name, first.kind, (first, *rest))


@dataclass(frozen=True, eq=False, repr=False)
class _Joined(Launch):
    """A launch that runs its `members` independently."""

    members: tuple[KernelPlan, ...]

    @property
    def stages(self) -> tuple[tuple[KernelPlan, ...], ...]:
        return (self.members,)

    @property
    def joins(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.members)

    @cached_property
    def recomputed(self) -> tuple[Value, ...]:
        computed = {u.value for u in self.units}
        return self._of_all(lambda piece: tuple(v for v in piece.recomputed if v not in computed))

    def describe(self) -> Iterator[str]:
        yield f"joins  {', '.join(self.joins)}"
        yield from super().describe()


@dataclass(frozen=True, eq=False, repr=False)
class ForeachLaunch(_Joined):
    """A launch of many updates, whose tensors lie in a table; `group` has them by what they do."""

    group: tuple[Alike, ...]

    def _traffic(self, sizes: Sizes, programs: int) -> Traffic:
        return self._moved(sizes, programs) + Traffic(table_bytes(self.group))


def foreach_launch(name: str, members: Iterable[KernelPlan], group: tuple[Alike, ...]) -> ForeachLaunch:
    """The launch of many updates."""
    return ForeachLaunch(name, FOREACH, tuple(members), group)


@dataclass(frozen=True, eq=False, repr=False)
class GroupedMatmul(_Joined):
    """A launch whose members each compute a matrix product, and what follows from it."""

    def _traffic(self, sizes: Sizes, programs: int) -> Traffic:
        moved = self._moved(sizes, programs)
        for member in self.members if programs else ():
            moved += member.split_k_traffic(sizes)
        return moved


def grouped_matmul(name: str, members: Iterable[KernelPlan]) -> GroupedMatmul:
    """The launch of several matrix products."""
    return GroupedMatmul(name, GROUPED_MATMUL, tuple(members))


def products_of(units: Iterable[Unit]) -> tuple[Value, ...]:
    """The matrix products that some units compute in tiles."""
    return tuple(u.value for u in units if u.part == PRODUCT)


def values_of(work: Piece | Launch) -> tuple[Value, ...]:
    """The primitives that are computed, recomputed ones included, in order."""
    return tuple(sorted({*(u.value for u in work.units), *work.recomputed}, key=lambda v: v.index))


def names_of(values: Iterable[Value]) -> str:
    """The names of values in a line."""
    return ", ".join(v.name for v in values) or "nothing"


def _and_sums(values: Iterable[Value]) -> str:
    return "".join(f", partials of {v.name}" for v in values)
