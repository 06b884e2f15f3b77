"""The state of lowering one function: the writer, what values have become, and where tiles lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..llvm.buffers import Buffer, element_pointer, scaled_sum
from ..llvm.debug_lines import Scope
from ..llvm.strips import Index, Kind, Lanes, Strip, vector
from ..llvm.writer import Symbols, Writer, literal, llvm_type, memory_type, splat
from ..schedule.analysis import Analysis
from ..schedule.schedule import Slot
from ..ttir.ttir import BYTES, Block, Function, Op, Type, Value

STACK_BYTES = 256 * 1024
"""Of all buffers on the stack of one program. Threads of a pool may have 2 MB, and the caller needs its own."""


LARGEST_ON_STACK = 64 * 1024


ALIGNMENT = 64


@dataclass(frozen=True)
class Options:
    """How a kernel is lowered. `fused` allows a product and a sum to become one fma, as the GPU compiler does;
    `aliased` says that arguments may overlap; `sanitize` has every access checked, and what is loaded through the
    pointers of the numbers `shadows` also for whether it was stored; `wide_registers`: the processor has 32 registers
    of 512 bits."""

    fused: bool = True
    wide_registers: bool = False
    aliased: bool = False
    sanitize: bool = False
    shadows: tuple[int, ...] = ()


class Checker(Protocol):
    """What the sanitizer puts around accesses. Without one, nothing is checked."""

    def before(self, low: Lowering, op: Op, pointer: Lanes, mask: Lanes | None, width: int, stores: bool) -> None: ...

    def other(self, low: Lowering, op: Op) -> Lanes | None: ...

    def stored(self, low: Lowering, op: Op, value: Lanes, mask: Lanes | None, width: int) -> None: ...


class Lowering:
    """One function on its way to LLVM IR. The modules that emit take it as their first argument."""

    def __init__(
        self,
        function: Function,
        symbols: Symbols,
        options: Options,
        first_workspace: int = 0,
        scope: Scope | None = None,
    ) -> None:
        self.function, self.options, self.scope = function, options, scope
        self.w = Writer(symbols)
        # The sanitizer looks at each access once.
        self.analysis = Analysis(function, options.aliased, repeats=not options.sanitize)
        self.scalars: dict[Value, str] = {}
        self.buffers: dict[Value, Buffer] = {}
        self.stack = 0
        self.workspace = first_workspace
        self.checker: Checker | None = None
        self.emit_block: Callable[[Lowering, Block], Op | None] = _nothing_emits
        self.emit_slots: Callable[[Lowering, Block, list[Slot]], Op | None] = _nothing_emits
        """Emit a block, or its schedule, and give its terminator; set by the driver, so that loops can hold blocks."""
        self.callee: Callable[[str], str] = _nothing_emits
        """The LLVM function of a helper that is called; set by the driver."""
        self._zeros: dict[tuple[str, int], str] = {}

    def locate(self, op: Op) -> str:
        """What is emitted from here on comes of this operation. Gives the location before, for `self.w.location`."""
        before = self.w.location
        if self.scope is not None:
            self.w.location = self.scope.location(op.line)
        return before

    def scalar(self, value: Value) -> str:
        """The register or constant that a scalar value is."""
        found = self.scalars.get(value)
        if found is None:
            op = self.analysis.definition[value]
            assert op.name in ("arith.constant", "ub.poison"), (op.name, value.name)
            found = self.scalars[value] = literal(op.attrs.get("value", 0), value.type.elem)
            if value.type.elem == "ptr":
                found = self.scalars[value] = "null"
        return found

    def new_buffer(self, type_: Type, minor: int | None = None, pad: int = 0) -> Buffer:
        shape = type_.dims or (1,)
        elements = Buffer("", type_.elem, shape, minor, pad).elements
        size = -(-elements * BYTES[type_.elem] // ALIGNMENT) * ALIGNMENT
        if size <= LARGEST_ON_STACK and self.stack + size <= STACK_BYTES:
            self.stack += size
            place = self.w.alloca("i8", size)
        else:
            place = self.w.fresh("w")
            self.w.allocas.append(f"  {place} = getelementptr inbounds i8, ptr %workspace, i64 {self.workspace}")
            self.workspace += size
        return Buffer(place, type_.elem, shape, minor, pad, type_.pointee)

    def zeros(self, elem: str, width: int) -> str:
        """The address of zeros, for a load that must not happen."""
        key = (memory_type(elem), width)
        if key not in self._zeros:
            place = self.w.alloca(memory_type(elem, width))
            zero = "null" if elem == "ptr" and not width else "zeroinitializer"
            self.w.allocas.append(f"  store {memory_type(elem, width)} {zero}, ptr {place}")
            self._zeros[key] = place
        return self._zeros[key]

    def vector(self, lanes: Lanes, strip: Strip) -> str:
        return vector(self.w, lanes, strip)

    # Buffers

    def pointer_into(self, buffer: Buffer, index: Index, width: int) -> Lanes:
        offset, step = scaled_sum(self.w, index, buffer.strides, buffer.shape, width)
        reg = element_pointer(self.w, buffer.reg, buffer.elem, offset, width)
        return Lanes(offset.kind, reg, "ptr", step, buffer.elem)

    def read(self, buffer: Buffer, index: Index, width: int) -> Lanes:
        pointer = self.pointer_into(buffer, index, width)
        kind: Kind = "uniform" if pointer.kind == "uniform" else "vector"
        return Lanes(kind, self.load_lanes(pointer, width), buffer.elem, 0, buffer.pointee)

    def write(self, buffer: Buffer, index: Index, value: Lanes, strip: Strip) -> None:
        pointer = self.pointer_into(buffer, index, strip.width)
        if pointer.kind == "uniform":
            reg = value.reg
            if value.kind == "vector":
                reg = self.w.extract(value.reg, value.elem, strip.width, 0)
            self.store_lanes(pointer, reg, 0)
        else:
            self.store_lanes(pointer, self.vector(value, strip), strip.width)

    # Memory

    def load_lanes(self, pointer: Lanes, width: int) -> str:
        """What lies at a pointer: a scalar where that is uniform, else a vector."""
        w, elem = self.w, pointer.pointee
        size = BYTES[elem]
        if pointer.kind == "uniform":
            return self.truth(w.emit(f"load {memory_type(elem)}, ptr {pointer.reg}, align {size}"), elem, 0)
        type_ = memory_type(elem, width)
        if pointer.is_contiguous:
            return self.truth(w.emit(f"load {type_}, ptr {pointer.reg}, align {size}"), elem, width)
        found = "poison"
        for lane in range(width):
            at = self.lane_pointer(pointer, lane, width)
            one = w.emit(f"load {memory_type(elem)}, ptr {at}, align {size}")
            found = w.emit(f"insertelement {type_} {found}, {memory_type(elem)} {one}, i32 {lane}")
        return self.truth(found, elem, width)

    def store_lanes(self, pointer: Lanes, reg: str, width: int) -> None:
        w, elem = self.w, pointer.pointee
        size = BYTES[elem]
        if pointer.kind == "uniform":
            w.do(f"store {memory_type(elem)} {self.byte(reg, elem, 0)}, ptr {pointer.reg}, align {size}")
            return
        reg, type_ = self.byte(reg, elem, width), memory_type(elem, width)
        if pointer.is_contiguous:
            w.do(f"store {type_} {reg}, ptr {pointer.reg}, align {size}")
            return
        for lane in range(width):
            one = w.emit(f"extractelement {type_} {reg}, i32 {lane}")
            at = self.lane_pointer(pointer, lane, width)
            w.do(f"store {memory_type(elem)} {one}, ptr {at}, align {size}")

    def lane_pointer(self, pointer: Lanes, lane: int, width: int) -> str:
        if pointer.kind == "vector":
            return self.w.extract(pointer.reg, "ptr", width, lane)
        if not lane:
            return pointer.reg
        return self.w.emit(
            f"getelementptr {memory_type(pointer.pointee)}, ptr {pointer.reg}, i64 {lane * pointer.step}"
        )

    def truth(self, reg: str, elem: str, width: int) -> str:
        """A truth value of the byte that memory holds; anything else stays as it is."""
        if elem != "i1":
            return reg
        return self.w.emit(f"icmp ne {llvm_type('i8', width)} {reg}, {splat('0', 'i8', width)}")

    def byte(self, reg: str, elem: str, width: int) -> str:
        if elem != "i1":
            return reg
        return self.w.emit(f"zext {llvm_type('i1', width)} {reg} to {llvm_type('i8', width)}")


def _nothing_emits(*arguments: Any) -> Any:
    raise AssertionError("the driver sets this")
