"""Losses that compare: one score above another, the right class above the rest, one pair closer than another pair."""

from __future__ import annotations

import math

from .. import primitives as P
from ..core.errors import DeclarationError, ShapeError
from ..core.graph import Graph, Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import DType, Shape, show_shape
from .classes import check_classes, class_axis, one_of_classes, weight_of_target
from .declare import needs_float
from .reduction import check_reduction, reduce_loss, spread

FAMILY = "losses"


def _ranks(what: str, **values: Value) -> None:
    """Raise `ShapeError` unless all have one number of dims, as torch asks; sizes of 1 broadcast."""
    if len({len(v.shape) for v in values.values()}) > 1:
        shown = ", ".join(f"{name} {v.name!r} {show_shape(v.shape)}" for name, v in values.items())
        raise ShapeError(f"{what}: {shown} differ in their number of dims; give them one")


@op(
    domain={"input1": (-5, 5), "input2": (-5, 5), "target": (-1, 1)},
    note=Note(
        formula="max(0, margin − target · (input1 − input2)), averaged",
        derivative="−target for input1, target for input2, where the margin is not kept, over count",
        strengths="Learns an order from pairs alone; no scale has to be known.",
        weaknesses="Scores of different pairs are not comparable; pairs in the right order give no gradient.",
        use="Learning to rank: target 1 where input1 belongs first, −1 where input2 does.",
        source="torch.nn.functional.margin_ranking_loss",
    ),
)
def margin_ranking_loss(
    input1: Value, input2: Value, target: Value, *, margin: float = 0.0, reduction: str = "mean"
) -> Value:
    """max(0, margin − target · (input1 − input2))"""
    shortfall = margin - target * (input1 - input2)
    return reduce_loss(P.where(shortfall < 0, 0, shortfall), reduction)


@margin_ranking_loss.gradient
def _(d_y, y, input1, input2, target, *, margin, reduction):
    lead = input1 - input2
    shortfall = margin - target * lead
    # torch's clamp passes its gradient at the bound itself, and none for NaN.
    d_lead = P.where(shortfall >= 0, -spread(d_y, shortfall, reduction), 0)
    return d_lead * target, -d_lead * target, d_lead * lead


@margin_ranking_loss.declares
def _(
    input1: Value,
    input2: Value,
    target: Value,
    margin: float = 0.0,
    reduction: str = "mean",
    *,
    name: str | None = None,
) -> Value:
    """Scores `input1` and `input2` and `target` of one number of dims, whose sizes broadcast: 1 where `input1` should
    be larger, −1 where `input2` should."""
    _ranks("margin_ranking_loss", input1=input1, input2=input2, target=target)
    return margin_ranking_loss.apply(input1, input2, target, margin=margin, reduction=reduction, name=name)


margin_ranking_loss.sample = lambda graph, shape, dtype: margin_ranking_loss(
    *(graph.input(name, shape, dtype) for name in ("input1", "input2", "target"))
)


@op(
    domain={"input": (-5, 5), "target": "class", "weight": (0.1, 2)},
    note=Note(
        formula="Σ max(0, margin − input[target] + input[j])ᵖ over the other classes j, over the classes, averaged",
        derivative="p · max(0, ·)ᵖ⁻¹ for each class too near the target's, less their sum for the target, over classes",
        strengths="Rows whose class leads by the margin give no gradient; scores need not be probabilities.",
        weaknesses="Every class within the margin contributes, not only the nearest; no measure of confidence.",
        use="Support vector machines of several classes; p = 2 for a smooth one.",
        source="torch.nn.functional.multi_margin_loss; Crammer and Singer, 2001",
    ),
)
def multi_margin_loss(
    input: Value,
    target: Value,
    weight: Value | None = None,
    *,
    p: int = 1,
    margin: float = 1.0,
    reduction: str = "mean",
) -> Value:
    """Σ max(0, margin − input[target] + input[j])ᵖ / C over the other classes j"""
    needs_float(input)
    check_reduction(reduction)
    shortfall, _ = _shortfall(input, target, p, margin)
    powered = shortfall * shortfall if p == 2 else shortfall
    axis = class_axis(input)
    if weight is not None:
        powered = powered * _weight(input, target, weight)
    losses = P.sum(powered, axis) / P.count_along(input, axis)
    return reduce_loss(losses, reduction)


