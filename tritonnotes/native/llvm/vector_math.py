"""exp, log, erf, tanh and their like over scalars and vectors.

float32: inline polynomials, about 1 ulp from the exact value (tests/tritonnotes/native/test_native_math.py measures
them). Everything else calls libm lane by lane. Sources: Cephes (expf, logf, tanhf) and Juffa's erff.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import Uncovered
from .writer import Writer, literal, llvm_type, splat

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


_ERF_NEAR = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)


_ERF_FAR = (-1.72853470e-5, 3.83197126e-4), (-3.88396438e-3, 2.42546219e-2)


_ERF_TAIL = (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1)


_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


_SHIFT = 12582912.0
"""1.5 · 2²³: what is added to it is rounded to an integer, which then stands in its last bits."""


_SHIFT_BITS = 0x4B400000


_SCALED = 16
"""The width of a register of 512 bits, which has an instruction for y · 2^n."""


class _Single:
    """float32 arithmetic over a scalar (width 0) or a vector, shortly written."""

    def __init__(self, w: Writer, width: int) -> None:
        self.w, self.width = w, width
        self.float, self.int, self.truth = (llvm_type(elem, width) for elem in ("f32", "i32", "i1"))

    def number(self, value: float) -> str:
        return splat(literal(value, "f32"), "f32", self.width)

    def integer(self, value: int) -> str:
        return splat(str(value), "i32", self.width)

    def add(self, a: str, b: str) -> str:
        return self.w.emit(f"fadd {self.float} {a}, {b}")

    def sub(self, a: str, b: str) -> str:
        return self.w.emit(f"fsub {self.float} {a}, {b}")

    def mul(self, a: str, b: str) -> str:
        return self.w.emit(f"fmul {self.float} {a}, {b}")

    def div(self, a: str, b: str) -> str:
        return self.w.emit(f"fdiv {self.float} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        return self.w.intrinsic("fma", "f32", self.width, [a, b, c])

    def call(self, name: str, *operands: str) -> str:
        return self.w.intrinsic(name, "f32", self.width, list(operands))

    def poly(self, x: str, coefficients: Sequence[float], start: str | None = None) -> str:
        """Horner's rule, from the highest power; `start` stands before all of them."""
        rest = list(coefficients)
        y = start if start is not None else self.number(rest.pop(0))
        for value in rest:
            y = self.fma(y, x, self.number(value))
        return y

    def i(self, op: str, a: str, b: str) -> str:
        return self.w.emit(f"{op} {self.int} {a}, {b}")

    def bits(self, x: str) -> str:
        return self.w.emit(f"bitcast {self.float} {x} to {self.int}")

    def unbits(self, x: str) -> str:
        return self.w.emit(f"bitcast {self.int} {x} to {self.float}")

    def cmp(self, predicate: str, a: str, b: str) -> str:
        return self.w.emit(f"fcmp {predicate} {self.float} {a}, {b}")

    def select(self, truth: str, a: str, b: str) -> str:
        return self.w.emit(f"select {self.truth} {truth}, {self.float} {a}, {self.float} {b}")


def _power_of_2_times(s: _Single, y: str, n: str, shifted: str) -> str:
    """y · 2^n for a float n, which also stands in the last bits of `shifted`. NaN stays NaN."""
    if s.w.symbols.wide_registers and s.width == _SCALED:
        return s.w.scaled(y, n, s.width)
    # In two steps, so that denormal results are right.
    n = s.i("sub", s.bits(shifted), s.integer(_SHIFT_BITS))
    half = s.i("ashr", n, s.integer(1))
    for part in (half, s.i("sub", n, half)):
        y = s.mul(y, s.unbits(s.i("shl", s.i("add", part, s.integer(127)), s.integer(23))))
    return y


def _exp_of_rest(s: _Single, r: str) -> str:
    # 1 comes last: what is rounded before is small beside it.
    return s.add(s.fma(s.mul(r, r), s.poly(r, _EXP), r), s.number(1.0))


def _clamped(s: _Single, x: str, low: float, high: float) -> str:
    x = s.select(s.cmp("ogt", x, s.number(high)), s.number(high), x)
    return s.select(s.cmp("olt", x, s.number(low)), s.number(low), x)


def exp(s: _Single, x: str) -> str:
    bounded = _clamped(s, x, -104.0, 89.0)
    shifted = s.fma(bounded, s.number(1 / math.log(2)), s.number(_SHIFT))
    n = s.sub(shifted, s.number(_SHIFT))
    rest = s.fma(n, s.number(-_LN2_LOW), s.fma(n, s.number(-_LN2_HIGH), bounded))
    return _power_of_2_times(s, _exp_of_rest(s, rest), n, shifted)


def exp2(s: _Single, x: str) -> str:
    bounded = _clamped(s, x, -151.0, 129.0)
    shifted = s.add(bounded, s.number(_SHIFT))
    n = s.sub(shifted, s.number(_SHIFT))
    rest = s.mul(s.sub(bounded, n), s.number(math.log(2)))
    return _power_of_2_times(s, _exp_of_rest(s, rest), n, shifted)


