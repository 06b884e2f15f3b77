"""Update rules: how an optimizer changes a parameter, in primitives.

`p` is the parameter, `g` its gradient; the state and the options bear torch's names. Where ε stands is part of each
note, since papers and torch differ.
"""

from __future__ import annotations

from typing import Any

from .. import primitives as P
from ..core.graph import Value
from ..core.optimizer import update_rule
from ..core.registry import Note

FAMILY = "update rules"


def is_set(hyperparameter: Any) -> bool:
    """Whether a hyperparameter is in play: known only when the step runs, or not 0."""
    return isinstance(hyperparameter, Value) or bool(hyperparameter)


def _penalized(p: Value, g: Value, weight_decay: Any) -> Value:
    """The gradient of the loss with half of weight_decay times the squared parameter added."""
    return g + weight_decay * p if is_set(weight_decay) else g


def _shrunk(p: Value, lr: Any, weight_decay: Any) -> Value:
    """The parameter after a decay of its own, which no moment sees."""
    if not is_set(weight_decay):
        return p
    shrinkage = 1 - lr * weight_decay
    return shrinkage * p


def _moved(mean: Value, value: Value, weight: Any) -> Value:
    """A decaying mean, moved towards a new value by `weight`, as torch.lerp does it: the weights of old and new add up
    to 1 however they are rounded, so the mean is not off by their error times 1 / weight."""
    return mean + weight * (value - mean)


# -- one rate for all --


@update_rule(
    note=Note(
        formula="p ← p − lr · (g + weight_decay · p)",
        derivative="",
        strengths="No state, one multiply-add; less noise than single samples if g is the mean of a batch.",
        weaknesses="One rate for all, and hard to choose; slow along flat directions; stalls at saddle points.",
        use="Large batches, well-conditioned problems, and as a baseline.",
        source="torch.optim.SGD; Robbins and Monro, 1951",
    )
)
def sgd(p, g, *, lr, weight_decay=0.0):
    """p ← p − lr · g"""
    gradient = _penalized(p, g, weight_decay)
    return (p - lr * gradient,)


@update_rule(
    state=("velocity",),
    note=Note(
        formula="v ← momentum · v + lr · g; p ← p − v",
        derivative="",
        strengths="Past steps keep the rate at which they were made, so a lower rate does not shorten them.",
        weaknesses="After the rate is lowered, steps keep their old size for about 1 / (1 − momentum) steps.",
        use="For texts that define momentum like this; equal to torch's form as long as lr stays the same.",
        source="Polyak, 1964; Qian, 1999",
    ),
)
def momentum(p, g, velocity, *, lr, momentum=0.9, weight_decay=0.0):
    """v ← momentum · v + lr · g; p ← p − v"""
    gradient = _penalized(p, g, weight_decay)
    step_taken = momentum * velocity + lr * gradient
    return p - step_taken, step_taken


@update_rule(
    state=("momentum_buffer",),
    note=Note(
        formula="v ← momentum · v + (1 − dampening) · g (first step: v ← g); p ← p − lr · v",
        derivative="",
        strengths="Averages past gradients: fast where the gradient is steady, damped where its sign changes.",
        weaknesses="Overshoots at a large rate; lr scales past steps too, unlike in v ← momentum · v + lr · g.",
        use="Vision networks with a schedule; momentum 0.9.",
        source="torch.optim.SGD; Sutskever et al., 2013",
    ),
)
def sgd_momentum(p, g, momentum_buffer, *, lr, momentum=0.9, dampening=0.0, weight_decay=0.0, step):
    """v ← momentum · v + g; p ← p − lr · v"""
    gradient = _penalized(p, g, weight_decay)
    fresh = (1 - dampening) * gradient if is_set(dampening) else gradient
    # Without momentum torch ignores dampening: each step is plain SGD.
    if not is_set(momentum):
        return p - lr * gradient, gradient
    velocity = P.where((step == 1) | (momentum == 0), gradient, momentum * momentum_buffer + fresh)
    return p - lr * velocity, velocity


@update_rule(
    state=("momentum_buffer",),
    note=Note(
        formula="v ← momentum · v + g (first step: v ← g); p ← p − lr · (g + momentum · v)",
        derivative="",
        strengths="Uses the gradient ahead of the step, so it overshoots less than plain momentum.",
        weaknesses="The proven speed-up holds for convex problems with exact gradients; noise removes most of it.",
        use="In place of momentum in vision networks, at the same cost.",
        source="torch.optim.SGD with nesterov=True; Nesterov, 1983; Sutskever et al., 2013",
    ),
)
def nesterov(p, g, momentum_buffer, *, lr, momentum=0.9, weight_decay=0.0, step):
    """v ← momentum · v + g; p ← p − lr · (g + momentum · v)"""
    gradient = _penalized(p, g, weight_decay)
    velocity = P.where(step == 1, gradient, momentum * momentum_buffer + gradient)
    lookahead = gradient + momentum * velocity
    return p - lr * lookahead, velocity


