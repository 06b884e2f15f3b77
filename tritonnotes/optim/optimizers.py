"""Optimizers with torch's arguments: each gives an update rule with its numbers to `tn.compile_step`.

Raised where torch raises: rates and sizes below 0, betas outside [0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir import update_rules as rules
from ..ir.core.errors import DeclarationError
from ..ir.core.optimizer import UPDATE_RULES, Optimizer, check_hyperparameters


def sgd(
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Stochastic gradient descent with torch.optim.SGD's arguments and defaults."""
    _check("sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)
    if nesterov and (momentum <= 0 or dampening != 0):
        raise DeclarationError("sgd: nesterov needs a momentum above 0 and no dampening")
    if momentum == 0:
        made = rules.sgd(lr=lr, weight_decay=weight_decay)
    elif nesterov:
        made = rules.nesterov(lr=lr, momentum=momentum, weight_decay=weight_decay)
    else:
        made = rules.sgd_momentum(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
    return replace(made, maximize=maximize)


def momentum(
    lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0, *, maximize: bool = False
) -> Optimizer:
    """Momentum with the rate inside: v ← momentum · v + lr · g; p ← p − v. `tn.sgd(momentum=…)` is torch's form."""
    _check("momentum", lr=lr, momentum=momentum, weight_decay=weight_decay)
    return replace(rules.momentum(lr=lr, momentum=momentum, weight_decay=weight_decay), maximize=maximize)


def nesterov(
    lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0, *, maximize: bool = False
) -> Optimizer:
    """Nesterov's momentum: torch.optim.SGD with nesterov=True."""
    return sgd(lr, momentum, 0.0, weight_decay, True, maximize=maximize)


def adagrad(
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adagrad with torch.optim.Adagrad's arguments and defaults."""
    given = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
    given["initial_accumulator_value"] = initial_accumulator_value
    _check("adagrad", **given)
    return replace(rules.adagrad(**given), maximize=maximize)


def adadelta(
    lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, *, maximize: bool = False
) -> Optimizer:
    """Adadelta with torch.optim.Adadelta's arguments and defaults."""
    _check("adadelta", lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
    return replace(rules.adadelta(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay), maximize=maximize)


def rmsprop(
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """RMSprop with torch.optim.RMSprop's arguments and defaults."""
    given = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
    _check("rmsprop", **given)
    return replace(rules.rmsprop(**given, centered=centered), maximize=maximize)


def adam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with torch.optim.Adam's arguments and defaults."""
    given = _adaptive("adam", lr, betas, eps, weight_decay)
    if amsgrad:
        made = rules.amsgrad(**given, decoupled_weight_decay=decoupled_weight_decay)
    else:
        made = (rules.adamw if decoupled_weight_decay else rules.adam)(**given)
    return replace(made, maximize=maximize)


def adamw(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """AdamW with torch.optim.AdamW's arguments and defaults."""
    return adam(lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


def nadam(
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """NAdam with torch.optim.NAdam's arguments and defaults."""
    _check("nadam", momentum_decay=momentum_decay)
    given = _adaptive("nadam", lr, betas, eps, weight_decay) | {"momentum_decay": momentum_decay}
    return replace(rules.nadam(**given, decoupled_weight_decay=decoupled_weight_decay), maximize=maximize)


def radam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """RAdam with torch.optim.RAdam's arguments and defaults."""
    given = _adaptive("radam", lr, betas, eps, weight_decay)
    return replace(rules.radam(**given, decoupled_weight_decay=decoupled_weight_decay), maximize=maximize)


def adamax(
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adamax with torch.optim.Adamax's arguments and defaults."""
    return replace(rules.adamax(**_adaptive("adamax", lr, betas, eps, weight_decay)), maximize=maximize)


def lion(
    lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *, maximize: bool = False
) -> Optimizer:
    """Lion with its authors' arguments and defaults."""
    given = _adaptive("lion", lr, betas, 0.0, weight_decay)
    del given["eps"]
    return replace(rules.lion(**given), maximize=maximize)


def ema(optimizer: Optimizer, decay: float = 0.999) -> Optimizer:
    """`optimizer`, then a decaying mean of the parameters: the state `ema` holds it, the first step fills it."""
    check_hyperparameters("ema", {"decay": decay})
    if not 0.0 <= decay <= 1.0:
        raise DeclarationError(f"ema: decay is {decay}; it must lie in [0, 1]")
    return optimizer.followed_by(rules.ema(ema_decay=decay))


def clip(optimizer: Optimizer, max_norm: float | None = None, max_value: float | None = None) -> Optimizer:
    """`optimizer` with gradients scaled down until the norm of all together is at most `max_norm`, as
    torch.nn.utils.clip_grad_norm_ does, then each number held within ±`max_value`."""
    given = {name: size for name, size in (("max_norm", max_norm), ("max_value", max_value)) if size is not None}
    _check("clip", **given)
    clashes = sorted(set(given) & {*optimizer.settings, *optimizer.state, *optimizer.numbers} - set(optimizer.clip))
    if clashes:
        raise DeclarationError(f"clip of {optimizer}: both have {', '.join(clashes)}; rename it in the rule")
    return replace(optimizer, clip={**optimizer.clip, **given})


def _adaptive(rule: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> dict[str, float]:
    _check(rule, lr=lr, eps=eps, weight_decay=weight_decay)
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise DeclarationError(f"{rule}: betas is {betas!r}; it must be two numbers, as in (0.9, 0.999)")
    for i, beta in enumerate(betas):
        check_hyperparameters(rule, {f"betas[{i}]": beta})
        if not 0.0 <= beta < 1.0:
            raise DeclarationError(f"{rule}: betas[{i}] is {beta}; it must lie in [0, 1)")
    return {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}


def _check(rule: str, **numbers: float) -> None:
    check_hyperparameters(rule, numbers)


# What users read of a function that gives a rule is what the rule's note says.
for _name, _rule in UPDATE_RULES.items():
    if _name in globals() and _rule.note is not None:
        globals()[_name].__doc__ = _rule.note.below(globals()[_name].__doc__)
