"""Linear layers."""

from __future__ import annotations

import math

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import show_shape
from .declare import DECLARE, Declare, instance_name, parameter_or

FAMILY = "layers"


@op(
    domain={"x": (-5, 5), "weight": (-1, 1), "bias": (-1, 1)},
    note=Note(
        formula="x · weightᵀ + bias",
        derivative="d_x = d · weight; d_weight = dᵀ · x; d_bias = Σ d over rows",
        strengths="Mixes all features; runs on matrix units at full rate.",
        weaknesses="Two linear layers in a row are one; needs a nonlinearity between. Parameters grow as in × out.",
        use="Between activations; use no bias before a normalization that adds one.",
        source="torch.nn.functional.linear",
    ),
)
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x · weightᵀ + bias"""
    product = P.matmul(x, weight, transpose_b=True)
    return product if bias is None else product + bias


linear.sample = lambda graph, shape, dtype: linear(graph.input("x", shape, dtype), 24)


@linear.declares
def _(
    x: Value,
    out_features: int | None = None,
    bias: Value | bool | None = True,
    *,
    weight: Value | Declare = DECLARE,
    name: str | None = None,
) -> Value:
    """x (..., in_features) to (..., out_features), as torch.nn.Linear. Declares `<name>.weight` (out, in) and
    `<name>.bias` (out,) with torch's initial values, unless `weight` or `bias` are given as Values; `bias=False` does
    without.
    """
    if not x.shape or not isinstance(x.shape[-1], int):
        raise ShapeError(
            f"linear {name or ''}: {x.name!r} has shape {show_shape(x.shape)}; its last axis must be a known int, "
            "not a Dim"
        )
    in_features = x.shape[-1]
    name = instance_name(x.graph, "linear", name)
    if isinstance(weight, Value):
        out_features = weight.shape[0] if out_features is None else out_features  # type: ignore[assignment]
    if not isinstance(out_features, int) or isinstance(out_features, bool) or out_features < 0:
        raise DeclarationError(
            f"linear {name!r}: out_features is {out_features!r}; give an int, as in tn.linear(x, 128)"
        )
    kaiming = {"init": "kaiming_uniform", "a": math.sqrt(5)}
    weight = parameter_or(  # type: ignore[assignment]
        weight, x.graph, f"{name}.weight", (out_features, in_features), x.dtype, kaiming, f"linear {name!r}"
    )
    bound = {"init": "bias_uniform", "fan_in": in_features}
    wanted = None if bias is None or bias is False else DECLARE if bias is True else bias
    bias = parameter_or(wanted, x.graph, f"{name}.bias", (out_features,), x.dtype, bound, f"linear {name!r}")
    return linear.apply(x, weight, bias, name=name)
