"""Losses: one kernel forward, and one for the gradient."""

from __future__ import annotations

from torch import Tensor, nn

from ..ir.ops.binary import binary_cross_entropy_with_logits
from ..ir.ops.losses import cross_entropy, nll_loss
from ..ir.ops.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss


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
