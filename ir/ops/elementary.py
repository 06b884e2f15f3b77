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
    "Losses from scores that are to grow.",
)
_unary(
    P.abs,
    (-100, 100),
    "|x|",
    "the sign of x, 0 at 0",
    "Grows as x does, so outliers count no more than they should.",
    "Its slope jumps at 0, so small errors are chased as hard as large ones.",
    "L1 penalties and robust distances.",
)
_unary(
    P.sign,
    (-100, 100),
    "−1, 0 or 1; 0 for NaN",
    "0 everywhere",
    "A direction without a size.",
    "No gradient; flips with the smallest change about 0.",
    "Sign-based updates and margins.",
)
_unary(
    P.floor,
    (-100, 100),
    "the largest integer ≤ x",
    "0 everywhere",
    "Exact.",
    "No gradient: quantizers train around it.",
    "Bins and grid cells.",
)
_unary(
    P.exp,
    (-10, 10),
    "eˣ",
    "eˣ",
    "Makes any number positive, and sums to products.",
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
    "−∞ at 0 and NaN below; its slope explodes near 0.",
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
    "Repeats: inputs one period apart look alike.",
    "Positions, phases and periodic signals.",
)
_unary(
    P.cos,
    (-10, 10),
    "cos x",
    "−sin x",
    "Bounded and smooth, with all of its derivatives.",
    "Repeats: inputs one period apart look alike.",
    "Positions, phases and schedules.",
)
_unary(
    P.erf,
    (-5, 5),
    "2/√π · ∫₀ˣ e^(−t²) dt",
    "2/√π · e^(−x²)",
    "The normal distribution's own step.",
    "Flat beyond ±3; more expensive than tanh.",
    "Gaussian probabilities and gelu.",
)
_binary(
    P.pow,
    {"a": (0.1, 5), "b": (-3, 3)},
    "aᵇ",
    "b · aᵇ⁻¹ for a, aᵇ · ln a for b",
    "Any curvature in one number.",
    "NaN for a negative base and a broken exponent; slow, since it is computed in float64.",
    "Learned exponents; multiply out small whole ones.",
)
_binary(
    P.maximum,
    {"a": (-10, 10), "b": (-10, 10)},
    "the larger of a and b; NaN if either is",
    "1 for the larger, ½ each at a tie",
    "A hinge between two functions.",
    "The smaller learns nothing.",
    "Running maxima and floors; relu is not quite maximum(x, 0), whose slope at 0 is ½.",
)
_binary(
    P.minimum,
    {"a": (-10, 10), "b": (-10, 10)},
    "the smaller of a and b; NaN if either is",
    "1 for the smaller, ½ each at a tie",
    "A hinge between two functions.",
    "The larger learns nothing.",
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
        strengths="Smooth, and punishes large values most.",
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
