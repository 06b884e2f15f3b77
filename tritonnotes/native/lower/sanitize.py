"""Checks that are compiled into a kernel on request.

- *Bounds*: every lane of every access lies within the tensor that its pointer comes from. A pointer out of a table must
  lie within any tensor of the launch.
- *Uninitialised memory*: what is loaded of a tensor that was given as uninitialised was stored before. A shadow holds a
  byte for each element.
- *Poison*: lanes that a mask switched off, of a load without `other`, hold a NaN that nothing else makes, or a large
  integer. Storing that NaN is a fault; an address made from that integer is out of bounds.

The first fault ends its program, and all that begin after it. Races are left to the strict interpreter.

The guard is a block of memory: the fault's number, how many tensors there are, then (begin, end, shadow) of each, those
of the kernel's pointer arguments first and in their order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor, uint8, zeros

from ..llvm.strips import Lanes, Strip
from ..llvm.writer import literal, llvm_type, splat
from ..ttir.ttir import BYTES, Function, Op, Value
from .lowering import Lowering

KINDS = ("out of bounds", "of memory that nothing was stored to", "of a masked lane's poison")


BOUNDS, UNINITIALISED, POISON = range(3)


POISON_BITS = {"f16": "0x7E5A", "bf16": "0x7FCB", "f32": "0x7FCB4000", "f64": "0x7FF9680000000000"}
"""A NaN with a payload, which conversions between float types keep."""


POISON_INTEGER = 0x5A5A5A5A5A5A5A5A


HEADER_WORDS, RANGE_WORDS = 2, 3


RUNTIME = """
define internal i1 @guard.inside(ptr %guard, i64 %begin, i64 %end) nounwind {
entry:
  %at = getelementptr i64, ptr %guard, i64 1
  %count = load i64, ptr %at
  br label %head
head:
  %i = phi i64 [0, %entry], [%next, %more]
  %some = icmp ult i64 %i, %count
  br i1 %some, label %look, label %nowhere
look:
  %words = mul i64 %i, 3
  %first = add i64 %words, 2
  %second = add i64 %words, 3
  %low_at = getelementptr i64, ptr %guard, i64 %first
  %high_at = getelementptr i64, ptr %guard, i64 %second
  %low = load i64, ptr %low_at
  %high = load i64, ptr %high_at
  %above = icmp uge i64 %begin, %low
  %below = icmp ule i64 %end, %high
  %within = and i1 %above, %below
  br i1 %within, label %found, label %more
more:
  %next = add i64 %i, 1
  br label %head
found:
  ret i1 true
nowhere:
  ret i1 false
}
define internal void @guard.fault(ptr %guard, i64 %code) nounwind {
  %old = cmpxchg ptr %guard, i64 0, i64 %code monotonic monotonic
  ret void
}"""


class Guard:
    """The checker of one kernel. `accesses` are what and which line each number stands for."""

    def __init__(self) -> None:
        self.accesses: list[tuple[str, int | None]] = []
        self.program: Function | None = None
        self.pointers: list[Value] = []

    def prologue(self, function: Function) -> list[str]:
        """Loads the bounds of the arguments; the program ends at once where another one has failed."""
        lines = ["  %failed = load i64, ptr %guard", "  %has_failed = icmp ne i64 %failed, 0"]
        for number in range(len(self.pointers)):
            for word, name in enumerate(("low", "high", "shadow")):
                place = 8 * (HEADER_WORDS + RANGE_WORDS * number + word)
                lines.append(f"  %{name}_at{number} = getelementptr i8, ptr %guard, i64 {place}")
                type_ = "ptr" if name == "shadow" else "i64"
                lines.append(f"  %{name}{number} = load {type_}, ptr %{name}_at{number}")
        return [*lines, "  br i1 %has_failed, label %abort, label %start"]

    def watch(self, function: Function) -> None:
        """The function whose arguments the guard knows."""
        self.program = function
        self.pointers = [arg for arg in function.args if arg.type.elem == "ptr"]

    def epilogue(self, result: str) -> list[str]:
        return ["abort:", "  ret void" if result == "void" else f"  ret {result} zeroinitializer"]

    def number_of(self, low: Lowering, pointer: Value) -> int | None:
        """Which tensor a pointer comes from; None where only the run can tell."""
        root = low.analysis.root(pointer)
        if low.function is not self.program or root not in self.pointers:
            return None
        return self.pointers.index(root)

    def fault(self, low: Lowering, op: Op, kind: int, bad: str) -> None:
        """Ends the program where `bad` holds."""
        w = low.w
        name = op.name.removeprefix("tt.").replace("_", " ")
        self.accesses.append((f"{name} {KINDS[kind]}", op.line))
        failed, fine = w.fresh("failed"), w.fresh("fine")
        w.fork(bad, failed, fine)
        w.place(failed)
        w.do(f"call void @guard.fault(ptr %guard, i64 {len(self.accesses)})")
        w.jump("%abort")
        w.place(fine)

    def before(self, low: Lowering, op: Op, pointer: Lanes, mask: Lanes | None, width: int, stores: bool) -> None:
        w, size = low.w, BYTES[pointer.pointee]
        number = self.number_of(low, op.operands[0])
        strip = Strip((), width)
        lanes = 1 if pointer.kind == "uniform" else width
        bad = w.alloca("i1", align=8)
        w.do(f"store i1 false, ptr {bad}")
        end = ""
        if pointer.kind == "uniform" or pointer.is_contiguous:
            begin = w.emit(f"ptrtoint ptr {pointer.reg} to i64")
            within = self.within(low, number, begin, w.emit(f"add i64 {begin}, {lanes * size}"))
            end = w.open_if(w.emit(f"xor i1 {within}, true"))
        truths = splat("true", "i1", width) if mask is None else low.vector(mask, strip)
        if number is not None:
            addresses = w.emit(f"ptrtoint <{width} x ptr> {low.vector(pointer, strip)} to <{width} x i64>")
            first, last = w.broadcast(f"%low{number}", "i64", width), w.emit(f"sub i64 %high{number}, {size}")
            below = w.emit(f"icmp ult <{width} x i64> {addresses}, {first}")
            # A tensor of no elements ends where it begins: all of it is above.
            above = w.emit(f"icmp sgt <{width} x i64> {addresses}, {w.broadcast(last, 'i64', width)}")
            outside = w.emit(f"or <{width} x i1> {below}, {above}")
            w.do(f"store i1 {w.any(w.emit(f'and <{width} x i1> {outside}, {truths}'), width)}, ptr {bad}")
        else:
            for lane in range(lanes):
                active = w.any(truths, width) if lanes < width else w.extract(truths, "i1", width, lane)
                inner = w.open_if(active)
                begin = w.emit(f"ptrtoint ptr {low.lane_pointer(pointer, lane, width)} to i64")
                within = self.within(low, None, begin, w.emit(f"add i64 {begin}, {size}"))
                inside = w.open_if(w.emit(f"xor i1 {within}, true"))
                w.do(f"store i1 true, ptr {bad}")
                w.close_if(inside)
                w.close_if(inner)
        if end:
            w.close_if(end)
        self.fault(low, op, BOUNDS, w.emit(f"load i1, ptr {bad}"))
        root = low.analysis.root(op.operands[0])
        if number is not None and root is not None and root.type.pointee == pointer.pointee:
            # What an atomic operation reads and writes counts as stored; counters begin as zeros.
            self.shadow(low, op, pointer, mask, width, number, stores)

    def within(self, low: Lowering, number: int | None, begin: str, end: str) -> str:
        w = low.w
        if number is None:
            return w.emit(f"call i1 @guard.inside(ptr %guard, i64 {begin}, i64 {end})")
        above, below = w.emit(f"icmp uge i64 {begin}, %low{number}"), w.emit(f"icmp ule i64 {end}, %high{number}")
        return w.emit(f"and i1 {above}, {below}")

    def shadow(
        self,
        low: Lowering,
        op: Op,
        pointer: Lanes,
        mask: Lanes | None,
        width: int,
        number: int,
        stores: bool,
    ) -> None:
        """Marks what is stored, and looks whether what is loaded is marked, where the tensor has a shadow."""
        w, size, strip = low.w, BYTES[pointer.pointee], Strip((), width)
        bad = w.alloca("i1", align=8)
        w.do(f"store i1 false, ptr {bad}")
        end = w.open_if(w.emit(f"icmp ne ptr %shadow{number}, null"))
        truths = splat("true", "i1", width) if mask is None else low.vector(mask, strip)
        shift = size.bit_length() - 1
        if pointer.is_contiguous:
            form = "ptr"
            offset = w.emit(f"sub i64 {w.emit(f'ptrtoint ptr {pointer.reg} to i64')}, %low{number}")
            places = w.emit(f"getelementptr i8, ptr %shadow{number}, i64 {w.emit(f'ashr i64 {offset}, {shift}')}")
            load, store = (f"@llvm.masked.{what}.v{width}i8.p0" for what in ("load", "store"))
        else:
            form = f"<{width} x ptr>"
            addresses = w.emit(f"ptrtoint {form} {low.vector(pointer, strip)} to <{width} x i64>")
            offsets = w.emit(f"sub <{width} x i64> {addresses}, {w.broadcast(f'%low{number}', 'i64', width)}")
            offsets = w.emit(f"ashr <{width} x i64> {offsets}, {splat(str(shift), 'i64', width)}")
            places = w.emit(f"getelementptr i8, ptr %shadow{number}, <{width} x i64> {offsets}")
            load, store = (f"@llvm.masked.{what}.v{width}i8.v{width}p0" for what in ("gather", "scatter"))
        type_, ones = f"<{width} x i8>", splat("1", "i8", width)
        if stores:
            w.symbols.declare(store, "void", [type_, form, f"<{width} x i1>"])
            w.do(f"call void {store}({type_} {ones}, {form} align 1 {places}, <{width} x i1> {truths})")
        else:
            w.symbols.declare(load, type_, [form, f"<{width} x i1>", type_])
            marks = w.emit(f"call {type_} {load}({form} align 1 {places}, <{width} x i1> {truths}, {type_} {ones})")
            w.do(f"store i1 {w.any(w.emit(f'icmp ne {type_} {marks}, {ones}'), width)}, ptr {bad}")
        w.close_if(end)
        if not stores:
            self.fault(low, op, UNINITIALISED, w.emit(f"load i1, ptr {bad}"))

    def loaded(self, low: Lowering, op: Op, value: Lanes, mask: Lanes | None, width: int) -> Lanes:
        """A masked load without `other`, with poison where it is masked off."""
        if mask is None or len(op.operands) > 2:
            return value
        w, elem, strip = low.w, value.elem, Strip((), width)
        if elem == "i1":
            return value
        poison = literal(POISON_BITS[elem] if elem in POISON_BITS else POISON_INTEGER >> 64 - 8 * BYTES[elem], elem)
        if value.kind == "uniform" and mask.kind == "uniform":
            type_ = llvm_type(elem)
            return Lanes("uniform", w.emit(f"select i1 {mask.reg}, {type_} {value.reg}, {type_} {poison}"), elem)
        type_ = llvm_type(elem, width)
        truths, reg = low.vector(mask, strip), low.vector(value, strip)
        found = w.emit(f"select <{width} x i1> {truths}, {type_} {reg}, {type_} {splat(poison, elem, width)}")
        return Lanes("vector", found, elem)

    def stored(self, low: Lowering, op: Op, value: Lanes, mask: Lanes | None, width: int) -> None:
        if value.elem not in POISON_BITS:
            return
        w, bits, strip = low.w, f"i{8 * BYTES[value.elem]}", Strip((), width)
        type_, whole = llvm_type(value.elem, width), f"<{width} x {bits}>"
        reg = low.vector(value, strip)
        held = reg if type_ == whole else w.emit(f"bitcast {type_} {reg} to {whole}")
        # The sign is left out: a negated NaN is poison too.
        size = w.emit(f"and {whole} {held}, {splat(str((1 << 8 * BYTES[value.elem] - 1) - 1), bits, width)}")
        poison = splat(str(int(POISON_BITS[value.elem], 16)), bits, width)
        bad = w.emit(f"icmp eq {whole} {size}, {poison}")
        if mask is not None:
            bad = w.emit(f"and <{width} x i1> {bad}, {low.vector(mask, strip)}")
        self.fault(low, op, POISON, w.any(bad, width))


class GuardBlock:
    """The guard of one launch, and the shadows of its uninitialised tensors."""

    def __init__(self, arguments: Sequence[Tensor], tensors: Sequence[Tensor], uninitialized: Sequence[Tensor]) -> None:
        bare = {tensor.data_ptr() for tensor in uninitialized}
        self.shadows: list[Tensor] = []
        words = [0, len(arguments) + len(tensors)]
        for tensor in (*arguments, *tensors):
            begin, end = span(tensor)
            shadow = 0
            if tensor.data_ptr() in bare and end > begin:
                self.shadows.append(zeros((end - begin) // tensor.element_size(), dtype=uint8))
                shadow = self.shadows[-1].data_ptr()
            words += [begin, end, shadow]
        self._words = (ctypes.c_int64 * len(words))(*words)

    @property
    def address(self) -> int:
        return ctypes.addressof(self._words)

    @property
    def fault(self) -> int:
        """The number of the first fault, from 1; 0 if there was none."""
        return int(self._words[0])


def span(tensor: Tensor) -> tuple[int, int]:
    """The addresses from a tensor's first element to the end of its last one."""
    begin = tensor.data_ptr()
    if not tensor.numel():
        return begin, begin
    if tensor.is_contiguous():
        return begin, begin + tensor.numel() * tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()
