"""Where the lanes of a tile lie: row and column numbers, masks, offsets into contiguous memory."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import NamedTuple

from tritonnotes.ir.core.types import Dim, Shape, Size

from ..support.sizes import static_size
from ..support.text import factor, words_of
from .row_loops import running_maximum
from .tile_ir import COL, ROW, SCALAR, TILE, Address, Kernel, Step


class Run(NamedTuple):
    """The axes from `first` to `last` of a group that lie one behind the other in memory too, so are walked as one.
    `number` counts the elements of the whole group; `behind` are the sizes behind the run in memory."""

    first: int
    last: int
    group: tuple[int, ...]
    number: str
    behind: Shape


class Indexing:
    """The index arithmetic of one kernel, as text. What is written more than once gets a name of its own."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.steps = {s.name: s for s in kernel.steps}
        self.of_maximum = running_maximum(kernel) if "max" in kernel.layout.traversal.filled_for else {}
        self.size_names = {p.size[0]: p.name for p in kernel.parameters if p.role == "size"}
        self.is_wide = self._is_wide()
        self.shared: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.strides: set[str] = set()
        self._split_index_text()

    def lines(self, in_loop: bool) -> list[str]:
        """The assignments of row, column, masks and shared offsets, outside or inside the loop over tiles."""
        layout, traversal = self.layout, self.layout.traversal
        lines: list[str] = []
        flat = layout.is_flat
        rows_here = bool(layout.rows) and in_loop == layout.loops_tiles
        if not in_loop:
            lines += traversal.setup
            if layout.cols and self._has_named_cols():
                lines.append(f"cols = {self.expanded(layout.col_shape)}")
            if layout.cols and not layout.loops_cols and not traversal.is_given:
                start = f"{traversal.tile_col} * BLOCK + " if layout.tiles_cols else ""
                lines.append(f"col = {start}tl.arange(0, BLOCK){'' if flat else '[None, :]'}")
        if rows_here and not traversal.is_given:
            lines.append(f"{self.row_name()} = {self._row_lanes()}")
        for text, name in self.shared.items():
            if layout.loops_cols and self._uses_columns(text):
                continue
            if self._uses_rows(text) == (in_loop if layout.loops_tiles else self._uses_rows(text)):
                lines.append(f"{name} = {self._widened(text)}")
        return lines

    def _row_lanes(self) -> str:
        """The rows of the tile: one number, or one for each lane."""
        block, tile = self.row_block_name(), self.layout.traversal.tile_row
        if tile and self.is_wide:
            tile = f"tl.cast({tile}, tl.int64)"
        if self.layout.traversal.is_one_row:
            return tile
        start = f"{tile} * {block} + " if tile else ""
        return f"{start}tl.arange(0, {block}){'' if self.layout.is_flat else '[:, None]'}"

    def _widened(self, text: str) -> str:
        """A product of sizes has 64 bits where it may pass 2**31, as the row numbers have that others begin with."""
        first, _, rest = text.partition(" * ")
        return f"tl.cast({first}, tl.int64) * {rest}" if text in self.strides and self.is_wide else text

    def column_lines(self, body: list[str]) -> list[str]:
        """The assignments of column, masks and shared offsets in a walk along the row, of those that `body` uses."""
        lines: list[str] = []
        used = set().union(*map(words_of, body)) if body else set()
        for text, name in reversed(self.shared.items()):
            if name in used and self._uses_columns(text):
                lines.insert(0, f"{name} = {text}")
                used |= words_of(text)
        return [f"col = start + tl.arange(0, BLOCK){'' if self.layout.is_flat else '[None, :]'}", *lines]

    def row_name(self) -> str:
        return "row" if self.layout.cols else "offset"

    def row_bound(self) -> str:
        """The number of rows: a literal, the one `Dim` that they are, or an argument."""
        size = static_size(self.layout.row_shape)
        if size is not None:
            return str(size)
        if len(self.layout.row_shape) == 1:
            return self._size(self.layout.row_shape[0])
        return "rows" if self.layout.cols else "elements"

    def col_bound(self) -> str:
        size = static_size(self.layout.col_shape)
        if size is None:
            return self.product(self.layout.col_shape)
        return str(size) if self.layout.traversal.is_given else "COLS"

    def row_block_name(self) -> str:
        return "ROWS" if self.layout.cols else "BLOCK"

    def product(self, sizes: tuple[Size, ...]) -> str:
        """The product of some sizes, where those of a whole row have a name."""
        if self._has_named_cols() and _larger(sizes) == _larger(self.layout.col_shape):
            return "cols"
        return self.shared_text(self.expanded(sizes))

    def expanded(self, sizes: tuple[Size, ...]) -> str:
        """The product of some sizes, written out."""
        known = 1
        for size in sizes:
            known *= size if isinstance(size, int) else 1
        length = static_size(self.layout.col_shape) if not self.layout.traversal.is_given else None
        factors = [self._size(s) for s in sizes if isinstance(s, Dim)]
        if known != 1:
            factors.append("COLS" if self.layout.cols and known == length else str(known))
        return " * ".join(factors) or "1"

    def _has_named_cols(self) -> bool:
        shape = self.layout.col_shape
        return len(_larger(shape)) > 1 and static_size(shape) is None

    def mask_of(self, form: str) -> str:
        """The condition that lanes of this form lie inside the tensor; empty where all do."""
        layout = self.layout
        parts = []
        if form in (TILE, ROW) and layout.rows and layout.masks_rows:
            parts.append(f"{self.row_name()} < {self.row_bound()}")
        if form in (TILE, COL) and layout.cols and layout.masks_cols:
            parts.append(f"col < {self.col_bound()}")
        return " & ".join(f"({p})" for p in parts) if len(parts) > 1 else "".join(parts)

    def reduction_mask(self, step: Step) -> str:
        if step.op != "carry":
            return self.mask_of(COL)
        arg = self.steps[step.args[0]]
        return self.mask_of(TILE) if step.attrs["both"] and arg.form == TILE else self.mask_of(ROW)

    def reads_identity(self, step: Step) -> bool:
        """A sum straight over loaded values needs no second mask: the load fills the lanes outside with 0. Nor does a
        maximum of a row alone, which fills them with −∞, or a sum of eˣ⁻ᵐ, m the maximum: there e⁻ᵒᵒ is 0."""
        arg = self.steps[step.args[0]] if step.args else None
        if arg is None or arg.form == SCALAR:
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

    def offset(self, address: Address) -> str:
        """Where the element for this lane lies, counted from the pointer; what is shared bears its name."""
        first = [self.product((start, *behind)) for _, behind, start in address.dims if start]
        return " + ".join(filter(None, (self.shared_text(self._walked(address)), *first)))

    def _walked(self, address: Address) -> str:
        """The offset but for where the first element lies."""
        return " + ".join(self.shared_text(self._products_of(run)[-1]) for run in self._runs(address))

    def divides_columns(self, address: Address) -> bool:
        """Whether some of an offset is a quotient or a remainder of the column."""
        last = len(self.layout.cols) - 1
        return any(r.number == "col" and (r.first > 0 or r.last < last) for r in self._runs(address))

    def _products_of(self, run: Run) -> list[str]:
        """A run's index, that times the first of the sizes behind it, and so on up to the whole term."""
        first, *sizes = self.product(run.behind).split(" * ")
        index = self._run_index(run)
        texts = [index, _times(index, first)]
        for size in sizes:
            texts.append(f"{self.shared_text(texts[-1])} * {size}")
        return texts

    def _runs(self, address: Address) -> list[Run]:
        found: list[Run] = []
        for group, name in ((self.layout.rows, self.row_name()), (self.layout.cols, "col")):
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

    def index_text(self, step: Step) -> tuple[str, int]:
        """The index along one axis, as text and Python's precedence of it."""
        text = self._run_index(self._index_run(step))
        return text, ATOM if text.isidentifier() else 12

    def _index_run(self, step: Step) -> Run:
        axis = step.attrs["of_axis"]
        group, name = (self.layout.rows, self.row_name()) if axis in self.layout.rows else (self.layout.cols, "col")
        at = group.index(axis)
        return Run(at, at, group, name, ())

    def words(self) -> set[str]:
        """Every identifier that index arithmetic is made of."""
        texts = [self.row_bound(), self.expanded(self.layout.col_shape)]
        texts += [self.mask_of(form) for form in (TILE, ROW, COL)] + list(self.shared)
        for step in self.kernel.steps:
            if step.op == "index":
                texts.append(self.index_text(step)[0])
            elif "address" in step.attrs:
                texts.append(self.offset(step.attrs["address"]))
                texts += [self._size(s) for s in step.attrs["address"].extent if step.op == "take_rows"]
                texts += [self._size(s) for s in step.attrs.get("behind", ())]
            texts += [self._size(s) for s in step.attrs.get("summed", ())]
        return set().union(*map(words_of, texts))

    def shared_text(self, text: str) -> str:
        return self.aliases.get(text) or self.shared.get(text, text)

    def _run_index(self, run: Run) -> str:
        """The running number over the axes of a run, out of that over its whole group."""
        shape = self.kernel.axes.shape(run.group)
        inner = self.product(shape[run.last + 1 :])
        text = run.number if inner == "1" else self.shared_text(f"{run.number} // {factor(inner)}")
        if run.first == 0:
            return text
        return self.shared_text(f"{text} % {factor(self.product(shape[run.first : run.last + 1]))}")

    def sizes_text(self, sizes: tuple[Size, ...]) -> str:
        """The product of sizes that are no rows and no columns of the tile."""
        known = prod(s for s in sizes if isinstance(s, int))
        return " * ".join(
            [*(self._size(s) for s in sizes if isinstance(s, Dim)), *([str(known)] if known != 1 else [])]
        )

    def _size(self, size: Size) -> str:
        return self.size_names[size] if isinstance(size, Dim) else str(size)

    def _uses_rows(self, text: str) -> bool:
        return self._uses(self.row_name(), text)

    def _uses_columns(self, text: str) -> bool:
        return self._uses("col", text)

    def _uses(self, name: str, text: str) -> bool:
        """Whether a text holds a name, or one that stands for a text which does."""
        words = words_of(text)
        return name in words or any(n in words and self._uses(name, t) for t, n in self.shared.items())

    # -- what is written more than once --

    def _split_parts(self, taken: set[str]) -> None:
        """Names for the products of sizes, quotients, remainders and terms that occur in more than one offset."""
        for written, name in (
            (self._products, "stride"),
            (self._quotients, "outer_{}"),
            (self._remainders, "inner_{}"),
            (self._shared_starts, "{}_start"),
            (self._terms, "{}_start"),
        ):
            for text, count in Counter(written()).items():
                if count > 1:
                    first = text.replace("(", "").split()[0]
                    self.shared[text] = _free(name.format(first), taken)
                    self.strides |= {text} if name == "stride" else set()

    def _addresses(self) -> list[Address]:
        """One address for each offset that is written: of a row alone all, as each begins with where that row does."""
        if not self.layout.traversal.names_offsets:
            return [a for s in self.kernel.steps if (a := s.attrs.get("address"))]
        return list({self._walked(a): a for s in self.kernel.steps if (a := s.attrs.get("address"))}.values())

    def _written_runs(self) -> list[Run]:
        """The runs of all offsets, and the axes whose index a formula asks for, as often as it does."""
        uses = Counter(a for s in self.kernel.steps for a in s.args)
        found = [run for address in self._addresses() for run in self._runs(address)]
        for step in self.kernel.steps:
            found += [self._index_run(step)] * uses[step.name] if step.op == "index" else []
        return found

    def _products(self) -> list[str]:
        shapes: list[tuple[Size, ...]] = []
        for run in self._written_runs():
            sizes = self.kernel.axes.shape(run.group)
            shapes += [run.behind, sizes[run.last + 1 :], *([sizes[run.first : run.last + 1]] if run.first else [])]
        for address in self._addresses():
            shapes += [(start, *behind) for _, behind, start in address.dims if start]
        shapes += [s.attrs["address"].extent[1:] for s in self.kernel.steps if s.op == "take_rows"]
        return [text for text in map(self.product, shapes) if " * " in text]

    def _quotients(self) -> list[str]:
        texts = map(self._run_index, self._written_runs())
        return [text.partition(" % ")[0] for text in texts if " // " in text]

    def _remainders(self) -> list[str]:
        return [text for text in map(self._run_index, self._written_runs()) if " % " in text]

    def _shared_starts(self) -> list[str]:
        """What different terms begin with: `row * height` of `row * height * 3`, if that is a term too."""
        terms = {p[-1]: p[1:] for a in self._addresses() for p in map(self._products_of, self._runs(a))}
        return [text for products in terms.values() for text in products if " * " in text]

    def _terms(self) -> list[str]:
        terms = [self._products_of(run)[-1] for address in self._addresses() for run in self._runs(address)]
        return [text for text in terms if " * " in text]

    def _split_index_text(self) -> None:
        """Masks and offsets that are written more than once get a name."""
        masks: Counter[str] = Counter()
        offsets: Counter[str] = Counter()
        taken = {p.name for p in self.kernel.parameters} | set(self.steps)
        self._split_parts(taken)
        for step in self.kernel.steps:
            if step.op in ("load", "store", "take_rows", "operand") or self._is_shared(step):
                # What programs leave of a shared sum is stored, and loaded again.
                masks[self.mask_of(step.form)] += self._is_shared(step)
                masks[self.mask_of(step.form)] += 1
            if step.attrs.get("masked") and not self.reads_identity(step):
                masks[self.reduction_mask(step)] += 1
            if step.op == "carry" and step.attrs["columns"]:
                masks[self.mask_of(COL)] += 1
            if "address" in step.attrs:
                offsets[self._walked(step.attrs["address"])] += 1 + self._is_shared(step)
        if self.layout.finalizes:
            masks[self.mask_of(ROW)] += 1
        row, col = self.mask_of(ROW), self.mask_of(COL)
        both = self.mask_of(TILE)
        if row and col and both in masks:
            masks[row] += 1
            masks[col] += 1
        simple = [(row, "in_rows" if self.layout.cols else "mask"), (col, "in_cols")]
        for text, name in simple:
            if text and masks[text] > 1:
                self.shared[text] = _free(name, taken)
        if both not in (row, col) and masks[both] > 1:
            # The combined mask is defined once, in terms of its parts.
            text = " & ".join(self.shared.get(t, f"({t})") for t in (row, col))
            self.shared[text] = self.aliases[both] = _free("mask", taken)
        elif both not in (row, col) and masks[both]:
            self.aliases[both] = " & ".join(self.shared.get(t, f"({t})") for t in (row, col))
        for text, count in offsets.items():
            if count > 1 and not text.isidentifier() and text and self.layout.traversal.names_offsets:
                self.shared[text] = _free("cell", taken)

    @staticmethod
    def _is_shared(step: Step) -> bool:
        return step.op == "product" and "address" in step.attrs

    def _is_wide(self) -> bool:
        """Whether an offset may pass 2**31: memory of unknown size, or known to be that large."""
        for step in self.kernel.steps:
            address = step.attrs.get("address")
            if address is not None:
                size = static_size(address.extent)
                if size is None or size >= 2**31:
                    return True
        return False


def _larger(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _times(text: str, stride: str) -> str:
    if stride == "1":
        return text
    return f"{text} * {stride}" if text.isidentifier() else f"({text}) * {stride}"


def _free(name: str, taken: set[str]) -> str:
    made = name
    while made in taken:
        made += "_here"
    taken.add(made)
    return made


ATOM = 16
