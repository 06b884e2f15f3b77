"""Update rules: how an optimizer changes a parameter, in primitives."""

from __future__ import annotations

from typing import Any

from . import primitives as P
from .graph import Value
from .registry import Note, update_rule


def is_set(hyperparameter: Any) -> bool:
    """Whether a hyperparameter is in play: known only when the step runs, or not 0."""
    return isinstance(hyperparameter, Value) or bool(hyperparameter)


@update_rule(
    note=Note(
        formula="p ← p − lr · (g + weight_decay · p)",
        derivative="",
        strengths="No state, one multiply-add; steadier than single samples when g is a batch's mean.",
        weaknesses="One rate for all parameters; slow along flat directions; stalls at saddle points.",
        use="Large batches, well-conditioned problems, and as the baseline that others must beat.",
        source="torch.optim.SGD",
    )
)
def sgd(p, g, *, lr, weight_decay=0.0):
    """p ← p − lr · g"""
    if is_set(weight_decay):
        g = g + weight_decay * p
    return (p - lr * g,)


@update_rule(
    state=("momentum_buffer",),
    note=Note(
        formula="v ← momentum · v + (1 − dampening) · g (first step: v ← g); p ← p − lr · v",
        derivative="",
        strengths="Averages past gradients: steady along a valley, damped across it.",
        weaknesses="Overshoots at a large rate; lr scales past steps too, unlike in v ← momentum · v + lr · g.",
        use="Vision networks with a schedule; momentum 0.9.",
        source="torch.optim.SGD; Sutskever et al., 2013",
    ),
)
def sgd_momentum(p, g, momentum_buffer, *, lr, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, step):
    """v ← momentum · v + g; p ← p − lr · v"""
    if is_set(weight_decay):
        g = g + weight_decay * p
    fresh = (1 - dampening) * g if is_set(dampening) else g
    # Without momentum torch ignores dampening: each step is plain SGD.
    velocity = P.where((step == 1) | (momentum == 0), g, momentum * momentum_buffer + fresh) if is_set(momentum) else g
    direction = g + momentum * velocity if nesterov else velocity
    return p - lr * direction, velocity


@update_rule(
    state=("exp_avg", "exp_avg_sq"),
    note=Note(
        formula="m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)",
        derivative="",
        strengths="A step size for every parameter; little tuning; the bias correction makes early steps right.",
        weaknesses="Two more tensors per parameter; need not converge; L2 decay is scaled by √v̂ too.",
        use="The usual first choice. eps stands outside the root, as in torch and in the paper's algorithm.",
        source="torch.optim.Adam; Kingma and Ba, 2015",
    ),
)
def adam(p, g, exp_avg, exp_avg_sq, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, step):
    """p ← p − lr · m̂ / (√v̂ + eps)"""
    if is_set(weight_decay):
        g = g + weight_decay * p
    mean = beta1 * exp_avg + (1 - beta1) * g
    mean_square = beta2 * exp_avg_sq + (1 - beta2) * g * g
    step_size = lr / (1 - beta1**step)
    root_correction = P.sqrt(1 - beta2**step)
    denominator = P.sqrt(mean_square) / root_correction + eps
    return p - step_size * mean / denominator, mean, mean_square
