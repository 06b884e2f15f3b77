"""What each elementwise operation of Triton IR is in LLVM IR, over scalars (width 0) and vectors: a table of rules.

Operands arrive as registers. A rule sees the element type of its operands; 16-bit floats are widened before it and its
result narrowed after it, so no rule knows them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Uncovered
from ..ttir.ttir import BYTES, SMALL_FLOATS, Op
from . import vector_math
from .small_floats import narrow, to_odd_float32, widen
from .writer import Writer, literal, llvm_type, splat

Rule = Callable[[Writer, Op, str, list[str], int], str]
"""rule(writer, op, element type of the operands, operands, width) -> result"""


def bits_of(elem: str) -> int:
    return 1 if elem == "i1" else BYTES[elem] * 8


def instruction(name: str) -> Rule:
    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        return w.emit(f"{name} {llvm_type(elem, width)} {', '.join(xs)}")

    return rule


def intrinsic(name: str, flags: str = "") -> Rule:
    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        return w.intrinsic(name, elem, width, xs, flags)

    return rule


def function(name: str) -> Rule:
    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        return vector_math.function(w, name, elem, xs, width)

    return rule


def divide(name: str) -> Rule:
    """Integer division traps on this processor where a GPU gives any number: by zero, which masked lanes may hold, and
    the least number by −1. Such divisors become 1."""

    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        type_, truth = llvm_type(elem, width), llvm_type("i1", width)
        a, b = xs
        if b.startswith("%"):
            bad = w.emit(f"icmp eq {type_} {b}, {splat('0', elem, width)}")
            if name in ("sdiv", "srem"):
                least = splat(str(-(1 << bits_of(elem) - 1)), elem, width)
                both = w.emit(f"icmp eq {type_} {b}, {splat('-1', elem, width)}")
                both = w.emit(f"and {truth} {both}, {w.emit(f'icmp eq {type_} {a}, {least}')}")
                bad = w.emit(f"or {truth} {bad}, {both}")
            b = w.emit(f"select {truth} {bad}, {type_} {splat('1', elem, width)}, {type_} {b}")
        return w.emit(f"{name} {type_} {a}, {b}")

    return rule


def shift(name: str) -> Rule:
    """A shift by the width of the number or more gives 0, or the sign, as on a GPU."""

    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        type_, truth, bits = llvm_type(elem, width), llvm_type("i1", width), bits_of(elem)
        a, b = xs
        last = splat(str(bits - 1), elem, width)
        if not b.startswith("%"):
            return w.emit(f"{name} {type_} {a}, {b}")
        far = w.emit(f"icmp ugt {type_} {b}, {last}")
        near = w.emit(f"select {truth} {far}, {type_} {last}, {type_} {b}")
        shifted = w.emit(f"{name} {type_} {a}, {near}")
        if name == "ashr":
            return shifted
        return w.emit(f"select {truth} {far}, {type_} {splat('0', elem, width)}, {type_} {shifted}")

    return rule


def compare(name: str) -> Rule:
    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        return w.emit(f"{name} {op.words[0]} {llvm_type(elem, width)} {xs[0]}, {xs[1]}")

    return rule


def select(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
    type_ = llvm_type(op.result.type.elem, width)
    return w.emit(f"select {llvm_type('i1', width)} {xs[0]}, {type_} {xs[1]}, {type_} {xs[2]}")


def clamp(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
    all_nan = str(op.attrs.get("propagateNan", "")) == "all" or "all" in op.words
    low, high = ("maximum", "minimum") if all_nan else ("maxnum", "minnum")
    return w.intrinsic(high, elem, width, [w.intrinsic(low, elem, width, xs[:2]), xs[2]])


def rsqrt(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
    root = w.intrinsic("sqrt", elem, width, xs)
    return w.emit(f"fdiv {llvm_type(elem, width)} {splat(literal(1.0, elem), elem, width)}, {root}")


def high_product(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
    """The upper half of an unsigned product."""
    bits = bits_of(elem)
    narrow_, wide = llvm_type(elem, width), llvm_type(f"i{2 * bits}", width)
    a, b = (w.emit(f"zext {narrow_} {x} to {wide}") for x in xs)
    product = w.emit(f"mul {wide} {a}, {b}")
    high = w.emit(f"lshr {wide} {product}, {splat(str(bits), f'i{2 * bits}', width)}")
    return w.emit(f"trunc {wide} {high} to {narrow_}")


def library(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
    """A function of CUDA's libdevice, by its symbol."""
    symbol = "".join(op.attrs.get("strings", ())[-1:])
    name = symbol.removeprefix("__nv_").removeprefix("fast_")
    if elem == "f32":
        name = name.removesuffix("f") if name not in ("erf",) else name
    rule = LIBDEVICE.get(name)
    if rule is None and name in vector_math.LIBM:
        rule = function(name)
    if rule is None:
        raise Uncovered(f"the libdevice function {symbol or 'without a name'}")
    return rule(w, op, elem, xs, width)


