"""Losses of yes or no: each element a probability, or a logit, against a target between 0 and 1."""

from __future__ import annotations

from .. import primitives as P
from ..core.graph import Value
from ..core.op import Op, op
from ..core.registry import Note
from .activations import sigmoid
from .gates import positive_part_and_tail
from .reduction import check_same_shape, reduce_loss, spread

FAMILY = "losses"


@op(
    # Both ends of the unit interval are left to tests of their own: the slope there is 10¹² and more.
    domain={"input": (0.01, 0.99), "target": (0, 1), "weight": (0, 2)},
    note=Note(
        formula="−target · ln input − (1 − target) · ln(1 − input), each logarithm at least −100, averaged",
        derivative="(input − target) / (input · (1 − input)) / count",
        strengths="The likelihood of any probability.",
        weaknesses="Probabilities near 0 and 1 are rounded before the loss; gradients there are very large.",
        use="If only probabilities are available; for logits use binary_cross_entropy_with_logits.",
        source="torch.nn.functional.binary_cross_entropy",
    ),
)
def binary_cross_entropy(input: Value, target: Value, weight: Value | None = None, *, reduction: str = "mean") -> Value:
    """−target · ln input − (1 − target) · ln(1 − input). Outside [0, 1], where torch raises, it is NaN."""
    check_same_shape(input, target)
    log_yes = P.maximum(P.log(input), -100)
    log_no = P.maximum(P.log1p(-input), -100)
    losses = (target - 1) * log_no - target * log_yes
    return reduce_loss(losses if weight is None else losses * weight, reduction)


@binary_cross_entropy.gradient
def _(d_y, y, input, target, weight, *, reduction):
    d_each = P.broadcast_to(spread(d_y, input, reduction), input.shape)
    if weight is not None:
        d_each = d_each * weight
    d_input = d_each * (input - target) / P.maximum((1 - input) * input, 1e-12)
    return d_input, d_each * (P.log(1 - input) - P.log(input)), None


@op(
    domain={"input": (-30, 30), "target": (0, 1), "weight": (0, 2), "pos_weight": (0.1, 4)},
    note=Note(
        formula="(1 − target) · input + (1 + (pos_weight − 1) · target) · ln(1 + e^−input), averaged",
        derivative="(σ(input) − target) / count where pos_weight is 1",
        strengths="Exact at any logit; the gradient is the error in probability.",
        weaknesses="Rare positives have little weight unless pos_weight increases it.",
        use="Binary and multi-label classification.",
        source="torch.nn.functional.binary_cross_entropy_with_logits",
    ),
)
def binary_cross_entropy_with_logits(
    input: Value,
    target: Value,
    weight: Value | None = None,
    pos_weight: Value | None = None,
    *,
    reduction: str = "mean",
) -> Value:
    """(1 − target) · input + ln(1 + e^−input)"""
    check_same_shape(input, target)
    softplus = positive_part_and_tail(-input)
    if pos_weight is not None:
        softplus = (1 + (pos_weight - 1) * target) * softplus
    losses = (1 - target) * input + softplus
    return reduce_loss(losses if weight is None else losses * weight, reduction)


@binary_cross_entropy_with_logits.gradient
def _(d_y, y, input, target, weight, pos_weight, *, reduction):
    d_each = P.broadcast_to(spread(d_y, input, reduction), input.shape)
    if weight is not None:
        d_each = d_each * weight
    if pos_weight is None:
        return d_each * (sigmoid(input) - target), -input * d_each, None, None
    wanted = pos_weight * target
    slope = (wanted + 1 - target) * sigmoid(input) - wanted
    d_target = (pos_weight - 1) * positive_part_and_tail(-input) - input
    return d_each * slope, d_each * d_target, None, None


@op(
    domain={"input": (-10, 10), "target": (0, 1)},
    note=Note(
        formula="alpha_t · (1 − p_t)^gamma · binary cross entropy, p_t the probability of what is right, averaged",
        derivative="alpha_t · (1 − p_t)^gamma · (σ(input) − target), and a term for the change of (1 − p_t)^gamma",
        strengths="Well classified samples get little weight, so many easy samples do not dominate the hard ones.",
        weaknesses="Two more numbers to choose; wrong labels get the most weight.",
        use="Detection and other heavily unbalanced problems.",
        source="torchvision.ops.sigmoid_focal_loss; Lin, Goyal, Girshick, He and Dollár, 2017",
    ),
)
def focal_loss(
    input: Value, target: Value, *, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Value:
    """alpha_t · (1 − p_t)^gamma · binary cross entropy with logits; no alpha_t where alpha is negative"""
    check_same_shape(input, target)
    each = _focal(input, target, gamma)[0]
    if alpha < 0:
        return reduce_loss(each, reduction)
    balance = _balance(target, alpha)
    losses = each * balance
    return reduce_loss(losses, reduction)


def _balance(target: Value, alpha: float) -> Value:
    return alpha * target + (1 - alpha) * (1 - target)


def _power(base: Value, exponent: float) -> Value | float:
    """Products for the usual exponents: they keep more digits than a power, and cost less."""
    if exponent == 0:
        return 1.0
    if exponent == 1:
        return base
    return base * base if exponent == 2 else base**exponent


def _focus_slope(missed: Value, focus: Value | float, gamma: float) -> Value | float:
    """The derivative of missed^gamma; 0 where nothing is missed, as is the entropy that it meets there."""
    if gamma >= 1:
        return gamma * _power(missed, gamma - 1)
    return P.where(missed == 0, 0, gamma * focus / missed)


def _focal(input: Value, target: Value, gamma: float) -> tuple[Value, Value | float, Value, Value, Value]:
    """The unbalanced loss, (1 − p_t)^gamma, entropy, 1 − p_t, σ(input): sums of positive terms, so nothing cancels."""
    exp_size = P.exp(-abs(input))
    yes = P.where(input < 0, exp_size, 1) / (1 + exp_size)
    no = P.where(input < 0, 1, exp_size) / (1 + exp_size)
    missed = yes * (1 - target) + no * target
    entropy = P.where(input < 0, -target * input, (1 - target) * input) + P.log1p(exp_size)
    focus = _power(missed, gamma)
    return focus * entropy, focus, entropy, missed, yes


@focal_loss.gradient
def _(d_y, y, input, target, *, alpha, gamma, reduction):
    each, focus, entropy, missed, yes = _focal(input, target, gamma)
    d_each = P.broadcast_to(spread(d_y, each, reduction), each.shape)
    balance = 1 if alpha < 0 else _balance(target, alpha)
    d_missed = _focus_slope(missed, focus, gamma) * entropy if gamma else 0
    d_input = focus * (yes - target) + d_missed * (yes * (1 - yes) * (1 - 2 * target))
    d_target = d_missed * (1 - 2 * yes) - focus * input
    d_target = d_target * balance if alpha < 0 else d_target * balance + (2 * alpha - 1) * each
    return d_each * (d_input * balance), d_each * d_target


def _weighs(made: Op) -> None:
    made.sample = lambda graph, shape, dtype: made(
        graph.input("input", shape, dtype), graph.input("target", shape, dtype)
    )


for _made in (binary_cross_entropy, binary_cross_entropy_with_logits, focal_loss):
    _weighs(_made)
