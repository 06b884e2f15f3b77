"""Losses: one kernel forward, and one for the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..ir.core.graph import Value
from ..ir.ops.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from ..ir.ops.divergences import kl_div
from ..ir.ops.linear import linear
from ..ir.ops.losses import cross_entropy, nll_loss
from ..ir.ops.margins import soft_margin_loss
from ..ir.ops.rankings import cosine_embedding_loss, margin_ranking_loss, multi_margin_loss, triplet_margin_loss
from ..ir.ops.regression import gaussian_nll_loss, huber_loss, l1_loss, mse_loss, poisson_nll_loss, smooth_l1_loss
from ..runtime.tensor_calls import also_of_tensors


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """torch.nn.CrossEntropyLoss by generated kernels; the target holds class indices or probabilities."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        attrs = {"label_smoothing": self.label_smoothing, "reduction": self.reduction}
        return cross_entropy(input, target, self.weight, ignore_index=self.ignore_index, **attrs)


class NLLLoss(nn.NLLLoss):
    """torch.nn.NLLLoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """torch.nn.BCEWithLogitsLoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        given = {"pos_weight": self.pos_weight, "reduction": self.reduction}
        return binary_cross_entropy_with_logits(input, target, self.weight, **given)


class MSELoss(nn.MSELoss):
    """torch.nn.MSELoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, reduction=self.reduction)


class L1Loss(nn.L1Loss):
    """torch.nn.L1Loss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(nn.SmoothL1Loss):
    """torch.nn.SmoothL1Loss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return smooth_l1_loss(input, target, beta=self.beta, reduction=self.reduction)


class HuberLoss(nn.HuberLoss):
    """torch.nn.HuberLoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return huber_loss(input, target, delta=self.delta, reduction=self.reduction)


class BCELoss(nn.BCELoss):
    """torch.nn.BCELoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class KLDivLoss(nn.KLDivLoss):
    """torch.nn.KLDivLoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return kl_div(input, target, log_target=self.log_target, reduction=self.reduction)


class PoissonNLLLoss(nn.PoissonNLLLoss):
    """torch.nn.PoissonNLLLoss by generated kernels."""

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        attrs = {"log_input": self.log_input, "full": self.full, "eps": self.eps, "reduction": self.reduction}
        return poisson_nll_loss(log_input, target, **attrs)


class GaussianNLLLoss(nn.GaussianNLLLoss):
    """torch.nn.GaussianNLLLoss by generated kernels; a variance for each sample may leave the last axis out."""

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        each = var if isinstance(var, Tensor) else torch.full_like(input, var)
        return gaussian_nll_loss(input, target, each, full=self.full, eps=self.eps, reduction=self.reduction)


class SoftMarginLoss(nn.SoftMarginLoss):
    """torch.nn.SoftMarginLoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return soft_margin_loss(input, target, reduction=self.reduction)


class MultiMarginLoss(nn.MultiMarginLoss):
    """torch.nn.MultiMarginLoss by generated kernels."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        attrs = {"p": self.p, "margin": self.margin, "weight": self.weight, "reduction": self.reduction}
        return multi_margin_loss(input, target, **attrs)


class MarginRankingLoss(nn.MarginRankingLoss):
    """torch.nn.MarginRankingLoss by generated kernels."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(nn.CosineEmbeddingLoss):
    """torch.nn.CosineEmbeddingLoss by generated kernels."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(nn.TripletMarginLoss):
    """torch.nn.TripletMarginLoss by generated kernels."""

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        attrs = {"margin": self.margin, "p": self.p, "eps": self.eps, "swap": self.swap, "reduction": self.reduction}
        return triplet_margin_loss(anchor, positive, negative, **attrs)


def linear_cross_entropy(
    input: Value,
    linear_weight: Value,
    target: Value,
    linear_bias: Value | None = None,
    weight: Value | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Value:
    """The cross entropy of `input` · `linear_weight`ᵀ + `linear_bias` against `target`."""
    logits = linear(input, weight=linear_weight, bias=linear_bias)
    attrs: dict[str, Any] = {"label_smoothing": label_smoothing, "reduction": reduction}
    return cross_entropy(logits, target, weight, ignore_index=ignore_index, **attrs)


_linear_cross_entropy = also_of_tensors(linear_cross_entropy)


class LinearCrossEntropy(nn.Linear):
    """A linear layer to `num_classes` and its cross entropy, in one program: `weight` (classes, features) and `bias`
    are those of a torch.nn.Linear, whose state dicts it takes and gives.

    `input` is (..., features), `target` (...) of class indices. Where no gradient is wanted, logits that are large are
    computed for some rows at a time. `class_weight` (classes,) weighs classes, as `weight` of torch.nn.CrossEntropyLoss
    does.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        bias: bool = True,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, bias, device, dtype)
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.ignore_index, self.label_smoothing, self.reduction = ignore_index, label_smoothing, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        attrs = {"label_smoothing": self.label_smoothing, "reduction": self.reduction}
        losses: Tensor = _linear_cross_entropy(
            input.reshape(-1, self.in_features), self.weight, target.reshape(-1), self.bias, self.class_weight,
            ignore_index=self.ignore_index, **attrs,
        )  # fmt: skip
        return losses.reshape(target.shape) if self.reduction == "none" else losses

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reduction={self.reduction!r}"
