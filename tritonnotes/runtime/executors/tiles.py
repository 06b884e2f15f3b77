"""The tiles that kernels get on the CPU: generated launchers choose those of a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...codegen.analysis.matmul import INNER_BLOCK, is_ragged
from ...codegen.lower.foreach import ForeachKernel
from ...codegen.lower.grouped_matmul import GroupedMatmulKernel
from ...codegen.lower.lower import GeneratedKernel
from ...codegen.lower.tile_ir import Kernel
from ...codegen.program.program import Program
from ...codegen.support.sizes import next_power_of_2
from ...ir.core.types import element_count

FEW_ROWS = 8
"""A tile that masks its rows has 1 row or a power of two from this one on. Each number of rows is code of its own, but
a tile with four times as many as there are takes up to three times as long."""

WIDE_ROW = 1024
"""Elements of a row that is a tile of its own in native code: sums over a tile's rows then need no memory, and what
is computed of it stays in the nearest cache."""

PRODUCT_ROWS = 64
"""Rows of a tile that multiplies: what it reads of the right operand then serves for so many."""

PRODUCT_ELEMENTS = 2**14
"""The most elements of a tile that multiplies."""

NATIVE_INNER = 128
"""The most elements that a product of native code sums at once, so that its operands stay in the nearest cache."""


@dataclass(frozen=True)
class CpuTiles:
    """How the kernels of a program are cut into tiles of `elements`. With `few` no tile has 2 or 4 rows, so that
    fewer numbers of rows are compiled for; else a tile has as many rows as there are, up to `elements`, and `split`, at
    most half of them."""

    program: Program
    elements: int
    few: bool
    split: bool = False

    def programs(self, sizes: Mapping[str, int], most: int) -> int:
        """How many programs share each sum: no more than there are tiles."""
        return self.program.programs(sizes, most, lambda kernel: self.rows(kernel, sizes))

    def rows(self, kernel: Kernel, sizes: Mapping[str, int]) -> int:
        """The rows of a kernel's tiles."""
        layout = kernel.layout
        rows = element_count(layout.row_shape, self.program.sizes_in(kernel.name, sizes))
        most = max(1, self.elements // max(layout.block, 1))
        if self.few and layout.block >= WIDE_ROW:
            most = 1
        if self.few and kernel.products:
            most = max(most, min(PRODUCT_ROWS, PRODUCT_ELEMENTS // max(layout.block, 1)))
        size = self.size(rows, most)
        if layout.split_k:
            size = max(size, layout.row_block)  # programs count themselves for each tile, of which there are so many
        return size if layout.masks_rows else min(size, layout.exact_rows)

    def size(self, count: int, most: int) -> int:
        """A power of two that holds `count`, no larger than `most`."""
        wanted = next_power_of_2(max(count, 1))
        if self.few and wanted > 1:
            wanted = max(wanted, FEW_ROWS)
        if self.split:
            wanted = max(wanted // 2, 1)
        return min(wanted, most)

    def block(self, kernel: ForeachKernel) -> int:
        """The elements of a block of many updates."""
        return self.size(max(kernel.sizes()), self.elements)

    def adapt(
        self, kernel: GeneratedKernel, grid: tuple[int, ...], options: dict[str, Any], sizes: Mapping[str, int]
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """The grid and the compile-time arguments of a launch, as they are on the CPU."""
        match kernel:
            case ForeachKernel():
                block = self.block(kernel)
                return (kernel.programs(block),), {**options, "BLOCK": block}
            case GroupedMatmulKernel():
                return grid, options
            case Kernel():
                return self._adapt_tile(kernel, grid, dict(options), sizes)

    def _adapt_tile(
        self, kernel: Kernel, grid: tuple[int, ...], options: dict[str, Any], sizes: Mapping[str, int]
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        layout, inner = kernel.layout, self.program.sizes_in(kernel.name, sizes)
        if layout.rows and not layout.traversal.is_one_row:
            rows = self.rows(kernel, sizes)
            options["ROWS" if layout.cols else "BLOCK"] = rows
            if not layout.accumulates:
                grid = (-(-element_count(layout.row_shape, inner) // rows), *grid[1:])
        if "INNER" in options:
            most = max_inner(kernel, inner)
            options["INNER"] = min(most, NATIVE_INNER) if self.few else most
        return grid, options


def max_inner(kernel: Kernel, sizes: Mapping[str, int]) -> int:
    """Elements that products may multiply at once: all, or a divisor where blocks are not masked; as many as on a GPU
    at least."""
    lengths = [(s.attrs["summed"], element_count(s.attrs["summed"], sizes)) for s in kernel.products]
    most = min(next_power_of_2(max(n, 1)) if is_ragged(shape) else n & -n for shape, n in lengths)
    return max(INNER_BLOCK, most)
