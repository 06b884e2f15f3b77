"""How wide each access to global memory is, by the machine code, and why a narrow one is.

An access is 128 bits wide at best: 16 bytes that one thread moves at once. The width comes from the instructions of
the lines that were generated for an access; the reason from how the tile program's lanes lie in memory. Neither knows
of the other, so a narrow access for which no rule speaks is said to be unexplained.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod

from tritonnotes.ir.core.types import Shape, Size, element_count

from ..emit.kernel import KernelSource
from ..emit.launcher import Launcher
from ..emit.ops import HELPER_POINTERS, HELPERS, helpers_in_order
from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.index_math import Indexing
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import COL, ROW, SCALAR, TILE, Kernel, Step
from ..program.compile import WIDEST
from ..support.expressions import ZERO, Call, Expression, Name, chained, leftmost, total, walk
from ..support.statements import Statement
from ..target.gpus import LANES
from ..target.sass import LOADS, STORES, Instruction

WIDE = 128


UNEXPLAINED = "unexplained: no rule says why"


_GENERATED = re.compile(r"\b[0-9a-f]{64}\.py$")
"""A file of the kernel cache. It may be another module's, in which the same kernel stands on the same lines: Triton
compiles that once."""


_INSIDE = (
    ("arrives_last", "one count of programs"),
    ("add_up_group", "partial sums, few for each thread of one program"),
    ("add_up_moments", "partial sums, few for each thread of one program"),
    ("finalize_", "partial sums, few for each thread of one program"),
    ("tile_", "an operand of a product, computed block by block"),
    ("replicated_", "replicated: every program reads it, from the cache"),
)
"""Why accesses are narrow in functions that a kernel calls, by the beginning of a function's name."""


_OF_TABLE = frozenset({"segments_ptr", "row_ptr", "cell_ptr"})
"""Pointers of a foreach kernel into the table that says where its tensors lie."""


@dataclass(frozen=True)
class Access:
    """What a kernel loads from, or stores to, one place: the argument's name, `widths` as {bits: instructions}, of
    which one in a loop counts once, and the `reason` that some are narrower than 128 bits ('' where none is). `whole`
    says whether it moves whole tiles, as against a number for each row, a number for each column, or one."""

    argument: str
    is_store: bool
    widths: Mapping[int, int]
    reason: str
    whole: bool

    @property
    def is_wide(self) -> bool:
        return min(self.widths) >= WIDE

    def __str__(self) -> str:
        shown = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(self.widths.items()))
        verb = "store to" if self.is_store else "load of"
        return f"{verb} {self.argument}: {shown}" + (f" ({self.reason})" if self.reason else "")


def accesses(
    kernel: GeneratedKernel, spelled: KernelSource, source: str, code: Iterable[Instruction], sizes: Mapping[str, int]
) -> tuple[Access, ...]:
    """The accesses of a compiled kernel, in the order of its source. `source` is the whole generated file, `code` the
    machine code with lines, `sizes` those of the `Dim`s that it was compiled for."""
    lines = _lines(spelled, source)
    tiles = _tiles(kernel, spelled)
    found: dict[tuple[bool, str, int, str], Counter[int]] = {}
    first: dict[tuple[bool, str, int, str], int] = {}
    for each in code:
        if each.name not in (*LOADS, *STORES):
            continue
        is_store = each.name in STORES
        function, statement = lines.get(each.line, _NOWHERE) if _GENERATED.search(each.file) else _NOWHERE
        places = _places(statement, is_store)
        names = set(places) if statement else {HELPER_POINTERS[function]} if function in HELPER_POINTERS else set()
        pointer = names.pop() if len(names) == 1 else ""
        called = function if function not in tiles else ""
        place = -1 if called else _step(tiles[function][0], pointer, is_store, places.get(pointer))
        called = called or (function if function != kernel.name else "")
        key = (is_store, pointer, place, called)
        found.setdefault(key, Counter())[each.bits] += 1
        first[key] = min(first.get(key, each.line), each.line)
    made = []
    for key in sorted(found, key=lambda k: (k[0], first[k])):
        is_store, pointer, place, called = key
        tile, constexprs = tiles.get(called or kernel.name, (None, {}))
        step = tile.steps[place] if tile and place >= 0 else None
        narrow = min(found[key]) < WIDE
        reason = ""
        if narrow:
            reason = (
                "one count of rows"
                if tile and any(s.attrs.get("rows") == pointer for s in tile.steps)
                else _reason(_Lanes(tile, step, spelled.num_warps, constexprs, sizes))
                if tile and step
                else _reason_of_segments(pointer)
                if isinstance(kernel, ForeachKernel)
                else _reason_inside(called)
            )
        flat = tile is not None and not tile.layout.cols and not tile.layout.finalizes
        whole = step is not None and (step.extent == TILE or (step.extent == ROW and flat))
        name = pointer.removesuffix("_ptr") or "what no line names"
        made.append(Access(name, is_store, dict(sorted(found[key].items())), reason, whole))
    return tuple(made)


