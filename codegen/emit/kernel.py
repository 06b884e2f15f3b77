"""Tile programs as Triton source: the function a reader learns from, and the launcher below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonnotes.ir.core.types import Shape, element_count, float64, int32

from ..fusion.last_block import GROUP
from ..lower.index_math import ATOM, Indexing
from ..lower.row_loops import is_wide, row_loops, running_maximum
from ..lower.tile_ir import COL, IDENTITIES, ROW, SCALAR, TILE, Address, CalledKernel, Kernel, Step, identity_of
from ..support.sizes import static_size
from ..support.text import INDENT, call_lines, factor, single_blanks, words_of, wrapped
from .launcher import Launcher
from .matmul import ProductText, summed_alike
from .ops import COMBINERS, NAN_SAFE, SPELLINGS, Spelling

LONGEST_INLINE = 90


@dataclass(frozen=True)
class KernelSource:
    """The text of one kernel and its launcher, the helpers that it calls, and what compiling it ahead of time needs.

    `owns` are the functions of sums that each program takes for itself, by name: other kernels may call the same.
    `signature` gives a Triton type for each runtime argument, `constexprs` the compile-time ones (with the GPU's tile),
    `maxnreg` how many registers a thread may have, where ptxas is told. `sizes` are the shapes whose elements an int
    argument counts, for those that count some.
    """

    name: str
    text: str
    launcher: str
    helpers: frozenset[str]
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    sizes: dict[str, Shape] = field(default_factory=dict)
    maxnreg: int | None = None
    replicated_sums: Mapping[str, str] = field(default_factory=dict)


def render_kernel(kernel: Kernel) -> KernelSource:
    """Spell a tile program."""
    return _Writer(kernel).source()


@dataclass(frozen=True)
class Function:
    """The text of a kernel that another one calls, what would launch it, and the helpers that it calls."""

    launcher: Launcher
    text: str
    helpers: frozenset[str]


def function_of(kernel: Kernel) -> Function:
    """Spell a kernel that others call."""
    writer = _Writer(kernel)
    launcher, text = writer._function()
    return Function(launcher, text, frozenset(writer.helpers))


def tile_lines(kernel: Kernel) -> tuple[list[str], frozenset[str]]:
    """What a one-dimensional kernel does with the lanes `offset` under `mask`, and the helpers that it calls. Where
    these lie, and what the host's numbers are, is left to whoever writes the lines before."""
    writer = _Writer(kernel)
    lines = writer._step_lines([s for s in kernel.steps if s.op != "argument"])
    return single_blanks(lines), frozenset(writer.helpers)


class _Writer:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.steps = {s.name: s for s in kernel.steps}
        self.uses = Counter(a for s in kernel.steps for a in s.args)
        self.row_numbers = {a for s in kernel.steps if s.op == "take_rows" for a in s.args}
        self.online = running_maximum(kernel) if kernel.layout.loops_cols else {}
        self.running = {*self.online, *self.online.values()}
        self.helpers: set[str] = set()
        self.replicated_sums: dict[str, str] = {}
        self.index = Indexing(kernel)
        self.products = ProductText(kernel, self.index)

    # -- the whole --

    def source(self) -> KernelSource:
        launcher, text = self._function()
        return KernelSource(
            self.kernel.name,
            text,
            launcher.text(),
            frozenset(self.helpers),
            launcher.signature(),
            launcher.constexprs(),
            launcher.num_warps(),
            launcher.sizes(),
            launcher.most_registers(),
            self.replicated_sums,
        )

    def _function(self) -> tuple[Launcher, str]:
        """The kernel as a function, below those that it calls."""
        for part in self.kernel.replicated_sums:
            self.replicated_sums[part.kernel.name] = self._part(part)
        called = [self._part(part) for part in (*self.kernel.operands, *self.kernel.last_block)]
        written = _indented(single_blanks(self._body()))
        launcher = Launcher(self.kernel, self.index, words_of("\n".join(written)))
        lines = [self._decorator(), f"def {self.kernel.name}("]
        lines += [f"{INDENT}{a}," for a in self._arguments(launcher)]
        lines += ["):", f'{INDENT}"""{self._docstring()}"""', *written]
        return launcher, "\n\n".join([*called, "\n".join(lines) + "\n"])

    def _part(self, part: CalledKernel) -> str:
        """The text of a function that the kernel calls."""
        writer = _Writer(part.kernel)
        _, text = writer._function()
        self.helpers |= writer.helpers
        self.replicated_sums |= writer.replicated_sums
        return text

    def _decorator(self) -> str:
        # A seed is a new number at each run: nothing may be compiled for its value.
        seeds = [f'"{p.name}"' for p in self.kernel.parameters if p.is_exact and self.layout.purpose.is_launched]
        return f"@triton.jit(do_not_specialize=[{', '.join(seeds)}])" if seeds else "@triton.jit"

    def _docstring(self) -> str:
        ops: dict[str, None] = {}
        for unit in self.kernel.plan.units:
            scope = unit.value.scope
            ops.setdefault(_PHASES[scope.phase] + (scope.name or unit.value.name))
        recomputed = [v.scope.name or v.name for v in self.kernel.plan.recomputed if v.op.kind != "reduction"]
        text = self.layout.purpose.about.format(", ".join(ops))
        if recomputed:
            text += f" Computes {', '.join(dict.fromkeys(recomputed))} again: that moves fewer bytes than loading it."
        return wrapped(text)

    def _body(self) -> list[str]:
        """The lines of the function: what is loaded once, the tile or the loop over tiles, and what is left to do."""
        layout, kernel = self.layout, self.kernel
        hoisted: list[Step] = []
        inner: list[Step] = []
        for step in kernel.steps:
            once = step.op in ("load", "argument", "own") and step.form in (COL, SCALAR)
            (hoisted if once else inner).append(step)
        if layout.loops_cols:
            hoisted = [s for s in hoisted if not is_wide(s)]
        setup, finalized = self.index.lines(in_loop=False), self._finalize_lines() if layout.finalizes else []
        before = self._step_lines(hoisted)
        tile = self._row_loop_lines(hoisted) if layout.loops_cols else self._step_lines(inner)
        after = [f"return {self._text(name)[0]}" for name in kernel.returned]
        if (layout.accumulates or layout.traversal.is_one_row) and not kernel.returned:
            after = ["", *self._partial_lines(), *self._last_block_lines()]
        if not layout.loops_tiles:
            return [*setup, *finalized, *before, *tile, *after]
        start = ["", *self._accumulator_lines()] if layout.accumulates else []
        loop = layout.traversal.loop.format(rows=self.index.row_bound(), block=self.index.row_block_name())
        body = _indented([*self.index.lines(in_loop=True), *finalized, *tile])
        return [*setup, *before, *start, loop, *body, *after]

    def _row_loop_lines(self, known: list[Step]) -> list[str]:
        """A row that is too long to be held is walked along as often as its reductions depend on each other."""
        found = row_loops(self.kernel)
        hoisted = {s.name for s in known}
        lines = self._step_lines(self._named(found.before, hoisted))
        stores = [s for s in self.kernel.steps if s.op == "store"]
        for loop in found.loops:
            reductions = self._named(loop.reductions)
            lines += ["", *(line for s in reductions for line in self._running_start(s))]
            body = [*self._step_lines(self._named(loop.wide)), *(n for s in reductions for n in self._running_lines(s))]
            written = self._store_lines([s for s in stores if s.args[0] in loop.stored])
            body = [*self.index.column_lines(body + written), *body, *([""] if written else []), *written]
            lines.append(f"for start in range(0, {self.index.col_bound()}, BLOCK):")
            lines += [INDENT + line if line else "" for line in single_blanks(body)]
            lines += ["", *self._step_lines(self._named(loop.after, self.running))]
        return [*lines, "", *self._store_lines([s for s in stores if not is_wide(s)])]

    def _named(self, names: Iterable[str], but: Container[str] = ()) -> list[Step]:
        """The steps of these names, without some."""
        return [self.steps[name] for name in names if name not in but]

    def _running_start(self, step: Step) -> list[str]:
        """What a reduction along the row starts from."""
        (arg,) = (self.steps[a] for a in step.args)
        number = IDENTITIES[step.op]["float"] if arg.dtype.is_float else identity_of(step.op, arg.dtype)
        if step.name in self.running:
            shape = self._tile_shape(ROW) if self.layout.rows else "[]"
            return [f"{step.name} = tl.full({shape}, {number}, {_tl(step)})"]
        return [f"{step.name}_lanes = tl.full({self._tile_shape(arg.form)}, {number}, {_tl(arg)})"]

    def _running_lines(self, step: Step) -> list[str]:
        """How a reduction along the row takes in one more block of columns."""
        if step.name in self.online:
            return self._rescaled_lines(step)
        if step.name in self.running:
            return []  # the maximum moves together with the sum beside it
        taken = self._reduced_text(step)
        if step.op == "sum":
            return [f"{step.name}_lanes += {taken}"]
        combined = self._fill(COMBINERS[step.op], [(f"{step.name}_lanes", ATOM), (taken, ATOM)])
        return [f"{step.name}_lanes = {combined}"]

    def _rescaled_lines(self, total: Step) -> list[str]:
        """A sum of eˣ⁻ᵐ beside the running maximum m: what it holds is rescaled whenever m grows."""
        largest = self.steps[self.online[total.name]]
        name, before = largest.name, f"{largest.name}_before"
        x = self._reduced_text(largest)
        self.helpers |= {"rescale", "max_or_nan"}
        axis = largest.attrs["axis"]
        candidates, terms = f"{name}_candidates", f"{total.name}_terms"
        highest = f"max_or_nan({candidates}, {axis})"
        return [
            f"{candidates} = {x}",
            f"{before} = {name}",
            f"{name} = {self._fill(COMBINERS['max'], [(before, ATOM), (highest, ATOM)])}",
            # Where there is nothing but −∞ so far, −∞ − (−∞) is no number.
            f'{terms} = tl.where({candidates} == float("-inf"), 0.0, tl.exp({candidates} - {name}))',
            f"{total.name} = {total.name} * rescale({before}, {name}) + tl.sum({terms}, {axis})",
        ]

    def _reduced_text(self, step: Step) -> str:
        """What a reduction is taken of, with its identity in the lanes outside the tensor."""
        text, _ = self._text(step.args[0])
        if step.attrs.get("masked") and not self.index.reads_identity(step):
            text = self._masked_text(step, self.steps[step.args[0]], text)
        return text

    def _arguments(self, launcher: Launcher) -> list[str]:
        listed = [*self.layout.traversal.arguments]
        listed += [f"{p.name}: tl.int64" if p.is_exact else p.name for p in self.kernel.parameters]
        listed += launcher.bound_arguments()
        return listed + [f"{name}: tl.constexpr" for name in launcher.constexprs()]

    # -- statements --

    def _step_lines(self, steps: list[Step]) -> list[str]:
        lines: list[str] = []
        # Before anything else is loaded: a product needs registers for its operands.
        products = [s for s in steps if s.op == "product"]
        for group in summed_alike(products):
            headings = dict.fromkeys(line for s in group for line in self._heading(s).splitlines())
            lines += ["", *headings, *self.products.lines(group), ""]
        if products and self.layout.split_k:
            self.helpers.add("arrives_last")
            rest = self._step_lines([s for s in steps if s.op != "product"])
            return [*lines, *self.products.shared_lines(*products), *(INDENT + line if line else "" for line in rest)]
        loads = [s for s in steps if s.op in ("load", "argument")]
        for step in loads:
            line = self._load_line(step)
            if line:
                lines.append(line)
        shown = self._heading(products[-1]) if products and not loads else None
        for step in steps:
            if step.op in _ELSEWHERE or self._is_inlined(step):
                continue
            if step.op == "store" or (step.op == "carry" and not self.layout.loops_tiles):
                continue
            heading = self._heading(step)
            if heading and heading != shown:
                lines += ["", *heading.splitlines()]
                shown = heading
            lines += self._statement(step).splitlines()
        stores = self._store_lines([s for s in steps if s.op == "store"])
        return [*lines, "", *stores] if stores else lines

    def _heading(self, step: Step) -> str:
        scope = step.scope
        if scope is None or not scope.name:
            return ""
        op = scope.op.removeprefix("custom.")
        which = ", ".join(dict.fromkeys(filter(None, (scope.name, op))))
        said = scope.derivative if scope.phase == "backward" else scope.formula
        text = f"{_PHASES[scope.phase]}{which}" + (f": {said}" if said else "")
        return "\n".join(f"# {line}" for line in wrapped(text, 104).split(f"\n{INDENT}"))

    def _statement(self, step: Step) -> str:
        if step.op == "carry":
            taken = self._reduction_text(step)
            if step.attrs["reduction"] == "sum":
                return f"{step.name} += {taken}"
            return f"{step.name} = {self._fill(COMBINERS[step.attrs['reduction']], [(step.name, ATOM), (taken, ATOM)])}"
        if step.op == "take_rows":
            return self._gather_line(step)
        if step.op == "own":
            (part,) = (p for p in self.kernel.replicated_sums if p.kernel.name == step.attrs["function"])
            return "\n".join(self._call(part, f"{step.name} = "))
        if step.op == "repeat":
            return f"{step.name} = {self._text(step.args[0])[0]} + tl.zeros({self._tile_shape(step.form)}, {_tl(step)})"
        if "place" in step.attrs:
            self.helpers.add("max_and_place")
            taken = f"max_and_place({self._reduced_text(step)}, col, {step.attrs['axis']})"
            return f"{step.name}, {step.attrs['place']} = {taken}"
        return f"{step.name} = {self._expression(step)[0]}"

    def _tile_shape(self, form: str) -> str:
        if self.layout.traversal.is_one_row and form == ROW:
            return "[]"
        if self.layout.is_flat:
            return "[BLOCK]"
        return {TILE: "[ROWS, BLOCK]", ROW: "[ROWS, 1]", COL: "[1, BLOCK]"}[form]

    def _is_inlined(self, step: Step) -> bool:
        if self._is_second_name(step):
            return True
        if step.is_named or step.op in _STATEMENTS:
            return False
        if step.name in self.row_numbers or step.name in self.running:
            return False
        return self.uses[step.name] == 1 and len(self._expression(step)[0]) <= LONGEST_INLINE

    def _is_second_name(self, step: Step) -> bool:
        """Whether a step only says again what another variable holds."""
        if step.op not in ("copy", "cast"):
            return False
        source = self.steps[step.args[0]]
        has_name = source.op not in ("number", "index") and not self._is_inlined(source)
        return has_name and source.dtype is step.dtype

    def _text(self, name: str) -> tuple[str, int]:
        step = self.steps[name]
        if step.op == "number":
            text = step.attrs["number"]
            return text, 13 if text.startswith("-") else ATOM
        if step.op == "index":
            return self.index.index_text(step)
        return self._expression(step) if self._is_inlined(step) else (step.name, ATOM)

    def _expression(self, step: Step) -> tuple[str, int]:
        if step.op in ("sum", "max", "min"):
            return self._reduction_text(step), ATOM
        if step.op == "pick":
            return self._pick_text(step), ATOM
        args = [self._text(a) for a in step.args]
        if step.op == "uniform":
            place = self.index.offset(step.attrs["address"]) or "0"
            seed, stream = step.attrs["seed"], str(step.attrs["stream"])
            return self._fill(SPELLINGS["uniform"], args, seed=seed, place=place, stream=stream), ATOM
        if step.op == "copy":
            return args[0]
        if step.op == "cast":
            source = self.steps[step.args[0]]
            if source.dtype is step.dtype:
                return args[0]
            if source.op == "number":
                return f"tl.full([], {args[0][0]}, {_tl(step)})", ATOM
            return self._fill(SPELLINGS["cast"], args, dtype=_triton_name(step)), ATOM
        if step.op == "where" and step.dtype is float64 and all(self.steps[a].op == "number" for a in step.args[1:]):
            # Of two mere numbers tl.where makes float32.
            args[1] = (f"tl.full([], {args[1][0]}, {_tl(step)})", ATOM)
        if step.op == "pow" and self.steps[step.args[0]].op == "number":
            # The helper asks its base for a dtype, which a mere number has not.
            args[0] = (f"tl.full([], {args[0][0]}, {_tl(step)})", ATOM)
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
        arg = self.steps[step.args[0]]
        is_looped = self.layout.loops_cols and step.op != "carry"
        text = f"{step.name}_lanes" if is_looped else self._reduced_text(step)
        spelling = NAN_SAFE.get(op, SPELLINGS[op]) if arg.dtype.is_float else SPELLINGS[op]
        axis = step.attrs["axis"]
        filled = self._fill(spelling, [(text, ATOM)], axis=axis)
        return filled.replace(", axis=None)", ")") if spelling.helper == "" else filled

    def _masked_text(self, step: Step, arg: Step, text: str) -> str:
        """The argument of a reduction with its identity in the lanes outside the tensor."""
        mask, identity = self.index.shared_text(self.index.reduction_mask(step)), step.attrs["identity"]
        if arg.op == "where" and self._is_inlined(arg) and self._text(arg.args[2])[0] == identity:
            # A choice that has the identity on its other side takes the mask into its condition.
            condition, binds = self._text(arg.args[0])
            both = f"{mask if mask.isidentifier() else f'({mask})'} & {f'({condition})' if binds < 10 else condition}"
            return f"tl.where({both}, {self._text(arg.args[1])[0]}, {identity})"
        return f"tl.where({mask}, {text}, {identity})"

    def _load_line(self, step: Step) -> str:
        if step.op == "argument":
            return f"{step.name} = tl.load({step.attrs['pointer']})" if step.attrs.get("pointer") else ""
        mask = self.index.shared_text(self.index.mask_of(step.form))
        options = f", mask={mask}" if mask else ""
        if mask and step.form != SCALAR and (op := self.index.filled_for(step)):
            options += f", other={identity_of(op, step.dtype)}"
        address = self._address(step)
        text = f"tl.load({address}{options})"
        if step.attrs["storage"] is not step.dtype:
            text += f".to({_tl(step)})"
        return f"{step.name} = {text}"

    def _gather_line(self, step: Step) -> str:
        """A load of rows that another step names; a number outside the table addresses nothing and gives NaN."""
        number, _ = self._text(step.args[0])
        address: Address = step.attrs["address"]
        rows = self.index.product(address.extent[:1])
        stride = self.index.product(address.extent[1:])
        wide = f"{number}.to(tl.int64)" if self.steps[step.args[0]].dtype is int32 and self.index.is_wide else number
        offset = " + ".join(filter(None, (f"{wide} * {stride}" if stride != "1" else wide, self.index.offset(address))))
        mask = f"({number} >= 0) & ({number} < {rows})"
        tile_mask = self.index.shared_text(self.index.mask_of(step.form))
        mask += f" & {tile_mask if tile_mask.isidentifier() else f'({tile_mask})'}" if tile_mask else ""
        other = 'float("nan")' if step.dtype.is_float else "0"
        text = f"tl.load({step.attrs['pointer']} + {offset}, mask={mask}, other={other})"
        return f"{step.name} = {text}{f'.to({_tl(step)})' if step.attrs['storage'] is not step.dtype else ''}"

    def _pick_text(self, step: Step) -> str:
        """A load of the one element of a row that another step names; a number outside the row gives −∞."""
        number, _ = self._text(step.args[0])
        mask = f"({number} >= 0) & ({number} < {self.index.col_bound()})"
        tile_mask = self.index.shared_text(self.index.mask_of(ROW))
        mask += f" & {tile_mask if tile_mask.isidentifier() else f'({tile_mask})'}" if tile_mask else ""
        text = f'tl.load({self._address(step)} + {number}, mask={mask}, other=float("-inf"))'
        return f"{text}.to({_tl(step)})" if step.attrs["storage"] is not step.dtype else text

    def _address(self, step: Step) -> str:
        offset = self.index.offset(step.attrs["address"])
        return f"{step.attrs['pointer']} + {offset}" if offset else step.attrs["pointer"]

    def _store_lines(self, steps: Sequence[Step]) -> list[str]:
        """The stores, and before them what more than one of them rounds."""
        texts = [self._stored_text(s) for s in steps]
        lines = []
        for text, count in Counter(texts).items():
            if count > 1 and ".to(" in text:
                rounded = f"{steps[texts.index(text)].args[0]}_rounded"
                lines.append(f"{rounded} = {text}")
                texts = [rounded if t == text else t for t in texts]
        for step, text in zip(steps, texts, strict=True):
            mask = self.index.shared_text(self.index.mask_of(step.form))
            lines.append(f"tl.store({self._address(step)}, {text}{f', mask={mask}' if mask else ''})")
        return lines

    def _stored_text(self, step: Step) -> str:
        source = self.steps[step.args[0]]
        text, binds = self._text(step.args[0])
        while source.op == "copy" and self._is_inlined(source):
            source = self.steps[source.args[0]]
        if step.dtype is not source.dtype and step.dtype.is_float and source.op != "number":
            text = f"({text}).to(tl.{step.dtype.name})" if binds < ATOM else f"{text}.to(tl.{step.dtype.name})"
        return text

    # -- sums over all rows --

    def _accumulator_lines(self) -> list[str]:
        lines = []
        for step in self.kernel.steps:
            if step.op == "carry":
                shape = "[]" if step.form == SCALAR else self._tile_shape(COL)
                lines.append(f"{step.name} = tl.full({shape}, {step.attrs['identity']}, {_tl(step)})")
        return lines

    def _partial_lines(self) -> list[str]:
        accumulated = [s for s in self.kernel.steps if s.op == "carry"]
        partial_row = f"program * {factor(self.index.col_bound())}"
        lines = []
        if len([s for s in accumulated if s.form != SCALAR]) > 1:
            lines.append(f"own_row = {partial_row}")
            partial_row = "own_row"
        for step in accumulated:
            if step.form == SCALAR:
                # Where no loop adds up, what a program leaves is what the sum is taken of.
                text = step.name if self.layout.loops_tiles else self._text(step.args[0])[0]
                mask = "" if self.layout.loops_tiles else self.index.shared_text(self.index.mask_of(ROW))
                place = f"{step.attrs['pointer']} + {self.layout.traversal.place}"
                lines.append(f"tl.store({place}, {text}{f', mask={mask}' if mask else ''})")
            else:
                mask = self.index.shared_text(self.index.mask_of(COL))
                # In the order of the sum's own axes, which the kernel's columns may have in another.
                place = f"{partial_row} + {self.index.offset(step.attrs['address'])}"
                lines.append(
                    f"tl.store({step.attrs['pointer']} + {place}, {step.name}{f', mask={mask}' if mask else ''})"
                )
        return lines

    def _call(self, part: CalledKernel, target: str = "") -> list[str]:
        """The call of a function that another kernel became, and what its result is given to."""
        launcher = Launcher(part.kernel, Indexing(part.kernel), {"COLS"})
        numbers = [f"{name}={number}" for name, number in launcher.constexprs().items()]
        partials = self.layout.traversal.partials.format(rows=self.index.row_bound())
        bound = [partials if name == "programs" else name for name in launcher.bound_arguments()]
        return call_lines(f"{target}{part.kernel.name}(", [*part.arguments, *bound, *numbers], ")")

    def _last_block_lines(self) -> list[str]:
        """What is left to do once every program is done: the last one to arrive does it."""
        if not self.kernel.last_block:
            return []
        self.helpers.add("arrives_last")
        calls = [line for last in self.kernel.last_block for line in self._call(last)]
        others = " * tl.num_programs(1)" if self.layout.tiles_cols else ""
        if not any(last.kernel.layout.rows for last in self.kernel.last_block):
            lines = [
                "# The last program to arrive finishes the sums.",
                f"if arrives_last(arrivals_ptr, {self.layout.traversal.programs}{others}):",
            ]
            return ["", *lines, *(INDENT + line for line in calls)]
        self.helpers.add("add_up_group")
        groups = []
        finalized = {name for last in self.kernel.last_block for name in last.arguments}
        for step in self.kernel.steps:
            if step.op == "carry" and step.form != SCALAR and step.attrs["pointer"] in finalized:
                columns = element_count(step.attrs["address"].extent, {})
                arguments = [step.attrs["pointer"], "first", "members", f"COLS={columns}", f"GROUP={GROUP}"]
                groups += call_lines("add_up_group(", arguments, ")")
        return [
            "",
            f"# The last program of each {GROUP} adds their sums up, and the last of these finishes what is left.",
            f"group = program // {GROUP}",
            f"first = group * {GROUP}",
            f"members = tl.minimum({GROUP}, programs - first)",
            f"if arrives_last(arrivals_ptr + 1 + group, members{others}):",
            *(INDENT + line for line in groups),
            f"{INDENT}if arrives_last(arrivals_ptr, tl.cdiv(programs, {GROUP})):",
            *(INDENT * 2 + line for line in calls),
        ]

    def _finalize_lines(self) -> list[str]:
        """Add up what each program left, in the order of the programs; or what each group of them did."""
        steps = [s for s in self.kernel.steps if s.op == "combine"]
        has_rows = bool(self.layout.rows)
        step = f" * {GROUP}" if self.layout.purpose.adds_groups and has_rows else ""
        left = f"group of {GROUP}" if step else "program"
        shape = "[BLOCK]" if has_rows else "[]"
        lines = ["", f"# Sums over all rows: add up what each {left} left, always in the same order."]
        lines += [f"{s.name} = tl.full({shape}, {s.attrs['identity']}, {_tl(s)})" for s in steps]
        lines.append(f"for first in range(0, programs, PROGRAMS{step}):")
        lines.append(f"{INDENT}program = first + tl.arange(0, PROGRAMS){'[:, None]' if has_rows else ''}{step}")
        mask = "program < programs"
        if has_rows:
            tile_mask = self.index.shared_text(self.index.mask_of(ROW))
            mask = (
                f"({mask}) & {tile_mask}[None, :]"
                if tile_mask.isidentifier()
                else f"({mask}) & ({tile_mask})[None, :]"
                if tile_mask
                else mask
            )
            size = static_size(self.layout.row_shape)
            stride = str(size) if size is not None else self.index.row_bound()
            cells = {s.name: factor(self.index.offset(s.attrs["address"])) for s in steps}
            first = cells[steps[0].name]
            partial_row = f"program * {stride}"
            if len(set(cells.values())) > 1:
                lines.append(f"{INDENT}own_row = {partial_row}")
                partial_row = "own_row"
            lines.append(f"{INDENT}own_cell = {partial_row} + {first}[None, :]")
        if len(steps) > 1:
            lines.append(f"{INDENT}in_programs = {mask}")
            mask = "in_programs"
        for s in steps:
            place = "program" if not has_rows else "own_cell"
            if has_rows and cells[s.name] != first:
                place = f"{partial_row} + {cells[s.name]}[None, :]"
            loaded = f"tl.load({s.attrs['pointer']} + {place}, mask={mask}, other={s.attrs['identity']})"
            op = s.attrs["reduction"]
            spelling = NAN_SAFE.get(op, SPELLINGS[op]) if s.dtype.is_float else SPELLINGS[op]
            taken = self._fill(spelling, [(loaded, ATOM)], axis="axis=0")
            if op == "sum":
                lines.append(f"{INDENT}{s.name} += {taken}")
            else:
                lines.append(f"{INDENT}{s.name} = {self._fill(COMBINERS[op], [(s.name, ATOM), (taken, ATOM)])}")
        return [*lines, ""]


_ELSEWHERE = ("load", "argument", "number", "index", "combine", "operand", "product", "place")
"""Steps that are no statements among others: written before them, or inside."""


_STATEMENTS = ("load", "store", "carry", "combine", "repeat", "argument", "take_rows", "own", "operand", "product")
"""Steps that have a line of their own, whoever uses them."""


_PHASES = {"forward": "", "backward": "gradient of ", "update": "update of "}


def _indented(lines: list[str]) -> list[str]:
    return [INDENT + line if line else "" for line in lines]


def _tl(step: Step) -> str:
    return f"tl.{_triton_name(step)}"


def _triton_name(step: Step) -> str:
    return "int1" if step.dtype.name == "bool" else step.dtype.name
