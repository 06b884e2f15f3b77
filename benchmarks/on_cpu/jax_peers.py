"""JAX beside us: whole steps with optax as one jitted program that reuses its buffers, kernels, optimizers.

Imported only where JAX is installed (`pip install 'tritonnotes[peers]'`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import Tensor

from ..kernels import EPS

VERSIONS = {"jax": jax.__version__, "optax": optax.__version__}


def array(tensor: Tensor) -> Any:
    """A tensor's numbers in an array of JAX's own. Class numbers become 32 bits, as JAX has them."""
    return jnp.array(tensor.detach().numpy(), copy=True)


def tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


class JaxOps:
    """The functions that the networks need, under torch's names."""

    relu = staticmethod(jax.nn.relu)
    tanh = staticmethod(jnp.tanh)
    gelu = staticmethod(partial(jax.nn.gelu, approximate=False))
    silu = staticmethod(jax.nn.silu)

    @staticmethod
    def linear(x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight.T + bias

    @staticmethod
    def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        centered = x - mean
        variance = (centered * centered).mean(-1, keepdims=True)
        return centered * jax.lax.rsqrt(variance + EPS) * weight + bias

    @staticmethod
    def permute(x: Any, *axes: int) -> Any:
        return x.transpose(axes)

    @staticmethod
    def reshape(x: Any, *shape: int) -> Any:
        return x.reshape(shape)

    @staticmethod
    def mean(x: Any, axis: int) -> Any:
        return x.mean(axis)

    @staticmethod
    def cross_entropy(logits: Any, target: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

    @staticmethod
    def binary_cross_entropy_with_logits(logits: Any, target: Any) -> Any:
        return optax.sigmoid_binary_cross_entropy(logits, target).mean()


def step(
    loss: Callable[..., Any], weights: Mapping[str, Tensor], batches: Sequence[tuple[Tensor, Tensor]], rate: float
) -> Callable[[int], Any]:
    """A training step with Adam on one of the batches; it returns the loss once all has been computed."""
    rule = optax.adam(rate)
    held = {name: array(w) for name, w in weights.items()}
    state = rule.init(held)
    given = [(array(x), array(y)) for x, y in batches]

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(held: Any, state: Any, x: Any, y: Any) -> Any:
        value, gradients = jax.value_and_grad(lambda w: loss(JaxOps, w, x, y))(held)
        changes, state = rule.update(gradients, state)
        return optax.apply_updates(held, changes), state, value

    def run(number: int) -> Any:
        nonlocal held, state
        held, state, value = update(held, state, *given[number])
        return value.block_until_ready()

    return run


def _rms_norm(x: Any, weight: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def _batch_norm(x: Any, weight: Any, bias: Any) -> Any:
    axes = tuple(a for a in range(x.ndim) if a != 1)
    along = tuple(-1 if a == 1 else 1 for a in range(x.ndim))
    centered = x - x.mean(axes, keepdims=True)
    variance = (centered * centered).mean(axes, keepdims=True)
    return centered * jax.lax.rsqrt(variance + EPS) * weight.reshape(along) + bias.reshape(along)


KERNELS: dict[str, Callable[..., Any]] = {
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "layer_norm": JaxOps.layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "cross_entropy": JaxOps.cross_entropy,
    "glu": lambda gate, value: jax.nn.silu(gate) * value,
    "gelu": lambda x, bias, scale, residual: JaxOps.gelu(x + bias) * scale + residual,
}


def both(
    name: str, inputs: Mapping[str, Tensor], trained: Sequence[str], upstream: Sequence[Tensor]
) -> Callable[[], list[Any]]:
    """The output of a family and the gradients of its inputs, as one program."""
    function = KERNELS[name]
    places = [list(inputs).index(n) for n in trained]
    given = [array(t) for t in inputs.values()]
    seeds = [array(t) for t in upstream]

    @jax.jit
    def run(given: list[Any], seeds: list[Any]) -> Any:
        def of(*differentiated: Any) -> Any:
            merged = list(given)
            for place, value in zip(places, differentiated, strict=True):
                merged[place] = value
            return function(*merged)

        output, pull = jax.vjp(of, *(given[p] for p in places))
        return [output, *pull(seeds[0] if seeds else jnp.ones_like(output))]

    return lambda: jax.block_until_ready(run(given, seeds))


RULES: dict[str, Callable[[], Any]] = {
    "SGD": lambda: optax.sgd(1e-3, momentum=0.9),
    "Adam": lambda: optax.adam(1e-3),
    "AdamW": lambda: optax.adamw(1e-3, weight_decay=1e-2),
    "RMSprop": lambda: optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False),
}
"""Rules that optax and torch write alike, with torch's defaults."""


class Updates:
    """A jitted update of parameters, which reuses their memory and the state's. `p` and `grads` may be replaced."""

    def __init__(self, rule: str, params: Sequence[Tensor]) -> None:
        chosen = RULES[rule]()
        self.params = [array(p) for p in params]
        self.grads = [array(p.grad) for p in params if p.grad is not None]
        self._state = chosen.init(self.params)

        @partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, grads: Any) -> Any:
            changes, state = chosen.update(grads, state, params)
            return optax.apply_updates(params, changes), state

        self._update = update

    def __call__(self) -> None:
        self.params, self._state = self._update(self.params, self._state, self.grads)
        jax.block_until_ready(self.params)
