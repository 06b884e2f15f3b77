"""Activations of pieces: straight lines, and the exponential units that bend below zero."""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError, ShapeError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import show_shape
from .declare import DECLARE, Parameter, instance_name, needs_float, needs_number, parameter_or, torch_order

FAMILY = "activations"


@op(
    domain=(-20, 20),
    note=Note(
        formula="x where x > 0, else negative_slope · x",
        derivative="1 where x > 0, else negative_slope",
        strengths="As cheap as relu; nonzero gradient for negative inputs.",
        weaknesses="The slope is one more number to choose; outputs are no longer sparse.",
        use="In place of relu where units stop learning, as in discriminators.",
        source="torch.nn.functional.leaky_relu; Maas, Hannun and Ng, 2013",
    ),
)
def leaky_relu(x: Value, *, negative_slope: float = 0.01) -> Value:
    """x where x > 0, else negative_slope · x"""
    needs_float(x)
    return P.where(x > 0, x, negative_slope * x)


leaky_relu.sample = lambda graph, shape, dtype: leaky_relu(graph.input("x", shape, dtype))


@leaky_relu.gradient
def _(d_y, y, x, *, negative_slope):
    return (P.where(x > 0, d_y, negative_slope * d_y),)


def _per_channel(x: Value, weight: Value) -> Value:
    """One slope as a number, or a slope for each channel along axis 1 of `x`."""
    if weight.shape in ((), (1,)):
        return P.reshape(weight, ())
    return P.reshape(weight, (*weight.shape, *(1,) * (len(x.shape) - 2)))


@op(
    domain={"x": (-20, 20), "weight": (-1, 1)},
    note=Note(
        formula="x where x > 0, else weight · x",
        derivative="1 where x > 0, else weight; for weight: Σ d · x over x ≤ 0",
        strengths="The slope below zero is learned, one for all or one for each channel.",
        weaknesses="Weight decay pulls the slopes to 0, which is relu; the extra parameters can overfit small data.",
        use="Deep vision networks; leave its weight out of weight decay.",
        source="torch.nn.functional.prelu; He, Zhang, Ren and Sun, 2015",
    ),
)
def prelu(x: Value, weight: Value) -> Value:
    """x where x > 0, else weight · x"""
    needs_float(x)
    slope = _per_channel(x, weight)
    return P.where(x > 0, x, slope * x)


prelu.sample = lambda graph, shape, dtype: prelu(graph.input("x", shape, dtype))


@prelu.gradient
def _(d_y, y, x, weight):
    slope = _per_channel(x, weight)
    d_x = P.where(x > 0, d_y, slope * d_y)
    d_slope = P.where(x > 0, 0, d_y * x)
    return d_x, P.reshape(P.sum_to(d_slope, slope.shape), weight.shape)


@prelu.declares
def _(
    x: Value, weight: Parameter = DECLARE, *, num_parameters: int = 1, init: float = 0.25, name: str | None = None
) -> Value:
    """Slope 1 above zero and a learned one below. Declares `<name>.weight` of `num_parameters` slopes that start at
    `init`, unless `weight` is given: one slope, or one for each channel along axis 1."""
    if not isinstance(x, Value):
        raise DeclarationError(f"prelu: takes a Value, got {x!r}; start from g.input(...)")
    name = instance_name(x.graph, "prelu", name)
    channels = x.shape[1] if len(x.shape) > 1 else 1
    shape = weight.shape if isinstance(weight, Value) else (num_parameters,)
    if weight is None:
        raise DeclarationError(f"prelu {name!r}: weight is None; leave it out, or give a Value")
    if shape not in ((), (1,), (channels,)):
        raise ShapeError(
            f"prelu {name!r}: weight of shape {show_shape(shape)} for {x.name!r} of shape {show_shape(x.shape)}; "
            f"give one slope, or one for each of the {channels} channels of axis 1"
        )
    if isinstance(weight, Value) and weight.dtype is not x.dtype:
        raise DTypeError(f"prelu {name!r}: {x.name!r} is {x.dtype}, its weight {weight.dtype}; cast one of them")
    given = parameter_or(
        weight, x.graph, f"{name}.weight", shape, x.dtype, {"init": "constant", "value": init}, f"prelu {name!r}"
    )
    return prelu.apply(x, given, name=name)


