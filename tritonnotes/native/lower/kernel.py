"""A kernel's IR to LLVM IR: parsed, rewritten, scheduled, emitted, with the entry points that run it over a grid.

text --parse--> functions --rewrite--> functions --schedule--> slots --emit--> LLVM IR
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from ..errors import REMEDY, Uncovered, UnsupportedError
from ..llvm.debug_lines import DebugLines
from ..llvm.elementwise import compute, is_elementwise
from ..llvm.strips import ZERO
from ..llvm.threads import entry_points
from ..llvm.writer import Symbols, llvm_type
from ..schedule.schedule import Slot, schedule, slots_of
from ..ttir.front import Ttir
from ..ttir.parse import parse
from ..ttir.rewrite import count_steps, drop_identities, fuse_multiply_add
from ..ttir.ttir import Block, Function, Op, Value
from . import control, memory
from .collect import emit_histogram, emit_scan
from .dot import emit_dot
from .faults import Fault
from .lowering import Lowering, Options
from .nests import copy_tile, emit_nest
from .sanitize import RUNTIME, Guard
from .values import offset_pointer

ARGUMENT_BYTES = 8
"""Every argument takes as much in the block of arguments, whatever its type."""


@dataclass(frozen=True)
class Lowered:
    """A kernel as LLVM IR. `arguments` are the element types of its arguments in order, "ptr" for pointers; `workspace`
    are the bytes that each thread needs; `faults` describe the accesses that the sanitizer watches, in the order of
    their numbers."""

    name: str
    symbol: str
    text: str
    arguments: tuple[str, ...]
    workspace: int
    faults: tuple[Fault, ...]


def lower(
    ttir: Ttir,
    options: Options,
    symbol: str = "kernel",
    symbols: Symbols | None = None,
    lines: DebugLines | None = None,
) -> Lowered:
    """Lowers one kernel. `symbol` is what its functions are called in the module; `symbols` are the module's. With
    `lines` each instruction is marked with the line that it comes of; the text then lacks what they are, `lines.text`.

    Raises UnsupportedError for what is not covered, with the line of the kernel's source.
    """
    own = Symbols(options.wide_registers) if symbols is None else symbols
    try:
        module = _Module(parse(ttir.text), own, options, symbol, lines)
        text = module.program(ttir.name)
    except Uncovered as error:
        where = ttir.source_line(error.line)
        raise UnsupportedError(
            f"kernel {ttir.name}{where}: native code does not cover {error.what}; {REMEDY}"
        ) from error
    function = module.functions[ttir.name]
    arguments = tuple(arg.type.elem for arg in function.args)
    body = [text, entry_points(symbol, [llvm_type(elem) for elem in arguments], module.workspace)]
    if symbols is None:
        body.insert(0, own.text())
    if options.sanitize:
        body.append(RUNTIME)
    faults = tuple(
        Fault(ttir.name, ttir.source_line(line), what, tensor, size, _of_loads(ttir, loads))
        for what, line, loads, tensor, size in module.guard.accesses
    )
    return Lowered(ttir.name, symbol, "\n".join(body), arguments, module.workspace, faults)


def _of_loads(ttir: Ttir, lines: Sequence[int]) -> str:
    """Where poison comes from, for a message."""
    places = dict.fromkeys(place for line in lines if (place := ttir.source_line(line)))
    if not places:
        return ""
    return f"; the load{' or '.join(places)} has a mask and no other=, which says what its masked lanes hold"


class _Module:
    """The functions of one kernel: itself, and the helpers that Triton left as calls."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        symbols: Symbols,
        options: Options,
        symbol: str,
        lines: DebugLines | None,
    ) -> None:
        passes = [count_steps, *([fuse_multiply_add] if options.fused else []), drop_identities]
        made = {name: reduce(lambda f, rewrite: rewrite(f), passes, f) for name, f in functions.items()}
        self.functions, self.symbols, self.options, self.symbol, self.lines = made, symbols, options, symbol, lines
        self.workspace = 0
        self.guard = Guard(options.shadows)
        self._helpers: dict[str, str] = {}

    def program(self, name: str) -> str:
        return self.function(name, f"@{self.symbol}.program", is_helper=False)

    def callee(self, name: str) -> str:
        if name not in self._helpers:
            llvm_name = self._helpers[name] = f"@{self.symbol}.helper{len(self._helpers)}"
            self.symbols.defined[llvm_name] = self.function(name, llvm_name, is_helper=True)
        return self._helpers[name]

    def function(self, name: str, llvm_name: str, is_helper: bool) -> str:
        function = self.functions[name]
        scope = self.lines.function(llvm_name) if self.lines is not None else None
        low = Lowering(function, self.symbols, self.options, self.workspace, scope)
        low.emit_block, low.emit_slots, low.callee = emit_block, emit_slots, self.callee
        if self.options.sanitize:
            low.checker = self.guard
            if not is_helper:
                self.guard.watch(function)
        for number, arg in enumerate(function.args):
            low.scalars[arg] = f"%arg{number}"
        targets = {block.label: control.homes(low, block.args) for block in function.blocks[1:]}
        result = "void"
        for block in function.blocks:
            if block.label:
                low.w.place(control.block_label(block.label))
                control.arrive(low, block.args, targets[block.label])
            end = emit_block(low, block)
            if end is None or end.name == "tt.return":
                control.emit_return(low, end or Op("tt.return"))
                if end is not None:
                    result = control.return_type(tuple(v.type for v in end.operands))
            else:
                control.emit_jump(low, end, targets)
        self.workspace = max(self.workspace, low.workspace)
        given = [f"{llvm_type(arg.type.elem)} %arg{i}" for i, arg in enumerate(function.args)]
        prologue, epilogue = ["  br label %start"], []
        if self.options.sanitize:
            epilogue = self.guard.epilogue(result)
            if not is_helper:
                prologue = self.guard.prologue(function)
        return "\n".join(
            [
                f"define internal {result} {llvm_name}({', '.join([*given, *control.PROGRAM_ARGUMENTS])}) nounwind"
                f"{scope.reference if scope is not None else ''} {{",
                "entry:", *low.w.allocas, *prologue, "start:", *low.w.lines, *low.w.endings, *epilogue, "}",
            ]
        )  # fmt: skip


