"""All modules of tn.nn that torch.nn has, too: with arguments, inputs, and what both give."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.nn.replacing import COUNTERPARTS
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()

ARGUMENTS: dict[str, tuple[object, ...]] = {
    "LayerNorm": (6,),
    "RMSNorm": (6,),
    "GroupNorm": (2, 6),
    "BatchNorm1d": (6,),
    "BatchNorm2d": (6,),
    "BatchNorm3d": (6,),
    "InstanceNorm1d": (6,),
    "InstanceNorm2d": (6, 1e-5, 0.1, True, True),
    "InstanceNorm3d": (6, 1e-5, 0.1, True),
    "LeakyReLU": (0.2,),
    "ELU": (0.5,),
    "CELU": (0.5,),
    "GELU": ("tanh",),
    "Softplus": (2.0, 3.0),
    "PReLU": (6,),
    "GLU": (-1,),
    "Softmax": (-1,),
    "LogSoftmax": (1,),
    "Softmin": (-1,),
    "Hardtanh": (-0.5, 0.25),
    "Hardshrink": (0.25,),
    "Softshrink": (0.25,),
    "Threshold": (0.1, -2.0),
}
LOSSES = {
    "CrossEntropyLoss": {"ignore_index": 2, "label_smoothing": 0.1},
    "NLLLoss": {"reduction": "sum"},
    "BCEWithLogitsLoss": {},
    "MSELoss": {},
    "L1Loss": {"reduction": "none"},
    "SmoothL1Loss": {"beta": 0.5},
    "HuberLoss": {"delta": 0.5},
    "BCELoss": {"reduction": "sum"},
    "KLDivLoss": {"reduction": "batchmean"},
    "PoissonNLLLoss": {"full": True},
    "GaussianNLLLoss": {"full": True, "eps": 1e-3},
    "SoftMarginLoss": {},
    "MultiMarginLoss": {"p": 2, "margin": 0.5},
    "MarginRankingLoss": {"margin": 0.5},
    "CosineEmbeddingLoss": {"margin": 0.1},
    "TripletMarginLoss": {"margin": 0.5, "swap": True},
}
OF_CLASSES = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
POSITIONS = {"1d": (4, 6), "2d": (4, 6, 2, 2), "3d": (4, 6, 2, 1, 2)}
NAMES = sorted(kind.__name__ for kind in COUNTERPARTS)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A module of torch with weights that are not the first ones, and ours with its state."""
    torch.manual_seed(0)
    args, options = ARGUMENTS.get(name, ()), LOSSES.get(name, {})
    theirs, mine = (getattr(where, name)(*args, **options).to(DEVICE) for where in (nn, tn.nn))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(0.5, 1.5)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def fed(name: str) -> list[Tensor]:
    shape = (4, 6, 5) if name == "InstanceNorm1d" else POSITIONS.get(name[-2:], (4, 6))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    if name in OF_CLASSES:
        return [x.to(DEVICE), (torch.arange(4) % 6).to(DEVICE)]
    if name in ("MarginRankingLoss", "CosineEmbeddingLoss", "TripletMarginLoss", "GaussianNLLLoss", "BCELoss"):
        others = torch.rand((2, *shape), generator=generator) + 0.1
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0])
        given = {
            "MarginRankingLoss": [x[:, 0], others[0, :, 0], signs],
            "CosineEmbeddingLoss": [x, others[0], signs],
            "TripletMarginLoss": [x, others[0], x.flip(0)],
            "GaussianNLLLoss": [x, others[0], others[1]],
            "BCELoss": [torch.sigmoid(x), others[0] / 2],
        }
        return [t.to(DEVICE) for t in given[name]]
    if name in LOSSES:
        return [x.to(DEVICE), torch.rand(shape, generator=generator).to(DEVICE)]
    return [x.to(DEVICE)]


def results(module: nn.Module, tensors: list[Tensor], exact: bool = False) -> list[Tensor]:
    """The result of a module, the gradients of its input and parameters, and its buffers; exact in float64."""
    module = copy.deepcopy(module).double() if exact else copy.deepcopy(module)
    first, *rest = (t.double() if exact and t.is_floating_point() else t.clone() for t in tensors)
    y = module(first.requires_grad_(), *rest)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y, *torch.autograd.grad(y, [first, *module.parameters()], upstream), *module.buffers()]