def classify(mask: int) -> Rule:
    """Whether a float is of the classes in `mask` (LLVM's is.fpclass), as an i32."""

    def rule(w: Writer, op: Op, elem: str, xs: list[str], width: int) -> str:
        type_, truth = llvm_type(elem, width), llvm_type("i1", width)
        name = f"@llvm.is.fpclass.{f'v{width}' if width else ''}{elem}"
        w.symbols.declare(name, truth, [type_, "i32"])
        found = w.emit(f"call {truth} {name}({type_} {xs[0]}, i32 {mask})")
        return w.emit(f"zext {truth} {found} to {llvm_type('i32', width)}")

    return rule


_NAN, _INFINITE, _FINITE = 0x3, 0x204, 0x1F8


LIBDEVICE: dict[str, Rule] = {
    **dict.fromkeys(("isnan", "isnand"), classify(_NAN)), **dict.fromkeys(("isinf", "isinfd"), classify(_INFINITE)),
    **dict.fromkeys(("finite", "isfinited", "isfinite"), classify(_FINITE)),
    "rsqrt": rsqrt, "sqrt": intrinsic("sqrt"), "fabs": intrinsic("fabs"), "floor": intrinsic("floor"),
    "ceil": intrinsic("ceil"), "trunc": intrinsic("trunc"), "rint": intrinsic("rint"), "nearbyint": intrinsic("rint"),
    "round": intrinsic("round"), "fma": intrinsic("fma"), "fmax": intrinsic("maxnum"), "fmin": intrinsic("minnum"),
    "copysign": intrinsic("copysign"), "fdivide": instruction("fdiv"), "sqrt_rn": intrinsic("sqrt"),
    "div_rn": instruction("fdiv"), "fdiv_rn": instruction("fdiv"), "fsqrt_rn": intrinsic("sqrt"),
}  # fmt: skip


ARITHMETIC: dict[str, Rule] = {
    "arith.addf": instruction("fadd"), "arith.subf": instruction("fsub"), "arith.mulf": instruction("fmul"),
    "arith.divf": instruction("fdiv"), "arith.remf": function("fmod"), "arith.negf": instruction("fneg"),
    "tt.precise_divf": instruction("fdiv"), "tt.precise_sqrt": intrinsic("sqrt"), "math.sqrt": intrinsic("sqrt"),
    "arith.maxnumf": intrinsic("maxnum"), "arith.minnumf": intrinsic("minnum"),
    "arith.maximumf": intrinsic("maximum"), "arith.minimumf": intrinsic("minimum"),
    "math.absf": intrinsic("fabs"), "math.floor": intrinsic("floor"), "math.ceil": intrinsic("ceil"),
    "math.fma": intrinsic("fma"), "math.rsqrt": rsqrt, "math.trunc": intrinsic("trunc"),
    "math.round": intrinsic("round"), "math.roundeven": intrinsic("roundeven"), "math.copysign": intrinsic("copysign"),
    **{f"math.{name}": function(name) for name in ("exp", "exp2", "log", "log2", "log1p", "expm1", "erf", "sin", "cos",
                                                   "tanh")},
    "math.powf": function("pow"), "math.atan2": function("atan2"),
    "tt.clampf": clamp, "tt.extern_elementwise": library, "arith.cmpf": compare("fcmp"),
}  # fmt: skip
"""Of floats."""


