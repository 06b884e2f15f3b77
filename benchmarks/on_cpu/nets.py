"""The small networks whose training steps are timed: declared for tritonnotes, and written once for torch and JAX.

The declaration and the plain function are written apart: the second judges the first. Losses alone are computed, so
that no peer does more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value

Weights = Mapping[str, Any]


class Ops(Protocol):
    """What the plain functions need, under torch's names: `TorchOps` here, `JaxOps` in `jax_peers.py`."""

    def linear(self, x: Any, weight: Any, bias: Any) -> Any: ...
    def layer_norm(self, x: Any, weight: Any, bias: Any) -> Any: ...
    def relu(self, x: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def gelu(self, x: Any) -> Any: ...
    def silu(self, x: Any) -> Any: ...
    def permute(self, x: Any, *axes: int) -> Any: ...
    def reshape(self, x: Any, *shape: int) -> Any: ...
    def mean(self, x: Any, axis: int) -> Any: ...
    def cross_entropy(self, logits: Any, target: Any) -> Any: ...
    def binary_cross_entropy_with_logits(self, logits: Any, target: Any) -> Any: ...


class TorchOps:
    """torch's own functions."""

    linear = staticmethod(F.linear)
    relu = staticmethod(F.relu)
    tanh = staticmethod(torch.tanh)
    gelu = staticmethod(F.gelu)
    silu = staticmethod(F.silu)
    cross_entropy = staticmethod(F.cross_entropy)
    binary_cross_entropy_with_logits = staticmethod(F.binary_cross_entropy_with_logits)

    @staticmethod
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    @staticmethod
    def permute(x: Tensor, *axes: int) -> Tensor:
        return x.permute(axes)

    @staticmethod
    def reshape(x: Tensor, *shape: int) -> Tensor:
        return x.reshape(shape)

    @staticmethod
    def mean(x: Tensor, axis: int) -> Tensor:
        return x.mean(axis)


@dataclass(frozen=True)
class Net:
    """One network: `features` go in, the target is one of `classes`, or 0.0 or 1.0 where there are none."""

    features: int
    classes: int
    graph: Callable[[], Graph]
    loss: Callable[[Any, Weights, Any, Any], Any]

    def batch(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, self.features, generator=generator)
        if self.classes:
            return x, torch.randint(self.classes, (rows,), generator=generator)
        return x, torch.randint(2, (rows,), generator=generator).float()


def _declared(name: str, features: int, target: str, body: Callable[[Value, Value], Value]) -> Callable[[], Graph]:
    def graph() -> Graph:
        g = tn.Graph(name)
        batch = tn.Dim("batch")
        x, y = g.input("x", (batch, features)), g.input("y", (batch,), dtype=target)
        g.output(loss=body(x, y))
        return g

    return graph


# The classifier of examples/digits.py


def _declare_digits(x: Value, y: Value) -> Value:
    h = tn.relu(tn.layer_norm(tn.linear(x, 128, name="fc1"), name="ln1"))
    h = tn.tanh(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2")) + h
    return tn.cross_entropy(tn.linear(h, 10, name="fc3"), y)


def _digits(ops: Ops, w: Weights, x: Any, y: Any) -> Any:
    h = ops.relu(_norm(ops, w, "ln1", _linear(ops, w, "fc1", x)))
    h = ops.tanh(_norm(ops, w, "ln2", _linear(ops, w, "fc2", h))) + h
    return ops.cross_entropy(_linear(ops, w, "fc3", h), y)


# 784-512-512-10 with layer norm and GELU


def _declare_mlp(x: Value, y: Value) -> Value:
    h = x
    for i in range(2):
        h = tn.gelu(tn.layer_norm(tn.linear(h, 512, name=f"fc{i}"), name=f"ln{i}"))
    return tn.cross_entropy(tn.linear(h, 10, name="out"), y)


def _mlp(ops: Ops, w: Weights, x: Any, y: Any) -> Any:
    h = x
    for i in range(2):
        h = ops.gelu(_norm(ops, w, f"ln{i}", _linear(ops, w, f"fc{i}", h)))
    return ops.cross_entropy(_linear(ops, w, "out", h), y)


# The residual MLP-mixer of examples/mixer.py


def _declare_mlp_of(x: Value, hidden: int, name: str) -> Value:
    h = tn.gelu(tn.linear(x, hidden, name=f"{name}.fc1"))
    return tn.linear(h, x.shape[-1], name=f"{name}.fc2")


def _declare_mixer(x: Value, y: Value) -> Value:
    batch = x.shape[0]
    split = tn.permute(tn.reshape(x, (batch, 7, 4, 7, 4)), 0, 1, 3, 2, 4)
    h = tn.linear(tn.reshape(split, (batch, 49, 16)), 32, name="embed")
    for name in ("mixer0", "mixer1"):
        turned = tn.permute(tn.layer_norm(h, name=f"{name}.ln1"), 0, 2, 1)
        h = h + tn.permute(_declare_mlp_of(turned, 32, f"{name}.patches"), 0, 2, 1)
        h = h + _declare_mlp_of(tn.layer_norm(h, name=f"{name}.ln2"), 64, f"{name}.channels")
    return tn.cross_entropy(tn.linear(tn.mean(tn.layer_norm(h, name="ln"), 1), 10, name="head"), y)


def _mixer(ops: Ops, w: Weights, x: Any, y: Any) -> Any:
    def mlp(h: Any, name: str) -> Any:
        return _linear(ops, w, f"{name}.fc2", ops.gelu(_linear(ops, w, f"{name}.fc1", h)))

    split = ops.permute(ops.reshape(x, -1, 7, 4, 7, 4), 0, 1, 3, 2, 4)
    h = _linear(ops, w, "embed", ops.reshape(split, -1, 49, 16))
    for name in ("mixer0", "mixer1"):
        turned = ops.permute(_norm(ops, w, f"{name}.ln1", h), 0, 2, 1)
        h = h + ops.permute(mlp(turned, f"{name}.patches"), 0, 2, 1)
        h = h + mlp(_norm(ops, w, f"{name}.ln2", h), f"{name}.channels")
    return ops.cross_entropy(_linear(ops, w, "head", ops.mean(_norm(ops, w, "ln", h), 1)), y)


# The one of examples/breast_cancer.py: 30 numbers, yes or no


def _declare_tabular(x: Value, y: Value) -> Value:
    h = tn.silu(tn.layer_norm(tn.linear(x, 32, name="fc1"), name="ln1"))
    logit = tn.reshape(tn.linear(h, 1, name="fc2"), (x.shape[0],))
    return tn.binary_cross_entropy_with_logits(logit, y)


def _tabular(ops: Ops, w: Weights, x: Any, y: Any) -> Any:
    h = ops.silu(_norm(ops, w, "ln1", _linear(ops, w, "fc1", x)))
    return ops.binary_cross_entropy_with_logits(ops.reshape(_linear(ops, w, "fc2", h), -1), y)


NETS: dict[str, Net] = {
    "digits": Net(64, 10, _declared("digits", 64, "int64", _declare_digits), _digits),
    "mlp": Net(784, 10, _declared("mlp", 784, "int64", _declare_mlp), _mlp),
    "mixer": Net(784, 10, _declared("mixer", 784, "int64", _declare_mixer), _mixer),
    "tabular": Net(30, 0, _declared("tabular", 30, "float32", _declare_tabular), _tabular),
}


def chain(tensors: int) -> Net:
    """Linear layers of 8 numbers, with so many weights and biases: little but the calls around the work is left."""
    layers = tensors // 2

    def declare(x: Value, y: Value) -> Value:
        h = x
        for i in range(layers):
            h = tn.linear(h, 8, name=f"fc{i}")
        return tn.cross_entropy(h, y)

    def loss(ops: Ops, w: Weights, x: Any, y: Any) -> Any:
        h = x
        for i in range(layers):
            h = _linear(ops, w, f"fc{i}", h)
        return ops.cross_entropy(h, y)

    return Net(8, 8, _declared(f"chain{tensors}", 8, "int64", declare), loss)


def _linear(ops: Ops, w: Weights, name: str, x: Any) -> Any:
    return ops.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(ops: Ops, w: Weights, name: str, x: Any) -> Any:
    return ops.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])
