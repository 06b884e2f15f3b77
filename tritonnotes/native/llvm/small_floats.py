"""float16 and bfloat16: held as 16 bits, computed in float32, rounded to nearest even after each operation.

The conversions are written out. LLVM would call functions of compiler-rt for some of them, which are not in the
process, and a machine with 16-bit arithmetic would round differently from one without.
"""

from __future__ import annotations

from .writer import Writer, llvm_type, splat


def widen(w: Writer, elem: str, register: str, width: int) -> str:
    """float32 of a float16 or bfloat16; exact."""
    short, long, single = llvm_type("i16", width), llvm_type("i32", width), llvm_type("f32", width)
    if elem == "bf16":
        bits = w.emit(f"zext {short} {register} to {long}")
        bits = w.emit(f"shl {long} {bits}, {splat('16', 'i32', width)}")
        return w.emit(f"bitcast {long} {bits} to {single}")
    half = f"<{width} x half>" if width else "half"
    return w.emit(f"fpext {half} {w.emit(f'bitcast {short} {register} to {half}')} to {single}")


def narrow(w: Writer, elem: str, register: str, width: int) -> str:
    """The float16 or bfloat16 next to a float32."""
    short, long, single = llvm_type("i16", width), llvm_type("i32", width), llvm_type("f32", width)
    if elem == "f16":
        half = f"<{width} x half>" if width else "half"
        return w.emit(f"bitcast {half} {w.emit(f'fptrunc {single} {register} to {half}')} to {short}")

    def number(value: int) -> str:
        return splat(str(value), "i32", width)

    bits = w.emit(f"bitcast {single} {register} to {long}")
    odd = w.emit(f"and {long} {w.emit(f'lshr {long} {bits}, {number(16)}')}, {number(1)}")
    rounded = w.emit(f"add {long} {w.emit(f'add {long} {bits}, {number(0x7FFF)}')}, {odd}")
    nan = w.emit(f"fcmp uno {single} {register}, {register}")
    quiet = w.emit(f"or {long} {bits}, {number(0x400000)}")
    rounded = w.emit(f"select {llvm_type('i1', width)} {nan}, {long} {quiet}, {long} {rounded}")
    return w.emit(f"trunc {long} {w.emit(f'lshr {long} {rounded}, {number(16)}')} to {short}")


def to_odd_float32(w: Writer, register: str, width: int) -> str:
    """A float64 as float32 whose last bit is set where it is not exact, so that a further rounding to 16 bits is that
    of the float64 itself."""
    double, single = llvm_type("f64", width), llvm_type("f32", width)
    long, truth = llvm_type("i32", width), llvm_type("i1", width)
    near = w.emit(f"fptrunc {double} {register} to {single}")
    back = w.emit(f"fpext {single} {near} to {double}")
    bits = w.emit(f"bitcast {single} {near} to {long}")
    size, exact_size = w.intrinsic("fabs", "f64", width, [back]), w.intrinsic("fabs", "f64", width, [register])
    beyond = w.emit(f"fcmp ogt {double} {size}, {exact_size}")
    inexact = w.emit(f"fcmp one {double} {back}, {register}")
    down = w.emit(f"sub {long} {bits}, {splat('1', 'i32', width)}")
    cut = w.emit(f"select {truth} {beyond}, {long} {down}, {long} {bits}")
    odd = w.emit(f"or {long} {cut}, {splat('1', 'i32', width)}")
    return w.emit(f"bitcast {long} {w.emit(f'select {truth} {inexact}, {long} {odd}, {long} {bits}')} to {single}")
