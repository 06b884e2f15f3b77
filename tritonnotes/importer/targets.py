"""What losses of torch compare a result with, where no example of it is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ir.core.errors import DeclarationError
from .arguments import Arguments
from .examples import fake_result


def class_indices(result: Tensor) -> Tensor:
    """An index for each row, of the classes along axis 1."""
    shape = [*result.shape[:1], *result.shape[2:]] if result.ndim > 1 else []
    return torch.zeros(shape, dtype=torch.int64, device=result.device)


def alike(result: Tensor) -> Tensor:
    """As many numbers as the result has, of its dtype."""
    return torch.zeros(result.shape, dtype=result.dtype, device=result.device)


TARGETS: dict[Any, Callable[[Tensor], Tensor]] = {
    F.cross_entropy: class_indices,
    F.nll_loss: class_indices,
    F.multi_margin_loss: class_indices,
    torch.nn.CrossEntropyLoss: class_indices,
    torch.nn.NLLLoss: class_indices,
    torch.nn.MultiMarginLoss: class_indices,
    **dict.fromkeys(
        (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy,
         F.binary_cross_entropy_with_logits, F.kl_div, F.poisson_nll_loss, F.soft_margin_loss,
         torch.nn.MSELoss, torch.nn.L1Loss, torch.nn.SmoothL1Loss, torch.nn.HuberLoss, torch.nn.BCELoss,
         torch.nn.BCEWithLogitsLoss, torch.nn.KLDivLoss, torch.nn.PoissonNLLLoss, torch.nn.SoftMarginLoss),
        alike,
    ),
}  # fmt: skip
"""By the function, or by the class of the module."""


def target_like(module: torch.nn.Module, arguments: Arguments, loss: Callable[..., Any], given_as: str) -> Tensor:
    """An example of what `loss` compares the module's result with. Raises `DeclarationError` where it is no loss of
    torch's, or the result no tensor; one is `given_as` this argument then."""
    known = loss.func if isinstance(loss, partial) else loss
    made = TARGETS.get(known) or TARGETS.get(type(known))
    if made is None:
        raise DeclarationError(
            f"loss: the shape and dtype of the target of {getattr(loss, '__name__', type(loss).__name__)} are not "
            f"known; pass an example of the target: {given_as}=y"
        )
    result = fake_result(module, arguments)
    if not isinstance(result, Tensor):
        raise DeclarationError(
            f"loss: {type(module).__name__} returns a {type(result).__name__}; give a function of it as loss=, and an "
            f"example of what it compares with as {given_as}="
        )
    return made(torch.empty(result.shape, dtype=result.dtype, device=result.device))
