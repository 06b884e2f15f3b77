"""What each primitive is to code generation, a row each: how kernels and the host spell it, names speak of it, and what
it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from tritonnotes.ir.core.types import DType, int32

from .expressions import Binary, Call, Expression, Literal, Name, call, number

Build = Callable[..., Expression]


@dataclass(frozen=True)
class Reduction:
    """How a reduction is taken of a tile. `function` is Triton's; `of_floats` is the one that keeps a NaN, as torch
    does; `accumulate` is the primitive that takes in one more; `identity` is what lanes outside the tensor hold."""

    function: str
    of_floats: str
    accumulate: str
    identity: Callable[[DType], int | float]


@dataclass(frozen=True)
class Facets:
    """`triton` builds the expression in a kernel; `host` the one in Python, in float64, of numbers that are worked out
    before a launch (None where the host has none). `word` stands between the names of two arguments in the name of what
    nobody named. `instructions` are those for one element of float32. Reductions have a `reduction` in place of these.
    """

    triton: Build | None = None
    host: Build | None = None
    word: str = ""
    instructions: int = 1
    reduction: Reduction | None = None


def infix(sign: str) -> Build:
    return lambda a, b: Binary(sign, a, b)


def calls(function: str) -> Build:
    return lambda *arguments: call(function, *arguments)


def _extremum(function: str) -> Build:
    return lambda a, b: call(function, a, b, propagate_nan=Name("tl.PropagateNan.ALL"))


def _zero(dtype: DType) -> int | float:
    return 0.0 if dtype.is_float else 0


def _least(dtype: DType) -> int | float:
    return -inf if dtype.is_float else -(2**31) if dtype is int32 else -(2**63)


def _most(dtype: DType) -> int | float:
    return inf if dtype.is_float else 2**31 - 1 if dtype is int32 else 2**63 - 1


FACETS: Mapping[str, Facets] = {
    "neg": Facets(lambda x: -x, lambda x: -x),
    "abs": Facets(calls("tl.abs"), calls("abs")),
    "sign": Facets(calls("sign"), lambda x: call("math.copysign", x.differs(0), x), instructions=3),
    "exp": Facets(calls("tl.exp"), calls("math.exp"), instructions=5),
    "expm1": Facets(calls("expm1"), calls("math.expm1"), instructions=48),
    "log": Facets(calls("tl.log"), calls("math.log"), instructions=25),
    "log1p": Facets(calls("log1p"), calls("math.log1p"), instructions=41),
    "sqrt": Facets(calls("tl.sqrt"), calls("math.sqrt")),
    "rsqrt": Facets(calls("tl.rsqrt"), lambda x: number(1.0) / call("math.sqrt", x)),
    "sin": Facets(calls("tl.sin"), calls("math.sin"), instructions=82),
    "cos": Facets(calls("tl.cos"), calls("math.cos"), instructions=84),
    "tanh": Facets(calls("tanh"), calls("math.tanh"), instructions=22),
    "erf": Facets(calls("tl.erf"), calls("math.erf"), instructions=28),
    "floor": Facets(calls("tl.floor"), calls("math.floor")),
    "add": Facets(infix("+"), infix("+"), "plus"),
    "sub": Facets(infix("-"), infix("-"), "minus"),
    "mul": Facets(infix("*"), infix("*"), "times"),
    "div": Facets(infix("/"), infix("/"), "over", instructions=8),
    "pow": Facets(calls("power"), infix("**"), instructions=142),
    "maximum": Facets(_extremum("tl.maximum"), calls("max")),
    "minimum": Facets(_extremum("tl.minimum"), calls("min")),
    "eq": Facets(infix("=="), word="is"),
    "ne": Facets(infix("!="), word="is_not"),
    "lt": Facets(infix("<"), word="below"),
    "le": Facets(infix("<="), word="at_most"),
    "gt": Facets(infix(">"), word="above"),
    "ge": Facets(infix(">="), word="at_least"),
    "logical_and": Facets(infix("&"), word="and"),
    "logical_or": Facets(infix("|"), word="or"),
    "logical_not": Facets(lambda x: x.equals(0)),
    "where": Facets(calls("tl.where")),
    "uniform": Facets(calls("uniform"), instructions=60),
    "copy": Facets(lambda x: x, lambda x: x, instructions=0),
    "cast": Facets(lambda x, dtype: x.method("to", dtype)),
    "round_to": Facets(lambda x, dtype: x.method("to", dtype), instructions=2),
    "sum": Facets(reduction=Reduction("tl.sum", "tl.sum", "add", _zero)),
    "max": Facets(reduction=Reduction("tl.max", "max_or_nan", "maximum", _least)),
    "min": Facets(reduction=Reduction("tl.min", "min_or_nan", "minimum", _most)),
}
"""Every primitive that is computed in a kernel. Leaves, views and contractions have no row."""


ARITHMETIC = frozenset({"add", "sub", "mul", "div"})
"""Where Triton reads a number in the dtype of the tensor beside it; elsewhere it makes a tensor of it first."""


def identity_of(op: str, dtype: DType) -> Literal:
    """What a reduction over a dtype takes for lanes outside the tensor."""
    reduction = FACETS[op].reduction
    assert reduction is not None
    return number(reduction.identity(dtype))


@dataclass(frozen=True)
class Axis:
    """What a reduction runs along: an axis of the tile, or all of it where `number` is None. An axis that it `keeps`
    has length 1 in the result."""

    number: int | None
    keeps: bool = False

    @property
    def keywords(self) -> tuple[tuple[str, Expression], ...]:
        kept = (("keep_dims", Name("True")),) if self.keeps else ()
        return (("axis", Name("None") if self.number is None else number(self.number)), *kept)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.keywords)


def triton(op: str, *arguments: Expression) -> Expression:
    """A primitive of some arguments, in a kernel."""
    build = FACETS[op].triton
    assert build is not None
    return build(*arguments)


def reduced(op: str, x: Expression, axis: Axis, dtype: DType, skips_nan: bool = False) -> Expression:
    """A reduction of a tile of a dtype along an axis, in a kernel."""
    reduction = FACETS[op].reduction
    assert reduction is not None
    function = reduction.of_floats if dtype.is_float and not skips_nan else reduction.function
    keywords = () if axis.number is None and function == reduction.function else axis.keywords
    return Call(Name(function), (x,), keywords)


def combined(op: str, a: Expression, b: Expression) -> Expression:
    """What a reduction has so far with one more, in a kernel."""
    reduction = FACETS[op].reduction
    assert reduction is not None
    return triton(reduction.accumulate, a, b)
