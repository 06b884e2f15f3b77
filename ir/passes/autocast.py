"""A declared graph in mixed precision: where torch.autocast casts, casts stand in the graph."""

from __future__ import annotations

import sys
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError
from ..core.graph import Graph, Value
from ..core.op import Op
from ..core.rewrite import copy_value
from ..core.types import DType, as_dtype, bfloat16, float16, float32

NARROW = frozenset({"linear", "matmul", "prelu"})
"""Computed in the narrow dtype, as torch.autocast does it: matrix products, and what must be of one dtype."""

WIDE = frozenset(
    [
        "layer_norm",
        "group_norm",
        "rms_norm",
        "normalize",
        "weight_norm",
        "softmax",
        "log_softmax",
        "softmin",
        "softplus",
    ]
    + ["logsumexp", "reciprocal", "exp", "expm1", "log", "log1p", "rsqrt", "pow", "sum"]
)
"""Computed in float32 whatever comes in, as are all losses: the list of torch.autocast on GPUs. Its `layer_norm` and
softmaxes on the CPU stay narrow; in one kernel float32 costs nothing."""


def autocast(graph: Graph, dtype: object = "bfloat16") -> Graph:
    """`graph` (declared) as torch.autocast would run it in `dtype`, 'bfloat16' or 'float16'.

    Parameters, buffers and inputs keep their declared dtypes. `linear`, `matmul` and `prelu` take and return `dtype`.
    Losses, norms except batch norm, softmaxes, sums, powers and logarithms take and return float32. All other ops take
    their arguments without a cast, and mixed dtypes are promoted as in torch. float64 is never cast. Matrix products
    accumulate in float32, and all other arithmetic inside kernels is float32 too. Raises `DTypeError` for another
    dtype.
    """
    narrow = as_dtype(dtype)
    if narrow not in (bfloat16, float16):
        raise DTypeError(f"autocast: dtype is {narrow}; use 'bfloat16', or 'float16' with a scaler")
    if graph.level != "declared":
        raise DeclarationError(f"autocast: graph {graph.name!r} is one of primitives; give the graph as it is declared")
    made = Graph(graph.name, level=graph.level)
    made.first = dict(graph.first)
    cast = _Casts(made)
    new: dict[Value, Value] = {}
    for value in graph.values:
        if value.op.name == "constant":
            continue  # a number takes the dtype of what it meets: it is put where it is used
        if value.is_leaf:
            new[value] = copy_value(made, value, ())
            continue
        args = [None if a is None else new.get(a, a) for a in value.args]
        wanted = _wanted(value, narrow)
        if wanted is not None and not any(a is not None and a.dtype.name == "float64" for a in args):
            args = [cast(a, wanted) for a in args]
        elif value.op.name == "cat":
            args = [cast(a, max((a.dtype for a in args if a is not None), key=_width)) for a in args]
        new[value] = made_value = made.call(
            value.op, *(_given(made, value, a) for a in args), name=value._name, **value.attrs
        )
        made_value.hint, made_value.scope = value.hint, value.scope
    made.outputs = {name: new[v] if v in new else copy_value(made, v, ()) for name, v in graph.outputs.items()}
    made.updates = {name: cast(new[v], made[name].dtype) for name, v in graph.updates.items()}  # type: ignore[misc]
    return made


class _Casts:
    """Each value is cast once to each dtype, as torch.autocast caches its casts of weights."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.known: dict[tuple[Value, DType], Value] = {}

    def __call__(self, value: Value | None, dtype: DType) -> Value | None:
        if value is None or value.graph is not self.graph or not value.dtype.is_float or value.dtype is dtype:
            return value
        key = (value, dtype)
        if key not in self.known:
            self.known[key] = cast = P.cast(value, dtype)
            cast.hint = f"{(value._name or value.hint or value.op.name).replace('.', '_')}_{_SHORT[dtype]}"
        return self.known[key]


_SHORT = {bfloat16: "bf16", float16: "fp16", float32: "fp32"}


def _wanted(value: Value, narrow: DType) -> DType | None:
    op = value.op
    if op.name in NARROW:
        return narrow
    is_loss = isinstance(op, Op) and getattr(sys.modules.get(op.formula.__module__), "FAMILY", "") == "losses"
    return float32 if is_loss or op.name in WIDE else None


def _given(made: Graph, value: Value, arg: Value | None) -> Any:
    """A number as it was written where an op takes numbers, else in the graph that is made."""
    if arg is None or arg.graph is made:
        return arg
    number = arg.attrs["value"]
    return made.constant(number, arg.dtype) if isinstance(value.op, Op) else number


def _width(dtype: DType) -> int:
    return dtype.itemsize