def _shortfall(input: Value, target: Value, p: int, margin: float) -> tuple[Value, Value]:
    """By how much each other class is too near the target's, and where the target's is."""
    if p not in (1, 2):
        raise DeclarationError(f"p is {p}; use 1 or 2")
    is_target, _ = one_of_classes(input, target)
    # The maximum over one class, so that a target outside the classes makes the loss ∞, never a wrong number.
    target_score = P.max(P.where(is_target, input, -math.inf), class_axis(input), keepdim=True)
    gap = margin - target_score + input
    # A gap of NaN is no shortfall, as in torch.
    return P.where((gap > 0) & ~is_target, gap, 0), is_target


def _weight(input: Value, target: Value, weight: Value) -> Value:
    is_target, _ = one_of_classes(input, target)
    return weight_of_target(input, weight, is_target)


@multi_margin_loss.gradient
def _(d_y, y, input, target, weight, *, p, margin, reduction):
    shortfall, is_target = _shortfall(input, target, p, margin)
    axis = class_axis(input)
    row = P.sum(shortfall, axis, keepdim=True)
    d_row = P.reshape(d_y, row.shape) if reduction == "none" else spread(d_y, row, reduction)
    d_row = d_row / P.count_along(input, axis)
    if weight is not None:
        d_row = d_row * _weight(input, target, weight)
    d_other = P.where(shortfall > 0, d_row if p == 1 else 2 * shortfall * d_row, 0)
    return P.where(is_target, -P.sum(d_other, axis, keepdim=True), d_other), None, None


@multi_margin_loss.declares
def _(
    input: Value,
    target: Value,
    p: int = 1,
    margin: float = 1.0,
    weight: Value | None = None,
    reduction: str = "mean",
    *,
    name: str | None = None,
) -> Value:
    """Scores `input` (N, C), (C,) or () against class indices `target` (N,), () or (1,), int64; `p` is 1 or 2. `weight`
    (C,) weighs the rows by their target and gets no gradient; the mean divides by the rows. A target outside the
    classes raises where the host can see it (CPU); on a GPU it makes the loss infinite."""
    what = "multi_margin_loss"
    if len(input.shape) > 2:
        raise ShapeError(
            f"{what}: {input.name!r} has shape {show_shape(input.shape)}; scores have shape (N, C) or (C,)"
        )
    scores = input if input.shape else P.reshape(input, (1,))
    if len(scores.shape) == 1 and target.shape == (1,):
        scores = P.reshape(scores, (1, *scores.shape))
    check_classes(what, scores, target, weight)
    p = int(p) if p in (1, 2) else p  # 2.0 is as good as 2
    return multi_margin_loss.apply(scores, target, weight, p=p, margin=margin, reduction=reduction, name=name)


# torch takes rows of classes alone, so of any other shape the last two axes are sampled.
multi_margin_loss.sample = lambda graph, shape, dtype: multi_margin_loss(
    graph.input("input", shape[-2:], dtype), graph.input("target", shape[-2:][:-1], "int64")
)


_EPSILON = 9.999999960041972e-13
"""What makes the cosine of a vector of zeros 0: torch's 1e-12, which is a float32 there whatever the dtype."""


@op(
    domain={"input1": (-5, 5), "input2": (-5, 5), "target": (-1, 1)},
    note=Note(
        formula="1 − cos(input1, input2) where target is 1, max(0, cos − margin) where it is −1, averaged",
        derivative="∓(input2 / (|input1| · |input2|) − cos · input1 / |input1|²) / count for input1",
        strengths="Depends only on directions, so the length of an embedding is free.",
        weaknesses="Gradients grow as a vector nears 0; the pairs have to be chosen well.",
        use="Pulling matching pairs together and pushing others apart: sentences, images, products.",
        source="torch.nn.functional.cosine_embedding_loss",
    ),
)
def cosine_embedding_loss(
    input1: Value, input2: Value, target: Value, *, margin: float = 0.0, reduction: str = "mean"
) -> Value:
    """1 − cos(input1, input2) where target is 1, max(0, cos − margin) where it is −1, else 0"""
    cosine, _, _ = _cosine(input1, input2)
    excess = cosine - margin
    apart = P.where(excess < 0, 0, excess)
    losses = P.where(target == 1, 1 - cosine, P.where(target == -1, apart, 0))
    return reduce_loss(losses, reduction)