def _tiles(kernel: GeneratedKernel, spelled: KernelSource) -> dict[str, tuple[Kernel, Mapping[str, int]]]:
    """The functions of a launch that are tile programs with accesses of their own, and their compile-time arguments."""
    match kernel:
        case GroupedMatmulKernel():
            return {m.kernel.name: (m.kernel, constexprs_of(m.kernel)) for m in kernel.members}
        case Kernel():
            counts = (part.kernel for part in kernel.last_block if not part.kernel.layout.finalizes)
            return {kernel.name: (kernel, spelled.constexprs), **{k.name: (k, constexprs_of(k)) for k in counts}}
    return {}


def constexprs_of(kernel: Kernel) -> Mapping[str, int]:
    """The compile-time arguments of a tile program, with the tile that a GPU gets."""
    return Launcher(kernel, Indexing(kernel), {"COLS"}).constexprs()


_NOWHERE: tuple[str, Statement | None] = "", None


def _lines(spelled: KernelSource, source: str) -> dict[int, tuple[str, Statement | None]]:
    """For the lines of a kernel's functions and helpers in a file the function that each stands in, and the statement
    that it is of; None in a helper, which is no generated one."""
    found: dict[int, tuple[str, Statement | None]] = {}
    for name in helpers_in_order(set(spelled.helpers)):
        first = _first_line(HELPERS[name], source)
        found |= {first + i: (name, None) for i in range(HELPERS[name].count("\n"))}
    for function in spelled.functions:
        first = _first_line(function.text, source)
        found |= {first + i: (function.name, statement) for i, statement in function.statements.items()}
    return found


def _first_line(text: str, source: str) -> int:
    """The number of the line, from 1 on, where a text begins in a file."""
    return source.count("\n", 0, source.index(text)) + 1


def _reason_inside(called: str) -> str:
    return next((why for beginning, why in _INSIDE if called.startswith(beginning)), UNEXPLAINED)


def _reason_of_segments(pointer: str) -> str:
    if not pointer:
        return UNEXPLAINED
    return "one element of the table of tensors" if pointer in _OF_TABLE else "blocks that are no multiples of 16 bytes"


def _places(statement: Statement | None, is_store: bool) -> dict[str, Expression]:
    """Where a statement loads from or stores to, by the pointer that this begins with."""
    function = Name("tl.store" if is_store else "tl.load")
    parts = (part for e in (statement.expressions if statement else ()) for part in walk(e))
    places = (part.arguments[0] for part in parts if isinstance(part, Call) and part.function == function)
    return {str(leftmost(place)): place for place in places}


