"""Writes the text of one LLVM function: registers, instructions, loops, stack slots, and what it declares."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..ttir.ttir import SMALL_FLOATS

_LLVM = {"f32": "float", "f64": "double", "f16": "i16", "bf16": "i16", "index": "i64"}


_MANGLED = {"f32": "f32", "f64": "f64", "f16": "i16", "bf16": "i16", "index": "i64", "ptr": "p0", "half": "f16"}


def llvm_type(elem: str, width: int = 0) -> str:
    """The LLVM type of an element in a register (width 0) or of a vector. 16-bit floats are held as their bits."""
    name = _LLVM.get(elem, elem)
    return f"<{width} x {name}>" if width else name


def memory_type(elem: str, width: int = 0) -> str:
    """The same in memory, where a truth value takes a byte."""
    return llvm_type("i8" if elem == "i1" else elem, width)


def splat(text: str, elem: str, width: int) -> str:
    """A constant as a scalar or as a vector of equal lanes."""
    return f"<{', '.join([f'{llvm_type(elem)} {text}'] * width)}>" if width else text


def numbers(values: Iterable[int], elem: str) -> str:
    """A vector constant of different integers."""
    return f"<{', '.join(f'{llvm_type(elem)} {value}' for value in values)}>"


def literal(value: float | int | str, elem: str) -> str:
    """A constant of an element type. Text is the bits as MLIR prints them, such as 0x7FC00000."""
    if elem == "i1":
        return "true" if value else "false"
    if elem in ("f32", "f64"):
        if isinstance(value, str):
            code, integer = ("f", "I") if elem == "f32" else ("d", "Q")
            bits = int(value, 16)
            if elem == "f64" or bits & 0x7F800000 != 0x7F800000:
                value = struct.unpack(code, struct.pack(integer, bits))[0]
            else:  # Infinities and NaNs, whose payload a conversion by the processor could change
                return f"0x{(bits >> 31) << 63 | 0x7FF0000000000000 | (bits & 0x7FFFFF) << 29:016X}"
        if elem == "f32":
            value = round_to_float32(float(value))
        return f"0x{struct.unpack('Q', struct.pack('d', value))[0]:016X}"
    if elem in SMALL_FLOATS:
        return str(int(value, 16) if isinstance(value, str) else small_float_bits(float(value), elem))
    return str(value)


def round_to_float32(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def small_float_bits(value: float, elem: str) -> int:
    """The bits of a float16 or bfloat16 next to a number; ties to even."""
    if elem == "f16":
        try:
            return int(struct.unpack("H", struct.pack("e", value))[0])
        except OverflowError:
            return 0x7C00 if value > 0 else 0xFC00
    if value != value:
        return 0x7FC0
    bits = struct.unpack("I", struct.pack("f", round_to_float32(value)))[0]
    return int((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) & 0xFFFF


@dataclass
class Symbols:
    """What the functions of one module share: declarations, helper functions made on first use, and whether the
    processor has registers of 512 bits."""

    wide_registers: bool = False
    declared: dict[str, str] = field(default_factory=dict)
    defined: dict[str, str] = field(default_factory=dict)

    def declare(self, name: str, result: str, arguments: Iterable[str], attributes: str = "") -> str:
        self.declared.setdefault(name, f"declare {result} {name}({', '.join(arguments)}) {attributes}".rstrip())
        return name

    def text(self) -> str:
        names = [text for name, text in self.declared.items() if name not in self.defined]
        return "\n".join([*names, *self.defined.values()])


@dataclass
class Loop:
    """An open loop: its head, where it is entered from, its counter, and the line that the counter's phi will take."""

    head: str
    entered_from: str
    counter: str
    at: int
    count: int
    step: int


