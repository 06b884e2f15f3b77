"""Normalizations: one kernel forward, and backward one that gives the gradients of input, weight and bias together."""

from __future__ import annotations

from torch import Tensor, nn

from ..ir.ops.batch_statistics import batch_norm, instance_norm
from ..ir.ops.normalization import group_norm, layer_norm, rms_norm
from .refusals import check


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """torch.nn.RMSNorm by generated kernels."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class BatchNorm1d(nn.BatchNorm1d):
    """torch.nn.BatchNorm1d by generated kernels, which move the running statistics too. `momentum` must be a number."""

    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input)


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d by generated kernels, which move the running statistics too. `momentum` must be a number."""

    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input)


class BatchNorm3d(nn.BatchNorm3d):
    """torch.nn.BatchNorm3d by generated kernels, which move the running statistics too. `momentum` must be a number."""

    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input)


class InstanceNorm1d(nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d by generated kernels, which move the running statistics too."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return _instance_norm(self, input)


class InstanceNorm2d(nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d by generated kernels, which move the running statistics too."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return _instance_norm(self, input)


class InstanceNorm3d(nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d by generated kernels, which move the running statistics too."""

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return _instance_norm(self, input)


def _instance_norm(module: nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d, input: Tensor) -> Tensor:
    """As torch's modules do once they have checked the input, and given one without a batch an axis for it."""
    check(module)
    uses_input = module.training or not module.track_running_stats
    mean, var, weight, bias = module.running_mean, module.running_var, module.weight, module.bias
    return instance_norm(input, mean, var, weight, bias, uses_input, module.momentum, module.eps)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, input: Tensor) -> Tensor:
    """As the forward of torch's modules decides which statistics are used, and which are moved."""
    check(module)
    module._check_input_dim(input)
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    uses_batch = module.training or (module.running_mean is None and module.running_var is None)
    is_tracked = not module.training or module.track_running_stats
    mean, var = (module.running_mean, module.running_var) if is_tracked else (None, None)
    return batch_norm(input, mean, var, module.weight, module.bias, uses_batch, module.momentum, module.eps)
