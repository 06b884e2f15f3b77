"""Tile programs as Triton source: the function a reader learns from, and the launcher below it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tritonnotes.ir.graph import Value
from tritonnotes.ir.types import Dim, Size

from .spelling import ATOM, COMBINERS, NAN_SAFE, SPELLINGS, Spelling
from .tile import COL, ROW, SCALAR, TILE, Kernel, Step, static_size

LONGEST_INLINE = 90
INDENT = "    "


@dataclass(frozen=True)
class KernelSource:
    """The text of one kernel and its launcher, the helpers that it calls, and what compiling it ahead of time needs.

    `signature` gives a Triton type for each runtime argument, `constexprs` the compile-time ones (with the GPU's tile).
    """

    name: str
    text: str
    launcher: str
    helpers: frozenset[str]
    signature: dict[str, str]
    constexprs: dict[str, int]
    num_warps: int


def render_kernel(kernel: Kernel) -> KernelSource:
    """Spell a tile program."""
    return _Writer(kernel).source()


class _Writer:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.steps = {s.name: s for s in kernel.steps}
        self.uses = Counter(a for s in kernel.steps for a in s.args)
        self.helpers: set[str] = set()
        self.shared: dict[str, str] = {}
        self.names_taken = {p.name for p in kernel.parameters} | set(self.steps)
        self.size_names = {p.size[0]: p.name for p in kernel.parameters if p.role == "size"}
        self.is_wide = self._is_wide()

    # -- the whole ---------------------------------------------------------------------------------------------------------

    def source(self) -> KernelSource:
        setup, body, after = self._sections()
        lines = ["@triton.jit", f"def {self.kernel.name}("]
        lines += [f"{INDENT}{a}," for a in self._argument_list()]
        lines += ["):", f'{INDENT}"""{self._docstring()}"""']
        lines += [INDENT + line if line else "" for line in _single_blanks([*setup, *body, *after])]
        text = "\n".join(lines) + "\n"
        return KernelSource(
            self.kernel.name,
            text,
            self._launcher(),
            frozenset(self.helpers),
            self._signature(),
            self._constexprs(),
            self._num_warps(),
        )

    def _docstring(self) -> str:
        ops: dict[str, None] = {}
        for unit in self.kernel.plan.units:
            scope = unit.value.scope
            ops.setdefault(_PHASES[scope.phase] + (scope.name or unit.value.name))
        again = [v.scope.name or v.name for v in self.kernel.plan.recomputed]
        text = ", ".join(ops) + "."
        if again:
            text += f" Computes {', '.join(dict.fromkeys(again))} again: that moves fewer bytes than loading it."
        return _wrapped(text)

    def _sections(self) -> tuple[list[str], list[str], list[str]]:
        layout = self.layout
        self._share_index_text()
        hoisted, inner = [], []
        for step in self.kernel.steps:
            once = step.op in ("load", "argument") and step.form in (COL, SCALAR)
            (hoisted if once else inner).append(step)
        setup = self._index_lines(in_loop=False)
        if layout.combines:
            setup += self._combine_lines()
        setup += self._step_lines(hoisted)
        if layout.carries:
            setup += ["", *self._accumulator_lines()]
            loop = [f"for tile in range(program, tl.cdiv({self._row_bound()}, {self._row_block_name()}), programs):"]
            loop += [INDENT + line if line else "" for line in (*self._index_lines(in_loop=True), *self._step_lines(inner))]
            after = ["", *self._partial_lines()]
            return setup, loop, after
        return setup, self._step_lines(inner), []

    def _argument_list(self) -> list[str]:
        listed = [p.name for p in self.kernel.parameters]
        listed += self._bound_arguments()
        return listed + [f"{name}: tl.constexpr" for name in self._constexprs()]

    def _bound_arguments(self) -> list[str]:
        """Runtime arguments beside the tile program's own: the number of rows, and of programs."""
        listed = []
        if self.layout.rows and self._row_bound() in ("rows", "elements"):
            listed.append(self._row_bound())
        if self.layout.carries or self.layout.combines:
            listed.append("programs")
        return listed

    def _constexprs(self) -> dict[str, int]:
        layout = self.layout
        made: dict[str, int] = {}
        length = static_size(layout.col_shape)
        if layout.cols and length is not None:
            made["COLS"] = length
        if layout.combines:
            made["PROGRAMS"] = 32
        if layout.rows:
            made[self._row_block_name()] = 64 if layout.combines and not layout.cols else layout.row_block
        if layout.combines and layout.rows and not layout.masks_rows:
            made[self._row_block_name()] = min(64, layout.exact_rows)
        if layout.cols:
            made["BLOCK"] = layout.block
        return made

    def _row_block_name(self) -> str:
        return "ROWS" if self.layout.cols else "BLOCK"

    def _num_warps(self) -> int:
        if not self.layout.cols:
            return 4
        return 4 if self.layout.block < 4096 else 8 if self.layout.block < 16384 else 16

    def _signature(self) -> dict[str, str]:
        made = {}
        for p in self.kernel.parameters:
            made[p.name] = "*" + _TRITON_TYPES[p.dtype.name] if p.is_pointer else "i32" if p.role == "size" else "fp32"
        return made | dict.fromkeys(self._bound_arguments(), "i32")

    # -- index arithmetic ------------------------------------------------------------------------------------------------------

    def _is_wide(self) -> bool:
        """Whether an offset may pass 2**31: memory of unknown size, or known to be that large."""
        for step in self.kernel.steps:
            source = step.attrs.get("source")
            if source is not None:
                size = static_size(source.shape)
                if size is None or size >= 2**31:
                    return True
        return False

    def _row_name(self) -> str:
        return "row" if self.layout.cols else "offset"

    def _row_bound(self) -> str:
        """The number of rows: a literal, the one `Dim` that they are, or an argument."""
        size = static_size(self.layout.row_shape)
        if size is not None:
            return str(size)
        if len(self.layout.row_shape) == 1:
            return self._size(self.layout.row_shape[0])
        return "rows" if self.layout.cols else "elements"

    def _col_bound(self) -> str:
        return "COLS" if static_size(self.layout.col_shape) is not None else self._product(self.layout.col_shape)

    def _size(self, size: Size) -> str:
        return self.size_names[size] if isinstance(size, Dim) else str(size)

    def _product(self, sizes: tuple[Size, ...]) -> str:
        known = 1
        for size in sizes:
            known *= size if isinstance(size, int) else 1
        length = static_size(self.layout.col_shape)
        factors = [self._size(s) for s in sizes if isinstance(s, Dim)]
        if known != 1:
            factors.append("COLS" if self.layout.cols and known == length else str(known))
        return " * ".join(factors) or "1"

    def _index_lines(self, in_loop: bool) -> list[str]:
        layout = self.layout
        lines: list[str] = []
        block = self._row_block_name()
        flat = layout.is_flat
        rows_here = bool(layout.rows) and in_loop == layout.carries
        if not in_loop:
            if layout.carries:
                lines.append("program = tl.program_id(0)")
            if layout.cols:
                start = "tl.program_id(1) * BLOCK + " if layout.tiles_cols else ""
                lines.append(f"col = {start}tl.arange(0, BLOCK){'' if flat else '[None, :]'}")
        if rows_here:
            which = "tile" if layout.carries else "tl.program_id(0)"
            if self.is_wide:
                which = f"tl.cast({which}, tl.int64)"
            lines.append(f"{self._row_name()} = {which} * {block} + tl.arange(0, {block}){'' if flat else '[:, None]'}")
        for text, name in self.shared.items():
            if self._uses_rows(text) == (in_loop if layout.carries else self._uses_rows(text)):
                lines.append(f"{name} = {text}")
        return lines

    def _uses_rows(self, text: str) -> bool:
        return self._row_name() in _words(text) or "in_rows" in _words(text)

    def _share_index_text(self) -> None:
        """Masks and offsets that are written more than once get a name."""
        masks: Counter[str] = Counter()
        offsets: Counter[str] = Counter()
        for step in self.kernel.steps:
            if step.op in ("load", "store"):
                mask = self._mask_of(step.form)
                masks[mask] += 1
                offsets[self._offset(step.attrs["source"])] += 1
            elif step.attrs.get("masked") and not self._reads_identity(step):
                masks[self._reduction_mask(step)] += 1
            elif step.op == "carry" and step.attrs["columns"]:
                masks[self._mask_of(COL)] += 1
        row, col = self._mask_of(ROW), self._mask_of(COL)
        both = self._mask_of(TILE)
        taken = set(self.names_taken)
        if row and col and both in masks:
            masks[row] += 1
            masks[col] += 1
        simple = [(row, "in_rows" if self.layout.cols else "mask"), (col, "in_cols")]
        for text, name in simple:
            if text and masks[text] > 1:
                self.shared[text] = _free(name, taken)
        if both not in (row, col) and masks[both] > 1:
            text = " & ".join(self.shared.get(t, f"({t})") for t in (row, col))
            self.shared[text] = self.shared[both] = _free("mask", taken)
            self.shared = {t: n for t, n in self.shared.items() if t != both} | {both: self.shared[text]}
        for text, count in offsets.items():
            if count > 1 and not text.isidentifier() and text:
                self.shared[text] = _free("cell", taken)
        # The combined mask is defined once, in terms of its parts.
        self.aliases = {}
        if both in self.shared and both not in (row, col):
            self.aliases[both] = self.shared.pop(both)

    def _shared_text(self, text: str) -> str:
        return self.aliases.get(text) or self.shared.get(text, text)

    def _mask_of(self, form: str) -> str:
        """The condition that lanes of this form lie inside the tensor; empty where all do."""
        layout = self.layout
        parts = []
        if form in (TILE, ROW) and layout.rows and layout.masks_rows:
            parts.append(f"{self._row_name()} < {self._row_bound()}")
        if form in (TILE, COL) and layout.cols and layout.masks_cols:
            parts.append(f"col < {self._col_bound()}")
        return " & ".join(f"({p})" for p in parts) if len(parts) > 1 else "".join(parts)

    def _reduction_mask(self, step: Step) -> str:
        if step.op != "carry":
            return self._mask_of(COL)
        arg = self.steps[step.args[0]]
        return self._mask_of(TILE) if step.attrs["both"] and arg.form == TILE else self._mask_of(ROW)

    def _offset(self, value: Value) -> str:
        """Where the element for this lane lies in the contiguous memory of `value`."""
        labels = self.kernel.axes.labels[value]
        layout = self.layout
        axes = [(axis, value.shape[i + 1 :]) for i, axis in enumerate(labels) if axis is not None]
        terms = []
        for group, shape, name in ((layout.rows, layout.row_shape, self._row_name()), (layout.cols, layout.col_shape, "col")):
            mine = [(axis, stride) for axis, stride in axes if axis in group]
            if not mine:
                continue
            order = [axis for axis, _ in mine]
            positions = [i for i, a in enumerate(labels) if a is not None]
            together = [i for i in positions if labels[i] in group]
            adjacent = together == list(range(together[0], together[-1] + 1)) or all(
                labels[i] in group for i in positions if together[0] <= i <= together[-1]
            )
            if order == list(group) and adjacent:
                terms.append(_times(name, self._product(mine[-1][1])))
                continue
            for axis, stride in mine:
                terms.append(_times(self._axis_index(axis, group, shape, name), self._product(stride)))
        return " + ".join(terms)

    def _axis_index(self, axis: int, group: tuple[int, ...], shape: tuple[Size, ...], name: str) -> str:
        """The index along one axis out of the running number over a group of axes."""
        at = group.index(axis)
        inner = self._product(shape[at + 1 :])
        text = name if inner == "1" else f"{name} // {_factor(inner)}"
        return text if at == 0 else f"{text} % {_factor(self._product(shape[at : at + 1]))}"

    # -- statements ------------------------------------------------------------------------------------------------------------

    def _step_lines(self, steps: list[Step]) -> list[str]:
        lines: list[str] = []
        loads = [s for s in steps if s.op in ("load", "argument")]
        for step in loads:
            line = self._load_line(step)
            if line:
                lines.append(line)
        shown = None
        for step in steps:
            if step.op in ("load", "argument", "number", "index", "combine") or self._is_inlined(step):
                continue
            if step.op == "store":
                continue
            heading = self._heading(step)
            if heading and heading != shown:
                lines += ["", *heading.splitlines()]
                shown = heading
            lines.append(self._statement(step))
        stores = [self._store_line(s) for s in steps if s.op == "store"]
        return [*lines, "", *stores] if stores else lines

    def _heading(self, step: Step) -> str:
        scope = step.scope
        if scope is None or not scope.name:
            return ""
        op = scope.op.removeprefix("custom.")
        which = scope.name if scope.name == op else f"{scope.name}, {op}"
        said = scope.derivative if scope.phase == "backward" else scope.formula
        text = f"{_PHASES[scope.phase]}{which}" + (f": {said}" if said else "")
        return "\n".join(f"# {line}" for line in _wrapped(text, 104).split(f"\n{INDENT}"))

    def _statement(self, step: Step) -> str:
        if step.op == "carry":
            taken = self._reduction_text(step)
            if step.attrs["reduction"] == "sum":
                return f"{step.name} += {taken}"
            return f"{step.name} = {self._fill(COMBINERS[step.attrs['reduction']], [(step.name, ATOM), (taken, ATOM)])}"
        if step.op == "repeat":
            return f"{step.name} = {self._text(step.args[0])[0]} + tl.zeros({self._tile_shape(step.form)}, {_tl(step)})"
        return f"{step.name} = {self._expression(step)[0]}"

    def _tile_shape(self, form: str) -> str:
        if self.layout.is_flat:
            return "[BLOCK]"
        return {TILE: "[ROWS, BLOCK]", ROW: "[ROWS, 1]", COL: "[1, BLOCK]"}[form]

    def _is_inlined(self, step: Step) -> bool:
        if step.is_named or step.op in ("load", "store", "carry", "combine", "repeat", "argument"):
            return False
        return self.uses[step.name] == 1 and len(self._expression(step)[0]) <= LONGEST_INLINE

    def _text(self, name: str) -> tuple[str, int]:
        step = self.steps[name]
        if step.op == "number":
            text = step.attrs["number"]
            return text, 13 if text.startswith("-") else ATOM
        if step.op == "index":
            return self._index_text(step)
        return self._expression(step) if self._is_inlined(step) else (step.name, ATOM)

    def _index_text(self, step: Step) -> tuple[str, int]:
        axis = step.attrs["of_axis"]
        if axis in self.layout.rows:
            text = self._axis_index(axis, self.layout.rows, self.layout.row_shape, self._row_name())
        else:
            text = self._axis_index(axis, self.layout.cols, self.layout.col_shape, "col")
        return text, ATOM if text.isidentifier() else 12

    def _expression(self, step: Step) -> tuple[str, int]:
        if step.op in ("sum", "max", "min"):
            return self._reduction_text(step), ATOM
        args = [self._text(a) for a in step.args]
        if step.op == "cast":
            source = self.steps[step.args[0]]
            if source.dtype is step.dtype:
                return args[0]
            return self._fill(SPELLINGS["cast"], args, dtype=_triton_name(step)), ATOM
        spelling = SPELLINGS[step.op]
        return self._fill(spelling, args), spelling.binds

    def _fill(self, spelling: Spelling, args: list[tuple[str, int]], **more: str) -> str:
        if spelling.helper:
            self.helpers.add(spelling.helper)
        if "{}" in spelling.template:
            return spelling.template.replace("{}", ", ".join(text for text, _ in args))
        needs = spelling.needs or (0,) * len(args)
        shown = [f"({text})" if binds < need else text for (text, binds), need in zip(args, needs, strict=True)]
        return spelling.template.format(*shown, **more)

    def _reduction_text(self, step: Step) -> str:
        op = step.attrs.get("reduction", step.op)
        text, _ = self._text(step.args[0])
        arg = self.steps[step.args[0]]
        if step.attrs.get("masked") and not self._reads_identity(step):
            text = self._masked_text(step, arg, text)
        spelling = NAN_SAFE.get(op, SPELLINGS[op]) if arg.dtype.is_float else SPELLINGS[op]
        axis = step.attrs["axis"]
        filled = self._fill(spelling, [(text, ATOM)], axis=axis)
        return filled.replace(", axis=None)", ")") if spelling.helper == "" else filled

    def _masked_text(self, step: Step, arg: Step, text: str) -> str:
        """The argument of a reduction with its identity in the lanes outside the tensor."""
        mask, identity = self._shared_text(self._reduction_mask(step)), step.attrs["identity"]
        if arg.op == "where" and self._is_inlined(arg) and self._text(arg.args[2])[0] == identity:
            # A choice that has the identity on its other side takes the mask into its condition.
            condition, binds = self._text(arg.args[0])
            both = f"{mask if mask.isidentifier() else f'({mask})'} & {f'({condition})' if binds < 10 else condition}"
            return f"tl.where({both}, {self._text(arg.args[1])[0]}, {identity})"
        return f"tl.where({mask}, {text}, {identity})"

    def _reads_identity(self, step: Step) -> bool:
        """A sum straight over loaded values needs no second mask: the load fills the lanes outside with 0."""
        arg = self.steps[step.args[0]] if step.args else None
        return arg is not None and arg.op == "load" and step.attrs.get("reduction", step.op) == "sum" and arg.form != SCALAR

    def _load_line(self, step: Step) -> str:
        if step.op == "argument":
            return f"{step.name} = tl.load({step.attrs['pointer']})" if step.attrs.get("pointer") else ""
        mask = self._shared_text(self._mask_of(step.form))
        options = f", mask={mask}" if mask else ""
        if mask and self._is_summed_directly(step):
            options += ", other=0.0" if step.dtype.is_float else ", other=0"
        address = self._address(step)
        text = f"tl.load({address}{options})"
        if step.attrs["storage"] is not step.dtype:
            text += f".to({_tl(step)})"
        return f"{step.name} = {text}"

    def _is_summed_directly(self, load: Step) -> bool:
        return any(
            load.name in s.args and s.attrs.get("masked") and s.attrs.get("reduction", s.op) == "sum" for s in self.kernel.steps
        )

    def _address(self, step: Step) -> str:
        offset = self._shared_text(self._offset(step.attrs["source"]))
        return f"{step.attrs['pointer']} + {offset}" if offset else step.attrs["pointer"]

    def _store_line(self, step: Step) -> str:
        mask = self._shared_text(self._mask_of(step.form))
        value = self._stored_text(step)
        return f"tl.store({self._address(step)}, {value}{f', mask={mask}' if mask else ''})"

    def _stored_text(self, step: Step) -> str:
        source = self.steps[step.args[0]]
        text, binds = self._text(step.args[0])
        if step.dtype is not source.dtype and step.dtype.is_float and source.op != "number":
            text = f"({text}).to(tl.{step.dtype.name})" if binds < ATOM else f"{text}.to(tl.{step.dtype.name})"
        return text

    # -- sums over all rows ----------------------------------------------------------------------------------------------------

    def _accumulator_lines(self) -> list[str]:
        lines = []
        for step in self.kernel.steps:
            if step.op == "carry":
                shape = "[]" if step.form == SCALAR else self._tile_shape(COL)
                lines.append(f"{step.name} = tl.full({shape}, {step.attrs['identity']}, {_tl(step)})")
        return lines

    def _partial_lines(self) -> list[str]:
        lines = []
        for step in self.kernel.steps:
            if step.op != "carry":
                continue
            if step.form == SCALAR:
                lines.append(f"tl.store({step.attrs['pointer']} + program, {step.name})")
            else:
                mask = self._shared_text(self._mask_of(COL))
                place = f"program * {_factor(self._col_bound())} + col"
                lines.append(f"tl.store({step.attrs['pointer']} + {place}, {step.name}{f', mask={mask}' if mask else ''})")
        return lines

    def _combine_lines(self) -> list[str]:
        """Add up what each program left, in the order of the programs."""
        steps = [s for s in self.kernel.steps if s.op == "combine"]
        has_rows = bool(self.layout.rows)
        shape = "[BLOCK]" if has_rows else "[]"
        lines = ["", "# Sums over all rows: add up what each program left, always in the same order."]
        lines += [f"{s.name} = tl.full({shape}, {s.attrs['identity']}, {_tl(s)})" for s in steps]
        lines.append("for first in range(0, programs, PROGRAMS):")
        lines.append(f"{INDENT}program = first + tl.arange(0, PROGRAMS){'[:, None]' if has_rows else ''}")
        mask = "program < programs"
        if has_rows:
            own = self._shared_text(self._mask_of(ROW))
            mask = f"({mask}) & {own}[None, :]" if own.isidentifier() else f"({mask}) & ({own})[None, :]" if own else mask
            size = static_size(self.layout.row_shape)
            stride = str(size) if size is not None else self._row_bound()
            lines.append(f"{INDENT}cell = program * {stride} + offset[None, :]")
        place = "cell" if has_rows else "program"
        if len(steps) > 1:
            lines.append(f"{INDENT}in_programs = {mask}")
            mask = "in_programs"
        for s in steps:
            loaded = f"tl.load({s.attrs['pointer']} + {place}, mask={mask}, other={s.attrs['identity']})"
            op = s.attrs["reduction"]
            spelling = NAN_SAFE.get(op, SPELLINGS[op]) if s.dtype.is_float else SPELLINGS[op]
            taken = self._fill(spelling, [(loaded, ATOM)], axis="axis=0")
            if op == "sum":
                lines.append(f"{INDENT}{s.name} += {taken}")
            else:
                lines.append(f"{INDENT}{s.name} = {self._fill(COMBINERS[op], [(s.name, ATOM), (taken, ATOM)])}")
        return [*lines, ""]

    # -- launcher ----------------------------------------------------------------------------------------------------------------

    def _launcher(self) -> str:
        constexprs = self._constexprs()
        tuned = {n: v for n, v in constexprs.items() if n in ("ROWS", "PROGRAMS") or (n == "BLOCK" and not self.layout.cols)}
        names = [p.name.removesuffix("_ptr") for p in self.kernel.parameters] + self._bound_arguments()
        taken = [*names, *(f"{n}={v}" for n, v in tuned.items())]
        passed = [*names, *(f"{n}={n if n in tuned else v}" for n, v in constexprs.items()), f"num_warps={self._num_warps()}"]
        lines = [*call_lines(f"def run_{self.kernel.name}(", taken, "):"), f'{INDENT}"""{_wrapped(self._reason())}"""']
        lines.append(f"{INDENT}grid = {self._grid_text()}")
        lines += [INDENT + line for line in call_lines("launch(", [self.kernel.name, "grid", *passed], ")")]
        return "\n".join(lines) + "\n"

    def _grid_text(self) -> str:
        layout = self.layout
        if layout.carries:
            rows = "programs"
        elif layout.rows:
            rows = f"triton.cdiv({self._row_bound()}, {self._row_block_name()})"
        else:
            rows = "1"
        if layout.tiles_cols:
            length = static_size(layout.col_shape)
            return f"({rows}, triton.cdiv({length if length is not None else self._product(layout.col_shape)}, {layout.block}))"
        return f"({rows},)"

    def _reason(self) -> str:
        layout, constexprs = self.layout, self._constexprs()
        warps = self._num_warps()
        if layout.combines:
            return "Finishes sums: few numbers, so small tiles spread them over programs." if layout.rows else "Finishes sums to single numbers: one program."
        if not layout.rows:
            return f"One program: its {layout.block} elements fit in the registers of {warps} warps." if layout.cols else "One program, one number."
        if not layout.cols:
            return f"{constexprs['BLOCK']} elements a program: {warps} warps with {constexprs['BLOCK'] // (32 * warps)} elements a thread, enough loads in flight."
        length = static_size(layout.col_shape)
        what = f"rows of {length}" if length is not None and not layout.tiles_cols else f"tiles {layout.block} columns wide"
        reason = f"{constexprs['ROWS']} {what} a program: about 2,048 elements keep {warps} warps busy without spilling."
        if layout.carries:
            reason += " A fixed number of programs walks over all rows, so few partial sums are left to add up."
        return reason


_PHASES = {"forward": "", "backward": "gradient of ", "update": "update of "}
_TRITON_TYPES = {
    "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "int32": "i32", "int64": "i64", "bool": "i1",
}  # fmt: skip


def _tl(step: Step) -> str:
    return f"tl.{_triton_name(step)}"


def _triton_name(step: Step) -> str:
    return "int1" if step.dtype.name == "bool" else step.dtype.name


def _times(text: str, stride: str) -> str:
    if stride == "1":
        return text
    return f"{text} * {stride}" if text.isidentifier() else f"({text}) * {stride}"


def _factor(text: str) -> str:
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _words(text: str) -> set[str]:
    return set("".join(c if c.isidentifier() or c.isdigit() else " " for c in text).split())


def _free(name: str, taken: set[str]) -> str:
    made = name
    while made in taken:
        made += "_here"
    taken.add(made)
    return made


def call_lines(start: str, arguments: list[str], end: str, width: int = 110) -> list[str]:
    """A call or signature on one line, or broken after as many arguments as fit."""
    whole = f"{start}{', '.join(arguments)}{end}"
    if len(whole) <= width:
        return [whole]
    lines, line = [start], ""
    for argument in arguments:
        if line and len(line) + len(argument) + 2 > width - len(INDENT):
            lines.append(INDENT + line.rstrip())
            line = ""
        line += f"{argument}, "
    return [*lines, INDENT + line.rstrip(" "), end]


def _single_blanks(lines: list[str]) -> list[str]:
    """No blank line at the start, none after another, none after the head of a loop."""
    kept: list[str] = []
    for line in lines:
        if line.strip() or (kept and kept[-1].strip() and not kept[-1].endswith(":")):
            kept.append(line)
    return kept


def _wrapped(text: str, width: int = 110) -> str:
    """A docstring broken into lines."""
    if len(text) <= width:
        return text
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return f"\n{INDENT}".join([*lines, line])