def _step(kernel: Kernel, pointer: str, is_store: bool, place: Expression | None) -> int:
    """The number of the step behind an access, -1 where none is. Of several with one pointer, as where parts of a
    tensor are read, that whose offset the place begins with; the longest, as one may begin like another."""
    index = Indexing(kernel)
    terms = {
        i: chained("+", total(Name(pointer), index.offset(s.attrs["address"]) if "address" in s.attrs else ZERO))
        for i, s in enumerate(kernel.steps)
        # What programs leave of a shared sum is stored, and loaded again.
        if pointer in _pointers(s) and (s.op == "product" or (s.op in ("store", "accumulate", "moments")) == is_store)
    }
    written = chained("+", place) if place else []
    named = [i for i, known in terms.items() if written[: len(known)] == known]
    return max(named or terms, key=lambda i: len(terms[i]), default=-1)


def _pointers(step: Step) -> tuple[str, ...]:
    """The arguments that a step loads from, or stores to."""
    if step.op == "moments":
        return step.attrs["means"], step.attrs["squares"]
    return (step.attrs["pointer"],) if "pointer" in step.attrs else ()


@dataclass(frozen=True)
class _Lanes:
    """How the lanes of one access lie in memory."""

    kernel: Kernel
    step: Step
    num_warps: int
    constexprs: Mapping[str, int]
    sizes: Mapping[str, int]

    @cached_property
    def vector(self) -> int:
        """Elements of 16 bytes."""
        return max(1, 16 // self.kernel.parameter(self.step.attrs["pointer"]).dtype.itemsize)

    @cached_property
    def threads(self) -> int:
        return LANES * self.num_warps

    @cached_property
    def held(self) -> int:
        """Elements of the access that a program moves at once."""
        constexprs, extent = self.constexprs, self.step.extent
        if self.step.op == "finalize":
            return constexprs["PROGRAMS"] * (constexprs["BLOCK"] if self.kernel.layout.rows else 1)
        rows = constexprs.get("ROWS", 1) if extent in (TILE, ROW) else 1
        return rows * (constexprs.get("BLOCK", 1) if extent != ROW or not self.kernel.layout.cols else 1)

    @cached_property
    def group(self) -> tuple[int, ...]:
        """The axes that neighbouring lanes loop along."""
        return self.kernel.layout.cols if self.step.extent in (TILE, COL) else self.kernel.layout.rows

    @cached_property
    def behind(self) -> dict[int, Shape]:
        """For each axis that the access loops along, the sizes that lie behind it in memory."""
        address = self.step.attrs.get("address")
        return {axis: behind for axis, behind, _ in address.dims if axis >= 0} if address else {}

    @cached_property
    def run(self) -> tuple[int, ...]:
        """The last axes of the group that lie one behind the other in memory as well."""
        found: tuple[int, ...] = ()
        behind: Shape = ()
        for axis in reversed(self.group):
            if self.behind.get(axis) != behind:
                break
            found = (axis, *found)
            behind = (self.kernel.axes.sizes[axis], *behind)
        return found

    def length(self, axes: Sequence[int]) -> int:
        return element_count(self.kernel.axes.shape(tuple(axes)), self.sizes)

    def known_divisor(self, shape: Shape) -> int:
        """What is known to divide the product of some sizes: of a `Dim` 16, or nothing."""
        known = [gcd(s, WIDEST) if isinstance(s, int) else self._of_dim(s) for s in shape]
        return gcd(prod(known), WIDEST)

    def _of_dim(self, size: Size) -> int:
        return WIDEST if element_count((size,), self.sizes) % WIDEST == 0 else 1

    def uneven(self, what: str, shape: Shape) -> str:
        """That a length is no multiple of what 16 bytes hold, or not known to be; '' where it is known."""
        if self.known_divisor(shape) % self.vector == 0:
            return ""
        count = element_count(shape, self.sizes)
        if all(isinstance(s, int) for s in shape):
            return f"{what} {count} is not divisible by {self.vector}"
        shown = " · ".join(map(str, shape))
        return f"{what} {shown} is {count} here, not divisible by {WIDEST}"


def _one_element(lanes: _Lanes) -> str:
    return "one element" if lanes.step.extent == SCALAR and lanes.step.op != "finalize" else ""


def _row_element(lanes: _Lanes) -> str:
    if lanes.step.extent != ROW or not lanes.kernel.layout.cols:
        return ""
    rows = lanes.constexprs.get("ROWS", 1)
    return f"one element per row, {rows} rows per program" if rows > 1 else "one element per row, one row per program"


def _shared(lanes: _Lanes) -> str:
    """Neighbouring lanes read the same element."""
    behind = [axis for axis in reversed(lanes.group) if axis not in lanes.behind]
    if not lanes.group or lanes.group[-1] in lanes.behind:
        return ""
    trailing = []
    for axis in reversed(lanes.group):
        if axis not in behind:
            break
        trailing.append(axis)
    return f"{lanes.length(trailing):,} neighbours share one element"


def _apart(lanes: _Lanes) -> str:
    """Neighbouring lanes read elements that are no neighbours."""
    if not lanes.group or lanes.run:
        return ""
    stride = element_count(lanes.behind[lanes.group[-1]], lanes.sizes)
    return f"neighbours lie {stride:,} elements apart"


def _uneven_rows(lanes: _Lanes) -> str:
    """Rows, or what lies in memory in one piece, do not begin at multiples of 16 bytes."""
    for axis, behind in lanes.behind.items():
        if axis not in lanes.run and (said := lanes.uneven("row length", behind)):
            return said
    if 0 < len(lanes.run) < len(lanes.group):
        return lanes.uneven("row length", lanes.kernel.axes.shape(lanes.run))
    return ""


def _uneven_ends(lanes: _Lanes) -> str:
    """A mask ends between multiples of 16 bytes."""
    layout = lanes.kernel.layout
    if lanes.step.extent in (TILE, COL) and layout.masks_cols:
        return lanes.uneven("row length", layout.col_shape)
    if lanes.step.extent == ROW and layout.rows and layout.masks_rows:
        shape = layout.row_shape
        if all(isinstance(s, int) for s in shape) or len(shape) == 1:
            return lanes.uneven("length", shape)
        # The whole product is one argument.
        count = element_count(shape, lanes.sizes)
        return "" if count % WIDEST == 0 else f"length {count:,} is not divisible by {WIDEST}"
    return ""


def _uneven_start(lanes: _Lanes) -> str:
    """A part of a tensor begins between multiples of 16 bytes."""
    address = lanes.step.attrs.get("address")
    for _, behind, start in address.dims if address else ():
        if start and lanes.known_divisor((start, *behind)) % lanes.vector:
            return f"begins at element {start * element_count(behind, lanes.sizes):,}, not divisible by {lanes.vector}"
    return ""


def _uneven_partials(lanes: _Lanes) -> str:
    """Partial sums: one row of them for each program."""
    if lanes.step.op == "finalize" and lanes.kernel.layout.rows:
        return lanes.uneven("row length", lanes.kernel.layout.row_shape)
    if lanes.step.op == "accumulate" and lanes.step.extent == COL:
        return lanes.uneven("row length", lanes.kernel.layout.col_shape)
    return ""


def _few(lanes: _Lanes) -> str:
    """There is less than 16 bytes for each thread."""
    if lanes.held >= lanes.threads * lanes.vector:
        return ""
    shown = f"{lanes.held} elements a program" if lanes.held > 1 else "one element a program"
    return f"{shown}, {lanes.threads} threads: too few for {lanes.vector} each"


RULES: tuple[Callable[[_Lanes], str], ...] = (
    _one_element,
    _row_element,
    _shared,
    _apart,
    _uneven_rows,
    _uneven_ends,
    _uneven_start,
    _uneven_partials,
    _few,
)
"""Why an access is narrow, the first that speaks."""


def _reason(lanes: _Lanes) -> str:
    return next((said for rule in RULES if (said := rule(lanes))), UNEXPLAINED)
