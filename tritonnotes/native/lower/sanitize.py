"""Checks that are compiled into a kernel on request.

- *Bounds*: every lane of every access lies within the tensor that its pointer comes from. A pointer out of a table must
  lie within any tensor of the launch.
- *Uninitialised memory*: what is loaded of a tensor that was given as uninitialised was stored before. A shadow holds a
  byte for each element.
- *Poison*: lanes that a mask switched off, of a load without `other`, hold a NaN that nothing else makes, or a large
  integer. Storing that NaN is a fault; an address made from that integer is out of bounds.

The first fault ends its program, and all that begin after it. Races are left to the strict interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..llvm.elementwise import is_elementwise
from ..llvm.strips import Lanes, Strip
from ..llvm.writer import literal, llvm_type, splat
from ..ttir.ttir import BYTES, Function, Op, Value
from .guard_block import FOUND_WORD, HEADER_WORDS, RANGE_WORDS, UNKNOWN_OFFSETS
from .lowering import Lowering

KINDS = ("out of bounds", "of memory that nothing was stored to", "of a masked lane's poison")


BOUNDS, UNINITIALISED, POISON = range(3)


POISON_BITS = {"f16": "0x7E5A", "bf16": "0x7FCB", "f32": "0x7FCB4000", "f64": "0x7FF9680000000000"}
"""A NaN with a payload, which conversions between float types keep."""


POISON_INTEGER = 0x5A5A5A5A5A5A5A5A


Sources = frozenset[int | None]
"""Lines of the text with loads that poison may come from; None stands for what is not followed: loops and helpers."""

NOWHERE: Sources = frozenset()
UNKNOWN: Sources = frozenset([None])


RUNTIME = f"""
define internal i1 @guard.inside(ptr %guard, i64 %begin, i64 %end) nounwind {{
entry:
  %at = getelementptr i64, ptr %guard, i64 1
  %count = load i64, ptr %at
  br label %head
head:
  %i = phi i64 [0, %entry], [%next, %more]
  %some = icmp ult i64 %i, %count
  br i1 %some, label %look, label %nowhere
look:
  %words = mul i64 %i, {RANGE_WORDS}
  %first = add i64 %words, {HEADER_WORDS}
  %second = add i64 %words, {HEADER_WORDS + 1}
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
}}
define internal void @guard.fault(
  ptr %guard, i64 %code, i32 %pid0, i32 %pid1, i32 %pid2, i64 %lowest, i64 %highest
) nounwind cold noinline {{
  %old = cmpxchg ptr %guard, i64 0, i64 %code monotonic monotonic
  %first = extractvalue {{i64, i1}} %old, 1
  br i1 %first, label %tell, label %told
tell:
  %x = zext i32 %pid0 to i64
  %y = zext i32 %pid1 to i64
  %z = zext i32 %pid2 to i64
  %x_at = getelementptr i64, ptr %guard, i64 {FOUND_WORD}
  %y_at = getelementptr i64, ptr %guard, i64 {FOUND_WORD + 1}
  %z_at = getelementptr i64, ptr %guard, i64 {FOUND_WORD + 2}
  %lowest_at = getelementptr i64, ptr %guard, i64 {FOUND_WORD + 3}
  %highest_at = getelementptr i64, ptr %guard, i64 {FOUND_WORD + 4}
  store i64 %x, ptr %x_at
  store i64 %y, ptr %y_at
  store i64 %z, ptr %z_at
  store i64 %lowest, ptr %lowest_at
  store i64 %highest, ptr %highest_at
  br label %told
told:
  ret void
}}"""


class Watch(NamedTuple):
    """An access that is watched for a fault: what the fault is, the line of the text, the lines of the loads that its
    poison may come from, the number of the tensor, and the bytes of an element."""

    what: str
    line: int | None
    loads: tuple[int, ...]
    tensor: int | None
    size: int


class Strays(NamedTuple):
    """Registers of an access of `width` lanes: how many bytes behind its tensor's beginning each lane is, and which of
    them are outside. `tensor` is its number, `size` the bytes of an element."""

    offsets: str
    outside: str
    width: int
    tensor: int
    size: int


class Guard:
    """The checker of one kernel. `shadows` are the numbers of the pointer arguments that point to uninitialised memory;
    `accesses` are what each number of a fault stands for."""

    def __init__(self, shadows: Sequence[int] = ()) -> None:
        self.shadows = shadows
        self.accesses: list[Watch] = []
        self.program: Function | None = None
        self.pointers: list[Value] = []
        self._limits: set[tuple[int, int]] = set()
        self._poisoned: dict[tuple[Value, frozenset[Value]], Sources] = {}

    def prologue(self, function: Function) -> list[str]:
        """Loads the bounds of the arguments, and works out how far behind its beginning an access of so many bytes may
        start in a tensor; the program ends at once where another one has failed."""
        lines = ["  %failed = load i64, ptr %guard", "  %has_failed = icmp ne i64 %failed, 0"]
        for number in range(len(self.pointers)):
            for word, name in enumerate(("low", "high", *(["shadow"] if number in self.shadows else []))):
                place = 8 * (HEADER_WORDS + RANGE_WORDS * number + word)
                lines.append(f"  %{name}_at{number} = getelementptr i8, ptr %guard, i64 {place}")
                type_ = "ptr" if name == "shadow" else "i64"
                lines.append(f"  %{name}{number} = load {type_}, ptr %{name}_at{number}")
            lines.append(f"  %span{number} = sub i64 %high{number}, %low{number}")
        for number, size in sorted(self._limits):
            name = f"{number}.{size}"
            lines.append(f"  %room{name} = sub i64 %span{number}, {size - 1}")
            lines.append(f"  %some{name} = icmp sgt i64 %room{name}, 0")
            lines.append(f"  %limit{name} = select i1 %some{name}, i64 %room{name}, i64 0")
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
        fine = low.w.fresh("fine")
        low.w.fork(bad, self.failure(low, op, kind), fine)
        low.w.place(fine)

    def failure(
        self, low: Lowering, op: Op, kind: int, sources: Sources = frozenset(), strays: Strays | None = None
    ) -> str:
        """The label of a block that ends the program. What stands in it is written behind all else."""
        name = op.name.removeprefix("tt.").replace("_", " ")
        # Where something is not followed, the loads that are known may be the wrong ones.
        loads = () if None in sources else tuple(sorted(line for line in sources if line is not None))
        tensor, size = (None, 1) if strays is None else (strays.tensor, strays.size)
        self.accesses.append(Watch(f"{name} {KINDS[kind]}", op.line, loads, tensor, size))
        failed = low.w.fresh("failed")
        low.w.endings.append(f"{failed[1:]}:")
        lowest, highest = map(str, UNKNOWN_OFFSETS) if strays is None else self._ends(low, strays)
        program = "i32 %pid0, i32 %pid1, i32 %pid2"
        call = f"@guard.fault(ptr %guard, i64 {len(self.accesses)}, {program}, i64 {lowest}, i64 {highest})"
        low.w.endings += [f"  call void {call}", "  br label %abort"]
        return failed

    def _ends(self, low: Lowering, strays: Strays) -> tuple[str, str]:
        """The lowest and the highest offset of lanes that are outside."""
        offsets, outside, width = strays[:3]
        type_, found = f"<{width} x i64>", []
        for pick, neutral in (("smin", 2**63 - 1), ("smax", -(2**63))):
            name, kept, end = f"@llvm.vector.reduce.{pick}.v{width}i64", low.w.fresh("kept"), low.w.fresh("end")
            low.w.symbols.declare(name, "i64", [type_])
            others = splat(str(neutral), "i64", width)
            low.w.endings.append(f"  {kept} = select <{width} x i1> {outside}, {type_} {offsets}, {type_} {others}")
            low.w.endings.append(f"  {end} = call i64 {name}({type_} {kept})")
            found.append(end)
        return found[0], found[1]

    def before(self, low: Lowering, op: Op, pointer: Lanes, mask: Lanes | None, width: int, stores: bool) -> None:
        number = self.number_of(low, op.operands[0])
        if number is None:
            self.look_everywhere(low, op, pointer, mask, width)
            return
        offset = self.bounds(low, op, pointer, mask, width, number)
        root = low.analysis.root(op.operands[0])
        # A pointer to bool is read as one to bytes.
        if number in self.shadows and root is not None and BYTES[root.type.pointee] == BYTES[pointer.pointee]:
            # What an atomic operation reads and writes counts as stored; counters begin as zeros.
            self.shadow(low, op, pointer, offset, mask, width, number, stores)

    def bounds(self, low: Lowering, op: Op, pointer: Lanes, mask: Lanes | None, width: int, number: int) -> str:
        """Ends the program where an active lane lies outside of its tensor. Gives how many bytes behind the tensor's
        beginning the lanes are: a number for each of a vector, else that of the first."""
        w, size = low.w, BYTES[pointer.pointee]
        whole = w.fresh("within")
        offset = ""
        if pointer.kind == "uniform" or pointer.is_contiguous:
            # One comparison for all lanes; which of them are active is asked where it fails.
            count = 1 if pointer.kind == "uniform" else width
            offset = w.emit(f"sub i64 {w.emit(f'ptrtoint ptr {pointer.reg} to i64')}, %low{number}")
            some = w.fresh("some")
            w.fork(w.emit(f"icmp ult i64 {offset}, {self.limit(number, count * size)}"), whole, some)
            w.place(some)
        truths = "" if mask is None else low.vector(mask, Strip((), width))
        if offset and truths:
            # Behind a tensor's end most strips of a ragged tile have no active lane.
            active = w.fresh("active")
            w.fork(w.any(truths, width), active, whole)
            w.place(active)
        offsets = self.lane_offsets(low, pointer, width, number)
        limit = w.broadcast(self.limit(number, size), "i64", width)
        outside = w.emit(f"icmp uge <{width} x i64> {offsets}, {limit}")
        if truths:
            outside = w.emit(f"and <{width} x i1> {outside}, {truths}")
        failed = self.failure(low, op, BOUNDS, strays=Strays(offsets, outside, width, number, size))
        w.fork(w.any(outside, width), failed, whole)
        w.place(whole)
        return offset or offsets

    def limit(self, number: int, size: int) -> str:
        """Where an access of `size` bytes may begin: before this many bytes of a tensor, nowhere if that is 0."""
        self._limits.add((number, size))
        return f"%limit{number}.{size}"

    def lane_offsets(self, low: Lowering, pointer: Lanes, width: int, number: int) -> str:
        w, type_ = low.w, f"<{width} x i64>"
        addresses = w.emit(f"ptrtoint <{width} x ptr> {low.vector(pointer, Strip((), width))} to {type_}")
        return w.emit(f"sub {type_} {addresses}, {w.broadcast(f'%low{number}', 'i64', width)}")

    def look_everywhere(self, low: Lowering, op: Op, pointer: Lanes, mask: Lanes | None, width: int) -> None:
        """Ends the program where an active lane lies in no tensor of the launch. Neighbours are looked up together."""
        w, size = low.w, BYTES[pointer.pointee]
        lanes = 1 if pointer.kind == "uniform" else width
        bad = w.alloca("i1", align=8)
        w.do(f"store i1 false, ptr {bad}")
        end = ""
        if pointer.kind == "uniform" or pointer.is_contiguous:
            end = w.open_if(w.emit(f"xor i1 {self.inside(low, pointer.reg, lanes * size)}, true"))
        truths = splat("true", "i1", width) if mask is None else low.vector(mask, Strip((), width))
        for lane in range(lanes):
            active = w.any(truths, width) if lanes < width else w.extract(truths, "i1", width, lane)
            inner = w.open_if(active)
            found = self.inside(low, low.lane_pointer(pointer, lane, width), size)
            nowhere = w.open_if(w.emit(f"xor i1 {found}, true"))
            w.do(f"store i1 true, ptr {bad}")
            w.close_if(nowhere)
            w.close_if(inner)
        if end:
            w.close_if(end)
        self.fault(low, op, BOUNDS, w.emit(f"load i1, ptr {bad}"))

    def inside(self, low: Lowering, pointer: str, size: int) -> str:
        """Whether so many bytes lie within any one tensor."""
        w = low.w
        begin = w.emit(f"ptrtoint ptr {pointer} to i64")
        return w.emit(f"call i1 @guard.inside(ptr %guard, i64 {begin}, i64 {w.emit(f'add i64 {begin}, {size}')})")

    def shadow(
        self,
        low: Lowering,
        op: Op,
        pointer: Lanes,
        offset: str,
        mask: Lanes | None,
        width: int,
        number: int,
        stores: bool,
    ) -> None:
        """Marks what is stored, and looks whether what is loaded is marked, in the shadow of a tensor."""
        w, shift = low.w, BYTES[pointer.pointee].bit_length() - 1
        end = w.fresh("end")
        failed = "" if stores else self.failure(low, op, UNINITIALISED)
        active = mask if mask is not None else Lanes("uniform", "true", "i1")
        if pointer.kind == "uniform" or pointer.is_contiguous:
            place = w.emit(f"getelementptr i8, ptr %shadow{number}, i64 {w.emit(f'ashr i64 {offset}, {shift}')}")
            truths = low.vector(active, Strip((), width)) if active.kind != "uniform" else ""
            if pointer.kind == "uniform":
                self._mark(low, place, w.any(truths, width) if truths else active.reg, 1, failed, end)
                return
            if not truths:
                self._mark(low, place, active.reg, width, failed, end)
                return
            some = w.fresh("some")
            self._mark(low, place, w.all(truths, width), width, failed, end, some)
            w.place(some)
            form = "ptr"
        else:
            form, wide = f"<{width} x ptr>", f"<{width} x i64>"
            truths = low.vector(active, Strip((), width))
            places = w.emit(f"ashr {wide} {offset}, {splat(str(shift), 'i64', width)}")
            place = w.emit(f"getelementptr i8, ptr %shadow{number}, {wide} {places}")
        self._mark_some(low, place, form, truths, width, failed)
        w.jump(end)
        w.place(end)

    def _mark(
        self, low: Lowering, place: str, active: str, lanes: int, failed: str, end: str, otherwise: str = ""
    ) -> None:
        """Neighbours that are all active or, `otherwise`, not."""
        w, type_ = low.w, f"<{lanes} x i8>"
        go = w.fresh("marks")
        w.fork(active, go, otherwise or end)
        w.place(go)
        ones = splat("1", "i8", lanes)
        if failed:
            marks = w.emit(f"load {type_}, ptr {place}, align 1")
            w.fork(w.any(w.emit(f"icmp ne {type_} {marks}, {ones}"), lanes), failed, end)
        else:
            w.do(f"store {type_} {ones}, ptr {place}, align 1")
            w.jump(end)
        if not otherwise:
            w.place(end)

    def _mark_some(self, low: Lowering, place: str, form: str, truths: str, width: int, failed: str) -> None:
        w, type_, ones = low.w, f"<{width} x i8>", splat("1", "i8", width)
        what = ("gather", "scatter") if form != "ptr" else ("load", "store")
        name = f"@llvm.masked.{what[not failed]}.v{width}i8.{'p0' if form == 'ptr' else f'v{width}p0'}"
        if not failed:
            w.symbols.declare(name, "void", [type_, form, f"<{width} x i1>"])
            w.do(f"call void {name}({type_} {ones}, {form} align 1 {place}, <{width} x i1> {truths})")
            return
        w.symbols.declare(name, type_, [form, f"<{width} x i1>", type_])
        marks = w.emit(f"call {type_} {name}({form} align 1 {place}, <{width} x i1> {truths}, {type_} {ones})")
        fine = w.fresh("fine")
        w.fork(w.any(w.emit(f"icmp ne {type_} {marks}, {ones}"), width), failed, fine)
        w.place(fine)

    def other(self, low: Lowering, op: Op) -> Lanes | None:
        """What the lanes that are masked off hold, of a load that does not say: poison; None where nothing would notice
        that, so that they may hold 0."""
        elem = op.result.type.elem
        if elem in ("i1", "ptr") or (elem in POISON_BITS and not self.is_noticed(low, op.result, op.operands[1])):
            return None
        poison = literal(POISON_BITS[elem] if elem in POISON_BITS else POISON_INTEGER >> 64 - 8 * BYTES[elem], elem)
        return Lanes("uniform", poison, elem)

    def stored(self, low: Lowering, op: Op, value: Lanes, mask: Lanes | None, width: int) -> None:
        sure = frozenset(_all_of(low, *op.operands[2:]))
        sources = self.poison_of(low, op.operands[1], sure) if value.elem in POISON_BITS else None
        if not sources:
            return
        w, bits, strip = low.w, f"i{8 * BYTES[value.elem]}", Strip((), width)
        type_, whole = llvm_type(value.elem, width), f"<{width} x {bits}>"
        reg, fine = low.vector(value, strip), w.fresh("fine")
        if type_ != whole:
            # A NaN is rare, so it is looked for first.
            nan = w.fresh("nan")
            w.fork(w.any(w.emit(f"fcmp uno {type_} {reg}, {reg}"), width), nan, fine)
            w.place(nan)
            reg = w.emit(f"bitcast {type_} {reg} to {whole}")
        # The sign is left out: a negated NaN is poison too.
        size = w.emit(f"and {whole} {reg}, {splat(str((1 << 8 * BYTES[value.elem] - 1) - 1), bits, width)}")
        poison = splat(str(int(POISON_BITS[value.elem], 16)), bits, width)
        bad = w.emit(f"icmp eq {whole} {size}, {poison}")
        if mask is not None:
            bad = w.emit(f"and <{width} x i1> {bad}, {low.vector(mask, strip)}")
        w.fork(w.any(bad, width), self.failure(low, op, POISON, sources), fine)
        w.place(fine)

    def poison_of(self, low: Lowering, value: Value, sure: frozenset[Value]) -> Sources:
        """The loads without `other` whose lanes that are masked off a value may hold, in a lane of which all masks in
        `sure` are true. What comes out of memory is no poison, since that is never stored."""
        found = self._poisoned.get((value, sure))
        if found is None:
            self._poisoned[value, sure] = UNKNOWN  # while it is looked at; a loop would come back
            found = self._poisoned[value, sure] = self._poison_of(low, value, sure)
        return found

    def _poison_of(self, low: Lowering, value: Value, sure: frozenset[Value]) -> Sources:
        op = low.analysis.definition.get(value)
        if op is None:
            is_given = value in low.analysis.arguments and low.function is self.program
            return NOWHERE if is_given else UNKNOWN
        if op.name in ("arith.cmpf", "arith.cmpi"):
            return NOWHERE
        if op.name == "tt.load":
            if len(op.operands) == 2:
                return NOWHERE if op.operands[1] in sure else frozenset([op.line])
            return self.poison_of(low, op.operands[2], sure) if len(op.operands) == 3 else NOWHERE
        if op.name == "tt.call" or (op.regions and op.name != "tt.reduce"):
            return UNKNOWN
        # All else takes its lanes from others than its own.
        same = sure if is_elementwise(op.name) else frozenset[Value]()
        return NOWHERE.union(*(self.poison_of(low, operand, same) for operand in op.operands))

    def is_noticed(self, low: Lowering, value: Value, mask: Value) -> bool:
        """Whether poison could be found in a float that is poison where `mask` is false. It cannot where all that is
        made of it, lane by lane, is stored where the mask is true."""
        made = dict.fromkeys([value])
        for held in _growing(made):
            for user in low.analysis.of(held):
                if user.name == "tt.store" and user.operands.index(held) == 1:
                    if mask not in _all_of(low, *user.operands[2:]):
                        return True
                elif is_elementwise(user.name) and user.result.type.is_float:
                    made[user.result] = None
                else:
                    return True
        return False


def _all_of(low: Lowering, *masks: Value) -> dict[Value, None]:
    """The masks that are true wherever these are: they themselves, and what they are the conjunction of."""
    found = dict.fromkeys(masks)
    for mask in _growing(found):
        op = low.analysis.definition.get(mask)
        if op is not None and op.name == "arith.andi":
            found.update(dict.fromkeys(op.operands))
    return found


def _growing(values: dict[Value, None]) -> Iterator[Value]:
    """Each of the values once, those too that are added meanwhile."""
    number = 0
    while number < len(values):
        ready = [*values][number:]
        number += len(ready)
        yield from ready