@op(
    domain=(-30, 30),
    note=Note(
        formula="x where x > 0, else alpha · (eˣ − 1)",
        derivative="1 where x > 0, else alpha · eˣ",
        strengths="The outputs' mean is closer to zero than relu's; smooth at 0 for alpha = 1; bounded below.",
        weaknesses="Costs an exponential; saturates for negative inputs, where the gradient vanishes.",
        use="Networks without normalization, where the mean of the outputs matters.",
        source="torch.nn.functional.elu; Clevert, Unterthiner and Hochreiter, 2016",
    ),
)
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha · (eˣ − 1)"""
    return P.where(x <= 0, alpha * P.expm1(x), x)


elu.sample = lambda graph, shape, dtype: elu(graph.input("x", shape, dtype))


@elu.gradient
def _(d_y, y, x, *, alpha):
    return (P.where(x <= 0, d_y * (alpha * P.exp(x)), d_y),)


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@op(
    domain=(-30, 30),
    note=Note(
        formula="1.0507 · (x where x > 0, else 1.6733 · (eˣ − 1))",
        derivative="1.0507 where x > 0, else 1.7581 · eˣ",
        strengths="Its two constants keep mean 0 and variance 1 from layer to layer without normalization.",
        weaknesses="Holds only with LeCun-normal weights and plain dense layers; ordinary dropout breaks it.",
        use="Deep dense networks on tabular data.",
        source="torch.nn.functional.selu; Klambauer, Unterthiner, Mayr and Hochreiter, 2017",
    ),
)
def selu(x: Value) -> Value:
    """scale · elu(x, alpha) with the two constants of self-normalization."""
    return P.where(x <= 0, SELU_SCALE * SELU_ALPHA * P.expm1(x), SELU_SCALE * x)


selu.sample = lambda graph, shape, dtype: selu(graph.input("x", shape, dtype))


@selu.gradient
def _(d_y, y, x):
    return (d_y * P.where(x <= 0, SELU_SCALE * SELU_ALPHA * P.exp(x), SELU_SCALE),)


@op(
    domain=(-30, 30),
    note=Note(
        formula="x where x > 0, else alpha · (e^(x/alpha) − 1)",
        derivative="1 where x > 0, else e^(x/alpha)",
        strengths="An elu whose slope is continuous at 0 for every alpha.",
        weaknesses="Costs an exponential; saturates for negative inputs.",
        use="Where elu is wanted with an alpha other than 1.",
        source="torch.nn.functional.celu; Barron, 2017",
    ),
)
def celu(x: Value, *, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha · (e^(x/alpha) − 1)"""
    if alpha == 0:
        raise DeclarationError("alpha is 0, by which x is divided; use another number, or relu")
    needs_float(x)
    return P.where(x <= 0, alpha * P.expm1(x / alpha), x)


celu.sample = lambda graph, shape, dtype: celu(graph.input("x", shape, dtype))


@celu.gradient
def _(d_y, y, x, *, alpha):
    return (P.where(x <= 0, d_y * P.exp(x / alpha), d_y),)