def _log_parts(s: _Single, x: str) -> tuple[str, str, str, str]:
    """x = 2^e · (1 + f) with f around 0: e, f, f², and log(1 + f) − f + f²/2."""
    tiny = s.cmp("olt", x, s.number(2.0**-126))
    scaled = s.select(tiny, s.mul(x, s.number(2.0**23)), x)
    bits = s.i("add", s.bits(scaled), s.integer(0x3F800000 - 0x3F3504F3))
    exponent = s.i("sub", s.i("ashr", bits, s.integer(23)), s.integer(127))
    mantissa = s.unbits(s.i("add", s.i("and", bits, s.integer(0x7FFFFF)), s.integer(0x3F3504F3)))
    e = s.w.emit(f"sitofp {s.int} {exponent} to {s.float}")
    e = s.sub(e, s.select(tiny, s.number(23.0), s.number(0.0)))
    f = s.sub(mantissa, s.number(1.0))
    square = s.mul(f, f)
    return e, f, square, s.mul(s.mul(s.poly(f, _LOG), f), square)


def _log_edges(s: _Single, x: str, y: str) -> str:
    y = s.select(s.cmp("oeq", x, s.number(0.0)), s.number(-math.inf), y)
    y = s.select(s.cmp("ult", x, s.number(0.0)), s.number(math.nan), y)
    return s.select(s.cmp("oeq", x, s.number(math.inf)), x, y)


def log(s: _Single, x: str) -> str:
    e, f, square, y = _log_parts(s, x)
    y = s.fma(square, s.number(-0.5), s.fma(e, s.number(_LN2_LOW), y))
    return _log_edges(s, x, s.fma(e, s.number(_LN2_HIGH), s.add(f, y)))


def log2(s: _Single, x: str) -> str:
    e, f, square, tail = _log_parts(s, x)
    # The sum and log2(e) in two parts each, the first of them so short that their product is exact.
    half = s.mul(square, s.number(0.5))
    first = s.unbits(s.i("and", s.bits(s.sub(f, half)), s.integer(-4096)))
    second = s.add(s.sub(s.sub(f, first), half), tail)
    high = 1.4428710938
    low = 1 / math.log(2) - high
    y = s.fma(second, s.number(high), s.mul(s.add(first, second), s.number(low)))
    return _log_edges(s, x, s.add(s.fma(first, s.number(high), e), y))


def erf(s: _Single, x: str) -> str:
    size, square = s.call("fabs", x), s.mul(x, x)
    near = s.fma(s.poly(square, _ERF_NEAR), x, x)
    upper, lower = (s.poly(size, part) for part in _ERF_FAR)
    tail = s.poly(size, _ERF_TAIL, s.fma(upper, square, lower))
    tail = s.fma(tail, size, s.w.emit(f"fneg {s.float} {size}"))
    far = s.call("copysign", s.sub(s.number(1.0), exp(s, tail)), x)
    return s.select(s.cmp("ogt", size, s.number(0.927734375)), far, near)


def tanh(s: _Single, x: str) -> str:
    size, square = s.call("fabs", x), s.mul(x, x)
    near = s.fma(s.mul(s.poly(square, _TANH), square), x, x)
    grown = exp(s, s.add(size, size))
    far = s.sub(s.number(1.0), s.div(s.number(2.0), s.add(grown, s.number(1.0))))
    return s.select(s.cmp("olt", size, s.number(0.625)), near, s.call("copysign", far, x))


INLINE: dict[str, Callable[[_Single, str], str]] = {
    "exp": exp, "exp2": exp2, "log": log, "log2": log2, "erf": erf, "tanh": tanh,
}  # fmt: skip


LIBM = frozenset(
    {
        "exp",
        "exp2",
        "exp10",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "erf",
        "erfc",
        "cbrt",
        "tgamma",
        "lgamma",
        "pow",
        "atan2",
        "fmod",
        "hypot",
    }  # fmt: skip
)
"""What libm is asked for, lane by lane."""


def function(w: Writer, name: str, elem: str, operands: list[str], width: int) -> str:
    """A mathematical function of float32 or float64 operands."""
    if elem == "f32" and name in INLINE:
        return INLINE[name](_Single(w, width), operands[0])
    if name not in LIBM or elem not in ("f32", "f64"):
        raise Uncovered(f"the function {name} of {elem}")
    type_ = llvm_type(elem)
    callee = w.symbols.declare(
        f"@{name}{'f' if elem == 'f32' else ''}", type_, [type_] * len(operands), "nounwind willreturn memory(none)"
    )
    if not width:
        return w.emit(f"call {type_} {callee}({', '.join(f'{type_} {x}' for x in operands)})")
    result = "poison"
    for lane in range(width):
        given = [w.extract(x, elem, width, lane) for x in operands]
        value = w.emit(f"call {type_} {callee}({', '.join(f'{type_} {x}' for x in given)})")
        result = w.insert(result, elem, width, lane, value)
    return result
