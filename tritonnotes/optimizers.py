"""Optimizers with torch's arguments: each gives an update rule with its numbers to `tn.compile_step`."""

from __future__ import annotations

from .ir.errors import DeclarationError
from .ir.registry import Optimizer
from .ir.update_rules import adam as adam_rule
from .ir.update_rules import sgd as sgd_rule
from .ir.update_rules import sgd_momentum


def sgd(
    lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent with torch.optim.SGD's arguments and defaults. Raises for what torch refuses."""
    _check("sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)
    if nesterov and (momentum <= 0 or dampening != 0):
        raise DeclarationError("sgd: nesterov needs a momentum above 0 and no dampening")
    if momentum == 0:
        return sgd_rule(lr=lr, weight_decay=weight_decay)
    return sgd_momentum(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)


def adam(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Adam with torch.optim.Adam's arguments and defaults. Raises for what torch refuses."""
    _check("adam", lr=lr, eps=eps, weight_decay=weight_decay)
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise DeclarationError(f"adam: betas[{i}] is {beta}; it must lie in [0, 1)")
    return adam_rule(lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay)


def _check(rule: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not number >= 0:
            raise DeclarationError(f"{rule}: {name} is {number}; it must be 0 or more")
