"""A training step of a graph of primitives in JAX with optax, as one jitted program: the peer of imported modules.

Imported only where the extra `peers` is installed. JAX is given what a graph computes, primitive by primitive; it
differentiates, fuses and compiles that by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from torch import Tensor

from tritonnotes.ir.core.evaluate import SIZED, concrete
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.types import bind_dims

from .jax_peers import array

IN_JAX: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(jnp, name) for name in (
        "abs", "cos", "exp", "expm1", "floor", "log", "log1p", "logical_and", "logical_not", "logical_or", "maximum",
        "minimum", "sign", "sin", "sqrt", "tanh", "where",
    )},
    "add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "div": jnp.divide, "neg": jnp.negative, "pow": jnp.power,
    "eq": jnp.equal, "ne": jnp.not_equal, "lt": jnp.less, "le": jnp.less_equal, "gt": jnp.greater,
    "ge": jnp.greater_equal, "erf": jax.scipy.special.erf, "rsqrt": jax.lax.rsqrt, "copy": lambda x: x,
    "detach": jax.lax.stop_gradient, "constant": lambda value: jnp.asarray(value),
    "cast": lambda x, dtype: x.astype(dtype.name),
    "sum": lambda x, axes: x.sum(axes, keepdims=True), "max": lambda x, axes: x.max(axes, keepdims=True),
    "min": lambda x, axes: x.min(axes, keepdims=True), "broadcast_to": lambda x, shape: jnp.broadcast_to(x, shape),
    "reshape": lambda x, shape: x.reshape(shape), "transpose": lambda x, axes: x.transpose(axes),
    "narrow": lambda x, axis, start, length: jax.lax.slice_in_dim(x, start, start + length, axis=axis),
    "cat": lambda *parts, axis: jnp.concatenate(parts, axis),
    "iota": lambda size, before, after: jnp.arange(size).reshape((1,) * before + (size,) + (1,) * after),
    "matmul": lambda a, b, transpose_b: a @ (b.T if transpose_b else b), "take_rows": lambda table, index: table[index],
}  # fmt: skip


def unknown(graph: Graph) -> list[str]:
    """The primitives of a graph that have no counterpart in the table, such as calls of torch and random numbers."""
    return sorted({v.op.name for v in graph.values if not v.is_leaf and v.op.name not in {*IN_JAX, "dim_size"}})


def step(
    graph: Graph, loss: str, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor], rate: float
) -> Callable[[], Any]:
    """A training step with AdamW of a graph of primitives on these feeds, of the parameters whose tensors want a
    gradient; it returns the loss once all is computed."""
    sizes: dict[str, int] = {}
    bind_dims([(v.shape, tuple(feeds[v.name].shape)) for v in graph.inputs], sizes)
    rule = optax.adamw(rate, weight_decay=1e-2)
    trained = [v.name for v in graph.leaves("parameter") if state[v.name].requires_grad]
    held = {name: array(state[name]) for name in trained}
    given = {name: array(tensor) for name, tensor in [*feeds.items(), *state.items()] if name not in trained}
    state_of_rule = rule.init(held)

    def value_of(held: Any, given: Any) -> Any:
        known: dict[Any, Any] = {}
        for value in graph.values:
            if value.op.name == "dim_size":
                known[value] = sizes[value.attrs["dim"]]
            elif value.is_leaf and value.op.name not in ("constant", "iota"):
                known[value] = held[value.name] if value.name in held else given[value.name]
            else:
                attrs = {k: concrete(v, sizes) if k in SIZED else v for k, v in value.attrs.items()}
                known[value] = IN_JAX[value.op.name](*(known[a] for a in value.inputs), **attrs)
        return known[graph.outputs[loss]]

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(held: Any, state_of_rule: Any, given: Any) -> Any:
        value, gradients = jax.value_and_grad(value_of)(held, given)
        changes, state_of_rule = rule.update(gradients, state_of_rule, held)
        return optax.apply_updates(held, changes), state_of_rule, value

    def run() -> Any:
        nonlocal held, state_of_rule
        held, state_of_rule, value = update(held, state_of_rule, given)
        return value.block_until_ready()

    return run
