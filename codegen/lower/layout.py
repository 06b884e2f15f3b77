"""How a kernel cuts its axes: rows and columns, the size of a tile, masks, and how its function goes over tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

from tritonnotes.ir.core.types import element_count

from ..analysis.axes import Axes
from ..analysis.views import memory_of
from ..cost.traffic import compute_dtype
from ..plan.launches import KernelPlan
from ..support.sizes import next_power_of_2, static_size
from ..target.gpus import H100, WIDEST_ACCESS
from .functions import (
    ALL_TILES,
    GIVEN_BLOCK,
    GROUP_MEMBER,
    LAST_BLOCK,
    LAUNCHED,
    MATMUL_OPERAND,
    ONCE,
    ONLY_TILE,
    PERSISTENT,
    PREFETCHED,
    REPLICATED_SUM,
    TILE_PER_PROGRAM,
    Purpose,
    Traversal,
    numbered_tile,
    row_per_program,
    split_k,
)
from .tile_ir import Layout

MAX_BLOCK = 1024


LOOPED_BLOCK = 2048
"""Columns of a step along a row that is too long to be held: 16 bytes for each thread of 4 warps, four times. Twice as
many make ptxas spill a register of cross entropy on sm_80 and sm_100; of float64 it is half as many."""


MOST_COLUMN_TILES = 65_535
"""Programs along the second axis of a grid: CUDA launches no more, so that very many columns have wider tiles."""


FINALIZED = 64
"""Sums that a program finalizes at once: few, so that they are spread over programs."""


LAST_BLOCK_THREADS = 256
"""Threads of a program that finalizes sums as the last of its launch: 8 warps."""


PREFETCHED_BYTES = 64 * 1024
"""Shared memory that tiles on their way may take: two programs fit on each multiprocessor of an A100, which has
164 KiB, and a tuner may double their rows."""


LOOP_BYTES = 32 * 1024
"""What is to be on its way on a multiprocessor where programs loop along rows: half of it for each of two programs, all
of it where rows are so few that each has a multiprocessor for itself."""


REPLICATED_BLOCK = 1024
"""Elements that a program takes at once of a replicated sum."""


def cut_axes(axes: Axes, plan: KernelPlan, purpose: Purpose) -> Layout:
    """The layout of a kernel for this purpose."""
    space, has_product = plan.space, bool(plan.products)
    rows, cols = space.rows, space.cols
    has_two_sides = space.reduces_rows or space.accumulates or space.finalizes or has_product
    if purpose.cuts_axes and not has_two_sides:
        rows, cols = _cut(axes, plan, rows)
    row_shape, col_shape = axes.shape(rows), axes.shape(cols)
    length = static_size(col_shape)
    # A sum over rows and columns, or over row numbers alone, has one writer only if a program holds whole rows.
    whole_rows = space.reduces_rows or any(not axes.of(v) for v in plan.partials)
    block = _block(plan, length, whole_rows) if cols else 0
    tile = _TILES[purpose](plan, static_size(row_shape), block)
    total = static_size(row_shape) or 0
    exact = total & -total
    if has_product and exact < tile // block:
        exact = 0
    wanted = max(1, tile // block) if cols else tile if purpose.adds_groups else min(128, next_power_of_2(total))
    masks_rows = bool(rows) and (not exact or exact < wanted)
    if plan.long_rows is not None:
        # A launch of no rows has one program all the same, where sums are to be finalized.
        masks_rows = space.accumulates and not total
    layout = Layout(
        rows,
        cols,
        row_shape,
        col_shape,
        block,
        masks_cols=bool(cols) and (length is None or length % block != 0 or length == 0),
        tiles_cols=bool(cols) and not whole_rows and (length is None or length > block),
        loops_cols=plan.loop_reads is not None,
        accumulates=space.accumulates,
        finalizes=space.finalizes,
        exact_rows=exact,
        masks_rows=masks_rows,
        tile=tile,
        split_k=plan.split_k,
        purpose=purpose,
    )
    return replace(layout, traversal=_TRAVERSALS[purpose](plan, layout))


def prefetching(axes: Axes, plan: KernelPlan, layout: Layout) -> Layout:
    """The layout for a GPU, where what a program needs next is to be on its way while it computes: a multiprocessor
    draws its share of memory's bandwidth with some 32 KiB under way. A CPU does so by itself."""
    if plan.products or not (layout.loops_cols or layout.traversal is PERSISTENT):
        return layout
    elements = layout.row_block * (layout.block or 1)
    whole = [v for v in plan.loads if all(axes.of(v) & set(some) for some in (layout.rows, layout.cols) if some)]
    tile = elements * sum(plan.storage[memory_of(v)].itemsize for v in whole)
    if layout.loops_cols:
        rows = static_size(layout.row_shape)
        share = LOOP_BYTES if rows is not None and rows <= H100.multiprocessors else LOOP_BYTES // 2
        return replace(layout, blocks_ahead=max(1, share // max(1, tile)))
    stages = next(n for n in sorted(PREFETCHED, reverse=True) if n == 1 or (n - 1) * tile <= PREFETCHED_BYTES)
    return replace(layout, traversal=PREFETCHED[stages])


def _cut(axes: Axes, plan: KernelPlan, given: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where to cut an elementwise kernel into rows and columns so that most operands are iterated without
    division.
    """
    operands = [tuple(a for a in axes.labels[v] if a is not None) for v in (*plan.loads, *plan.stores)]
    operands = [o for o in operands if o]
    if not given:
        return (), ()

    def is_plain(operand: tuple[int, ...], rows: tuple[int, ...], cols: tuple[int, ...]) -> bool:
        front, back = operand[: len(operand) - len(cols)], operand[len(operand) - len(cols) :]
        return operand in (rows, cols) or (front == rows and back == cols)

    def plain(cut: int) -> int:
        return sum(is_plain(o, given[:cut], given[cut:]) for o in operands)

    # Uncut is best where it serves all; of equal cuts the one with the shortest rows wins.
    cut = max(range(len(given), 0, -1), key=lambda c: (plain(c), c == len(given), c))
    return given[:cut], given[cut:]


def _block(plan: KernelPlan, length: int | None, whole_rows: bool) -> int:
    """Columns that a program holds at once, of rows with so many."""
    if plan.products:
        return plan.tile[1]
    if plan.loop_reads is not None:
        return LOOPED_BLOCK // 2 if _widest(plan) == 8 else LOOPED_BLOCK
    if length is None:
        return MAX_BLOCK
    if whole_rows:
        return next_power_of_2(length)
    return min(next_power_of_2(length), max(MAX_BLOCK, next_power_of_2(-(-length // MOST_COLUMN_TILES))))


def _tile(plan: KernelPlan, rows: int | None, block: int) -> int:
    """Elements of a tile. Flat kernels take 8 elements a thread, 16 bytes or more of each operand: of 16-bit
    numbers twice as many make ptxas spill a register here and there, to fit more programs. Tiles with columns keep
    several values alive, so they are smaller than registers would allow at first sight."""
    if plan.products:
        return prod(plan.tile)
    if plan.space.finalizes:
        return FINALIZED
    widest = _widest(plan)
    if not block:
        return 1024 if widest <= 4 else 512
    if widest == 8:
        return 512
    # Short rows reduce across few lanes and keep many numbers for each row, and a power takes some ten registers for an
    # element: half a tile stays clear of spilling.
    powers = sum(v.op.name == "pow" for v in plan.values)
    return 1024 if block < 64 or powers > 1 else 2048


def _widest(plan: KernelPlan) -> int:
    """Bytes of the widest floats that a kernel reads or writes."""
    sizes = [plan.storage[memory_of(v)].itemsize for v in (*plan.loads, *plan.stores) if v.dtype.is_float]
    return max(sizes, default=4)


def _last_tile(plan: KernelPlan, rows: int | None, block: int) -> int:
    """Sums that the last program finalizes at once: 16 bytes for each thread."""
    sizes = [compute_dtype(v.dtype).itemsize for v in plan.finalizes]
    at_once = 1 if all(u.moments is None for u in plan.units) else 2  # of moments, more numbers of each column
    return columns_at_once(rows or 1, at_once * max(sizes, default=4), LAST_BLOCK_THREADS)


def columns_at_once(columns: int, itemsize: int, threads: int) -> int:
    """Columns of partial sums that so many threads add up at once: 16 bytes for each of them, so that what programs
    left is on its way at once. Half as many where that does not divide the columns: addresses and masks take registers
    too then."""
    vector = max(1, WIDEST_ACCESS // itemsize)
    return min(next_power_of_2(columns), threads * (max(1, vector // 2) if columns % (threads * vector) else vector))


_TILES: Mapping[Purpose, Callable[[KernelPlan, int | None, int], int]] = {
    LAUNCHED: _tile,
    GROUP_MEMBER: _tile,
    LAST_BLOCK: _last_tile,
    ONCE: _tile,
    REPLICATED_SUM: lambda plan, rows, block: REPLICATED_BLOCK,
    MATMUL_OPERAND: _tile,
}
"""Elements of a tile: of a plan, its number of rows where it is known, and its block of columns."""


def _launched(plan: KernelPlan, layout: Layout) -> Traversal:
    if plan.long_rows is not None:
        return row_per_program(may_be_empty=layout.masks_rows)
    if layout.accumulates:
        return PERSISTENT
    return split_k(layout.tiles_cols) if layout.split_k else TILE_PER_PROGRAM


def _member(plan: KernelPlan, layout: Layout) -> Traversal:
    across = -(-element_count(layout.col_shape, {}) // layout.block) if layout.tiles_cols else 0
    return numbered_tile(across, splits_k=bool(layout.split_k))


def _last(plan: KernelPlan, layout: Layout) -> Traversal:
    is_more = bool(layout.rows) and (static_size(layout.row_shape) or 1) > layout.row_block
    return ALL_TILES if is_more else ONLY_TILE


_TRAVERSALS: Mapping[Purpose, Callable[[KernelPlan, Layout], Traversal]] = {
    LAUNCHED: _launched,
    GROUP_MEMBER: _member,
    LAST_BLOCK: _last,
    ONCE: lambda plan, layout: ONLY_TILE,
    REPLICATED_SUM: lambda plan, layout: ALL_TILES,
    MATMUL_OPERAND: lambda plan, layout: GIVEN_BLOCK,
}
"""How the function of a plan goes over its tiles."""
