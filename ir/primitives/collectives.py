"""What the processes that run one graph do together."""

from __future__ import annotations

from ..core.graph import Value
from ..core.registry import PRIMITIVES, Primitive

PRIMITIVES["all_reduce"] = Primitive(
    "all_reduce",
    "collective",
    lambda args, attrs: (args[0].shape, args[0].dtype),
    lambda x: x,
    lambda d, y, x: (all_reduce(d),),
    1,
)


def all_reduce(x: Value) -> Value:
    """`x` added up over all processes that run the graph; of one alone, `x`."""
    return x.graph.call("all_reduce", x)
