"""Modules that the tests of the importer import: layers of torch, and small models of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS, WIDTH = 6, 8


@dataclass(frozen=True)
class Case:
    """A module, what makes an example of its inputs, the loss of its result and what makes a target."""

    module: Callable[[], nn.Module]
    example: Callable[[], tuple[Tensor, ...]]
    loss: Callable[..., Tensor] = F.mse_loss
    target: Callable[[Tensor], Tensor] = torch.randn_like


def rows() -> tuple[Tensor, ...]:
    return (torch.randn(ROWS, WIDTH),)


def pictures() -> tuple[Tensor, ...]:
    return (torch.randn(ROWS, 4, 3, 2),)


def words() -> tuple[Tensor, ...]:
    return (torch.randint(0, 10, (ROWS, 5)),)


def behind_linear(*layers: nn.Module, bias: bool = True) -> Callable[[], nn.Module]:
    """What makes a model of a linear layer and `layers` behind it."""
    return lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=bias), *layers)


def classes_of(result: Tensor) -> Tensor:
    return torch.randint(0, result.shape[1], (*result.shape[:1], *result.shape[2:]))


def truths(result: Tensor) -> Tensor:
    return torch.randint(0, 2, result.shape).to(result.dtype)


def likelihoods(result: Tensor) -> Tensor:
    return torch.rand_like(result).softmax(-1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))
        return out


class TiedModel(nn.Module):
    """Residual blocks over an embedding whose table is the weight of the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 10, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.full((WIDTH,), 0.5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) * self.scale
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits.flatten(0, 1)


class Shapes(nn.Module):
    """Views, slices and reductions that models take their tensors apart with."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.fc(x).view(x.size(0), 2, -1).transpose(1, 2).reshape(x.shape[0], -1)
        left, right = h.chunk(2, dim=1)
        both = torch.cat([left * torch.sigmoid(right), y[:, 2:6], left.clamp(min=-0.5)], dim=-1)
        centered = both - both.mean(dim=-1, keepdim=True)
        largest = torch.stack([left, right], dim=1).amax(dim=1)
        return centered[:, :4] / (1 + largest.abs()) + torch.where(left > 0, left, 0.1 * right) ** 2


class WritesInPlace(nn.Module):
    """What torch changes in place: activations, sums, and a buffer that counts calls."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.1, inplace=True)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(2)
        h = self.act(self.fc(x)) + 1
        h += x
        h.mul_(0.5).tanh_()
        return h * self.steps


CASES: dict[str, Case] = {
    "Linear": Case(lambda: nn.Linear(WIDTH, 3), rows),
    "Linear without bias": Case(lambda: nn.Linear(WIDTH, 3, bias=False), rows),
    "LayerNorm": Case(behind_linear(nn.LayerNorm(WIDTH)), rows),
    "LayerNorm without parameters": Case(behind_linear(nn.LayerNorm(WIDTH, elementwise_affine=False)), rows),
    "RMSNorm": Case(behind_linear(nn.RMSNorm(WIDTH, eps=1e-6)), rows),
    "GroupNorm": Case(lambda: nn.GroupNorm(2, 4), pictures),
    "BatchNorm1d": Case(behind_linear(nn.BatchNorm1d(WIDTH), bias=False), rows),
    "BatchNorm1d in evaluation": Case(behind_linear(nn.BatchNorm1d(WIDTH).eval()), rows),
    "BatchNorm2d without running statistics": Case(lambda: nn.BatchNorm2d(4, track_running_stats=False), pictures),
    "InstanceNorm2d": Case(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), pictures),
    "GELU": Case(behind_linear(nn.GELU()), rows),
    "activations": Case(
        behind_linear(nn.SiLU(), nn.Mish(), nn.ELU(0.5), nn.Softplus(), nn.Hardswish(), nn.Softsign(), nn.LogSigmoid()),
        rows,
    ),
    "PReLU and GLU": Case(behind_linear(nn.PReLU(), nn.GLU()), rows),
    "Softmax": Case(behind_linear(nn.Softmax(dim=-1)), rows),
    "Dropout in evaluation": Case(behind_linear(nn.Dropout(0.5).eval()), rows),
    "Embedding": Case(lambda: nn.Embedding(10, WIDTH, padding_idx=2), words),
    "CrossEntropyLoss": Case(behind_linear(), rows, nn.CrossEntropyLoss(label_smoothing=0.1), classes_of),
    "NLLLoss": Case(behind_linear(nn.LogSoftmax(dim=1)), rows, F.nll_loss, classes_of),
    "BCEWithLogitsLoss": Case(
        behind_linear(), rows, nn.BCEWithLogitsLoss(pos_weight=torch.arange(1.0, WIDTH + 1)), truths
    ),
    "KLDivLoss": Case(behind_linear(nn.LogSoftmax(dim=1)), rows, nn.KLDivLoss(reduction="batchmean"), likelihoods),
    "SmoothL1Loss": Case(behind_linear(), rows, nn.SmoothL1Loss(reduction="sum", beta=0.5)),
    "residual model with tied weights": Case(TiedModel, words, F.cross_entropy, classes_of),
    "shapes": Case(Shapes, lambda: (*rows(), *rows())),
    "writes in place": Case(WritesInPlace, rows),
}


def example_of(case: Case, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    """A module, its inputs and its target."""
    torch.manual_seed(seed)
    module = case.module()
    example = case.example()
    forms = [part.training for part in module.modules()]
    with torch.no_grad():
        result = module.eval()(*example)
    for part, training in zip(module.modules(), forms, strict=True):
        part.training = training
    return module, example, case.target(result)
