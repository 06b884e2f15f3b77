"""Tile programs as Triton source: the function a reader learns from, and the launcher below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

from tritonnotes.ir.types import Shape, element_count, float64, int32, int64

from ..fusion.last_block import GROUP
from ..lower.index_math import Indexing
from ..lower.row_loops import is_wide, row_loops, running_maximum
from ..lower.tile_ir import COL, ROW, SCALAR, TILE, Address, Inside, Kernel, Step
from ..support.expressions import (
    ONE,
    Attribute,
    Call,
    Display,
    Expression,
    Name,
    both,
    call,
    number,
    product,
    total,
    walk,
)
from ..support.facets import Axis, combined, identity_of, reduced, triton
from ..support.sizes import static_size
from ..support.statements import (
    BLANK,
    Assign,
    CallFunction,
    Comment,
    Evaluate,
    For,
    If,
    Return,
    Statement,
    names_of,
    written,
)
from ..support.text import INDENT, wrapped, wrapped_lines
from .launcher import Launcher
from .matmul import ProductText, summed_alike
from .ops import helpers_called, load, store, tl, zeros

LONGEST_INLINE = 90


@dataclass(frozen=True)
class FunctionText:
    """A generated function, and the statement behind each line of its body, counted from the first line of `text`."""

    name: str
    text: str
    statements: Mapping[int, Statement] = field(default_factory=dict)


def function_text(name: str, header: Sequence[str], body: Sequence[Statement]) -> FunctionText:
    """A function of its decorator, signature and docstring, and the statements below them."""
    above = "\n".join(header)
    lines = written(body)
    text = "\n".join([above, *(INDENT + line if line else "" for line, _ in lines)]) + "\n"
    first = above.count("\n") + 1
    return FunctionText(name, text, {first + i: statement for i, (_, statement) in enumerate(lines)})


@dataclass(frozen=True)
class KernelSource:
    """The text of one kernel and its launcher, the helpers that it calls, and what compiling it ahead of time needs.

    `replicated_sums` are the functions of sums that each program takes for itself, by name: other kernels may call the
    same. `functions` are these and those of `text`. `signature` gives a Triton type for each runtime argument,
    `constexprs` the compile-time ones (with the GPU's tile), `maxnreg` how many registers a thread may have, where
    ptxas is told. `sizes` are the shapes whose elements an int argument counts, for those that count some.
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
    functions: tuple[FunctionText, ...] = ()


def render_kernel(kernel: Kernel) -> KernelSource:
    """Spell a tile program."""
    return _Writer(kernel).source()


@dataclass(frozen=True)
class Functions:
    """The functions of a kernel inside another one's launch, what would launch it, and the helpers that it calls."""

    launcher: Launcher
    functions: tuple[FunctionText, ...]
    helpers: frozenset[str]


def functions_of(kernel: Kernel) -> Functions:
    """Spell a kernel that others call."""
    writer = _Writer(kernel)
    launcher, functions = writer.functions()
    return Functions(launcher, functions, frozenset(writer.helpers))


def tile_statements(kernel: Kernel) -> list[Statement]:
    """What a one-dimensional kernel does with the lanes `offset` under `mask`. Where these lie, and what the host's
    numbers are, is left to whoever writes the statements before."""
    return _Writer(kernel).statements([s for s in kernel.steps if s.op != "argument"])


def tile_lines(kernel: Kernel) -> tuple[list[str], frozenset[str]]:
    """The lines of `tile_statements`, and the helpers that they call."""
    statements = tile_statements(kernel)
    return [line for line, _ in written(statements)], helpers_called(statements)


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
        self.inlined: dict[str, bool] = {}
        self.index = Indexing(kernel)
        self.products = ProductText(kernel, self.index)

    # -- the whole --

    def source(self) -> KernelSource:
        launcher, functions = self.functions()
        return KernelSource(
            self.kernel.name,
            joined(f for f in functions if f.name not in self.replicated_sums),
            launcher.text(),
            frozenset(self.helpers),
            launcher.signature(),
            launcher.constexprs(),
            launcher.num_warps(),
            launcher.sizes(),
            launcher.most_registers(),
            self.replicated_sums,
            functions,
        )

    def functions(self) -> tuple[Launcher, tuple[FunctionText, ...]]:
        """The kernel as a function, below those that it calls."""
        called: list[FunctionText] = []
        for part in (*self.kernel.replicated_sums, *self.kernel.operands, *self.kernel.last_block):
            writer = _Writer(part.kernel)
            _, functions = writer.functions()
            self.helpers |= writer.helpers
            self.replicated_sums |= writer.replicated_sums
            if part.kernel.layout.inside == "own":
                self.replicated_sums[part.kernel.name] = functions[-1].text
            called += functions
        body = self._body()
        self.helpers |= helpers_called(body)
        launcher = Launcher(self.kernel, self.index, names_of(body))
        header = [self._decorator(), f"def {self.kernel.name}("]
        header += [f"{INDENT}{a}," for a in self._arguments(launcher)]
        header += ["):", f'{INDENT}"""{self._docstring()}"""']
        return launcher, (*called, function_text(self.kernel.name, header, body))

    def _decorator(self) -> str:
        # A seed is a new number at each run: nothing may be compiled for its value.
        seeds = [f'"{p.name}"' for p in self.kernel.parameters if p.is_exact and not self.layout.inside]
        return f"@triton.jit(do_not_specialize=[{', '.join(seeds)}])" if seeds else "@triton.jit"

    def _docstring(self) -> str:
        ops: dict[str, None] = {}
        for unit in self.kernel.plan.units:
            scope = unit.value.scope
            ops.setdefault(_PHASES[scope.phase] + (scope.name or unit.value.name))
        recomputed = [v.scope.name or v.name for v in self.kernel.plan.recomputed if v.op.kind != "reduction"]
        said = {
            "": "{}.",
            "side": "{}.",
            "operand": "{}, of a block that is multiplied.",
            "last": "Finishes {}.",
            "own": "Of {}, which each program takes for itself.",
        }
        text = said[self.layout.inside].format(", ".join(ops))
        if recomputed:
            text += f" Computes {', '.join(dict.fromkeys(recomputed))} again: that moves fewer bytes than loading it."
        return wrapped(text)

    def _body(self) -> list[Statement]:
        layout = self.layout
        hoisted: list[Step] = []
        inner: list[Step] = []
        for step in self.kernel.steps:
            once = step.op in ("load", "argument", "own") and step.form in (COL, SCALAR)
            (hoisted if once else inner).append(step)
        setup = self.index.lines(in_loop=False)
        if layout.finalizes and not layout.loops_tiles:
            setup += self._finalize_lines()
        if layout.loops_cols:
            hoisted = [s for s in hoisted if not is_wide(s)]
        setup += self.statements(hoisted)
        body = self._row_loop_lines(hoisted) if layout.loops_cols else self.statements(inner)
        if layout.inside == "operand":
            return [*setup, *body, Return(self._value(self.kernel.steps[-1].name))]
        if layout.row_per_program:
            return [*setup, *body, BLANK, *self._partial_lines(), *self._last_block_lines()]
        tiles = call("tl.cdiv", self.index.row_bound(), Name(self.index.row_block_name()))
        if layout.accumulates:
            setup += [BLANK, *self._accumulator_lines()]
            inside = (*self.index.lines(in_loop=True), *body)
            if layout.inside == "own":
                results = (Return(Name(step.name)) for step in self.kernel.steps if step.op == "carry")
                return [*setup, For("tile", call("range", tiles), inside), *results]
            over = call("range", Name("program"), tiles, Name("programs"))
            return [*setup, For("tile", over, inside), BLANK, *self._partial_lines(), *self._last_block_lines()]
        if layout.loops_tiles:
            inside = (*self.index.lines(in_loop=True), *self._finalize_lines(), *body)
            return [*setup, For("tile", call("range", tiles), inside)]
        return [*setup, *body]

    def _row_loop_lines(self, known: list[Step]) -> list[Statement]:
        """A row that is too long to be held is walked along as often as its reductions depend on each other."""
        before, passes = row_loops(self.kernel)
        lines = self.statements([s for s in before if s not in known])
        for each in passes:
            lines += [BLANK, *map(self._running_start, each.reductions)]
            body = [*self.statements(list(each.wide)), *(n for s in each.reductions for n in self._running_lines(s))]
            stores = self._store_lines(each.stores)
            body = [*self.index.column_lines(body + stores), *body, *([BLANK] if stores else []), *stores]
            lines.append(For("start", call("range", 0, self.index.col_bound(), Name("BLOCK")), tuple(body)))
            lines += [BLANK, *self.statements([s for s in each.after if s.name not in self.running])]
        narrow = [s for s in self.kernel.steps if s.op == "store" and not is_wide(s)]
        return [*lines, BLANK, *self._store_lines(narrow)]

    def _running_start(self, step: Step) -> Statement:
        """What a reduction along the row starts from."""
        (arg,) = (self.steps[a] for a in step.args)
        identity = identity_of(step.op, arg.dtype)
        if step.name in self.running:
            shape = self._tile_shape(ROW) if self.layout.rows else Display(())
            return Assign(step.name, call("tl.full", shape, identity, tl(step.dtype)))
        return Assign(f"{step.name}_lanes", call("tl.full", self._tile_shape(arg.form), identity, tl(arg.dtype)))

    def _running_lines(self, step: Step) -> list[Statement]:
        """How a reduction along the row takes in one more block of columns."""
        if step.name in self.online:
            return self._rescaled_lines(step)
        if step.name in self.running:
            return []  # the maximum moves together with the sum beside it
        return [_taken_in(step.op, f"{step.name}_lanes", self._reduced_value(step))]

    def _rescaled_lines(self, total_step: Step) -> list[Statement]:
        """A sum of eˣ⁻ᵐ beside the running maximum m: what it holds is rescaled whenever m grows."""
        largest = self.steps[self.online[total_step.name]]
        name, before, sum_so_far = Name(largest.name), Name(f"{largest.name}_before"), Name(total_step.name)
        candidates, terms = Name(f"{name}_candidates"), Name(f"{sum_so_far}_terms")
        axis = largest.attrs["axis"]
        highest = reduced("max", candidates, axis, largest.dtype)
        has_none = candidates.equals(identity_of("max", largest.dtype))
        exponentials = call("tl.exp", candidates - name)
        rescaled = sum_so_far * call("rescale", before, name)
        return [
            Assign(candidates.name, self._reduced_value(largest)),
            Assign(before.name, name),
            Assign(name.name, combined("max", before, highest)),
            # Where there is nothing but −∞ so far, −∞ − (−∞) is no number.
            Assign(terms.name, call("tl.where", has_none, 0.0, exponentials)),
            Assign(sum_so_far.name, rescaled + reduced("sum", terms, axis, total_step.dtype)),
        ]

    def _reduced_value(self, step: Step) -> Expression:
        """What a reduction is taken of, with its identity in the lanes outside the tensor."""
        value = self._value(step.args[0])
        if step.attrs.get("masked") and not self.index.reads_identity(step):
            value = self._masked_value(step, self.steps[step.args[0]], value)
        return value

    def _arguments(self, launcher: Launcher) -> list[str]:
        listed = ["row", "col"] if self.layout.inside == "operand" else []
        if self.layout.inside == "side":
            listed = ["tile", "part", "parts"] if self.layout.split_k else ["tile"]
        listed += [f"{p.name}: tl.int64" if p.is_exact else p.name for p in self.kernel.parameters]
        listed += launcher.bound_arguments()
        return listed + [f"{name}: tl.constexpr" for name in launcher.constexprs()]

    # -- statements --

    def statements(self, steps: list[Step]) -> list[Statement]:
        lines: list[Statement] = []
        # Before anything else is loaded: a product needs registers for its operands.
        products = [s for s in steps if s.op == "product"]
        for group in summed_alike(products):
            headings = dict.fromkeys(line for s in group for line in self._heading(s))
            lines += [BLANK, *headings, *self.products.lines(group), BLANK]
        if products and self.layout.split_k:
            rest = self.statements([s for s in steps if s.op != "product"])
            (multiplied,) = products
            return [*lines, *self.products.shared_lines(multiplied, rest)]
        loads = [s for s in steps if s.op in ("load", "argument")]
        for step in loads:
            if step.op == "load":
                lines.append(self._load_line(step))
            elif step.attrs.get("pointer"):
                lines.append(Assign(step.name, load(Name(step.attrs["pointer"]))))
        shown = self._heading(products[-1]) if products and not loads else ()
        for step in steps:
            if step.op in _ELSEWHERE or self._is_inlined(step):
                continue
            if step.op == "store" or (step.op == "carry" and self.layout.row_per_program):
                continue
            heading = self._heading(step)
            if heading and heading != shown:
                lines += [BLANK, *heading]
                shown = heading
            lines.append(self._statement(step))
        stores = self._store_lines([s for s in steps if s.op == "store"])
        return [*lines, BLANK, *stores] if stores else lines

    def _heading(self, step: Step) -> tuple[Comment, ...]:
        scope = step.scope
        if scope is None or not scope.name:
            return ()
        op = scope.op.removeprefix("custom.")
        which = ", ".join(dict.fromkeys(filter(None, (scope.name, op))))
        said = scope.derivative if scope.phase == "backward" else scope.formula
        text = f"{_PHASES[scope.phase]}{which}" + (f": {said}" if said else "")
        return tuple(map(Comment, wrapped_lines(text, 104)))

    def _statement(self, step: Step) -> Statement:
        if step.op == "carry":
            return _taken_in(step.attrs["reduction"], step.name, self._reduction(step))
        if step.op == "take_rows":
            return Assign(step.name, self._gathered(step))
        if step.op == "own":
            (part,) = (p for p in self.kernel.replicated_sums if p.kernel.name == step.attrs["function"])
            return self._call(part, step.name)
        if step.op == "repeat":
            tile = zeros(self._tile_shape(step.form), tl(step.dtype))
            return Assign(step.name, self._value(step.args[0]) + tile)
        if "place" in step.attrs:
            taken = Call(Name("max_and_place"), (self._reduced_value(step), Name("col")), step.attrs["axis"].keywords)
            return Assign(f"{step.name}, {step.attrs['place']}", taken)
        return Assign(step.name, self._expression(step))

    def _tile_shape(self, form: str) -> Expression:
        if self.layout.row_per_program and form == ROW:
            return Display(())
        rows, block = Name("ROWS"), Name("BLOCK")
        if self.layout.is_flat:
            return Display((block,))
        return Display({TILE: (rows, block), ROW: (rows, ONE), COL: (ONE, block)}[form])

    def _is_inlined(self, step: Step) -> bool:
        if step.name not in self.inlined:
            self.inlined[step.name] = self._is_second_name(step) or self._fits_in_its_user(step)
        return self.inlined[step.name]

    def _fits_in_its_user(self, step: Step) -> bool:
        if step.is_named or step.op in _STATEMENTS:
            return False
        if step.name in self.row_numbers or step.name in self.running:
            return False
        return self.uses[step.name] == 1 and len(str(self._expression(step))) <= LONGEST_INLINE

    def _is_second_name(self, step: Step) -> bool:
        """Whether a step only says again what another variable holds."""
        if step.op not in ("copy", "cast"):
            return False
        source = self.steps[step.args[0]]
        has_name = source.op not in ("number", "index") and not self._is_inlined(source)
        return has_name and source.dtype is step.dtype

    def _value(self, name: str) -> Expression:
        """What a step gives: its variable, or the expression that stands in its user."""
        step = self.steps[name]
        if step.op == "number":
            return step.attrs["number"]
        if step.op == "index":
            return self.index.index_along(step)
        return self._expression(step) if self._is_inlined(step) else Name(step.name)

    def _expression(self, step: Step) -> Expression:
        if step.op in ("sum", "max", "min"):
            return self._reduction(step)
        if step.op == "pick":
            return self._picked(step)
        args = [self._value(a) for a in step.args]
        if step.op == "uniform":
            place = self.index.offset(step.attrs["address"])
            return triton("uniform", Name(step.attrs["seed"]), place, number(step.attrs["stream"]))
        if step.op == "cast":
            source = self.steps[step.args[0]]
            if source.dtype is step.dtype:
                return args[0]
            return _full(args[0], step) if source.op == "number" else triton("cast", args[0], tl(step.dtype))
        if step.op == "where" and step.dtype is float64 and all(self.steps[a].op == "number" for a in step.args[1:]):
            # Of two mere numbers tl.where makes float32.
            args[1] = _full(args[1], step)
        if step.op == "pow" and self.steps[step.args[0]].op == "number":
            # The helper asks its base for a dtype, which a mere number has not.
            args[0] = _full(args[0], step)
        return triton(step.op, *args)

    def _reduction(self, step: Step) -> Expression:
        op = step.attrs.get("reduction", step.op)
        arg = self.steps[step.args[0]]
        is_looped = self.layout.loops_cols and step.op != "carry"
        value = Name(f"{step.name}_lanes") if is_looped else self._reduced_value(step)
        return reduced(op, value, step.attrs["axis"], arg.dtype)

    def _masked_value(self, step: Step, arg: Step, value: Expression) -> Expression:
        """The argument of a reduction with its identity in the lanes outside the tensor."""
        mask, identity = self.index.mask_of_reduction(step), step.attrs["identity"]
        assert mask is not None
        if arg.op == "where" and self._is_inlined(arg) and self._value(arg.args[2]) == identity:
            # A choice that has the identity on its other side takes the mask into its condition.
            return call("tl.where", mask & self._value(arg.args[0]), self._value(arg.args[1]), identity)
        return call("tl.where", mask, value, identity)

    def _load_line(self, step: Step) -> Statement:
        mask = self.index.mask(step.form)
        filled = self.index.filled_for(step) if mask and step.form != SCALAR else ""
        return Assign(
            step.name,
            self._as_computed(
                step, load(self._address(step), mask=mask, other=identity_of(filled, step.dtype) if filled else None)
            ),
        )

    def _gathered(self, step: Step) -> Expression:
        """A load of rows that another step names; a number outside the table addresses nothing and gives NaN."""
        chosen = self._value(step.args[0])
        address: Address = step.attrs["address"]
        rows = self.index.product(address.extent[:1])
        stride = self.index.product(address.extent[1:])
        is_narrow = self.steps[step.args[0]].dtype is int32 and self.index.is_wide
        row = chosen.method("to", tl(int64)) if is_narrow else chosen
        place = total(Name(step.attrs["pointer"]), product(row, stride), self.index.offset(address))
        mask = both(chosen >= 0, chosen < rows, self.index.mask(step.form))
        return self._as_computed(step, load(place, mask=mask, other=number(nan if step.dtype.is_float else 0)))

    def _picked(self, step: Step) -> Expression:
        """A load of the one element of a row that another step names; a number outside the row gives −∞."""
        chosen = self._value(step.args[0])
        mask = both(chosen >= 0, chosen < self.index.col_bound(), self.index.mask(ROW))
        return self._as_computed(step, load(total(self._address(step), chosen), mask=mask, other=number(-inf)))

    def _as_computed(self, step: Step, loaded: Expression) -> Expression:
        """A load in the dtype that the kernel computes in."""
        return loaded if step.attrs["storage"] is step.dtype else loaded.method("to", tl(step.dtype))

    def _address(self, step: Step) -> Expression:
        return total(Name(step.attrs["pointer"]), self.index.offset(step.attrs["address"]))

    def _store_lines(self, steps: Sequence[Step]) -> list[Statement]:
        """The stores, and before them what more than one of them rounds."""
        values = [self._stored(s) for s in steps]
        lines: list[Statement] = []
        for value, count in Counter(values).items():
            if count > 1 and _casts(value):
                rounded = Name(f"{steps[values.index(value)].args[0]}_rounded")
                lines.append(Assign(rounded.name, value))
                values = [rounded if v == value else v for v in values]
        for step, value in zip(steps, values, strict=True):
            lines.append(Evaluate(store(self._address(step), value, mask=self.index.mask(step.form))))
        return lines

    def _stored(self, step: Step) -> Expression:
        source = self.steps[step.args[0]]
        value = self._value(step.args[0])
        while source.op == "copy" and self._is_inlined(source):
            source = self.steps[source.args[0]]
        rounds = step.dtype is not source.dtype and step.dtype.is_float and source.op != "number"
        return value.method("to", tl(step.dtype)) if rounds else value

    # -- sums over all rows --

    def _accumulator_lines(self) -> list[Statement]:
        lines: list[Statement] = []
        for step in self.kernel.steps:
            if step.op == "carry":
                shape = Display(()) if step.form == SCALAR else self._tile_shape(COL)
                lines.append(Assign(step.name, call("tl.full", shape, step.attrs["identity"], tl(step.dtype))))
        return lines

    def _partial_lines(self) -> list[Statement]:
        accumulated = [s for s in self.kernel.steps if s.op == "carry"]
        program = Name("program")
        partial_row: Expression = program * self.index.col_bound()
        lines: list[Statement] = []
        if len([s for s in accumulated if s.form != SCALAR]) > 1:
            lines.append(Assign("own_row", partial_row))
            partial_row = Name("own_row")
        for step in accumulated:
            value: Expression = Name(step.name)
            mask = None
            place: Expression = program
            if step.form != SCALAR:
                # In the order of the sum's own axes, which the kernel's columns may have in another.
                place = total(partial_row, self.index.offset(step.attrs["address"]))
                mask = self.index.mask(COL)
            elif self.layout.row_per_program:
                place, value, mask = self.index.row(), self._value(step.args[0]), self.index.mask(ROW)
            lines.append(Evaluate(store(total(Name(step.attrs["pointer"]), place), value, mask=mask)))
        return lines

    def _call(self, part: Inside, target: str = "") -> CallFunction:
        """The call of a function that another kernel became, and what its result is given to."""
        launcher = Launcher(part.kernel, Indexing(part.kernel), {"COLS"})
        bound: list[Expression] = [Name(name) for name in launcher.bound_arguments()]
        if self.layout.row_per_program:
            bound = [self.index.row_bound() if name == Name("programs") else name for name in bound]
        arguments = (*map(Name, part.arguments), *bound)
        keywords = tuple((name, number(size)) for name, size in launcher.constexprs().items())
        return CallFunction(Call(Name(part.kernel.name), arguments, keywords), target)

    def _last_block_lines(self) -> list[Statement]:
        """What is left to do once every program is done: the last one to arrive does it."""
        if not self.kernel.last_block:
            return []
        calls = tuple(map(self._call, self.kernel.last_block))
        arrivals = Name("arrivals_ptr")
        others = call("tl.num_programs", 1) if self.layout.tiles_cols else ONE
        if not any(last.kernel.layout.rows for last in self.kernel.last_block):
            count = call("tl.num_programs", 0) if self.layout.row_per_program else Name("programs")
            return [
                BLANK,
                Comment("The last program to arrive finishes the sums."),
                If(call("arrives_last", arrivals, product(count, others)), calls),
            ]
        groups: list[Statement] = []
        finalized = {name for last in self.kernel.last_block for name in last.arguments}
        for step in self.kernel.steps:
            if step.op == "carry" and step.form != SCALAR and step.attrs["pointer"] in finalized:
                columns = element_count(step.attrs["address"].extent, {})
                added = (Name(step.attrs["pointer"]), Name("first"), Name("members"))
                groups.append(CallFunction(call("add_up_group", *added, COLS=columns, GROUP=GROUP)))
        group, first, members, programs = map(Name, ("group", "first", "members", "programs"))
        is_last = call("arrives_last", arrivals, call("tl.cdiv", programs, GROUP))
        return [
            BLANK,
            Comment(
                f"The last program of each {GROUP} adds their sums up, and the last of these finishes what is left."
            ),
            Assign("group", Name("program") // GROUP),
            Assign("first", group * GROUP),
            Assign("members", call("tl.minimum", GROUP, programs - first)),
            If(
                call("arrives_last", arrivals + 1 + group, product(members, others)),
                (*groups, If(is_last, calls)),
            ),
        ]

    def _finalize_lines(self) -> list[Statement]:
        """Add up what each program left, in the order of the programs; or what each group of them did."""
        steps = [s for s in self.kernel.steps if s.op == "combine"]
        has_rows = bool(self.layout.rows)
        apart = GROUP if self.layout.inside == "last" and has_rows else 1
        left = f"group of {GROUP}" if apart > 1 else "program"
        program, programs, first, own_row = map(Name, ("program", "programs", "first", "own_row"))
        shape = Display((Name("BLOCK"),) if has_rows else ())
        lanes: Expression = call("tl.arange", 0, Name("PROGRAMS"))
        lanes = lanes.subscript(":, None") if has_rows else lanes
        inside: list[Statement] = [Assign("program", first + product(lanes, apart))]
        mask: Expression | None = program < programs
        places: dict[str, Expression] = dict.fromkeys((s.name for s in steps), program)
        if has_rows:
            tile_mask = self.index.mask(ROW)
            mask = both(mask, tile_mask.subscript("None, :") if tile_mask else None)
            size = static_size(self.layout.row_shape)
            partial_row: Expression = program * (number(size) if size is not None else self.index.row_bound())
            cells = {s.name: self.index.offset(s.attrs["address"]).subscript("None, :") for s in steps}
            if len(set(cells.values())) > 1:
                inside.append(Assign("own_row", partial_row))
                partial_row = own_row
            shared = cells[steps[0].name]
            inside.append(Assign("own_cell", partial_row + shared))
            places = {n: Name("own_cell") if cell == shared else partial_row + cell for n, cell in cells.items()}
        if len(steps) > 1:
            assert mask is not None
            inside.append(Assign("in_programs", mask))
            mask = Name("in_programs")
        for s in steps:
            place = total(Name(s.attrs["pointer"]), places[s.name])
            loaded = load(place, mask=mask, other=s.attrs["identity"])
            op = s.attrs["reduction"]
            inside.append(_taken_in(op, s.name, reduced(op, loaded, Axis(0), s.dtype)))
        return [
            BLANK,
            Comment(f"Sums over all rows: add up what each {left} left, always in the same order."),
            *(Assign(s.name, call("tl.full", shape, s.attrs["identity"], tl(s.dtype))) for s in steps),
            For("first", call("range", 0, programs, product(Name("PROGRAMS"), apart)), tuple(inside)),
            BLANK,
        ]


def joined(functions: Iterable[FunctionText]) -> str:
    """The text of functions, one below the other."""
    return "\n\n".join(function.text for function in functions)


def _taken_in(op: str, name: str, value: Expression) -> Statement:
    """How what a reduction has so far takes in one more value."""
    if op == "sum":
        return Assign(name, value, "+=")
    return Assign(name, combined(op, Name(name), value))


def _full(value: Expression, step: Step) -> Expression:
    """A number as a tensor of a step's dtype."""
    return call("tl.full", Display(()), value, tl(step.dtype))


def _casts(value: Expression) -> bool:
    return any(isinstance(part, Attribute) and part.name == "to" for part in walk(value))


_ELSEWHERE = ("load", "argument", "number", "index", "combine", "operand", "product", "place")
"""Steps that are no statements among others: written before them, or inside."""


_STATEMENTS = ("load", "store", "carry", "combine", "repeat", "argument", "take_rows", "own", "operand", "product")
"""Steps that have a line of their own, whoever uses them."""


_PHASES = {"forward": "", "backward": "gradient of ", "update": "update of "}