def _cosine(input1: Value, input2: Value) -> tuple[Value, Value, Value]:
    """The cosine of each pair, and the lengths of both."""
    product = P.sum(input1 * input2, -1)
    # A root for each length, where torch has one for their product, does not overflow.
    length1 = P.sqrt(P.sum(input1 * input1, -1) + _EPSILON)
    length2 = P.sqrt(P.sum(input2 * input2, -1) + _EPSILON)
    cosine = product / (length1 * length2)
    return cosine, length1, length2


@cosine_embedding_loss.gradient
def _(d_y, y, input1, input2, target, *, margin, reduction):
    cosine, length1, length2 = _cosine(input1, input2)
    d_each = spread(d_y, cosine, reduction)
    d_apart = P.where(cosine - margin >= 0, d_each, 0)
    d_cosine = P.where(target == 1, -d_each, P.where(target == -1, d_apart, 0))
    # Divided by one length after the other: a product of both would leave the range of 16-bit floats.
    length1, length2, cosine, d_cosine = (
        P.reshape(row, (*cosine.shape, 1)) for row in (length1, length2, cosine, d_cosine)
    )
    unit1, unit2 = input1 / length1, input2 / length2
    d_input1 = d_cosine * (unit2 - cosine * unit1) / length1
    d_input2 = d_cosine * (unit1 - cosine * unit2) / length2
    return d_input1, d_input2, None


@cosine_embedding_loss.declares
def _(
    input1: Value,
    input2: Value,
    target: Value,
    margin: float = 0.0,
    reduction: str = "mean",
    *,
    name: str | None = None,
) -> Value:
    """Vectors `input1` and `input2` (N, D), with `target` (N,), or (D,), with (); 1 says that the two belong together,
    −1 that they do not, and any other target counts as a loss of 0."""
    rank = len(input1.shape)
    if rank != len(input2.shape) or rank not in (1, 2) or len(target.shape) != rank - 1:
        raise ShapeError(
            f"cosine_embedding_loss: input1 {input1.name!r} {show_shape(input1.shape)}, input2 {input2.name!r} "
            f"{show_shape(input2.shape)} and target {target.name!r} {show_shape(target.shape)}; give vectors of shape "
            "(N, D) with a target (N,), or (D,) with ()"
        )
    return cosine_embedding_loss.apply(input1, input2, target, margin=margin, reduction=reduction, name=name)


def _sample(graph: Graph, shape: Shape, dtype: DType) -> Value:
    # Short vectors are often near parallel, and their gradient a difference that has lost its digits: none is shorter
    # than 17. The margin does the same for the cosine of those that are near orthogonal.
    vectors = (*shape[-2:-1], *(n + 16 if isinstance(n, int) else n for n in shape[-1:]))
    input1, input2 = graph.input("input1", vectors, dtype), graph.input("input2", vectors, dtype)
    return cosine_embedding_loss(input1, input2, P.sign(graph.input("target", vectors[:-1], dtype)), -4.0)


cosine_embedding_loss.sample = _sample