class Writer:
    """The body of one function, as it grows."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.endings: list[str] = []
        """Blocks that stand behind all others."""
        self.label = "%start"
        self.location = ""
        """What stands behind each instruction: a reference to the line that it comes of, where lines are kept."""
        self._count = 0

    def fresh(self, prefix: str = "v") -> str:
        self._count += 1
        return f"%{prefix}{self._count}"

    def emit(self, text: str) -> str:
        """An instruction with a result."""
        register = self.fresh()
        self.lines.append(f"  {register} = {text}{self.location}")
        return register

    def do(self, text: str) -> None:
        """An instruction without one."""
        self.lines.append(f"  {text}{self.location}")

    def place(self, label: str) -> None:
        self.lines.append(f"{label[1:]}:")
        self.label = label

    def jump(self, label: str) -> None:
        self.do(f"br label {label}")

    def fork(self, condition: str, then: str, other: str) -> None:
        self.do(f"br i1 {condition}, label {then}, label {other}")

    def alloca(self, type_: str, count: int = 1, align: int = 64) -> str:
        register = self.fresh("a")
        # An array in the type: LLVM keeps such memory in registers where it can, and never that of a count beside it.
        self.allocas.append(f"  {register} = alloca {f'[{count} x {type_}]' if count > 1 else type_}, align {align}")
        return register

    def open_loop(self, count: int, step: int = 1) -> Loop:
        head = self.fresh("loop")
        loop = Loop(head, self.label, self.fresh("i"), 0, count, step)
        self.jump(head)
        self.place(head)
        loop.at = len(self.lines)
        self.lines.append("")
        return loop

    def close_loop(self, loop: Loop) -> None:
        following = self.emit(f"add nuw nsw i64 {loop.counter}, {loop.step}")
        self.lines[loop.at] = f"  {loop.counter} = phi i64 [0, {loop.entered_from}], [{following}, {self.label}]"
        more, end = self.emit(f"icmp ult i64 {following}, {loop.count}"), self.fresh("end")
        self.fork(more, loop.head, end)
        self.place(end)

    def open_if(self, condition: str) -> str:
        then, end = self.fresh("then"), self.fresh("end")
        self.fork(condition, then, end)
        self.place(then)
        return end

    def close_if(self, end: str) -> None:
        self.jump(end)
        self.place(end)

    def intrinsic(self, name: str, elem: str, width: int, operands: list[str], flags: str = "") -> str:
        """A call of `llvm.name` whose operands and result are of one type."""
        type_ = llvm_type(elem, width) if elem != "half" else (f"<{width} x half>" if width else "half")
        full = f"@llvm.{name}." + (f"v{width}" if width else "") + _MANGLED.get(elem, elem)
        extra = [flags] if flags else []
        self.symbols.declare(full, type_, [type_] * len(operands) + [flag.split()[0] for flag in extra])
        return self.emit(f"call {type_} {full}({', '.join([f'{type_} {x}' for x in operands] + extra)})")

    def scaled(self, y: str, n: str, width: int) -> str:
        """y · 2^n in registers of 512 bits, for floats n without a fraction; rounded once, denormals too."""
        type_, mask, full = llvm_type("f32", width), f"i{width}", "@llvm.x86.avx512.mask.scalef.ps.512"
        self.symbols.declare(full, type_, [type_, type_, type_, mask, "i32"])
        nearest = "i32 4"  # as the processor rounds at the time
        return self.emit(f"call {type_} {full}({type_} {y}, {type_} {n}, {type_} poison, {mask} -1, {nearest})")

    def broadcast(self, register: str, elem: str, width: int) -> str:
        """A scalar in all lanes of a vector."""
        if not register.startswith("%"):
            return splat(register, elem, width)
        vector, name = llvm_type(elem, width), llvm_type(elem)
        first = self.emit(f"insertelement {vector} poison, {name} {register}, i32 0")
        return self.emit(f"shufflevector {vector} {first}, {vector} poison, <{width} x i32> zeroinitializer")

    def extract(self, register: str, elem: str, width: int, lane: int) -> str:
        return self.emit(f"extractelement {llvm_type(elem, width)} {register}, i32 {lane}")

    def insert(self, register: str, elem: str, width: int, lane: int, value: str) -> str:
        return self.emit(f"insertelement {llvm_type(elem, width)} {register}, {llvm_type(elem)} {value}, i32 {lane}")

    def any(self, truths: str, width: int) -> str:
        """Whether any lane of a vector of truth values is set."""
        bits = self.emit(f"bitcast <{width} x i1> {truths} to i{width}")
        return self.emit(f"icmp ne i{width} {bits}, 0")

    def all(self, truths: str, width: int) -> str:
        bits = self.emit(f"bitcast <{width} x i1> {truths} to i{width}")
        return self.emit(f"icmp eq i{width} {bits}, -1")