@update_rule(
    state=("exp_avg",),
    note=Note(
        formula="p ← p − lr · (sign(β₁ · m + (1 − β₁) · g) + weight_decay · p); m ← β₂ · m + (1 − β₂) · g",
        derivative="",
        strengths="One tensor of state; every element moves by exactly lr, so all layers move equally fast.",
        weaknesses="Step sizes never decrease by themselves: needs a schedule, and a rate 3 to 10 times below Adam's.",
        use="Large batches, where the sign is reliable; weight_decay 3 to 10 times Adam's. It has no ε.",
        source="Chen et al., 2023",
    ),
)
def lion(p, g, exp_avg, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Step by the sign of an interpolated momentum; the decay is decoupled."""
    direction = P.sign(beta1 * exp_avg + (1 - beta1) * g)
    mean = _moved(exp_avg, g, 1 - beta2)
    return _shrunk(p, lr, weight_decay) - lr * direction, mean


# -- a rate for each number, from the size of its gradients --


@update_rule(
    state=("sum",),
    initial={"sum": "initial_accumulator_value"},
    note=Note(
        formula="s ← s + g²; p ← p − lr / (1 + (t − 1) · lr_decay) · g / (√s + eps)",
        derivative="",
        strengths="Rare features keep a large rate; the rate hardly needs tuning (0.01).",
        weaknesses="The sum only grows, so the rate of every parameter decreases towards 0.",
        use="Sparse features, convex problems. eps stands outside the root, as in torch and in the paper.",
        source="torch.optim.Adagrad; Duchi et al., 2011",
    ),
)
def adagrad(p, g, sum, *, lr, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, step):
    """s ← s + g²; p ← p − lr · g / (√s + eps)"""
    gradient = _penalized(p, g, weight_decay)
    sum_of_squares = sum + gradient * gradient
    rate = lr / (1 + (step - 1) * lr_decay) if is_set(lr_decay) else lr
    return p - rate * gradient / (P.sqrt(sum_of_squares) + eps), sum_of_squares


@update_rule(
    state=("square_avg", "acc_delta"),
    note=Note(
        formula="v ← ρ · v + (1 − ρ) · g²; Δ = √(u + eps) / √(v + eps) · g; u ← as v, of Δ²; p ← p − lr · Δ",
        derivative="",
        strengths="No rate to choose: steps have the parameter's own units, lr = 1 is the paper's rule.",
        weaknesses="Starts slowly, because the first steps are about √eps; two tensors of state.",
        use="Where no rate can be tuned. eps stands inside both roots, here, in torch and in the paper.",
        source="torch.optim.Adadelta; Zeiler, 2012",
    ),
)
def adadelta(p, g, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0):
    """Δ = RMS(past Δ) / RMS(g) · g; p ← p − lr · Δ"""
    gradient = _penalized(p, g, weight_decay)
    mean_square = rho * square_avg + (1 - rho) * gradient * gradient
    delta = P.sqrt(acc_delta + eps) / P.sqrt(mean_square + eps) * gradient
    mean_square_delta = rho * acc_delta + (1 - rho) * delta * delta
    return p - lr * delta, mean_square, mean_square_delta


@update_rule(
    state=("square_avg", "momentum_buffer", "grad_avg"),
    only_with={"momentum_buffer": "momentum", "grad_avg": "centered"},
    note=Note(
        formula="v ← α · v + (1 − α) · g²; p ← p − lr · g / (√v + eps); centered: v less the square of the mean of g",
        derivative="",
        strengths="Adagrad with a decaying average: the rate follows the recent size of the gradient.",
        weaknesses="No bias correction, so the first steps are large; centered subtracts nearly equal numbers.",
        use="Recurrent networks, reinforcement learning. eps stands outside the root, as in torch.",
        source="torch.optim.RMSprop; Hinton's lecture 6e, 2012; centered: Graves, 2013",
    ),
)
def rmsprop(
    p, g, square_avg, momentum_buffer, grad_avg,
    *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False,
):  # fmt: skip
    """v ← α · v + (1 − α) · g²; p ← p − lr · g / (√v + eps)"""
    gradient = _penalized(p, g, weight_decay)
    mean_square = alpha * square_avg + (1 - alpha) * gradient * gradient
    mean = _moved(grad_avg, gradient, 1 - alpha) if centered else None
    variance = mean_square if mean is None else mean_square - mean * mean
    direction = gradient / (P.sqrt(variance) + eps)
    velocity = momentum * momentum_buffer + direction if is_set(momentum) else None
    return p - lr * (direction if velocity is None else velocity), mean_square, velocity, mean


# -- the same, with a mean of the gradient --


def _moments(g: Value, exp_avg: Value, exp_avg_sq: Value, beta1: Any, beta2: Any) -> tuple[Value, Value]:
    """Decaying means of the gradient and of its square, the latter in the form that keeps an infinity one."""
    mean = _moved(exp_avg, g, 1 - beta1) if is_set(beta1) else g
    mean_square = beta2 * exp_avg_sq + (1 - beta2) * g * g
    return mean, mean_square


def _root(mean_square: Value, beta2: Any, eps: Any, step: Any) -> Value:
    """The root of a mean of squares that started from 0, and eps outside of it."""
    root_correction = P.sqrt(1 - beta2**step)
    denominator = P.sqrt(mean_square) / root_correction + eps
    return denominator


@update_rule(
    state=("exp_avg", "exp_avg_sq"),
    note=Note(
        formula="m, v ← decaying means of g, g²; p ← p − lr · m̂ / (√v̂ + eps), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)",
        derivative="",
        strengths="A step size for every parameter; little tuning; the bias correction fixes the size of early steps.",
        weaknesses="Two more tensors per parameter; need not converge; L2 decay is scaled by √v̂ too.",
        use="The usual first choice. eps stands outside the root, as in torch and in the paper's algorithm.",
        source="torch.optim.Adam; Kingma and Ba, 2015",
    ),
)
def adam(p, g, exp_avg, exp_avg_sq, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, step):
    """p ← p − lr · m̂ / (√v̂ + eps)"""
    gradient = _penalized(p, g, weight_decay)
    mean, mean_square = _moments(gradient, exp_avg, exp_avg_sq, beta1, beta2)
    step_size = lr / (1 - beta1**step)
    return p - step_size * mean / _root(mean_square, beta2, eps, step), mean, mean_square


@update_rule(
    state=("exp_avg", "exp_avg_sq"),
    note=Note(
        formula="p ← (1 − lr · weight_decay) · p, then Adam's step without decay in the gradient",
        derivative="",
        strengths="All parameters decay at the same rate, whatever their gradients; decay and lr tune separately.",
        weaknesses="The decay scales with lr, so a schedule changes it; exclude biases and the weights of norms.",
        use="Transformers; weight_decay 0.01 to 0.1. eps as in adam.",
        source="torch.optim.AdamW; Loshchilov and Hutter, 2019",
    ),
)
def adamw(p, g, exp_avg, exp_avg_sq, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, step):
    """p ← (1 − lr · weight_decay) · p − lr · m̂ / (√v̂ + eps)"""
    mean, mean_square = _moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    step_size = lr / (1 - beta1**step)
    decayed = _shrunk(p, lr, weight_decay)
    return decayed - step_size * mean / _root(mean_square, beta2, eps, step), mean, mean_square


@update_rule(
    state=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    note=Note(
        formula="m, v as in adam; w ← max(w, v); p ← p − lr · m̂ / (√ŵ + eps), ŵ = w / (1 − β₂ᵗ)",
        derivative="",
        strengths="The rate of a parameter never increases, which gives the proof of convergence that Adam lacks.",
        weaknesses="A third tensor of state; one large gradient slows its parameter permanently; seldom better.",
        use="Where Adam does not converge. Torch corrects the bias after the maximum, the paper not at all.",
        source="torch.optim.Adam with amsgrad=True; Reddi et al., 2018",
    ),
)
def amsgrad(
    p, g, exp_avg, exp_avg_sq, max_exp_avg_sq,
    *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False, step,
):  # fmt: skip
    """p ← p − lr · m̂ / (√ŵ + eps), ŵ from the largest v so far"""
    gradient = g if decoupled_weight_decay else _penalized(p, g, weight_decay)
    mean, mean_square = _moments(gradient, exp_avg, exp_avg_sq, beta1, beta2)
    largest = P.maximum(max_exp_avg_sq, mean_square)
    step_size = lr / (1 - beta1**step)
    decayed = _shrunk(p, lr, weight_decay) if decoupled_weight_decay else p
    return decayed - step_size * mean / _root(largest, beta2, eps, step), mean, mean_square, largest


@update_rule(
    state=("exp_avg", "exp_inf"),
    note=Note(
        formula="m ← β₁ · m + (1 − β₁) · g; u ← max(β₂ · u, |g| + eps); p ← p − lr / (1 − β₁ᵗ) · m / u",
        derivative="",
        strengths="The largest recent gradient bounds every step by lr; no root and no second correction.",
        weaknesses="One outlier shortens the steps of its parameter for about 1 / (1 − β₂) steps.",
        use="Embeddings and other sparse gradients. eps stands inside the maximum, as in torch; the paper has none.",
        source="torch.optim.Adamax; Kingma and Ba, 2015",
    ),
)
def adamax(p, g, exp_avg, exp_inf, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, step):
    """u ← max(β₂ · u, |g| + eps); p ← p − lr / (1 − β₁ᵗ) · m / u"""
    gradient = _penalized(p, g, weight_decay)
    mean = _moved(exp_avg, gradient, 1 - beta1) if is_set(beta1) else gradient
    norm = P.maximum(beta2 * exp_inf, abs(gradient) + eps)
    step_size = lr / (1 - beta1**step)
    return p - step_size * mean / norm, mean, norm


@update_rule(
    state=("exp_avg", "exp_avg_sq"),
    numbers={"mu_product": 1.0},
    note=Note(
        formula="p ← p − lr · (μₜ₊₁ · m / (1 − μ₁…μₜ₊₁) + (1 − μₜ) · g / (1 − μ₁…μₜ)) / (√v̂ + eps), m, v as in adam",
        derivative="",
        strengths="Nesterov's look-ahead in Adam: the newest gradient counts more; the momentum warms up.",
        weaknesses="A further schedule (μ), which is rarely tuned; the gain over Adam is small.",
        use="In place of Adam on recurrent and small networks. eps as in adam.",
        source="torch.optim.NAdam; Dozat, 2016",
    ),
)
def nadam(
    p, g, exp_avg, exp_avg_sq,
    *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, momentum_decay=4e-3, decoupled_weight_decay=False,
    step, mu_product,
):  # fmt: skip
    """p ← p − lr · (Nesterov's mean of g) / (√v̂ + eps)"""
    gradient = g if decoupled_weight_decay else _penalized(p, g, weight_decay)
    mean, mean_square = _moments(gradient, exp_avg, exp_avg_sq, beta1, beta2)
    mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
    product = mu_product * mu
    gradient_size = lr * (1 - mu) / (1 - product)
    mean_size = lr * mu_next / (1 - product * mu_next)
    direction = gradient_size * gradient + mean_size * mean
    decayed = _shrunk(p, lr, weight_decay) if decoupled_weight_decay else p
    return decayed - direction / _root(mean_square, beta2, eps, step), mean, mean_square, product


@update_rule(
    state=("exp_avg", "exp_avg_sq"),
    note=Note(
        formula="p ← p − lr · m̂ · (r · √(1 − β₂ᵗ) / (√v + eps) once ρ > 5, 1 before), m, v as in adam",
        derivative="",
        strengths="Built-in warm-up: until the variance is known well enough, its steps are those of momentum.",
        weaknesses="First steps are not scaled, so large gradients give large steps; Adam with a warm-up is as good.",
        use="In place of Adam with a warm-up. eps is added to √v before it is corrected, as in torch.",
        source="torch.optim.RAdam; Liu et al., 2020",
    ),
)
def radam(
    p, g, exp_avg, exp_avg_sq,
    *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False, step,
):  # fmt: skip
    """p ← p − lr · m̂ · (rectified 1 / √v̂ once there are samples enough)"""
    gradient = g if decoupled_weight_decay else _penalized(p, g, weight_decay)
    mean, mean_square = _moments(gradient, exp_avg, exp_avg_sq, beta1, beta2)
    step_size = lr / (1 - beta1**step)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    # Used only where length > 5: kept from dividing by 0 and from negative roots where it is not.
    numerator = P.maximum((length - 4) * (length - 2) * longest, 0)
    denominator = P.maximum((longest - 4) * (longest - 2) * length, 1)
    rectification = P.sqrt((1 - beta2**step) * numerator / denominator)
    scale = P.where(length > 5, rectification / (P.sqrt(mean_square) + eps), 1)
    decayed = _shrunk(p, lr, weight_decay) if decoupled_weight_decay else p
    return decayed - step_size * mean * scale, mean, mean_square


# -- after any rule --


@update_rule(
    state=("ema",),
    note=Note(
        formula="ema ← decay · ema + (1 − decay) · p (first step: ema ← p)",
        derivative="",
        strengths="The average has less noise than single steps, so it is often better on test data.",
        weaknesses="One more tensor; lags behind by about 1 / (1 − decay) steps; batch statistics are not averaged.",
        use="Evaluate with it, train without it; decay 0.999 for long runs, less for short ones.",
        source="torch.optim.swa_utils.get_ema_multi_avg_fn; Polyak and Juditsky, 1992",
    ),
)
def ema(p, g, ema, *, ema_decay=0.999, step):
    """ema ← decay · ema + (1 − decay) · p"""
    average = P.where(step == 1, p, _moved(ema, p, 1 - ema_decay))
    return p, average
