"""Softmax and its kin, over any axis."""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DTypeError
from ..core.graph import Value
from ..core.op import Op, op
from ..core.registry import Note
from ..core.types import normalize_axes

FAMILY = "activations"


def _axes(x: Value, dim: int, what: str) -> tuple[int, ...]:
    """The axis as reductions take it: none for a 0-dim value, along which torch takes dim 0 and −1."""
    if not x.shape and dim in (0, -1):
        return ()
    return normalize_axes(dim, len(x.shape), what)


def _shifted(x: Value, axes: tuple[int, ...]) -> Value:
    """`x` less its maximum, so that no exponential overflows; there is no maximum of nothing."""
    if any(x.shape[axis] == 0 for axis in axes):
        return x
    largest = P.max(x, axes, keepdim=True)
    return x - largest


@op(
    domain=(-30, 30),
    note=Note(
        formula="eˣ / Σ eˣ along dim",
        derivative="y · (d − Σ d · y)",
        strengths="Turns scores into positive weights that sum to 1; shifting all scores changes nothing.",
        weaknesses="Saturates when scores lie far apart; couples every score of a row.",
        use="Attention weights and class probabilities; for a loss take the logits to cross_entropy.",
        source="torch.nn.functional.softmax",
    ),
)
def softmax(x: Value, *, dim: int) -> Value:
    """eˣ / Σ eˣ along dim"""
    axes = _axes(x, dim, "softmax")
    exp_shifted = P.exp(_shifted(x, axes))
    sum_exp = P.sum(exp_shifted, axes, keepdim=True)
    return exp_shifted / sum_exp


softmax.sample = lambda graph, shape, dtype: softmax(graph.input("x", shape, dtype), -1)


@softmax.gradient
def _(d_y, y, x, *, dim):
    projection = P.sum(d_y * y, _axes(x, dim, "softmax"), keepdim=True)
    return (y * (d_y - projection),)


@op(
    domain=(-30, 30),
    note=Note(
        formula="x − ln Σ eˣ along dim",
        derivative="d − softmax(x) · Σ d",
        strengths="Log-probabilities stay accurate even if the probability underflows to 0.",
        weaknesses="Unbounded below: a class of probability 0 gives −∞.",
        use="Before nll_loss or kl_div; cross_entropy does both at once.",
        source="torch.nn.functional.log_softmax",
    ),
)
def log_softmax(x: Value, *, dim: int) -> Value:
    """x − ln Σ eˣ along dim"""
    axes = _axes(x, dim, "log_softmax")
    shifted = _shifted(x, axes)
    sum_exp = P.sum(P.exp(shifted), axes, keepdim=True)
    return shifted - P.log(sum_exp)


log_softmax.sample = lambda graph, shape, dtype: log_softmax(graph.input("x", shape, dtype), -1)


@log_softmax.gradient
def _(d_y, y, x, *, dim):
    total = P.sum(d_y, _axes(x, dim, "log_softmax"), keepdim=True)
    return (d_y - P.exp(y) * total,)


@op(
    domain=(-30, 30),
    note=Note(
        formula="e⁻ˣ / Σ e⁻ˣ along dim",
        derivative="−y · (d − Σ d · y)",
        strengths="The largest weight goes to the smallest input, as needed for distances and energies.",
        weaknesses="Saturates as softmax does.",
        use="Soft assignment to the nearest of several prototypes.",
        source="torch.nn.functional.softmin",
    ),
)
def softmin(x: Value, *, dim: int) -> Value:
    """softmax(−x)"""
    return softmax.apply(-x, dim=dim)


softmin.sample = lambda graph, shape, dtype: softmin(graph.input("x", shape, dtype), -1)


def _declare(made: Op) -> None:
    @made.declares
    def _(x: Value, dim: int, *, dtype: object = None, name: str | None = None) -> Value:
        """Along axis `dim` of `x`, cast to `dtype` first if that is given. torch guesses a missing `dim` and
        warns; here it must be given."""
        given = x if dtype is None else P.cast(x, dtype)
        if not given.dtype.is_float:
            raise DTypeError(f"{made.name}: needs a float dtype, got {given.dtype} for {given.name!r}; give dtype=")
        return made.apply(given, dim=dim, name=name)


for _made in (softmax, log_softmax, softmin):
    _declare(_made)
