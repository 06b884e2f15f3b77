"""What each op and primitive means in torch alone: the independent witness that formulas and kernels are compared with.

A reference takes what the op's formula takes: a tensor for each argument (None where an optional one is absent, and for
an elementwise primitive a Python number where a constant stands), then the attributes by keyword, with every `Dim`
replaced by its size. It returns one tensor, and torch's autograd gives its gradient. Nothing here knows a formula.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .ir.errors import DeclarationError
from .ir.types import DType

Reference = Callable[..., Any]

REFERENCES: dict[str, Reference] = {}
"""The reference of each op and of each primitive that is not fed, by name (`custom.<name>` for a user's own)."""

UPDATE_REFERENCES: dict[str, Reference] = {}
"""For each update rule `(p, g, *state, **hyperparameters) -> (p, *state)` in plain torch; `step` counts from 1."""


def register_reference(name: str, reference: Reference) -> None:
    """Make `reference` what the op called `name` is compared with. Raises `DeclarationError` unless it is callable."""
    REFERENCES[name] = _callable(f"op {name!r}", reference)


def register_update_reference(name: str, reference: Reference) -> None:
    """Make `reference` what the update rule called `name` is compared with; errors as for `register_reference`."""
    UPDATE_REFERENCES[name] = _callable(f"update rule {name!r}", reference)


def _callable(what: str, reference: object) -> Reference:
    if not callable(reference):
        raise DeclarationError(
            f"{what}: reference is {reference!r}, which cannot be called; pass a function in plain torch, as in "
            "reference=torch.nn.functional.mish"
        )
    return reference


def torch_dtype(dtype: DType) -> torch.dtype:
    """torch's dtype of the same name; a host number is a float64."""
    return torch.float64 if dtype.name == "host" else getattr(torch, dtype.name)


# -- ops --


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, dims: int, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[x.ndim - dims :], weight, bias, eps)


def _cross_entropy(logits: Tensor, target: Tensor, *, ignore_index: int, reduction: str) -> Tensor:
    # int32 class indices are accepted here; torch takes int64 alone.
    return F.cross_entropy(logits, target.long(), ignore_index=ignore_index, reduction=reduction)


def _mse_loss(input: Tensor, target: Tensor, *, reduction: str) -> Tensor:
    # The declaration has warned of shapes that differ; broadcasting first keeps torch from warning at every call.
    input, target = torch.broadcast_tensors(input, target)
    return F.mse_loss(input, target, reduction=reduction)


def _accuracy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.argmax(-1) == target).float().mean()


# -- primitives --


def _extremum(meaning: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    """torch.maximum and torch.minimum take tensors alone; a number becomes one of the other argument's dtype."""

    def reference(a: Tensor | float, b: Tensor | float) -> Tensor:
        if not isinstance(a, Tensor):
            assert isinstance(b, Tensor)
            a = b.new_tensor(a)
        return meaning(a, b if isinstance(b, Tensor) else a.new_tensor(b))

    return reference


def _logical(meaning: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    return lambda a, b: meaning(torch.as_tensor(a), torch.as_tensor(b))


def _reduction(meaning: Callable[..., Tensor]) -> Reference:
    # torch reads an empty tuple of axes as "all".
    return lambda x, *, axes: meaning(x, dim=axes, keepdim=True) if axes else x


def _iota(*, size: int, before: int, after: int) -> Tensor:
    return torch.arange(size).reshape((1,) * before + (size,) + (1,) * after)


def _matmul(a: Tensor, b: Tensor, *, transpose_b: bool) -> Tensor:
    return torch.matmul(a, b.t() if transpose_b else b)


def _matmul_over_rows(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("...m,...n->mn", a, b)


REFERENCES |= {
    "linear": F.linear,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "layer_norm": _layer_norm,
    "cross_entropy": _cross_entropy,
    "mse_loss": _mse_loss,
    "accuracy": _accuracy,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "floor": torch.floor,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "maximum": _extremum(torch.maximum),
    "minimum": _extremum(torch.minimum),
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "logical_and": _logical(torch.logical_and),
    "logical_or": _logical(torch.logical_or),
    "logical_not": torch.logical_not,
    "where": lambda condition, a, b: torch.where(torch.as_tensor(condition), a, b),
    "copy": torch.clone,
    "cast": lambda x, *, dtype: x.to(torch_dtype(dtype)),
    # torch widens the sum of small integers to int64; a graph keeps the dtype it declared.
    "sum": _reduction(lambda x, dim, keepdim: torch.sum(x, dim, keepdim, dtype=x.dtype)),
    "max": _reduction(torch.amax),
    "min": _reduction(torch.amin),
    "iota": _iota,
    "reshape": lambda x, *, shape: torch.reshape(x, shape),
    "transpose": lambda x, *, axes: torch.permute(x, axes),
    "broadcast_to": lambda x, *, shape: torch.broadcast_to(x, shape),
    "matmul": _matmul,
    "matmul_over_rows": _matmul_over_rows,
}


# -- update rules, from the algorithms in the pages of torch.optim.SGD and torch.optim.Adam --


def _sgd(p: Tensor, g: Tensor, *, lr: float, weight_decay: float = 0.0) -> tuple[Tensor]:
    return (torch.sub(p, torch.add(g, p, alpha=weight_decay), alpha=lr),)


def _sgd_momentum(
    p: Tensor,
    g: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    step: int,
) -> tuple[Tensor, Tensor]:
    g = torch.add(g, p, alpha=weight_decay)
    older = momentum_buffer * momentum
    plain = step == 1 or momentum == 0
    momentum_buffer = g.clone() if plain else torch.add(older, g, alpha=1 - dampening)
    g = torch.add(g, momentum_buffer, alpha=momentum) if nesterov else momentum_buffer
    return torch.sub(p, g, alpha=lr), momentum_buffer


def _adam(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.add(g, p, alpha=weight_decay)
    exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
    exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
    unbiased_mean = exp_avg / (1 - beta1**step)
    unbiased_square = exp_avg_sq / (1 - beta2**step)
    return p - lr * unbiased_mean / (unbiased_square.sqrt() + eps), exp_avg, exp_avg_sq


UPDATE_REFERENCES |= {"sgd": _sgd, "sgd_momentum": _sgd_momentum, "adam": _adam}
