"""Families of single kernels: what each computes, in plain torch, as a graph, and by Liger; and what must be moved.

The torch function and the declaration are written apart, as everywhere: the first judges the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value

from . import shapes
from .shapes import Shape

DTYPES = ("float32", "bfloat16")
DIRECTIONS = ("forward", "backward", "both")
EPS = 1e-5

Tensors = dict[str, Shape]


@dataclass(frozen=True)
class Family:
    """One computation at many shapes.

    `tensors` are its floating inputs by name, the first of them one of the shapes; `torch`, `graph` and `liger` take
    them in that order (and `target`, of class indices, last where there is one) and return the `outputs`. A backward
    run reads the tensors and outputs in `kept`, and writes one gradient for each of `gradients`: those that are other
    tensors already, such as both gradients of a sum, take no memory. Where `is_loss` the output is a mean over rows and
    its own gradient 1. `by_rows`: rows know nothing of each other, but for sums over them.
    """

    shapes: tuple[Shape, ...]
    tensors: Callable[[Shape], Tensors]
    torch: Callable[..., Any]
    graph: Callable[..., Any]
    outputs: tuple[str, ...] = ("y",)
    kept: tuple[str, ...] = ("x",)
    gradients: tuple[str, ...] = ("x",)
    is_loss: bool = False
    by_rows: bool = True
    liger: Callable[[Any], Callable[..., Any]] | None = None

    def bytes(self, shape: Shape, itemsize: int, direction: str) -> int:
        """The least that must be moved: each input read once and each result written once, in each of the runs that
        are timed. A loss is the root of its graph, so both runs may be one, and read the logits once."""
        sizes = {name: math.prod(s) * itemsize for name, s in self.tensors(shape).items()}
        large = math.prod(shape) * itemsize
        target = shape[0] * 8 if self.is_loss else 0
        outputs = 0 if self.is_loss else large * len(self.outputs)
        forward = sum(sizes.values()) + target + outputs
        kept = sum(sizes.get(name, large) for name in self.kept)
        backward = kept + target + outputs + sum(sizes[name] for name in self.gradients)
        if self.is_loss and direction == "both":
            return forward + sum(sizes[name] for name in self.gradients)
        return {"forward": forward, "backward": backward, "both": forward + backward}[direction]


def _rows(*vectors: str, whole: tuple[str, ...] = ("x",)) -> Callable[[Shape], Tensors]:
    """Tensors of a shape, and vectors along its last axis."""
    return lambda shape: {n: shape for n in whole} | {n: (shape[-1],) for n in vectors}


def _channels(shape: Shape) -> Tensors:
    return {"x": shape, "weight": (shape[1],), "bias": (shape[1],)}


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.rms_norm(total, total.shape[-1:], weight, EPS), total


def _declare_add_rms_norm(x: Value, residual: Value, weight: Value) -> tuple[Value, Value]:
    total = x + residual
    return tn.rms_norm(total, weight=weight, eps=EPS), total


FAMILIES: dict[str, Family] = {
    "softmax": Family(
        shapes.ROWS,
        _rows(),
        lambda x: F.softmax(x, -1),
        lambda x: tn.softmax(x, -1),
        kept=("y",),
        liger=lambda ops: ops.liger_softmax,
    ),
    "layer_norm": Family(
        shapes.ROWS,
        _rows("weight", "bias"),
        lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, EPS),
        lambda x, weight, bias: tn.layer_norm(x, weight=weight, bias=bias, eps=EPS),
        kept=("x", "weight"),
        gradients=("x", "weight", "bias"),
        liger=lambda ops: lambda x, weight, bias: ops.liger_layer_norm(x, weight, bias, EPS),
    ),
    "rms_norm": Family(
        shapes.ROWS,
        _rows("weight"),
        lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, EPS),
        lambda x, weight: tn.rms_norm(x, weight=weight, eps=EPS),
        kept=("x", "weight"),
        gradients=("x", "weight"),
        liger=lambda ops: lambda x, weight: ops.liger_rms_norm(x, weight, EPS),
    ),
    "add_rms_norm": Family(
        shapes.ROWS,
        _rows("weight", whole=("x", "residual")),
        _add_rms_norm,
        _declare_add_rms_norm,
        outputs=("y", "total"),
        kept=("total", "weight"),
        gradients=("x", "weight"),
        liger=lambda ops: lambda x, residual, weight: ops.liger_fused_add_rms_norm(x, residual, weight, EPS),
    ),
    "cross_entropy": Family(
        shapes.LOGITS,
        _rows(),
        lambda x, target: F.cross_entropy(x, target),
        lambda x, target: tn.cross_entropy(x, target),
        outputs=("loss",),
        is_loss=True,
        liger=lambda ops: ops.liger_cross_entropy,
    ),
    "batch_norm": Family(
        shapes.CHANNELS,
        _channels,
        lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS),
        lambda x, weight, bias: tn.batch_norm(x, None, None, weight, bias, training=True, eps=EPS),
        kept=("x", "weight"),
        gradients=("x", "weight", "bias"),
        by_rows=False,
    ),
    "glu": Family(
        shapes.GATED,
        _rows(whole=("gate", "value")),
        lambda gate, value: F.silu(gate) * value,
        lambda gate, value: tn.silu(gate) * value,
        kept=("gate", "value"),
        gradients=("gate", "value"),
        liger=lambda ops: ops.liger_swiglu,
    ),
    "gelu": Family(
        shapes.ELEMENTWISE,
        lambda shape: {"x": shape, "bias": shape[-1:], "scale": shape[-1:], "residual": shape},
        lambda x, bias, scale, residual: F.gelu(x + bias) * scale + residual,
        lambda x, bias, scale, residual: tn.gelu(x + bias) * scale + residual,
        kept=("x", "bias", "scale"),
        gradients=("x", "bias", "scale"),
    ),
}


def declare(family: Family, shape: Shape, dtype: str) -> Graph:
    """The family as a graph of static size, as torch.compile sees it too. All its tensors are inputs."""
    graph = tn.Graph("case")
    inputs = [graph.input(name, s, dtype=dtype) for name, s in family.tensors(shape).items()]
    if family.is_loss:
        inputs.append(graph.input("target", shape[:1], dtype="int64"))
    made = family.graph(*inputs)
    results = made if isinstance(made, tuple) else (made,)
    graph.output(**dict(zip(family.outputs, results, strict=True)))
    return graph
