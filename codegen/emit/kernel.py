"""Tile programs as Triton source: the function a reader learns from, and the launcher below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Shape

from ..lower.row_loops import is_wide
from ..lower.tile_ir import COL, SCALAR, Kernel, Step, spoken_name
from ..support.expressions import Name, call
from ..support.provenance import LineOrigin, Origin, united
from ..support.statements import BLANK, For, Return, Statement, line_origins, names_of, written
from ..support.text import INDENT, call_lines, wrapped
from .calls import last_block_statements
from .launcher import Launcher
from .looped_reductions import row_loop_statements
from .ops import helpers_called
from .partial_sums import accumulator_statements, deviation_statements, finalize_statements, partial_statements
from .scalars_in_memory import declared, number_loads
from .steps import PHASES, statements
from .writer import Writer


@dataclass(frozen=True)
class FunctionText:
    """A generated function, and the statement behind each line of its body, counted from the first line of `text`.
    `arguments` says of lines of its signature what they are of."""

    name: str
    text: str
    statements: Mapping[int, Statement] = field(default_factory=dict)
    arguments: Mapping[int, tuple[Origin, ...]] = field(default_factory=dict)

    def lines(self) -> list[LineOrigin]:
        """Where its lines come from."""
        inside = line_origins(self.name, list(self.statements.values()))
        whole = united(line.origins for line in inside)
        above = range(len(self.text.splitlines()) - len(inside))
        return [*(LineOrigin("signature", "", self.name, self.arguments.get(n, whole)) for n in above), *inside]


def function_text(
    name: str,
    header: Sequence[str],
    body: Sequence[Statement],
    arguments: Mapping[int, tuple[Origin, ...]] | None = None,
) -> FunctionText:
    """A function of its decorator, signature and docstring, and the statements below them."""
    above = "\n".join(header)
    lines = written(body)
    text = "\n".join([above, *(INDENT + line if line else "" for line, _ in lines)]) + "\n"
    first = above.count("\n") + 1
    statements = {first + i: statement for i, (_, statement) in enumerate(lines)}
    return FunctionText(name, text, statements, arguments or {})


def jit_function(name: str, arguments: list[str], about: str, body: Sequence[Statement]) -> FunctionText:
    """A function that Triton compiles, with the docstring `about` and the statements of its body."""
    header = ["@triton.jit", *call_lines(f"def {name}(", arguments, "):"), f'{INDENT}"""{about}"""']
    return function_text(name, header, body)


@dataclass(frozen=True)
class KernelSource:
    """The text of one kernel and its launcher, the helpers that it calls, and what compiling it ahead of time needs.

    `common` are the functions that other kernels may call too, by name: sums that every program computes, and products
    of several groups. `functions` are these and its own, `launcher_helpers` what the launcher calls.
    `signature` gives a Triton type for each runtime argument, `constexprs` the compile-time ones (with the GPU's tile),
    `maxnreg` how many registers a thread may have, where ptxas is told. `sizes` are the shapes whose elements an int
    argument counts, for those that count some.
    """

    name: str
    functions: tuple[FunctionText, ...]
    launcher: str
    helpers: frozenset[str]
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    sizes: dict[str, Shape] = field(default_factory=dict)
    maxnreg: int | None = None
    common: Mapping[str, str] = field(default_factory=dict)
    launcher_helpers: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """Its own functions, one below the other."""
        return "\n\n".join(function.text for function in self.functions if function.name not in self.common)


def render_kernel(kernel: Kernel, numbers_in_memory: bool = False) -> KernelSource:
    """Spell a tile program, which takes the host's numbers as arguments or reads them from memory."""
    spelled = functions_of(kernel, numbers_in_memory)
    launcher, functions = spelled.launcher, spelled.functions
    return KernelSource(
        kernel.name,
        functions,
        launcher.text(),
        spelled.helpers,
        launcher.signature(numbers_in_memory),
        launcher.constexprs(),
        launcher.num_warps(),
        launcher.sizes(),
        launcher.most_registers(),
        spelled.replicated_sums,
        frozenset(["float32_precision"] if kernel.products else []),
    )


@dataclass(frozen=True)
class Functions:
    """The function of a kernel below those that it calls, what launches it, and the helpers that all of them call.
    `replicated_sums` are the texts of those that every program computes."""

    launcher: Launcher
    functions: tuple[FunctionText, ...]
    helpers: frozenset[str]
    replicated_sums: Mapping[str, str] = field(default_factory=dict)


def functions_of(kernel: Kernel, numbers_in_memory: bool = False) -> Functions:
    """Spell the functions of a kernel. What it calls is given its numbers."""
    sums = [functions_of(part.kernel) for part in kernel.replicated_sums]
    called = [*sums, *(functions_of(part.kernel) for part in (*kernel.operands, *kernel.last_block))]
    replicated_sums = {name: text for part in called for name, text in part.replicated_sums.items()}
    replicated_sums |= {part.functions[-1].name: part.functions[-1].text for part in sums}
    writer = Writer(kernel)
    body = _body(writer)
    launcher = Launcher(kernel, writer.index, names_of(body))
    header = [_decorator(kernel, numbers_in_memory), f"def {kernel.name}("]
    header += [f"{INDENT}{a}," for a in _arguments(kernel, launcher, numbers_in_memory)]
    header += ["):", f'{INDENT}"""{_docstring(kernel)}"""']
    first = 2 + len(kernel.layout.traversal.arguments)
    signature = {number: p.origin for number, p in enumerate(kernel.parameters, first) if p.origin}
    body = [*number_loads(kernel.arguments, numbers_in_memory), *body]
    mine = function_text(kernel.name, header, body, signature)
    return Functions(
        launcher,
        (*(function for part in called for function in part.functions), mine),
        helpers_called(body).union(*(part.helpers for part in called)),
        replicated_sums,
    )


def _decorator(kernel: Kernel, numbers_in_memory: bool) -> str:
    # A seed is a new number at each run: nothing may be compiled for its value.
    takes_seeds = kernel.layout.purpose.is_launched and not numbers_in_memory
    seeds = [f'"{p.name}"' for p in kernel.parameters if p.is_exact and takes_seeds]
    return f"@triton.jit(do_not_specialize=[{', '.join(seeds)}])" if seeds else "@triton.jit"


def _arguments(kernel: Kernel, launcher: Launcher, numbers_in_memory: bool) -> list[str]:
    listed = [*kernel.layout.traversal.arguments]
    listed += declared(kernel.arguments, numbers_in_memory)
    listed += launcher.bound_arguments()
    return listed + [f"{name}: tl.constexpr" for name in launcher.constexprs()]


def _docstring(kernel: Kernel) -> str:
    def said(value: Value) -> str:
        name = spoken_name(value)
        return name if kernel.shared is None else kernel.shared.ops.get(name, name)

    values = [u.value for piece in kernel.pieces for u in piece.units]
    ops = dict.fromkeys(PHASES[v.scope.phase] + said(v) for v in values)
    again = (v for piece in kernel.pieces for v in piece.recomputed if v.op.kind != "reduction")
    recomputed = dict.fromkeys(map(said, again))
    text = kernel.layout.purpose.about.format(", ".join(ops))
    if recomputed:
        text += f" Recomputes {', '.join(recomputed)}: that moves fewer bytes than loading it."
    return wrapped(f"{text} {kernel.shared or ''}".rstrip())


def _body(writer: Writer) -> list[Statement]:
    """The statements of a function: what it loads once, its tile or the loop over its tiles, and what it leaves."""
    layout, index, steps = writer.layout, writer.index, writer.kernel.steps
    hoisted = [s for s in steps if _is_loaded_once(s) and not (layout.loops_cols and is_wide(s))]
    inner = [s for s in steps if not _is_loaded_once(s)]
    setup, before = index.lines(in_loop=False), statements(writer, hoisted)
    finalized = finalize_statements(writer) if layout.finalizes else []
    late = deviation_statements(writer) if layout.finalizes else []
    if late:
        # What deviates is known once the mean is, which is made of other sums.
        early = _behind(writer, [s for s in inner if s.op == "deviations"])
        late = [*statements(writer, [s for s in inner if s.name in early]), *late]
        inner = [s for s in inner if s.name not in early]
    tile = row_loop_statements(writer, hoisted) if layout.loops_cols else [*late, *statements(writer, inner)]
    over, after = layout.traversal.over, _results(writer)
    if over is None:
        return [*setup, *finalized, *before, *tile, *after]
    start = [BLANK, *accumulator_statements(writer)] if layout.accumulates else []
    tiles = over(call("tl.cdiv", index.row_bound(), Name(index.row_block_name())))
    loop = For("tile", tiles, (*index.lines(in_loop=True), *finalized, *tile))
    return [*setup, *before, *start, loop, *after]


def _behind(writer: Writer, steps: Sequence[Step]) -> set[str]:
    """The steps that some are computed from."""
    found: set[str] = set()
    todo = [a for s in steps for a in s.args]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += writer.steps[name].args
    return found


def _is_loaded_once(step: Step) -> bool:
    """Whether a step is the same for all tiles of a program."""
    return step.op in ("load", "argument", "replicated") and step.extent in (COL, SCALAR)


def _results(writer: Writer) -> list[Statement]:
    """What a function does at its end: it returns numbers, or leaves partial sums."""
    kernel, layout = writer.kernel, writer.layout
    if kernel.returned:
        return [Return(writer.tensor(n), origins=writer.origins(writer.steps[n])) for n in kernel.returned]
    if layout.accumulates or layout.traversal.is_one_row:
        return [BLANK, *partial_statements(writer), *last_block_statements(writer)]
    return last_block_statements(writer)