@op(
    domain={"anchor": (-1, 1), "positive": (-1, 1), "negative": (-1, 1)},
    note=Note(
        formula="max(0, margin + ‖anchor − positive‖ₚ − ‖anchor − negative‖ₚ), averaged",
        derivative="the unit vectors from positive and from negative to the anchor, where the margin is not kept",
        strengths="Only relative distances matter, so there may be many classes and new ones.",
        weaknesses="Most triplets soon give no gradient: hard ones have to be selected.",
        use="Embeddings of faces, speakers and products; swap also compares positive with negative.",
        source="torch.nn.functional.triplet_margin_loss; Balntas et al., 2016",
    ),
)
def triplet_margin_loss(
    anchor: Value,
    positive: Value,
    negative: Value,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Value:
    """max(0, margin + ‖anchor − positive‖ₚ − ‖anchor − negative‖ₚ)"""
    near = _distance(anchor - positive + eps, p)
    far = _distance(anchor - negative + eps, p)
    if swap:
        far = P.minimum(far, _distance(positive - negative + eps, p))
    shortfall = margin + near - far
    losses = P.where(shortfall < 0, 0, shortfall)
    return reduce_loss(P.reshape(losses, losses.shape[:-1]), reduction)


def _axes(x: Value) -> tuple[int, ...]:
    """The axis of a vector's elements; a 0-dim value is its only one."""
    return (len(x.shape) - 1,) if x.shape else ()


def _distance(difference: Value, p: float) -> Value:
    """The p-norm along the last axis, which stays with size 1."""
    if not p > 0:
        raise DeclarationError(f"p is {p}; a norm has p greater than 0, or inf")
    axes = _axes(difference)
    if p == 2:
        return P.sqrt(P.sum(difference * difference, axes, keepdim=True))
    size = abs(difference)
    if p == 1:
        return P.sum(size, axes, keepdim=True)
    if p == math.inf:
        return P.max(size, axes, keepdim=True)
    return P.sum(size**p, axes, keepdim=True) ** (1 / p)


def _direction(difference: Value, distance: Value, p: float) -> Value:
    """The derivative of the p-norm, 0 where the norm is: the slope there has no direction."""
    if p == 1:
        return P.sign(difference)
    if p == 2:
        return P.where(distance == 0, 0, difference / distance)
    size = abs(difference)
    if p == math.inf:
        reached = P.cast(P.same(size, distance), difference.dtype)
        return P.sign(difference) * reached / P.sum(reached, _axes(difference), keepdim=True)
    return P.where(size == 0, 0, P.sign(difference) * (size / distance) ** (p - 1))


@triplet_margin_loss.gradient
def _(d_y, y, anchor, positive, negative, *, margin, p, eps, swap, reduction):
    to_positive, to_negative = anchor - positive + eps, anchor - negative + eps
    near, far = _distance(to_positive, p), _distance(to_negative, p)
    if swap:
        between = positive - negative + eps
        own, other = far, _distance(between, p)
        far = P.minimum(own, other)
    shortfall = margin + near - far
    d_each = P.reshape(d_y, shortfall.shape) if reduction == "none" else spread(d_y, shortfall, reduction)
    # torch's clamp passes its gradient at the bound itself, and none for NaN.
    d_near = P.where(shortfall >= 0, d_each, 0)
    d_positive = d_near * _direction(to_positive, near, p)
    if not swap:
        d_negative = d_near * _direction(to_negative, far, p)
        return d_positive - d_negative, -d_positive, d_negative
    d_own = P.where(own == other, 0.5 * d_near, P.where(own > other, 0, d_near))
    d_other = P.where(own == other, 0.5 * d_near, P.where(other > own, 0, d_near))
    d_negative = d_own * _direction(to_negative, own, p)
    d_between = d_other * _direction(between, other, p)
    return d_positive - d_negative, -d_positive - d_between, d_negative + d_between


@triplet_margin_loss.declares
def _(
    anchor: Value,
    positive: Value,
    negative: Value,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
    *,
    name: str | None = None,
) -> Value:
    """Vectors (..., D) of one number of dims, whose sizes broadcast: the loss is 0 where `positive` is nearer to
    `anchor` than `negative` by `margin`. `p` is the norm's, greater than 0 or inf; `eps` is added to every difference;
    `swap` takes the distance between `positive` and `negative` where that is the smaller."""
    if not margin > 0:
        raise DeclarationError(f"triplet_margin_loss: margin is {margin}; it must be greater than 0")
    _ranks("triplet_margin_loss", anchor=anchor, positive=positive, negative=negative)
    return triplet_margin_loss.apply(
        anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap, reduction=reduction, name=name
    )


# A margin as large as the distances, whose difference alone would have lost its digits.
triplet_margin_loss.sample = lambda graph, shape, dtype: triplet_margin_loss(
    *(graph.input(name, shape, dtype) for name in ("anchor", "positive", "negative")), margin=32.0
)