INTEGERS: dict[str, Rule] = {
    "arith.addi": instruction("add"), "arith.subi": instruction("sub"), "arith.muli": instruction("mul"),
    "arith.andi": instruction("and"), "arith.ori": instruction("or"), "arith.xori": instruction("xor"),
    "arith.divsi": divide("sdiv"), "arith.divui": divide("udiv"), "arith.remsi": divide("srem"),
    "arith.remui": divide("urem"), "arith.shli": shift("shl"), "arith.shrsi": shift("ashr"),
    "arith.shrui": shift("lshr"), "arith.minsi": intrinsic("smin"), "arith.maxsi": intrinsic("smax"),
    "arith.minui": intrinsic("umin"), "arith.maxui": intrinsic("umax"), "arith.cmpi": compare("icmp"),
    "math.absi": intrinsic("abs", "i1 false"), "tt.mulhiui": high_product, "math.ctpop": intrinsic("ctpop"),
}  # fmt: skip
"""Of integers and truth values."""


CONVERSIONS: dict[str, str] = {
    "arith.extsi": "sext", "arith.extui": "zext", "arith.trunci": "trunc", "arith.index_cast": "sext",
    "arith.sitofp": "sitofp", "arith.uitofp": "uitofp", "arith.fptosi": "fptosi.sat", "arith.fptoui": "fptoui.sat",
    "arith.extf": "float", "arith.truncf": "float", "tt.fp_to_fp": "float", "arith.bitcast": "bits",
    "tt.bitcast": "bits", "tt.int_to_ptr": "inttoptr", "tt.ptr_to_int": "ptrtoint",
}  # fmt: skip
"""From the type of the operand to that of the result."""


def convert(w: Writer, kind: str, source: str, target: str, x: str, width: int) -> str:
    """One number in another type. Floats out of an integer's range become its nearest end, NaN becomes 0."""
    from_, to = llvm_type(source, width), llvm_type(target, width)
    if kind == "bits" or source == target:
        return x if from_ == to else w.emit(f"bitcast {from_} {x} to {to}")
    if source in SMALL_FLOATS:
        x = widen(w, source, x, width)
        return x if target == "f32" else convert(w, kind, "f32", target, x, width)
    if target in SMALL_FLOATS:
        if source == "f64":
            x = to_odd_float32(w, x, width)
        elif source != "f32":
            wide = "f64" if bits_of(source) >= 32 else "f32"
            return convert(w, "float", wide, target, convert(w, kind, source, wide, x, width), width)
        return narrow(w, target, x, width)
    if kind == "float":
        return w.emit(f"{'fpext' if BYTES[source] < BYTES[target] else 'fptrunc'} {from_} {x} to {to}")
    if kind.endswith(".sat"):
        vector = f"v{width}" if width else ""
        name = f"@llvm.{kind}.{vector}{target}.{vector}{source}"
        w.symbols.declare(name, to, [from_])
        return w.emit(f"call {to} {name}({from_} {x})")
    if kind in ("sext", "trunc") and bits_of(source) != bits_of(target):
        kind = "sext" if bits_of(source) < bits_of(target) else "trunc"
    elif from_ == to:
        return x
    return w.emit(f"{kind} {from_} {x} to {to}")


def is_elementwise(name: str) -> bool:
    return name in ARITHMETIC or name in INTEGERS or name in CONVERSIONS or name == "arith.select"


def compute(w: Writer, op: Op, xs: list[str], width: int) -> str:
    """The result of an elementwise operation."""
    name, source, target = op.name, op.operands[0].type.elem, op.result.type.elem
    if name == "arith.select":
        return select(w, op, source, xs, width)
    if name in CONVERSIONS:
        return convert(w, CONVERSIONS[name], source, target, xs[0], width)
    rule = ARITHMETIC.get(name) or INTEGERS.get(name)
    if rule is None:
        raise Uncovered(f"the operation {name}", op.line)
    if source not in SMALL_FLOATS:
        return rule(w, op, source, xs, width)
    result = rule(w, op, "f32", [widen(w, source, x, width) for x in xs], width)
    return narrow(w, target, result, width) if target in SMALL_FLOATS else result
