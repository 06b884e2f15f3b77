"""`+ − · /` with torch's broadcasting: primitives, with the note that every op has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import primitives as P
from ..core.graph import Graph, Value
from ..core.op import describe
from ..core.registry import Note

FAMILY = "arithmetic"


def _pair(build: Callable[..., Value]) -> Callable[..., Value]:
    def sample(graph: Graph, shape: tuple[Any, ...], dtype: Any) -> Value:
        return build(graph.input("a", shape, dtype), graph.input("b", shape[-1:], dtype))

    return sample


describe(
    P.add,
    domain={"a": (-100, 100), "b": (-100, 100)},
    note=Note(
        formula="a + b",
        derivative="1 for a and for b, summed over the axes that were broadcast",
        strengths="A residual a + f(a) lets gradients pass a block unchanged.",
        weaknesses="Adding a small number to a large one loses low bits of the small one.",
        use="Residual connections and biases.",
        source="torch.add",
    ),
    sample=_pair(P.add),
)
describe(
    P.sub,
    domain={"a": (-100, 100), "b": (-100, 100)},
    note=Note(
        formula="a − b",
        derivative="1 for a, −1 for b",
        strengths="Errors and centred values are differences.",
        weaknesses="The difference of two near numbers keeps few correct digits.",
        use="Residuals of a fit; centring.",
        source="torch.sub",
    ),
    sample=_pair(P.sub),
)
describe(
    P.mul,
    domain={"a": (-100, 100), "b": (-100, 100)},
    note=Note(
        formula="a · b",
        derivative="b for a, a for b",
        strengths="Gating and scaling in one instruction.",
        weaknesses="0 · ∞ is NaN; the gradient of one side vanishes where the other is 0.",
        use="Gates, masks and learned scales.",
        source="torch.mul",
    ),
    sample=_pair(P.mul),
)
describe(
    P.div,
    domain={"a": (-100, 100), "b": (0.5, 100)},
    note=Note(
        formula="a / b",
        derivative="1/b for a, −a/b² for b",
        strengths="Normalizes by a learned or measured scale.",
        weaknesses="Grows without bound as b nears 0; more expensive than a product.",
        use="Ratios and averages; add a small ε to b where it can reach 0.",
        source="torch.div",
    ),
    sample=_pair(P.div),
)
