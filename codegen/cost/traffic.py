"""What a launch moves between device memory and the chip, in bytes, and the prices that choices are weighed in.

The model counts what the generated code does: each byte of memory that a kernel reads once, however many lanes share it
(a bias under a matrix, a matrix and its transpose), and each byte that it writes once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import DType, Shape, Size, element_count, float32, float64, int32

from ..analysis.units import FINALIZE, PARTIAL, Unit, iterated_inputs
from ..analysis.views import is_host, memory_of, place_of
from ..support.formulas import smallest
from ..support.sizes import NOMINAL_SIZES

REMATERIALIZE_SHARE = 16
"""A primitive computed again costs one byte for this many of its elements: an H100 does about 22 float32 operations in
the time of one byte, fewer where a primitive is more than one of them."""


PROGRAM_ELEMENTS = 2048
"""What one program takes on at once."""


SECTOR_ELEMENTS = 8
"""Numbers of 4 bytes in the 32 that memory hands out at least."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of device memory that are read and written, each byte once, and those `reread` in further loops along
    rows that are too long to be held, which are meant to come from the cache."""

    read: int = 0
    written: int = 0
    reread: int = 0

    @property
    def total(self) -> int:
        return self.read + self.written + self.reread

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.read + other.read, self.written + other.written, self.reread + other.reread)

    def __mul__(self, times: int) -> Traffic:
        return Traffic(self.read * times, self.written * times, self.reread * times)


def tensor_bytes(shape: Shape, dtype: DType, sizes: Mapping[str, int]) -> int:
    """Bytes of a contiguous tensor."""
    return element_count(shape, sizes) * dtype.itemsize


def nominal_bytes(value: Value) -> int:
    """Bytes of a value in its own dtype, with every `Dim` at its nominal size."""
    return tensor_bytes(value.shape, value.dtype, NOMINAL_SIZES)


def rematerialize_bytes(value: Value) -> int:
    """The price of computing a value once more, in bytes, with every `Dim` at its nominal size."""
    return element_count(value.shape, NOMINAL_SIZES) // REMATERIALIZE_SHARE


def elements_read(views: Iterable[Value], sizes: Mapping[str, int]) -> int:
    """How many elements of one memory are read where `views` of it are: each once, however many views show it."""
    shown = list(views)
    memory = memory_of(shown[0])
    parts = [v for v in shown if v.op.name == "narrow"]
    if len(parts) < len(shown) or len({place_of(v).shape for v in parts}) > 1:
        return element_count(memory.shape, sizes)
    return _covered([_box(v, sizes) for v in parts])


Box = tuple[tuple[int, int], ...]
"""Along each axis the first index, and the one behind the last."""


def _box(part: Value, sizes: Mapping[str, int]) -> Box:
    def known(size: Size) -> int:
        return element_count((size,), sizes)

    return tuple((a, a + known(s)) for a, s in zip(place_of(part).starts, part.shape, strict=True))


def _covered(boxes: Sequence[Box]) -> int:
    """The cells that boxes cover together: axes are cut where some box begins or ends, and each block is asked."""
    cuts = [sorted({edge for box in boxes for edge in box[axis]}) for axis in range(len(boxes[0]))]
    total = 0
    for block in itertools.product(*(list(itertools.pairwise(c)) for c in cuts)):
        if any(all(a <= low and high <= b for (low, high), (a, b) in zip(block, box, strict=True)) for box in boxes):
            total += math.prod(high - low for low, high in block)
    return total


def launch_traffic(
    units: Iterable[Unit],
    loads: Iterable[Value],
    stores: Iterable[Value],
    storage: Mapping[Value, DType],
    sizes: Mapping[str, int],
    programs: int,
    loop_reads: Mapping[Value, int],
) -> Traffic:
    """What one launch moves that computes `units`. `loads` are what it reads, views of one memory each for itself;
    `storage` is the dtype that a memory has; `programs` share each sum over rows, one row of partial sums each;
    `loop_reads` says how many loops along the row read a load.

    Of a table whose rows are taken by number at most as many rows are counted as are taken: the numbers decide which.
    """
    units = list(units)
    views: dict[Value, list[Value]] = {}
    for value in loads:
        views.setdefault(memory_of(value), []).append(value)
    taken = _taken(units)
    read = written = reread = 0
    for memory, shown in views.items():
        count = elements_read(shown, sizes)
        if memory in taken:
            count = smallest(count, sum(element_count(v.shape, sizes) for v in taken[memory]))
        read += count * storage[memory].itemsize
        reread += count * storage[memory].itemsize * (max(loop_reads.get(v, 1) for v in shown) - 1)
    for value in stores:
        written += tensor_bytes(value.shape, storage[value], sizes)
    for unit in units:
        moved = programs * tensor_bytes(unit.value.shape, compute_dtype(unit.value.dtype), sizes)
        read += moved if unit.part == FINALIZE else 0
        written += moved if unit.part == PARTIAL else 0
        if unit.moments is not None and unit.value is unit.moments.deviations:
            # Programs also leave how many rows they had.
            read += programs * int32.itemsize if unit.part == FINALIZE else 0
            written += programs * int32.itemsize if unit.part == PARTIAL else 0
    return Traffic(read + _number_bytes(units), written, reread)


def _number_bytes(units: list[Unit]) -> int:
    """Numbers that the host knows are arguments of a kernel, float32; one on float64 reads them from memory instead."""
    values = [u.value for u in units if not u.is_library]
    if not any(v.dtype is float64 or any(a.dtype is float64 for a in v.inputs) for v in values):
        return 0
    read = [a for v in values for a in v.inputs]
    return float64.itemsize * len({v for v in read if is_host(v) and v.op.name not in ("constant", "dim_size")})


def _taken(units: list[Unit]) -> dict[Value, list[Value]]:
    """The memories that are read by row number alone, and what is taken of each."""
    taken: dict[Value, list[Value]] = {}
    for unit in units:
        if unit.value.op.kind == "gather":
            taken.setdefault(memory_of(unit.value.inputs[0]), []).append(unit.value)
    whole = {memory_of(a) for u in units if u.part != FINALIZE for a in iterated_inputs(u.value) if taken}
    return {memory: values for memory, values in taken.items() if memory not in whole}


def compute_dtype(dtype: DType) -> DType:
    """What a kernel computes a dtype in: float32 for 16-bit floats."""
    return float32 if dtype.is_float and dtype.itemsize < 4 else dtype