def emit_block(low: Lowering, block: Block) -> Op | None:
    """Emits a block; gives its terminator."""
    return emit_slots(low, block, schedule(low.analysis, block))


def emit_slots(low: Lowering, block: Block, slots: list[Slot]) -> Op | None:
    places = slots_of(slots)
    for slot in slots:
        low.locate(slot.ops[0])
        if slot.kind == "nest":
            try:
                emit_nest(low, slot, places)
            except Uncovered as error:
                raise Uncovered(error.what, slot.ops[0].line if error.line is None else error.line) from error
        else:
            for op in slot.ops:
                _emit(low, op)
    end = block.terminator
    return (
        end
        if end is not None and end.name in ("scf.yield", "scf.condition", "tt.return", "cf.br", "cf.cond_br")
        else None
    )


def _emit(low: Lowering, op: Op) -> None:
    emit = _EMITTERS.get(op.name)
    low.locate(op)
    try:
        if emit is not None:
            emit(low, op)
        elif is_elementwise(op.name):
            low.scalars[op.result] = compute(low.w, op, [low.scalar(value) for value in op.operands], 0)
        else:
            raise Uncovered(f"the operation {op.name}", op.line)
    except Uncovered as error:
        raise Uncovered(error.what, op.line if error.line is None else error.line) from error


def _number(prefix: str) -> Callable[[Lowering, Op], None]:
    def emit(low: Lowering, op: Op) -> None:
        low.scalars[op.result] = f"%{prefix}{'xyz'.index(op.words[0])}"

    return emit


def _address(low: Lowering, op: Op) -> None:
    base, offset = op.operands
    low.scalars[op.result] = offset_pointer(
        low, low.scalar(base), low.scalar(offset), offset.type.elem, base.type.pointee
    )


def _for(low: Lowering, op: Op) -> None:
    control.emit_for(low, op, schedule(low.analysis, op.regions[0]))


def _element(low: Lowering, op: Op) -> None:
    """The one element of a tile of size 1."""
    source: Value = op.operands[0]
    copy = low.new_buffer(source.type)
    copy_tile(low, source, copy)
    low.scalars[op.result] = low.read(copy, tuple(ZERO for _ in source.type.dims), 0).reg


_EMITTERS: dict[str, Callable[[Lowering, Op], None]] = {
    "tt.get_program_id": _number("pid"), "tt.get_num_programs": _number("programs"), "tt.addptr": _address,
    "tt.load": memory.load_scalar, "tt.store": memory.store_scalar,
    "tt.atomic_rmw": memory.atomic_scalar, "tt.atomic_cas": memory.atomic_scalar,
    "tt.dot": emit_dot, "tt.scan": emit_scan, "tt.histogram": emit_histogram, "tt.unsplat": _element,
    "scf.for": _for, "scf.if": control.emit_if, "scf.while": control.emit_while, "tt.call": control.emit_call,
}  # fmt: skip
"""Operations on scalars, and those with loops of their own."""
