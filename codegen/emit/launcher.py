"""The launcher below each kernel: its arguments, its grid, and the reason for its tile."""

from __future__ import annotations

from typing import Any

from tritonnotes.ir.core.types import Shape

from ..analysis.matmul import INNER_BLOCK
from ..cost.matmul import TILE_ELEMENTS, split_k_expression
from ..fusion.last_block import GROUPS
from ..lower.index_math import Indexing
from ..lower.tile_ir import COL, TILE, Kernel
from ..support.expressions import ONE, Name, call, number
from ..support.sizes import static_size
from ..support.text import INDENT, call_lines, counted, wrapped
from ..target.gpus import LANES
from .prelude import GIVEN_LAUNCH
from .scalars_in_memory import types


class Launcher:
    """Writes the launcher of one kernel, in which the identifiers `used` occur."""

    def __init__(self, kernel: Kernel, index: Indexing, used: set[str]) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.index = index
        self.used = used

    def text(self) -> str:
        """The launcher function."""
        constexprs = self.constexprs()
        tuned = {
            n: v for n, v in constexprs.items() if n in ("ROWS", "PROGRAMS") or (n == "BLOCK" and not self.layout.cols)
        }
        names = [p.name.removesuffix("_ptr") for p in self.kernel.parameters] + self.bound_arguments()
        taken = [*names, *(f"{n}={v}" for n, v in tuned.items()), GIVEN_LAUNCH]
        passed = [
            *names,
            *(f"{n}={n if n in tuned else _PASSED.get(n, v)}" for n, v in constexprs.items()),
            f"num_warps={self.num_warps()}",
            *([f"maxnreg={most}"] if (most := self.most_registers()) else []),
        ]
        lines = [*call_lines(f"def run_{self.kernel.name}(", taken, "):"), f'{INDENT}"""{wrapped(self._reason())}"""']
        lines.append(f"{INDENT}grid = {self._grid()}")
        lines += [INDENT + line for line in call_lines("launch(", [self.kernel.name, "grid", *passed], ")")]
        return "\n".join(lines) + "\n"

    def bound_arguments(self) -> list[str]:
        """Runtime arguments beside the tile program's own: the number of rows, and of programs."""
        listed = []
        if self.layout.counts_rows:
            listed.append(str(self.index.row_bound()))
        if self.layout.counts_programs:
            listed.append("programs")
        return listed

    def constexprs(self) -> dict[str, Any]:
        """The compile-time arguments, with the tile that a GPU gets."""
        layout = self.layout
        made: dict[str, Any] = {}
        if layout.traversal.is_given:
            return made
        length = static_size(layout.col_shape)
        if layout.cols and length is not None and "COLS" in self.used:
            made["COLS"] = length
        if layout.finalizes:
            made["PROGRAMS"] = GROUPS if layout.adds_groups else LANES
        if layout.rows and not layout.traversal.is_one_row:
            made[self.index.row_block_name()] = layout.row_block
        if layout.cols:
            made["BLOCK"] = layout.block
        if self.kernel.products:
            made["INNER"] = INNER_BLOCK
            made["PRECISION"] = "ieee"
        return made

    def num_warps(self) -> int:
        """Warps of a program: 4, 8 from rows of 2048 on, 16 from 16384. A loop along three operands or more at once
        takes 8, so that ptxas, which is after more programs at a time, does not spill; so does a program that reads two
        operands or more along rows by a quotient or remainder: their elements have addresses of their own, which take
        registers too; and one that accumulates sums of many columns and may finalize them."""
        if self.layout.tuned is not None:
            return self.layout.tuned.num_warps
        if not self.layout.cols:
            return 4
        if self.kernel.products:
            return 4 if self.layout.tile < TILE_ELEMENTS else 8
        if self.layout.loops_cols:
            loads = sum(s.op == "load" and s.extent in (TILE, COL) for s in self.kernel.steps)
            return 8 if loads > 2 or self._scattered() > 1 else 4
        warps = 4 if self.layout.block < 2048 else 8 if self.layout.block < 16384 else 16
        finalizes = any(last.kernel.layout.rows for last in self.kernel.last_block)
        return 2 * warps if warps == 4 and (finalizes or self._scattered() > 1) else warps

    def most_registers(self) -> int | None:
        """Registers that a thread may have, where that must be said. Left to itself ptxas spills a register or two to
        fit more programs: it makes room in all for what a last one does, which is little and rare, and it does so where
        a loop keeps numbers for each lane, where products are rounded before their rows are summed, and where one
        program takes powers, which shares a multiprocessor with no other. With this many 16 warps share one, 12 where
        programs have 4, 8 where these multiply too or loop along rows. A loop over 16-bit rows is left to ptxas: told a
        number it takes all of it to load ahead, and spills."""
        loops = self.layout.loops_cols or self.layout.traversal.is_persistent
        is_tight = (
            (loops and not self._loads_16_bits())
            or self.kernel.counts_arrivals
            or self._rounds_products()
            or self._takes_powers_alone()
        )
        if not is_tight or self.layout.block > 4096:
            return None
        if self.num_warps() > 4:
            return 128
        return 255 if self.kernel.products or self.layout.loops_cols else 168

    def _rounds_products(self) -> bool:
        """Whether rows of products are summed that memory holds with 16 bits."""
        steps = self.kernel.steps
        return bool(self.kernel.products) and {"round_to", "sum"} <= {s.op for s in steps}

    def _loads_16_bits(self) -> bool:
        """Whether all floats that it reads have 16 bits in memory."""
        read = [p.dtype.itemsize for p in self.kernel.parameters if p.role == "in" and p.dtype.is_float]
        return bool(read) and max(read) == 2

    def _takes_powers_alone(self) -> bool:
        """Whether one program takes powers, which are computed in float64."""
        return not self.layout.rows and any(s.op == "pow" for s in self.kernel.steps)

    def _scattered(self) -> int:
        """The loads of whole tiles whose neighbours along a row are not neighbours in memory."""
        addresses = [s.attrs["address"] for s in self.kernel.steps if s.op == "load" and s.extent == TILE]
        return sum(self.index.divides_columns(a) for a in addresses)

    def signature(self, numbers_in_memory: bool) -> dict[str, str]:
        """A Triton type for each runtime argument."""
        return types(self.kernel.arguments, numbers_in_memory) | dict.fromkeys(self.bound_arguments(), "i32")

    def sizes(self) -> dict[str, Shape]:
        """The shapes whose elements the int arguments count. The number of programs is the runtime's choice."""
        made = {p.name: p.size for p in self.kernel.parameters if p.role == "size"}
        return made | {n: self.layout.row_shape for n in self.bound_arguments() if n != "programs"}

    def _grid(self) -> str:
        layout, bound = self.layout, self.index.row_bound()
        tiles = call("triton.cdiv", bound, Name(self.index.row_block_name()))
        grid = layout.traversal.grid
        assert grid is not None, "what is launched has a grid"
        rows = grid(bound, tiles) if layout.rows else ONE
        sizes = [rows]
        if layout.tiles_cols:
            length = static_size(layout.col_shape)
            columns = number(length) if length is not None else self.index.expanded(layout.col_shape)
            sizes.append(call("triton.cdiv", columns, layout.block))
        if layout.split_k:
            (product,) = self.kernel.products
            summed = self.index.size_product(product.attrs["summed"])
            sizes += [ONE] * (2 - len(sizes)) + [split_k_expression(summed, layout.split_k)]
        return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"

    def _reason(self) -> str:
        layout, constexprs = self.layout, self.constexprs()
        warps = self.num_warps()
        if layout.tuned is not None and layout.tuned.reason:
            return layout.tuned.reason
        if layout.finalizes:
            return (
                "Finalizes sums: few numbers, so small tiles spread them over programs."
                if layout.rows
                else "Finalizes sums to single numbers: one program."
            )
        if not layout.rows and not layout.loops_cols:
            return (
                f"One program: its {layout.block} elements fit in the registers of {counted(warps, 'warp')}."
                if layout.cols
                else "One program, one number."
            )
        if not layout.cols:
            size = constexprs["BLOCK"]
            each = counted(max(1, size // (32 * warps)), "element")
            return f"{size} elements a program: {counted(warps, 'warp')}, {each} a thread."
        length = static_size(layout.col_shape)
        if layout.loops_cols:
            is_reread = max((self.kernel.plan.loop_reads or {}).values(), default=1) > 1
            again = " What is reread is expected to come from the cache." if is_reread else ""
            many = f"{constexprs['ROWS']} rows" if constexprs["ROWS"] > 1 else "One row"
            return (
                f"{many} of {length:,} a program, too long for its registers: looped over {layout.block:,} columns "
                f"at a time.{again}"
            )
        if layout.traversal.is_one_row:
            held = f"held in the registers of {counted(warps, 'warp')} from its load to the end."
            reason = f"One row of {length:,} a program, {held}"
            return f"{reason} The last program to arrive finalizes the sums." if self.kernel.counts_arrivals else reason
        what = (
            f"{counted(constexprs['ROWS'], 'row')} of {length}"
            if length is not None and not layout.tiles_cols
            else f"{counted(constexprs['ROWS'], 'tile')} {layout.block} columns wide"
        )
        busy = f"{layout.tile:,} elements keep {counted(warps, 'warp')} busy without spilling."
        reason = f"{what} a program: {busy}"
        if layout.accumulates:
            reason += " A fixed number of programs loops over all rows, so few partial sums are left to add up."
        if self.kernel.counts_arrivals:
            reason += " The last one to arrive finalizes them, which saves a launch."
        return reason


_PASSED = {"PRECISION": "float32_precision()"}
"""Compile-time arguments that a launcher asks for at each launch."""
