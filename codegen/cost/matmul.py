"""Matrix products as tiles of generated kernels: how their operands lie, and what computing them there costs."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, Shape, element_count, float32

from ..analysis.axes import Axes, Space, known_product
from ..analysis.matmul import summed, tiles
from ..analysis.units import PARTIAL, PRODUCT, Unit, Units
from ..support.expressions import Expression, call
from ..support.formulas import largest, smallest
from ..support.sizes import NOMINAL_SIZES, known_size
from ..target.rates import CACHE_RATE, GENERATED_SHARE, HALF_RATE, LIBRARY_SHARE, MEMORY_RATE, SINGLE_RATE
from ..target.targets import Cpu

WHOLE_COLUMNS = 512
"""The widest rows that a kernel holds whole beside a product: 8 rows of 512 are 16 numbers for each thread of 8 warps,
and a norm's gradient keeps five such tiles."""


FEWEST_ROWS = {"float16": 16, "bfloat16": 16, "float32": 8}
"""The fewest rows of a tile: for 16 bits as many as tensor cores take at once."""


FEWEST_COLUMNS = 16


TILE_COLUMNS = 32
"""Columns of a tile where rows are not needed whole: with as many rows it is square, and reads its operands least."""


TILE_ELEMENTS = 1024


MULTIPROCESSORS = 132


LIBRARY_TILE, LIBRARY_INNER = 64 * 64, 256
"""What a library call is taken to do with a small product: tiles of 64 by 64, of which several programs share the sum
where it is longer than so many elements for each."""


SPLIT_K_LENGTH = 128
"""Elements along the summed axis from which on they are shared by several programs, so many for each."""


MOST_PROGRAMS = 2 * MULTIPROCESSORS
"""Programs over which the tiles of a product are spread by sharing sums."""


def tile_of(dtype: DType, columns: int | None, whole_rows: bool) -> tuple[int, int]:
    """Rows and columns of a tile with products of a dtype, whose kernel has so many columns (None: a `Dim`)."""
    length = 1 << max((columns or TILE_COLUMNS) - 1, 0).bit_length()
    block = max(FEWEST_COLUMNS, length if whole_rows else min(length, TILE_COLUMNS))
    # Beside short rows there are many numbers for each row: half a tile stays clear of spilling.
    elements = TILE_ELEMENTS if block >= TILE_COLUMNS else TILE_ELEMENTS // 2
    return max(FEWEST_ROWS[dtype.name], elements // block), block


def max_split_k(value: Value, tile: tuple[int, int], cols: frozenset[int], axes: Axes) -> int:
    """How many programs may share each sum of a product whose kernel does nothing along rows or columns; 0 where one
    does it all, as sums are short or there are tiles enough. What they leave is as much as `MOST_PROGRAMS` tiles."""
    inner = known_size(summed(value))
    columns = known_size(axes.shape(tuple(cols)))
    size = known_size(value.shape)
    if size is None or columns is None or (inner is not None and inner < 2 * SPLIT_K_LENGTH):
        return 0
    most = MOST_PROGRAMS // tiles(size // max(1, columns), columns, tile)
    most = most if inner is None else min(most, inner // SPLIT_K_LENGTH)
    return most if most > 1 else 0


def splits_of(inner: int, most: int) -> int:
    """How many programs share a sum over so many elements, `most` of them."""
    return largest(1, smallest(inner // SPLIT_K_LENGTH, most))


def split_k_expression(inner: Expression, most: int) -> Expression:
    """`splits_of` in generated Python."""
    return call("max", 1, call("min", inner // SPLIT_K_LENGTH, most))


def library_bytes(value: Value) -> int:
    """What a library call takes to compute a product, as the bytes that memory moves in that time."""
    inner = _count(summed(value))
    programs = -(-_count(value.shape) // LIBRARY_TILE)
    shared = max(1, min(inner // LIBRARY_INNER, MULTIPROCESSORS // programs))
    work = 2 * LIBRARY_TILE * -(-inner // shared)
    return _as_bytes(programs * shared, work / (_rate(value) * LIBRARY_SHARE))


def generated_bytes(value: Value, tile: tuple[int, int], cols: frozenset[int], axes: Axes, split_k: int) -> int:
    """What generated tiles take to compute a product, as the bytes that memory moves in that time. `cols` are the
    columns of the kernel, which may be the rows of the product; up to `shares` programs share a sum."""
    inner = _count(summed(value))
    columns = _count(axes.shape(tuple(cols)))
    shared = splits_of(inner, split_k)
    each = -(-inner // shared)
    work = 2 * tile[0] * tile[1] * each / (_rate(value) * GENERATED_SHARE)
    read = (tile[0] + tile[1]) * each * value.dtype.itemsize / CACHE_RATE
    return _as_bytes(tiles(_count(value.shape) // max(1, columns), columns, tile) * shared, max(work, read))


def library_bytes_on(cpu: Cpu, value: Value) -> int:
    """What a library call takes to compute a product on a core, as the bytes that memory moves in that time."""
    return int((cpu.call + _flops(value) / (cpu.flops * cpu.library_share)) * cpu.bandwidth)


def generated_bytes_on(cpu: Cpu, value: Value) -> int:
    """What generated tiles take to compute a product on a core, as the bytes that memory moves in that time."""
    return int(_flops(value) / (cpu.flops * cpu.generated_share) * cpu.bandwidth)


def _flops(value: Value) -> int:
    return 2 * _count(value.shape) * _count(summed(value))


def _as_bytes(programs: int, seconds: float) -> int:
    """What so many programs of so many seconds take, on all multiprocessors."""
    return int(-(-programs // MULTIPROCESSORS) * seconds * MEMORY_RATE)


def _rate(value: Value) -> float:
    return SINGLE_RATE if value.dtype is float32 else HALF_RATE


def _count(shape: Shape) -> int:
    return element_count(shape, NOMINAL_SIZES)


def tile_in(units: Units, space: Space, members: Iterable[Unit]) -> tuple[int, int]:
    """Rows and columns of the tile of a kernel with products; 0 for others."""
    members = list(members)
    dtypes = [u.value.dtype for u in members if u.part == PRODUCT]
    if not dtypes:
        return 0, 0
    whole = space.reduces_rows or any(u.part == PARTIAL and not units.axes.of(u.value) for u in members)
    return tile_of(dtypes[0], known_product(units.axes, space.cols), whole)


def split_k_in(units: Units, space: Space, members: Iterable[Unit]) -> int:
    """How many programs may share the sum of a kernel's one product, 0 where it is not shared."""
    members = list(members)
    products = [u.value for u in members if u.part == PRODUCT]
    if space.reduces_rows or space.accumulates or len(products) != 1:
        return 0
    return max_split_k(products[0], tile_in(units, space, members), frozenset(space.cols), units.axes)
