"""Where the lanes of a tile lie: row and column numbers, masks, offsets into contiguous memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tritonnotes.ir.core.types import Dim, Shape, Size, dims_in, known_factor

from ..support.expressions import (
    ONE,
    ZERO,
    Binary,
    Call,
    Expression,
    Name,
    both,
    call,
    chained,
    holds,
    leftmost,
    names_in,
    number,
    product,
    total,
    walk,
)
from ..support.sizes import static_size
from ..support.statements import Assign, Statement, names_of
from .row_loops import running_maximum
from .tile_ir import COL, ROW, SCALAR, TILE, Address, Kernel, Step


class Run(NamedTuple):
    """The axes from `first` to `last` of a group that lie one behind the other in memory too, so are iterated as one.
    `number` counts the elements of the whole group; `behind` are the sizes behind the run in memory."""

    first: int
    last: int
    group: tuple[int, ...]
    number: Name
    behind: Shape


class Indexing:
    """The index arithmetic of one kernel. What is written more than once gets a name of its own: `shared` are these
    names, by what they stand for."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.steps = {s.name: s for s in kernel.steps}
        self.of_maximum = running_maximum(kernel) if "max" in kernel.layout.traversal.filled_for else {}
        self.size_names = {p.size[0]: p.name for p in kernel.parameters if p.role == "size"}
        self.is_wide = self._is_wide()
        self.shared: dict[Expression, Name] = {}
        self.aliases: dict[Expression, Expression] = {}
        self.strides: set[Expression] = set()
        self.has_named_cols = len(_larger(self.layout.col_shape)) > 1 and static_size(self.layout.col_shape) is None
        self._expanded: dict[tuple[Size, ...], Expression] = {}
        self._runs_of: dict[Address, list[Run]] = {}
        self._offsets: dict[Address, Expression] = {}
        self._written: list[Address] | None = None
        self._name_what_repeats()

    def lines(self, in_loop: bool) -> list[Statement]:
        """The assignments of row, column, masks and shared offsets, outside or inside the loop over tiles."""
        layout, traversal = self.layout, self.layout.traversal
        lines: list[Statement] = []
        rows_here = bool(layout.rows) and in_loop == layout.loops_tiles
        if not in_loop:
            lines += traversal.setup
            if layout.cols and self.has_named_cols:
                lines.append(Assign("cols", self.expanded(layout.col_shape)))
            if layout.cols and not layout.loops_cols and not traversal.is_given:
                tile = _with_64_bits(traversal.tile_col) if _may_pass(layout.col_shape) else traversal.tile_col
                start = tile * Name("BLOCK") if layout.tiles_cols else ZERO
                lines.append(Assign("col", total(start, self._lanes("BLOCK", "None, :"))))
        if rows_here and not traversal.is_given:
            lines.append(Assign(self.row_name(), self._row_lanes()))
        for expression, name in self.shared.items():
            if layout.loops_cols and self._uses_columns(expression):
                continue
            if self._uses_rows(expression) == (in_loop if layout.loops_tiles else self._uses_rows(expression)):
                lines.append(Assign(name.name, self._widened(expression)))
        return lines

    def lanes(self) -> Expression:
        """The numbers of the columns in a block."""
        return self._lanes("BLOCK", "None, :")

    def _lanes(self, block: str, axes: str) -> Expression:
        """The numbers of a block's lanes, along one axis of a tile."""
        lanes = call("tl.arange", 0, Name(block))
        return lanes if self.layout.is_flat else lanes.subscript(axes)

    def _row_lanes(self) -> Expression:
        """The rows of the tile: one number, or one for each lane."""
        block, tile = self.row_block_name(), self.layout.traversal.tile_row
        if tile is None:
            return self._lanes(block, ":, None")
        if self.is_wide:
            tile = _with_64_bits(tile)
        is_one_row = self.layout.traversal.is_one_row
        return tile if is_one_row else total(tile * Name(block), self._lanes(block, ":, None"))

    def _widened(self, expression: Expression, is_stride: bool = False) -> Expression:
        """A product of sizes has 64 bits where it may pass 2**31, as the row numbers have that others begin with."""
        if not self.is_wide or not (is_stride or expression in self.strides):
            return expression
        first, *rest = chained("*", expression)
        return product(_with_64_bits(first), *rest)

    def column_lines(self, body: Sequence[Statement]) -> list[Statement]:
        """The assignments of column, masks and shared offsets in a loop along the row, of those that `body` uses."""
        lines: list[Statement] = []
        used = names_of(body)
        for expression, name in reversed(self.shared.items()):
            if name.name in used and self._uses_columns(expression):
                lines.insert(0, Assign(name.name, expression))
                used |= names_in(expression)
        return [Assign("col", Name("start") + self._lanes("BLOCK", "None, :")), *lines]

    def row_name(self) -> str:
        return "row" if self.layout.cols or self.layout.traversal.is_given else "offset"

    def row(self) -> Name:
        return Name(self.row_name())

    def row_bound(self) -> Expression:
        """The number of rows: a literal, the one `Dim` that they are, or an argument."""
        size = static_size(self.layout.row_shape)
        if size is not None:
            return number(size)
        only = self.layout.row_shape[0]
        if len(self.layout.row_shape) == 1 and isinstance(only, Dim):
            return self._dim(only)
        return Name("rows" if self.layout.cols else "elements")

    def col_bound(self) -> Expression:
        size = static_size(self.layout.col_shape)
        if size is None:
            return self.product(self.layout.col_shape)
        return number(size) if self.layout.traversal.is_given else Name("COLS")

    def row_block_name(self) -> str:
        return "ROWS" if self.layout.cols else "BLOCK"

    def product(self, sizes: tuple[Size, ...]) -> Expression:
        """The product of some sizes, where those of a whole row have a name."""
        if self.has_named_cols and _larger(sizes) == _larger(self.layout.col_shape):
            return Name("cols")
        return self.named(self.expanded(sizes))

    def expanded(self, sizes: tuple[Size, ...]) -> Expression:
        """The product of some sizes, written out."""
        if sizes not in self._expanded:
            known = known_factor(sizes)
            length = static_size(self.layout.col_shape) if not self.layout.traversal.is_given else None
            factors: list[Expression] = [self._dim(dim) for dim in dims_in(sizes)]
            if known != 1:
                factors.append(Name("COLS") if self.layout.cols and known == length else number(known))
            self._expanded[sizes] = product(*factors)
        return self._expanded[sizes]

    def mask_of(self, extent: str) -> Expression | None:
        """The condition that lanes of this extent lie inside the tensor; None where all do."""
        layout = self.layout
        rows: Expression | None = None
        cols: Expression | None = None
        if extent in (TILE, ROW) and layout.rows and layout.masks_rows:
            rows = self.row() < self.row_bound()
        if extent in (TILE, COL) and layout.cols and layout.masks_cols:
            cols = Name("col") < self.col_bound()
        return both(rows, cols)

    def mask(self, extent: str) -> Expression | None:
        """The condition by its name, where it has one."""
        return self._mask_by_name(self.mask_of(extent))

    def mask_of_reduction(self, step: Step) -> Expression | None:
        """The lanes that a reduction takes, by their name."""
        return self._mask_by_name(self.reduction_mask(step))

    def _mask_by_name(self, mask: Expression | None) -> Expression | None:
        return None if mask is None else self.named(mask)

    def reduction_mask(self, step: Step) -> Expression | None:
        if step.op not in ("accumulate", "moments"):
            return self.mask_of(COL)
        arg = self.steps[step.args[0]]
        return self.mask_of(TILE) if step.attrs["both"] and arg.extent == TILE else self.mask_of(ROW)

    def reads_identity(self, step: Step) -> bool:
        """A sum straight over loaded values needs no second mask: the load fills the lanes outside with 0. Nor does a
        maximum of a row alone, which fills them with −∞, or a sum of eˣ⁻ᵐ, m the maximum: there e^−∞ is 0."""
        arg = self.steps[step.args[0]] if step.args else None
        if arg is None or arg.extent == SCALAR:
            return False
        if step.name in self.of_maximum:
            return self.reads_identity(self.steps[self.of_maximum[step.name]])
        return arg.op == "load" and step.attrs.get("reduction", step.op) == self.filled_for(arg)

    def filled_for(self, load: Step) -> str:
        """The reduction whose identity a load has in the lanes outside."""
        over = {
            s.attrs.get("reduction", s.op) for s in self.kernel.steps if load.name in s.args and "masked" in s.attrs
        }
        return next((op for op in self.layout.traversal.filled_for if op in over), "")

    def offset(self, address: Address) -> Expression:
        """Where the element for this lane lies, counted from the pointer; what is shared has its name."""
        first = [self._start((start, *behind)) for _, behind, start in address.dims if start]
        return total(self.named(self._iterated(address)), *first)

    def _start(self, sizes: Shape) -> Expression:
        """Where a part begins along an axis: how many elements lie before it."""
        written = self.product(sizes)
        is_one_name = isinstance(written, Name)  # shared, and so widened where it is computed
        return written if is_one_name or not dims_in(sizes) else self._widened(written, is_stride=True)

    def partial_row(self, place: Expression, stride: Expression, shape: Shape) -> Expression:
        """Where a row of partial sums begins, of so many sums, that a program leaves at its `place`."""
        is_row = place == self.row()  # which has as many bits as it needs
        return (place if is_row or not _may_pass(shape, MOST_PROGRAMS) else _with_64_bits(place)) * stride

    def _iterated(self, address: Address) -> Expression:
        """The offset but for where the first element lies."""
        if address not in self._offsets:
            terms = (self.named(self._products_of(run)[-1]) for run in self._runs(address))
            self._offsets[address] = total(*terms)
        return self._offsets[address]

    def divides_columns(self, address: Address) -> bool:
        """Whether some of an offset is a quotient or a remainder of the column."""
        last = len(self.layout.cols) - 1
        return any(r.number == COLUMN and (r.first > 0 or r.last < last) for r in self._runs(address))

    def _products_of(self, run: Run) -> list[Expression]:
        """A run's index, that times the first of the sizes behind it, and so on up to the whole term."""
        first, *sizes = chained("*", self.product(run.behind))
        index = self._run_index(run)
        if run.number == COLUMN and first != ONE and self.is_wide:
            # Rows have 64 bits already.
            reached = (*self.kernel.axes.shape(run.group)[run.first : run.last + 1], *run.behind)
            index = _with_64_bits(index) if _may_pass(reached) else index
        found = [index, product(index, first)]
        for size in sizes:
            found.append(self.named(found[-1]) * size)
        return found

    def _runs(self, address: Address) -> list[Run]:
        if address not in self._runs_of:
            self._runs_of[address] = self._found_runs(address)
        return self._runs_of[address]

    def _found_runs(self, address: Address) -> list[Run]:
        found: list[Run] = []
        for group, name in ((self.layout.rows, self.row()), (self.layout.cols, COLUMN)):
            runs: list[Run] = []
            before: Shape = ()
            for axis, behind, _ in address.dims:
                if axis not in group:
                    before = ()
                    continue
                at = group.index(axis)
                if runs and before == (self.kernel.axes.sizes[axis], *behind) and at == runs[-1].last + 1:
                    runs[-1] = runs[-1]._replace(last=at, behind=behind)
                else:
                    runs.append(Run(at, at, group, name, behind))
                before = behind
            found += runs
        return found

    def index_along(self, step: Step) -> Expression:
        """The index along one axis."""
        return self._run_index(self._index_run(step))

    def _index_run(self, step: Step) -> Run:
        axis = step.attrs["of_axis"]
        is_row = axis in self.layout.rows
        group, name = (self.layout.rows, self.row()) if is_row else (self.layout.cols, COLUMN)
        at = group.index(axis)
        return Run(at, at, group, name, ())

    def names(self) -> set[str]:
        """Every name that index arithmetic is made of."""
        found = [self.row_bound(), self.expanded(self.layout.col_shape), *self.shared]
        found += [mask for extent in (TILE, ROW, COL) if (mask := self.mask_of(extent))]
        for step in self.kernel.steps:
            if step.op == "index":
                found.append(self.index_along(step))
            elif "address" in step.attrs:
                found.append(self.offset(step.attrs["address"]))
                found += map(self._dim, dims_in(step.attrs["address"].shape if step.op == "take_rows" else ()))
                found += map(self._dim, dims_in(step.attrs.get("behind", ())))
            found += map(self._dim, dims_in(step.attrs.get("summed", ())))
        return set[str]().union(*map(names_in, found))

    def named(self, expression: Expression) -> Expression:
        """An expression by its name, where it has one."""
        return self.aliases.get(expression, self.shared.get(expression, expression))

    def _run_index(self, run: Run) -> Expression:
        """The running number over the axes of a run, out of that over its whole group."""
        shape = self.kernel.axes.shape(run.group)
        inner = self.product(shape[run.last + 1 :])
        index = run.number if inner == ONE else self.named(run.number // inner)
        if run.first == 0:
            return index
        return self.named(index % self.product(shape[run.first : run.last + 1]))

    def size_product(self, sizes: tuple[Size, ...]) -> Expression:
        """The product of sizes that are no rows and no columns of the tile."""
        return product(*map(self._dim, dims_in(sizes)), known_factor(sizes))

    def _dim(self, dim: Dim) -> Name:
        return Name(self.size_names[dim])

    def _uses_rows(self, expression: Expression) -> bool:
        return self._uses(self.row_name(), expression)

    def _uses_columns(self, expression: Expression) -> bool:
        return self._uses(COLUMN.name, expression)

    def _uses(self, name: str, expression: Expression) -> bool:
        """Whether an expression holds a name, or one that stands for an expression which does."""
        names = names_in(expression)
        return name in names or any(n.name in names and self._uses(name, e) for e, n in self.shared.items())

    # -- what is written more than once --

    def _name_parts(self, taken: set[str]) -> None:
        """Names for the products of sizes, quotients, remainders and terms that occur in more than one offset."""
        for written, name in (
            (self._products, "stride"),
            (self._quotients, "outer_{}"),
            (self._remainders, "inner_{}"),
            (self._shared_starts, "{}_start"),
            (self._terms, "{}_start"),
        ):
            for expression, count in Counter(written()).items():
                if count > 1:
                    self._share(expression, _free(name.format(_leading(expression)), taken))
                    self.strides |= {expression} if name == "stride" else set()

    def _share(self, expression: Expression, name: Name) -> None:
        self.shared[expression] = name
        self._offsets.clear()
        self._written = None

    def _addresses(self) -> list[Address]:
        """One address for each offset that is written: of a row alone all, as each begins with where that row does."""
        if self._written is None:
            found = [a for s in self.kernel.steps if (a := s.attrs.get("address"))]
            names_offsets = self.layout.traversal.names_offsets
            self._written = list({self._iterated(a): a for a in found}.values()) if names_offsets else found
        return self._written

    def _written_runs(self) -> list[Run]:
        """The runs of all offsets, and the axes whose index a formula asks for, as often as it does."""
        uses = Counter(a for s in self.kernel.steps for a in s.args)
        found = [run for address in self._addresses() for run in self._runs(address)]
        for step in self.kernel.steps:
            found += [self._index_run(step)] * uses[step.name] if step.op == "index" else []
        return found

    def _products(self) -> list[Expression]:
        shapes: list[tuple[Size, ...]] = []
        for run in self._written_runs():
            sizes = self.kernel.axes.shape(run.group)
            shapes += [run.behind, sizes[run.last + 1 :], *([sizes[run.first : run.last + 1]] if run.first else [])]
        for address in self._addresses():
            shapes += [(start, *behind) for _, behind, start in address.dims if start]
        shapes += [s.attrs["address"].shape[1:] for s in self.kernel.steps if s.op == "take_rows"]
        return [found for found in map(self.product, shapes) if holds(found, "*")]

    def _quotients(self) -> list[Expression]:
        indices = (index for index in map(self._run_index, self._written_runs()) if holds(index, "//"))
        return [i.left if isinstance(i, Binary) and i.sign == "%" else i for i in indices]

    def _remainders(self) -> list[Expression]:
        return [index for index in map(self._run_index, self._written_runs()) if holds(index, "%")]

    def _shared_starts(self) -> list[Expression]:
        """What different terms begin with: `row * height` of `row * height * 3`, if that is a term too."""
        terms = {p[-1]: p[1:] for a in self._addresses() for p in map(self._products_of, self._runs(a))}
        return [start for products in terms.values() for start in products if holds(start, "*")]

    def _terms(self) -> list[Expression]:
        terms = [self._products_of(run)[-1] for address in self._addresses() for run in self._runs(address)]
        return [term for term in terms if holds(term, "*")]

    def _name_what_repeats(self) -> None:
        """Masks and offsets that are written more than once get a name."""
        masks: Counter[Expression | None] = Counter()
        offsets: Counter[Expression] = Counter()
        taken = {p.name for p in self.kernel.parameters} | set(self.steps)
        self._name_parts(taken)
        for step in self.kernel.steps:
            if step.op in ("load", "store", "take_rows", "operand") or self._is_shared(step):
                # What programs leave of a shared sum is stored, and loaded again.
                masks[self.mask_of(step.extent)] += self._is_shared(step)
                masks[self.mask_of(step.extent)] += 1
            if step.attrs.get("masked") and not self.reads_identity(step):
                masks[self.reduction_mask(step)] += 1
            if step.op == "accumulate" and step.attrs["columns"]:
                masks[self.mask_of(COL)] += 1
            if "address" in step.attrs:
                offsets[self._iterated(step.attrs["address"])] += 1 + self._is_shared(step)
        if self.layout.finalizes:
            masks[self.mask_of(ROW)] += 1
        row, col = self.mask_of(ROW), self.mask_of(COL)
        tile = self.mask_of(TILE)
        if row and col and tile in masks:
            masks[row] += 1
            masks[col] += 1
        simple = [(row, "in_rows" if self.layout.cols else "mask"), (col, "in_cols")]
        for mask, called in simple:
            if mask and masks[mask] > 1:
                self._share(mask, _free(called, taken))
        if tile and tile not in (row, col) and masks[tile]:
            # The combined mask is defined once, in terms of its parts.
            parts = both(*(self._mask_by_name(mask) for mask in (row, col)))
            assert parts is not None
            self.aliases[tile] = parts
            if masks[tile] > 1:
                self.aliases[tile] = name = _free("mask", taken)
                self._share(parts, name)
        for offset, count in offsets.items():
            if count > 1 and offset != ZERO and not isinstance(offset, Name) and self.layout.traversal.names_offsets:
                self._share(offset, _free("cell", taken))

    @staticmethod
    def _is_shared(step: Step) -> bool:
        return step.op == "product" and "address" in step.attrs

    def _is_wide(self) -> bool:
        """Whether an offset may pass 2**31: memory of unknown size, or known to be that large."""
        return any(_may_pass(s.attrs["address"].shape) for s in self.kernel.steps if s.attrs.get("address"))


MOST_PROGRAMS = 2**16
"""Programs that may share a sum over rows: more than any GPU runs at once."""


def _may_pass(shape: Shape, times: int = 1) -> bool:
    """Whether so many elements, some times over, may pass 2**31: their number is not known, or that large."""
    size = static_size(shape)
    return size is None or size * times >= 2**31


def _leading(expression: Expression) -> Expression:
    """What an expression begins with, and of a cast what is cast."""
    first = leftmost(expression)
    casts = [part for part in walk(expression) if isinstance(part, Call) and part.function == first]
    return _leading(casts[0].arguments[0]) if casts else first


def _with_64_bits(index: Expression) -> Expression:
    return call("tl.cast", index, Name("tl.int64"))


def _larger(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _free(name: str, taken: set[str]) -> Name:
    made = name
    while made in taken:
        made += "_here"
    taken.add(made)
    return Name(made)


COLUMN = Name("col")
