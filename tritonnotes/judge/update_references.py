"""What each update rule means in torch alone, from the pages of torch.optim and the papers: the witness for kernels.

A reference takes what the rule's formula takes, as tensors and Python numbers: `(p, g, *state, **hyperparameters) ->
(p, *state, *numbers)`, None for state that is not kept. `step` counts from 1. Nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ir.core.optimizer import Optimizer

Tensors = dict[str, Tensor]


def _sgd(p: Tensor, g: Tensor, *, lr: float, weight_decay: float = 0.0) -> tuple[Tensor]:
    return (torch.sub(p, torch.add(g, p, alpha=weight_decay), alpha=lr),)


def _momentum(
    p: Tensor, g: Tensor, velocity: Tensor, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
) -> tuple[Tensor, Tensor]:
    velocity = torch.add(velocity * momentum, torch.add(g, p, alpha=weight_decay), alpha=lr)
    return p - velocity, velocity


def _sgd_momentum(
    p: Tensor,
    g: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    step: int,
) -> tuple[Tensor, Tensor]:
    g = torch.add(g, p, alpha=weight_decay)
    older = momentum_buffer * momentum
    plain = step == 1 or momentum == 0
    momentum_buffer = g.clone() if plain else torch.add(older, g, alpha=1 - dampening)
    return torch.sub(p, momentum_buffer, alpha=lr), momentum_buffer


def _nesterov(
    p: Tensor,
    g: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    step: int,
) -> tuple[Tensor, Tensor]:
    g = torch.add(g, p, alpha=weight_decay)
    momentum_buffer = g.clone() if step == 1 else torch.add(g, momentum_buffer, alpha=momentum)
    return torch.sub(p, torch.add(g, momentum_buffer, alpha=momentum), alpha=lr), momentum_buffer


def _lion(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    update = torch.add(exp_avg * beta1, g, alpha=1 - beta1)
    p = torch.sub(p * (1 - lr * weight_decay), torch.sign(update), alpha=lr)
    return p, torch.lerp(exp_avg, g, 1 - beta2)


def _adagrad(
    p: Tensor,
    g: Tensor,
    sum: Tensor,
    *,
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    step: int,
) -> tuple[Tensor, Tensor]:
    g = torch.add(g, p, alpha=weight_decay)
    sum = torch.addcmul(sum, g, g)
    return torch.addcdiv(p, g, sum.sqrt().add(eps), value=-lr / (1 + (step - 1) * lr_decay)), sum


def _adadelta(
    p: Tensor,
    g: Tensor,
    square_avg: Tensor,
    acc_delta: Tensor,
    *,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.add(g, p, alpha=weight_decay)
    square_avg = torch.addcmul(square_avg * rho, g, g, value=1 - rho)
    delta = g * acc_delta.add(eps).sqrt().div(square_avg.add(eps).sqrt())
    acc_delta = torch.addcmul(acc_delta * rho, delta, delta, value=1 - rho)
    return torch.sub(p, delta, alpha=lr), square_avg, acc_delta


def _rmsprop(
    p: Tensor,
    g: Tensor,
    square_avg: Tensor,
    momentum_buffer: Tensor | None,
    grad_avg: Tensor | None,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    g = torch.add(g, p, alpha=weight_decay)
    square_avg = torch.addcmul(square_avg * alpha, g, g, value=1 - alpha)
    spread = square_avg
    if grad_avg is not None:
        grad_avg = torch.lerp(grad_avg, g, 1 - alpha)
        spread = torch.addcmul(square_avg, grad_avg, grad_avg, value=-1)
    root = spread.sqrt().add(eps)
    if momentum_buffer is None:
        return torch.addcdiv(p, g, root, value=-lr), square_avg, None, grad_avg
    momentum_buffer = torch.addcdiv(momentum_buffer * momentum, g, root)
    return torch.sub(p, momentum_buffer, alpha=lr), square_avg, momentum_buffer, grad_avg


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


def _adamw(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    weight_decay: float = 0.01,
    **others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return _adam(p * (1 - lr * weight_decay), g, exp_avg, exp_avg_sq, lr=lr, **others)


def _amsgrad(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    step: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p, g = _decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
    exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
    max_exp_avg_sq = torch.maximum(max_exp_avg_sq, exp_avg_sq)
    unbiased_square = max_exp_avg_sq / (1 - beta2**step)
    p = torch.addcdiv(p, exp_avg, unbiased_square.sqrt().add(eps), value=-lr / (1 - beta1**step))
    return p, exp_avg, exp_avg_sq, max_exp_avg_sq


def _adamax(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_inf: Tensor,
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
    exp_inf = torch.maximum(exp_inf * beta2, g.abs().add(eps))
    return torch.addcdiv(p, exp_avg, exp_inf, value=-lr / (1 - beta1**step)), exp_avg, exp_inf


def _nadam(
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
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    step: int,
    mu_product: float,
) -> tuple[Tensor, Tensor, Tensor, float]:
    p, g = _decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    mu, mu_next = (beta1 * (1 - 0.96 ** (t * momentum_decay) / 2) for t in (step, step + 1))
    mu_product = mu_product * mu
    exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
    exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
    root = exp_avg_sq.div(1 - beta2**step).sqrt().add(eps)
    p = torch.addcdiv(p, g, root, value=-lr * (1 - mu) / (1 - mu_product))
    p = torch.addcdiv(p, exp_avg, root, value=-lr * mu_next / (1 - mu_product * mu_next))
    return p, exp_avg, exp_avg_sq, mu_product


def _radam(
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
    decoupled_weight_decay: bool = False,
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    p, g = _decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    exp_avg = torch.lerp(exp_avg, g, 1 - beta1)
    exp_avg_sq = torch.addcmul(exp_avg_sq * beta2, g, g, value=1 - beta2)
    unbiased = exp_avg / (1 - beta1**step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    if rho <= 5:
        return torch.sub(p, unbiased, alpha=lr), exp_avg, exp_avg_sq
    rectified = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    size = rectified * (1 - beta2**step) ** 0.5
    return torch.addcdiv(p, unbiased, exp_avg_sq.sqrt().add(eps), value=-lr * size), exp_avg, exp_avg_sq


def _ema(p: Tensor, g: Tensor, ema: Tensor, *, ema_decay: float = 0.999, step: int) -> tuple[Tensor, Tensor]:
    return p, p.clone() if step == 1 else torch.lerp(ema, p, 1 - ema_decay)


def _decayed(p: Tensor, g: Tensor, lr: float, weight_decay: float, decoupled: bool) -> tuple[Tensor, Tensor]:
    """Parameter and gradient after weight decay: the one shrinks, or the other grows."""
    if decoupled:
        return p * (1 - lr * weight_decay), g
    return p, torch.add(g, p, alpha=weight_decay)


UPDATE_REFERENCES: dict[str, Callable[..., Any]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "sgd_momentum": _sgd_momentum,
    "nesterov": _nesterov,
    "lion": _lion,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
    "amsgrad": _amsgrad,
    "adamax": _adamax,
    "nadam": _nadam,
    "radam": _radam,
    "ema": _ema,
}
"""The reference of each update rule, by name (`custom.<name>` for a user's own)."""


def reference_step(
    optimizer: Optimizer, p: Tensor, g: Tensor, state: Mapping[str, Tensor], step: int, numbers: Mapping[str, float]
) -> tuple[Tensor, Tensors, dict[str, float]]:
    """One step in torch alone: the new parameter, its state and its numbers. Nothing given is changed.

    `p` is taken for the only parameter where gradients are clipped by their norm.
    """
    if "max_norm" in optimizer.clip:
        norm = torch.linalg.vector_norm(g.float() if g.dtype.itemsize < 4 else g)
        g = g * (optimizer.clip["max_norm"] / (norm + 1e-6)).clamp(max=1.0).to(g.dtype)
    if "max_value" in optimizer.clip:
        g = g.clamp(-optimizer.clip["max_value"], optimizer.clip["max_value"])
    if optimizer.maximize:
        g = -g
    new_state, new_numbers = dict[str, Tensor](), dict[str, float]()
    for part in optimizer.parts:
        rule = part.rule
        counted = {"step": step} if "step" in rule.defaults else {}
        kept = [state.get(name) for name in rule.state]
        given = {name: numbers[name] for name in rule.numbers}
        p, *results = UPDATE_REFERENCES[rule.name](p, g, *kept, **part.hyperparameters, **counted, **given)
        count = len(rule.state)
        new_state |= {n: t for n, t in zip(rule.state, results[:count], strict=True) if t is not None}
        new_numbers |= dict(zip(rule.numbers, results[count:], strict=True))
    return p, new_state, new_numbers
