"""Tile programs: what one generated kernel does, step by step, before it is spelled in Triton.

A kernel iterates over tiles [ROWS, BLOCK]: rows are spread over programs, columns lie in one program where rows are
reduced. With only rows or only columns the tile is one-dimensional. Steps are in single assignment form; a step's
`extent` says whether it is a whole tile, one number for each row, one for each column, or one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.core.errors import VerificationError
from tritonnotes.ir.core.graph import Scope, Value
from tritonnotes.ir.core.types import Dim, DType, Shape, float64, int64, is_symbolic

from ..analysis.axes import Axes
from ..plan.launches import KernelPlan
from ..support.provenance import Origin, origin_of, united
from .functions import LAUNCHED, TILE_PER_PROGRAM, Purpose, Traversal

TILE, ROW, COL, SCALAR = "tile", "row", "col", "scalar"


ROLES = ("in", "inout", "partial in", "out", "partial out", "arrivals", "size", "scalar")
"""What arguments are to a kernel, in the order in which it takes them."""


@dataclass(frozen=True)
class TunedTile:
    """Rows (or elements, of a flat kernel) and warps of a program, in the place of what rules say, and the reason."""

    rows: int
    num_warps: int
    reason: str = ""


@dataclass(frozen=True)
class Layout:
    """The two axes groups of a kernel and how they are cut.

    `tile` is the number of elements that a program holds at once on a GPU. `block` is the number of columns a program
    holds at once (0 without columns); `masks_cols` says whether it is no divisor of theirs. `tiles_cols` spreads
    columns over programs too; `loops_cols` loops along rows that are too long to be held, with `blocks_ahead` on their
    way while one is computed. `exact_rows` is the largest power of two that divides the rows where their number is
    known (else 0), and `masks_rows` is false where tiles are cut to divide them. Up to `split_k` programs share the sum
    of each tile of a matrix product (0: none do). `purpose` says what the kernel is for in its launch, `traversal` how
    it goes over its tiles.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    row_shape: Shape
    col_shape: Shape
    block: int
    masks_cols: bool
    tiles_cols: bool
    loops_cols: bool
    accumulates: bool
    finalizes: bool
    exact_rows: int
    masks_rows: bool
    tile: int
    split_k: int = 0
    purpose: Purpose = LAUNCHED
    traversal: Traversal = TILE_PER_PROGRAM
    tuned: TunedTile | None = None
    blocks_ahead: int = 0

    @property
    def is_flat(self) -> bool:
        """Whether tiles are one-dimensional."""
        return not self.rows or not self.cols or self.traversal.is_one_row

    @property
    def keeps_lanes(self) -> bool:
        """Whether each lane of a loop along a row has a running maximum of its own, so that no thread waits for another
        before the loop is over. On a CPU, which has none, one for all lanes takes less memory."""
        return self.blocks_ahead > 0

    @property
    def loops_tiles(self) -> bool:
        """Whether a program goes over several tiles."""
        return self.traversal.over is not None

    @property
    def adds_groups(self) -> bool:
        """Whether the partial sums that are added up are those of groups of programs, each of many columns."""
        return self.purpose.adds_groups and bool(self.rows)

    @property
    def counts_programs(self) -> bool:
        """Whether the number of programs is an argument: of those that share the rows, or shared them before."""
        return self.traversal.is_persistent or self.finalizes

    @property
    def counts_rows(self) -> bool:
        """Whether the number of rows is an argument: it is known at the launch alone, and no argument already."""
        only_dim = len(self.row_shape) == 1 and isinstance(self.row_shape[0], Dim)
        return bool(self.rows) and is_symbolic(self.row_shape) and not only_dim

    @property
    def row_block(self) -> int:
        """Rows that a program holds at once on a GPU: a tile's worth, and a divisor where masks are saved."""
        if self.tuned is not None:
            return self.tuned.rows
        size = self.tile if not self.cols else max(1, self.tile // self.block)
        return min(size, self.exact_rows) if self.rows and not self.masks_rows else size


@dataclass(frozen=True)
class Address:
    """How a lane finds its element: for each axis that it iterates, the axis, the sizes behind it in memory (their
    product is the stride) and the first index along it; `shape` is that of the memory."""

    dims: tuple[tuple[int, Shape, int], ...]
    shape: Shape


@dataclass(frozen=True)
class Parameter:
    """An argument of a kernel. `role` is 'in', 'out', 'inout', 'partial in', 'partial out', 'arrivals', 'size' or
    'scalar'; `value` is the memory, partial sum or host number that it stands for; `dtype` that of the memory. In
    'arrivals' programs count themselves, so that the last one knows."""

    name: str
    role: str
    value: Value | None
    dtype: DType
    size: Shape = ()
    of_rows: bool = False
    """Whether programs leave there how many rows they had, and not what they have of the sum."""
    alike: tuple[Parameter, ...] = field(default=(), compare=False, repr=False)
    """Those of the launches that share the kernel."""

    @property
    def is_pointer(self) -> bool:
        return self.role not in ("size", "scalar") or self.dtype is float64 and self.role == "scalar"

    @property
    def origin(self) -> tuple[Origin, ...]:
        """What it is of; nothing for a size and for what programs count in."""
        if self.alike:
            return united([replace(o, step=self.name) for o in one.origin] for one in self.alike)
        return () if self.value is None else (origin_of(self.value, self.name, self.role),)

    @property
    def is_memory(self) -> bool:
        """Whether it is memory of a program, and no number."""
        return self.role not in ("size", "scalar")

    @property
    def is_read(self) -> bool:
        return self.role in ("in", "inout", "partial in", "arrivals")

    @property
    def is_written(self) -> bool:
        return self.role in ("out", "inout", "partial out", "arrivals")

    def place(self) -> int:
        """Where it stands among others: memory read, memory written, partials, then sizes and numbers."""
        return ROLES.index(self.role)

    @property
    def is_exact(self) -> bool:
        """Whether it is a number that arrives as an int of 64 bits, as a seed does."""
        return self.role == "scalar" and self.dtype is int64


@dataclass(frozen=True)
class Step:
    """One assignment. `op` is 'load', 'number', 'index', 'argument', 'accumulate', 'finalize', 'moments', 'deviations',
    'store', 'operand', 'product', 'select', 'place', 'repeat', 'replicated', or a primitive. Steps that touch memory
    have the attribute `address`. An 'operand' is one side of a 'product', had block by block along the axis that is
    summed over. 'moments' are gathered over the tiles of a program; 'deviations' are sums that follow from them.

    `args` are the names of earlier steps. A step that nobody named (`is_named` false) may be written inside its only
    user. `dtype` is what the kernel computes in, so never float16 or bfloat16. `value` is what it computes or moves of
    the graph, None for a number.
    """

    name: str
    op: str
    args: tuple[str, ...]
    extent: str
    dtype: DType
    attrs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    is_named: bool = True
    scope: Scope | None = None
    value: Value | None = field(default=None, compare=False, repr=False)
    alike: tuple[Step, ...] = field(default=(), compare=False, repr=False)
    """Those of the launches that share the kernel."""

    @cached_property
    def origin(self) -> tuple[Origin, ...]:
        """What it is of; nothing for a number that a formula writes."""
        if self.alike:
            return united([replace(o, step=self.name) for o in one.origin] for one in self.alike)
        if self.value is None or self.value.op.name == "constant":
            return ()
        return (origin_of(self.value, self.name, self.op, self.scope),)


@dataclass(frozen=True)
class Shared:
    """What a kernel says that several `launches` share, by their names: what it calls the instances of `ops` that it
    speaks of, which are others in each launch."""

    launches: tuple[str, ...]
    ops: Mapping[str, str]

    def __str__(self) -> str:
        """The launches in a sentence, the first few by name."""
        if not self.launches:
            return ""
        shown, more = self.launches[:MOST_NAMED], len(self.launches) - MOST_NAMED
        return f"Written once for {', '.join(shown)}{f' and {more} more' if more > 0 else ''}."


MOST_NAMED = 3
"""Launches that the docstring of a shared kernel names."""


def spoken_name(value: Value) -> str:
    """What a kernel says that it computes, of a value: the instance of an op that it belongs to."""
    return value.scope.name or value.name


@dataclass(frozen=True, eq=False)
class Kernel:
    """A tile program with its arguments: the stage between the plan and the source. `last_block` are those that its
    last program runs when all are done, its first where they finalize no sums; `replicated_sums` those that each
    program takes when it begins, `operands` what it computes of each block that it multiplies: on arguments of its own.
    Its function returns the steps that are named in `returned`. What is `shared` stands for the kernels of several
    launches."""

    plan: KernelPlan
    layout: Layout
    parameters: tuple[Parameter, ...]
    steps: tuple[Step, ...]
    axes: Axes
    last_block: tuple[CalledKernel, ...] = ()
    replicated_sums: tuple[CalledKernel, ...] = ()
    operands: tuple[CalledKernel, ...] = ()
    returned: tuple[str, ...] = ()
    shared: Shared | None = None

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def kind(self) -> str:
        return self.plan.kind

    @property
    def pieces(self) -> tuple[KernelPlan, ...]:
        """The kernels of the partition that it runs, in order."""
        return (self.plan, *(part.kernel.plan for part in self.last_block))

    @property
    def called(self) -> tuple[CalledKernel, ...]:
        """The kernels that it calls."""
        return (*self.replicated_sums, *self.operands, *self.last_block)

    @property
    def counts_arrivals(self) -> bool:
        """Whether its programs have to find out which of them is the last."""
        return any(part.kernel.layout.finalizes for part in self.last_block)

    @property
    def arguments(self) -> tuple[tuple[str, Parameter], ...]:
        """What its launch takes, by name."""
        return tuple((p.name, p) for p in self.parameters)

    @property
    def products(self) -> tuple[Step, ...]:
        """The matrix products that it computes."""
        return tuple(s for s in self.steps if s.op == "product")

    def parameter(self, name: str) -> Parameter:
        return next(p for p in self.parameters if p.name == name)

    def __str__(self) -> str:
        shape = f"rows {_shown(self.layout.row_shape)} × columns {_shown(self.layout.col_shape)}"
        lines = [f"kernel {self.name}: {self.kind}, {shape}"]
        lines.append("  arguments " + ", ".join(f"{p.name}: {p.role} {p.dtype}" for p in self.parameters))
        for step in self.steps:
            attrs = "".join(
                f" {k}={v}" for k, v in step.attrs.items() if k in ("pointer", "identity", "number", "axis")
            )
            lines.append(f"  {step.name}: {step.extent} {step.dtype} = {step.op}({', '.join(step.args)}){attrs}")
        for when, parts in (
            ("replicated in each program", self.replicated_sums),
            ("for each block", self.operands),
            ("in its last block", self.last_block),
        ):
            lines += [f"  {when}: {part.kernel}".replace("\n", "\n  ") for part in parts]
        return "\n".join(lines)


@dataclass(frozen=True)
class CalledKernel:
    """A kernel that another one calls, with the names that its arguments have there."""

    kernel: Kernel
    arguments: tuple[str, ...]


def verify_kernel(kernel: Kernel) -> None:
    """Raise `VerificationError` unless names are defined once and before use, every reduction that meets masked lanes
    says its identity, and each store has its own target."""
    known: set[str] = set()
    for part in (*kernel.replicated_sums, *kernel.operands, *kernel.last_block):
        verify_kernel(part.kernel)
    stored: set[tuple[str, tuple[int, ...]]] = set()
    for step in kernel.steps:
        for arg in step.args:
            if arg not in known:
                raise VerificationError(f"kernel {kernel.name}: {step.name} uses {arg} before it is defined")
        if step.op == "store":
            target = (step.attrs["pointer"], tuple(start for _, _, start in step.attrs["address"].dims))
            if target in stored:
                raise VerificationError(f"kernel {kernel.name}: two stores to {step.attrs['pointer']}")
            stored.add(target)
            continue
        if step.name in known:
            raise VerificationError(f"kernel {kernel.name}: {step.name} is defined twice")
        known.add(step.name)
        if step.attrs.get("masked") and "identity" not in step.attrs:
            raise VerificationError(f"kernel {kernel.name}: {step.name} reduces masked lanes without an identity")


def _shown(shape: Shape) -> str:
    return "·".join(map(str, shape)) or "1"