@op(
    domain=(-3, 3),
    note=Note(
        formula="x limited to [min_val, max_val]",
        derivative="1 strictly inside, else 0",
        strengths="Bounded; costs two comparisons; exact in fixed point.",
        weaknesses="No gradient outside the bounds, so a unit may stop learning there.",
        use="Quantized networks, and actions with limits.",
        source="torch.nn.functional.hardtanh",
    ),
)
def hardtanh(x: Value, *, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """x limited to [min_val, max_val]"""
    if min_val > max_val:
        raise DeclarationError(f"min_val {min_val} lies above max_val {max_val}; swap them")
    needs_number(x)
    low, high = (int(min_val), int(max_val)) if x.dtype.kind == "int" else (min_val, max_val)
    return P.where(x < low, low, P.where(x > high, high, x))


hardtanh.sample = lambda graph, shape, dtype: hardtanh(graph.input("x", shape, dtype))


@hardtanh.gradient
def _(d_y, y, x, *, min_val, max_val):
    return (P.where((x <= min_val) | (x >= max_val), 0, d_y),)


@op(
    domain=(-10, 10),
    note=Note(
        formula="x limited to [0, 6]",
        derivative="1 where 0 < x < 6, else 0",
        strengths="A relu with a known range, which suits low precision.",
        weaknesses="No gradient below 0 or above 6.",
        use="Mobile networks that will be quantized.",
        source="torch.nn.functional.relu6; Howard et al., 2017",
    ),
)
def relu6(x: Value) -> Value:
    """x limited to [0, 6]"""
    needs_number(x)
    return P.where(x < 0, 0, P.where(x > 6, 6, x))


relu6.sample = lambda graph, shape, dtype: relu6(graph.input("x", shape, dtype))


@relu6.gradient
def _(d_y, y, x):
    return (P.where((x <= 0) | (x >= 6), 0, d_y),)


@op(
    domain=(-5, 5),
    note=Note(
        formula="x where x > threshold, else value",
        derivative="1 where x > threshold, else 0",
        strengths="A relu with a chosen threshold and a chosen value below it.",
        weaknesses="Jumps at the threshold unless value equals it; the gradient ignores the jump.",
        use="Gating small activations to a constant.",
        source="torch.nn.functional.threshold",
    ),
)
def threshold(x: Value, *, threshold: float, value: float) -> Value:
    """x where x > threshold, else value"""
    needs_number(x)
    return P.where(x <= threshold, int(value) if x.dtype.kind == "int" else value, x)


threshold.sample = lambda graph, shape, dtype: threshold(graph.input("x", shape, dtype), threshold=0.1, value=20.0)


@threshold.gradient
def _(d_y, y, x, *, threshold, value):
    return (P.where(x <= threshold, 0, d_y),)


@op(
    domain=(-3, 3),
    note=Note(
        formula="x where |x| > lambd, else 0",
        derivative="1 where |x| > lambd, else 0",
        strengths="Removes small values and leaves large ones as they are.",
        weaknesses="Jumps at ±lambd; values inside get no gradient.",
        use="Sparse codes and denoising of coefficients.",
        source="torch.nn.functional.hardshrink",
    ),
)
def hardshrink(x: Value, *, lambd: float = 0.5) -> Value:
    """x where |x| > lambd, else 0"""
    needs_float(x)
    inside = (x >= -lambd) & (x <= lambd)
    return P.where(inside, 0, x)


hardshrink.sample = lambda graph, shape, dtype: hardshrink(graph.input("x", shape, dtype))


@hardshrink.gradient
def _(d_y, y, x, *, lambd):
    return (P.where((x >= -lambd) & (x <= lambd), 0, d_y),)


@op(
    domain=(-3, 3),
    note=Note(
        formula="x − lambd where x > lambd, x + lambd where x < −lambd, else 0",
        derivative="1 where |x| > lambd, else 0",
        strengths="Removes small values without a jump: the proximal step of an L1 penalty.",
        weaknesses="Shrinks large values too, by lambd; values inside get no gradient.",
        use="Sparse coding by iterative thresholding.",
        source="torch.nn.functional.softshrink",
    ),
)
def softshrink(x: Value, *, lambd: float = 0.5) -> Value:
    """x − lambd where x > lambd, x + lambd where x < −lambd, else 0"""
    if not lambd >= 0:
        raise DeclarationError(f"lambd is {lambd}; it must be 0 or more")
    needs_float(x)
    # NaN is in no interval, and must come out as itself; a zero keeps its sign.
    return P.where(x > lambd, x - lambd, P.where(x < -lambd, x + lambd, x * 0))


softshrink.sample = lambda graph, shape, dtype: softshrink(graph.input("x", shape, dtype))


@softshrink.gradient
def _(d_y, y, x, *, lambd):
    return (P.where((x >= -lambd) & (x <= lambd), 0, d_y),)


for _made in (leaky_relu, elu, celu, hardtanh, threshold, hardshrink, softshrink):
    torch_order(_made)
