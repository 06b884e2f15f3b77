"""Activations. Alone each is one kernel forward and one backward, which keeps nothing but the input or the result."""

from __future__ import annotations

from torch import Tensor, nn

from ..ir import primitives as P
from ..ir.core.errors import ShapeError
from ..ir.ops.activations import relu, sigmoid
from ..ir.ops.gated import geglu, glu, reglu, swiglu
from ..ir.ops.gates import gelu, hardsigmoid, hardswish, logsigmoid, mish, silu, softplus, softsign, tanhshrink
from ..ir.ops.piecewise import (
    celu,
    elu,
    hardshrink,
    hardtanh,
    leaky_relu,
    prelu,
    relu6,
    selu,
    softshrink,
    threshold,
)
from ..ir.ops.softmax import log_softmax, softmax, softmin
from ..runtime.tensor_calls import also_of_tensors
from .refusals import check

_tanh = also_of_tensors(P.tanh)


class ReLU(nn.ReLU):
    """torch.nn.ReLU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return relu(input)


class LeakyReLU(nn.LeakyReLU):
    """torch.nn.LeakyReLU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return leaky_relu(input, negative_slope=self.negative_slope)


class ELU(nn.ELU):
    """torch.nn.ELU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return elu(input, alpha=self.alpha)


class CELU(nn.CELU):
    """torch.nn.CELU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return celu(input, alpha=self.alpha)


class SELU(nn.SELU):
    """torch.nn.SELU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return selu(input)


class GELU(nn.GELU):
    """torch.nn.GELU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return gelu(input, approximate=self.approximate)


class SiLU(nn.SiLU):
    """torch.nn.SiLU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return silu(input)


class Mish(nn.Mish):
    """torch.nn.Mish by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return mish(input)


class Sigmoid(nn.Sigmoid):
    """torch.nn.Sigmoid by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return sigmoid(input)


class LogSigmoid(nn.LogSigmoid):
    """torch.nn.LogSigmoid by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return logsigmoid(input)


class Tanh(nn.Tanh):
    """torch.nn.Tanh by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return _tanh(input)


class Softplus(nn.Softplus):
    """torch.nn.Softplus by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return softplus(input, beta=self.beta, threshold=self.threshold)


class ReLU6(nn.ReLU6):
    """torch.nn.ReLU6 by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return relu6(input)


class Hardtanh(nn.Hardtanh):
    """torch.nn.Hardtanh by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return hardtanh(input, min_val=self.min_val, max_val=self.max_val)


class Hardsigmoid(nn.Hardsigmoid):
    """torch.nn.Hardsigmoid by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return hardsigmoid(input)


class Hardswish(nn.Hardswish):
    """torch.nn.Hardswish by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return hardswish(input)


class Hardshrink(nn.Hardshrink):
    """torch.nn.Hardshrink by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return hardshrink(input, lambd=self.lambd)


class Softshrink(nn.Softshrink):
    """torch.nn.Softshrink by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return softshrink(input, lambd=self.lambd)


class Softsign(nn.Softsign):
    """torch.nn.Softsign by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return softsign(input)


class Tanhshrink(nn.Tanhshrink):
    """torch.nn.Tanhshrink by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return tanhshrink(input)


class Threshold(nn.Threshold):
    """torch.nn.Threshold by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return threshold(input, self.threshold, self.value)


class PReLU(nn.PReLU):
    """torch.nn.PReLU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return prelu(input, self.weight)


class GLU(nn.GLU):
    """torch.nn.GLU by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return glu(input, dim=self.dim)


class Softmax(nn.Softmax):
    """torch.nn.Softmax by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return softmax(input, self.dim)


class LogSoftmax(nn.LogSoftmax):
    """torch.nn.LogSoftmax by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return log_softmax(input, self.dim)


class Softmin(nn.Softmin):
    """torch.nn.Softmin by generated kernels."""

    def forward(self, input: Tensor) -> Tensor:
        check(self)
        return softmin(input, self.dim)


class Softmax2d(nn.Softmax2d):
    """torch.nn.Softmax2d by generated kernels: over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ShapeError(f"tn.nn.Softmax2d: takes (N, C, H, W) or (C, H, W), got {list(input.shape)}")
        return softmax(input, -3)


class _Gated(nn.Module):
    """Halves of the features along `dim`, of which one gates the other: half as many come out."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class SwiGLU(_Gated):
    """silu(a) · b, a and b the halves of the input along `dim`."""

    def forward(self, input: Tensor) -> Tensor:
        return swiglu(input, dim=self.dim)


class GEGLU(_Gated):
    """gelu(a) · b, a and b the halves of the input along `dim`."""

    def forward(self, input: Tensor) -> Tensor:
        return geglu(input, dim=self.dim)


class ReGLU(_Gated):
    """relu(a) · b, a and b the halves of the input along `dim`."""

    def forward(self, input: Tensor) -> Tensor:
        return reglu(input, dim=self.dim)
