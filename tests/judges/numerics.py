"""What the tests of formulas share: a graph's values and gradients in numpy float64, and in torch float64.

The two roads share no code: one runs the formulas and the derived gradients, the other the references and autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import Described, Op
from tritonnotes.ir.core.types import float64
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph
from tritonnotes.judge.executor import STATE, oracle
from tritonnotes.judge.samples import draw_feeds

Tensors = dict[str, Tensor]
LEAVES = ("input", *STATE)


def sample_graph(entry: Op | Described, shape: tuple[Any, ...]) -> Graph:
    """A float64 graph of one op, its result the output `y`."""
    graph = Graph("sample")
    assert entry.sample is not None
    graph.output(y=entry.sample(graph, shape, float64))
    return graph


def draw(graph: Graph, seed: int = 0, extremes: bool = False, **sizes: int) -> Tensors:
    """Tensors for inputs and parameters alike, and for the seed that random ops draw from."""
    return draw_feeds(graph, sizes, seed, extremes, kinds=(*LEAVES, "scalar"))


def float_leaves(graph: Graph) -> list[str]:
    return [v.name for v in graph.leaves(*LEAVES) if v.dtype.is_float]


def cotangents(graph: Graph, tensors: Tensors, seed: int = 1) -> Tensors:
    """A random upstream gradient for each float output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: y.shape for name, y in formula_values(graph, tensors).items() if graph.outputs[name].dtype.is_float}
    return {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}


def formula_values(graph: Graph, tensors: Mapping[str, Any]) -> Tensors:
    """The outputs as the formulas say, in numpy float64."""
    primitives = decompose(graph)
    found = evaluate(primitives, {name: _array(t) for name, t in tensors.items()})
    return {name: torch.as_tensor(np.array(found[v])) for name, v in primitives.outputs.items()}


def formula_gradients(graph: Graph, tensors: Tensors, d: Tensors, wanted: list[str] | None = None) -> Tensors:
    """The derived gradients of Σ output · d, in numpy float64; zeros where none flows."""
    wanted = float_leaves(graph) if wanted is None else wanted
    derived = gradient_graph(graph, wanted)
    named = cotangent_names(graph, {*d, *wanted})
    upstream = {named[name]: _array(t) for name, t in d.items()}
    found = evaluate(derived, {name: _array(t) for name, t in tensors.items()} | upstream)
    result = {}
    for name in wanted:
        out = derived.outputs.get(named[name])
        result[name] = torch.zeros_like(tensors[name]) if out is None else torch.as_tensor(np.array(found[out]))
    return result


def reference_values(graph: Graph, tensors: Tensors) -> Tensors:
    """The outputs as the references say, in torch float64, differentiable; in the form that the graph declares."""
    inputs: dict[str, Any] = {v.name: tensors[v.name] for v in graph.inputs}
    inputs |= {v.name: int(tensors[v.name]) for v in graph.leaves("scalar")}
    return oracle(graph, inputs, {v.name: tensors[v.name] for v in graph.leaves(*STATE)}, training=True)


def reference_gradients(graph: Graph, tensors: Tensors, d: Tensors, wanted: list[str] | None = None) -> Tensors:
    """Gradients of Σ output · d by torch's autograd through the references; zeros where none flows."""
    wanted = float_leaves(graph) if wanted is None else wanted
    watched = {name: t.clone().requires_grad_() if name in wanted else t for name, t in tensors.items()}
    outputs = reference_values(graph, watched)
    reached = {name: y for name, y in outputs.items() if name in d and y.requires_grad}
    if not reached:
        return {name: torch.zeros_like(tensors[name]) for name in wanted}
    found = torch.autograd.grad(
        list(reached.values()),
        [watched[name] for name in wanted],
        [d[name] for name in reached],
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(wanted, found, strict=True))


def assert_same(got: Tensors, want: Tensors, rtol: float = 1e-10) -> None:
    """Equal shapes, NaN and ±∞ in the same places, else equal within `rtol` of each or 1e-11 of the largest."""
    assert got.keys() == want.keys()
    for name, expected in want.items():
        expected = expected.detach()
        finite = expected[expected.isfinite()].abs() if expected.is_floating_point() else expected.new_empty(0)
        atol = 1e-11 * max(float(finite.max()) if finite.numel() else 0.0, 1.0)
        torch.testing.assert_close(
            got[name],
            expected,
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            check_dtype=False,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def agree(graph: Graph, d: Tensors | None = None, /, **tensors: Any) -> tuple[Tensors, Tensors]:
    """Formula and reference give the same values and gradients: assert it, and return them as the formula has them.

    `d` are the upstream gradients, 1 unless given.
    """
    full = {name: torch.as_tensor(t) for name, t in tensors.items()}
    full = {n: t.double() if t.is_floating_point() else t for n, t in full.items()}
    missing = draw_feeds(graph, _sizes(graph, full), kinds=STATE)
    full = {**missing, **full}
    values = formula_values(graph, full)
    assert_same(values, reference_values(graph, full))
    floats = [name for name in values if graph.outputs[name].dtype.is_float]
    d = d or {name: torch.ones_like(values[name]) for name in floats}
    gradients = formula_gradients(graph, full, d)
    assert_same(gradients, reference_gradients(graph, full, d))
    return values, gradients


def _sizes(graph: Graph, tensors: Tensors) -> dict[str, int]:
    fed = [v for v in graph.leaves(*LEAVES) if v.name in tensors]
    pairs = [pair for v in fed for pair in zip(v.shape, tensors[v.name].shape, strict=True)]
    return {s.name: n for s, n in pairs if not isinstance(s, int)}


def _array(tensor: Any) -> Any:
    return tensor.detach().numpy() if isinstance(tensor, Tensor) else tensor
