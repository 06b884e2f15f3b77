"""Losses of binary classification on scores: `input` any number, `target` −1 or 1, their product the margin."""

from __future__ import annotations

from .. import primitives as P
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from .activations import relu, sigmoid
from .gates import positive_part_and_tail
from .reduction import reduce_loss, spread

FAMILY = "losses"

_SCORES = {"input": (-5.0, 5.0), "target": (-1.0, 1.0)}


@op(
    domain=_SCORES,
    note=Note(
        formula="max(0, 1 − target · input), averaged",
        derivative="−target where target · input < 1, else 0, over count",
        strengths="Samples beyond the margin have no gradient, so few samples determine the fit.",
        weaknesses="Not smooth at the margin; its scores are no probabilities.",
        use="Support vector machines; adversarial discriminators.",
        source="no torch function (hinge_embedding_loss differs); Cortes and Vapnik, 1995",
    ),
)
def hinge_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """max(0, 1 − target · input)"""
    return reduce_loss(relu(1 - target * input), reduction)


@op(
    domain=_SCORES,
    note=Note(
        formula="max(0, 1 − target · input)², averaged",
        derivative="−2 · target · max(0, 1 − target · input) / count",
        strengths="A hinge loss that is smooth at the margin.",
        weaknesses="Wrong labels far from the border weigh by the square.",
        use="Linear support vector machines trained by gradients.",
        source="no torch function; scikit-learn's LinearSVC",
    ),
)
def squared_hinge_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """max(0, 1 − target · input)²"""
    shortfall = relu(1 - target * input)
    return reduce_loss(shortfall * shortfall, reduction)


@op(
    domain=_SCORES,
    note=Note(
        formula="e^(−target · input), averaged",
        derivative="−target · e^(−target · input) / count",
        strengths="Convex and smooth; what boosting minimizes.",
        weaknesses="A wrong label has exponentially growing weight and may overflow.",
        use="Boosting on clean labels; else soft_margin_loss.",
        source="no torch function; Freund and Schapire, 1997",
    ),
)
def exponential_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """e^(−target · input)"""
    return reduce_loss(P.exp(-target * input), reduction)


@op(
    domain=_SCORES,
    note=Note(
        formula="max(0, −target · input), averaged",
        derivative="−target where target · input < 0, else 0, over count",
        strengths="Only mistakes count; the rule of the perceptron.",
        weaknesses="No margin: a score of 0 everywhere has loss 0.",
        use="Online learning of separable data, and to see what a margin adds.",
        source="no torch function; Rosenblatt, 1958",
    ),
)
def perceptron_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """max(0, −target · input)"""
    return reduce_loss(relu(-target * input), reduction)


@op(
    domain=_SCORES,
    note=Note(
        formula="0 where input and target have one sign, else 1, averaged",
        derivative="none: a count does not change under small changes",
        strengths="The number of wrong predictions itself.",
        weaknesses="No gradient, so it cannot be used for training; hard to minimize even with other methods.",
        use="A metric beside a loss with a gradient, such as the hinge loss.",
        source="no torch function; scikit-learn's zero_one_loss",
    ),
)
def zero_one_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """0 where input and target have one sign, else 1. It has no gradient; a score of 0 or NaN is wrong."""
    # Signs, not the product, which underflows for small scores.
    right = ((input > 0) & (target > 0)) | ((input < 0) & (target < 0))
    return reduce_loss(P.cast(~right, input.dtype), reduction)


@op(
    domain=_SCORES,
    note=Note(
        formula="ln(1 + e^(−target · input)), averaged",
        derivative="−target · σ(−target · input) / count",
        strengths="Smooth, convex, and σ(input) is a probability.",
        weaknesses="Never 0, so scores keep growing.",
        use="Logistic regression with labels −1 and 1.",
        source="torch.nn.functional.soft_margin_loss",
    ),
)
def soft_margin_loss(input: Value, target: Value, *, reduction: str = "mean") -> Value:
    """ln(1 + e^(−target · input))"""
    return reduce_loss(positive_part_and_tail(-target * input), reduction)


@soft_margin_loss.gradient
def _(d_y, y, input, target, *, reduction):
    margin = target * input
    d_margin = -sigmoid(-margin) * spread(d_y, margin, reduction)
    return d_margin * target, d_margin * input


for _made in (
    hinge_loss, squared_hinge_loss, exponential_loss, perceptron_loss, zero_one_loss, soft_margin_loss
):  # fmt: skip
    _made.sample = lambda graph, shape, dtype, made=_made: made(
        graph.input("input", shape, dtype), graph.input("target", shape, dtype)
    )
