"""Modules of torch.nn whose forward and backward are generated kernels: the same arguments, parameters and state dicts.

`replace(model)` makes the modules of a model such ones where that can be done.
"""

from .activation import (
    CELU,
    ELU,
    GEGLU,
    GELU,
    GLU,
    SELU,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReGLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    SwiGLU,
    Tanh,
)
from .loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from .normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from .replacing import Replacement, replace

__all__ = [
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "CELU",
    "CrossEntropyLoss",
    "ELU",
    "GEGLU",
    "GELU",
    "GLU",
    "GroupNorm",
    "HuberLoss",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "Mish",
    "NLLLoss",
    "PReLU",
    "RMSNorm",
    "ReGLU",
    "ReLU",
    "Replacement",
    "SELU",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "SwiGLU",
    "Tanh",
    "replace",
]
