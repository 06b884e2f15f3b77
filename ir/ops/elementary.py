"""Elementary functions of each element: primitives, with the note that every op has, and short formulas over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.op import describe, op
from ..core.registry import Note
from .declare import as_float

FAMILY = "arithmetic"

Range = tuple[float, float]


def _of_one(build: Callable[..., Value]) -> Callable[..., Value]:
    return lambda graph, shape, dtype: build(graph.input("x", shape, dtype))


def _unary(
    build: Callable[..., Value], domain: Range, formula: str, derivative: str, strengths: str, weaknesses: str, use: str
) -> None:
    note = Note(formula, derivative, strengths, weaknesses, use, f"torch.{build.__name__}")
    describe(build, domain=domain, note=note, sample=_of_one(build))


def _binary(
    build: Callable[..., Value],
    domain: dict[str, Range],
    formula: str,
    derivative: str,
    strengths: str,
    weaknesses: str,
    use: str,
) -> None:
    def sample(graph: Graph, shape: tuple[Any, ...], dtype: Any) -> Value:
        return build(graph.input("a", shape, dtype), graph.input("b", shape[-1:], dtype))

    note = Note(formula, derivative, strengths, weaknesses, use, f"torch.{build.__name__}")
    describe(build, domain=domain, note=note, sample=sample)


_unary(
    P.neg,
    (-100, 100),
    "−x",
    "−1",
    "Exact.",
    "None.",
    "Losses made from scores that should grow.",
)
_unary(
    P.abs,
    (-100, 100),
    "|x|",
    "the sign of x, 0 at 0",
    "Grows linearly, so outliers do not dominate.",
    "The slope jumps at 0; small errors have the same gradient as large ones.",
    "L1 penalties and robust distances.",
)
_unary(
    P.sign,
    (-100, 100),
    "−1, 0 or 1; 0 for NaN",
    "0 everywhere",
    "Keeps only the direction.",
    "No gradient; changes sign with the smallest change around 0.",
    "Sign-based updates and margins.",
)
_unary(
    P.floor,
    (-100, 100),
    "the largest integer ≤ x",
    "0 everywhere",
    "Exact.",
    "No gradient: quantizers need a straight-through estimator.",
    "Bins and grid cells.",
)
_unary(
    P.exp,
    (-10, 10),
    "eˣ",
    "eˣ",
    "Positive for every input; turns sums into products.",
    "Overflows float32 beyond 88, float16 beyond 11.",
    "Scales learned as logarithms; shift by the maximum before summing.",
)
_unary(
    P.expm1,
    (-10, 10),
    "eˣ − 1",
    "eˣ",
    "Keeps its digits near 0, where eˣ − 1 loses them.",
    "Overflows as eˣ does.",
    "The curve of exponential units; growth rates.",
)
_unary(
    P.log,
    (0.001, 100),
    "ln x",
    "1/x",
    "Turns products into sums and ratios into differences.",
    "−∞ at 0 and NaN below; the slope is unbounded near 0.",
    "Log-likelihoods; guard x with clamp, or take log_softmax.",
)
_unary(
    P.log1p,
    (-0.9, 100),
    "ln(1 + x)",
    "1/(1 + x)",
    "Keeps its digits near 0, where ln(1 + x) loses them.",
    "−∞ at −1 and NaN below.",
    "Counts with a long tail; stable forms of softplus.",
)
_unary(
    P.sqrt,
    (0.01, 100),
    "√x",
    "1/(2√x)",
    "Undoes a square: back to the units of x.",
    "Its slope is infinite at 0; NaN below.",
    "Norms and deviations; add ε under the root.",
)
_unary(
    P.rsqrt,
    (0.01, 100),
    "1/√x",
    "−1/(2x√x)",
    "One instruction for what every normalization needs.",
    "Infinite at 0; NaN below.",
    "Scaling by a standard deviation: rsqrt(var + ε).",
)
_unary(
    P.sin,
    (-10, 10),
    "sin x",
    "cos x",
    "Bounded and smooth, with all of its derivatives.",
    "Periodic: inputs one period apart give the same result.",
    "Positions, phases and periodic signals.",
)
_unary(
    P.cos,
    (-10, 10),
    "cos x",
    "−sin x",
    "Bounded and smooth, with all of its derivatives.",
    "Periodic: inputs one period apart give the same result.",
    "Positions, phases and schedules.",
)
_unary(
    P.erf,
    (-5, 5),
    "2/√π · ∫₀ˣ e^(−t²) dt",
    "2/√π · e^(−x²)",
    "The distribution function of the normal distribution, up to scale and shift.",
    "Flat beyond ±3; more expensive than tanh.",
    "Gaussian probabilities and gelu.",
)
_binary(
    P.pow,
    {"a": (0.1, 5), "b": (-3, 3)},
    "aᵇ",
    "b · aᵇ⁻¹ for a, aᵇ · ln a for b",
    "One exponent covers many curve shapes.",
    "NaN for a negative base with a fractional exponent; slow, since it is computed in float64.",
    "Learned exponents; multiply out small whole ones.",
)
_binary(
    P.maximum,
    {"a": (-10, 10), "b": (-10, 10)},
    "the larger of a and b; NaN if either is",
    "1 for the larger, ½ each at a tie",
    "Piecewise combination of two functions.",
    "The smaller argument gets no gradient.",
    "Running maxima and floors; relu is not quite maximum(x, 0), whose slope at 0 is ½.",
)
_binary(
    P.minimum,
    {"a": (-10, 10), "b": (-10, 10)},
    "the smaller of a and b; NaN if either is",
    "1 for the smaller, ½ each at a tie",
    "Piecewise combination of two functions.",
    "The larger argument gets no gradient.",
    "Caps, and the pessimistic one of two estimates.",
)
describe(
    P.cast,
    domain=(-100, 100),
    note=Note(
        formula="x in another dtype",
        derivative="the cotangent in the dtype of x; none into or from integers",
        strengths="Free inside a kernel that loads or stores anyway.",
        weaknesses="To 16 bits it rounds, and float16 overflows at 65,504; to integers it drops the fraction.",
        use="Sums of 16-bit values in float32, and masks as numbers.",
        source="torch.Tensor.to",
    ),
    sample=lambda graph, shape, dtype: P.cast(
        graph.input("x", shape, dtype), "float32" if str(dtype) == "float64" else "float64"
    ),
)


@op(
    domain=(-100, 100),
    note=Note(
        formula="x²",
        derivative="2x",
        strengths="Smooth; large values weigh most.",
        weaknesses="A single outlier can outweigh the rest; float16 overflows beyond 255.",
        use="Energies, variances and L2 penalties.",
        source="torch.square",
    ),
)
def square(x: Value) -> Value:
    """x²"""
    return x * x


@op(
    domain=(0.1, 100),
    note=Note(
        formula="1/x",
        derivative="−1/x²",
        strengths="One division for many products.",
        weaknesses="Infinite at 0; products with it round twice where a division rounds once.",
        use="Rates from times, and scales that divide many values.",
        source="torch.reciprocal",
    ),
)
def reciprocal(x: Value) -> Value:
    """1/x"""
    return 1 / x


@reciprocal.declares
def _(x: Value, *, name: str | None = None) -> Value:
    """1/x"""
    return reciprocal.apply(as_float(x), name=name)


for _made in (square, reciprocal):
    _made.sample = _of_one(_made)
