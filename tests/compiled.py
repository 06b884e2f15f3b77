"""What the tests of kernels share: graphs to compile, and compiled results held against eager PyTorch and float64.

Nothing here computes a result of its own: `fused` comes from kernels, `eager` and `oracle` from the torch executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.executor import eager, oracle
from tritonnotes.ir.graph import Graph
from tritonnotes.runtime import pick_device
from tritonnotes.samples import draw_feeds
from tritonnotes.state import initial_state
from tritonnotes.tolerance import Comparison, compare

DTYPES = ("float32", "bfloat16", "float16", "float64")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Judged:
    """One result, `what` it is, and how far it is from float64."""

    what: str
    result: Tensor
    oracle: Tensor
    comparison: Comparison

    @property
    def ok(self) -> bool:
        """The policy: for float64, where eager is its own oracle, 1e-10 of the largest; else twice eager and two ulp."""
        if self.result.dtype != torch.float64:
            return self.comparison.ok
        finite = self.oracle.isfinite() & self.result.isfinite()
        largest = float(self.oracle[finite].abs().max()) if finite.any() else 0.0
        return self.comparison.special and self.comparison.max_error <= 1e-10 * largest + 1e-300

    def __str__(self) -> str:
        return f"{self.what}: {self.comparison}"


def digits(dtype: str = "float32", name: str = "digits") -> Graph:
    """The demo's model."""
    g = tn.Graph(name)
    batch = tn.Dim("batch")
    x = g.input("x", (batch, 64), dtype=dtype)
    y = g.input("y", (batch,), dtype="int64")
    h = tn.relu(tn.layer_norm(tn.linear(x, 128, name="fc1"), name="ln1"))
    h = tn.tanh(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2")) + h
    logits = tn.linear(h, 10, name="fc3")
    loss = tn.cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=tn.accuracy(logits, y))
    return g


def judge(
    graph: Graph,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    *,
    model: tn.Model | None = None,
    ones: bool = False,
    gradients: bool = True,
    seed: int = 0,
) -> list[Judged]:
    """Outputs and gradients of the compiled graph beside eager's and the oracle's.

    Upstream gradients are random, or those of `.sum()`: ones of stride 0. `feeds` keep their strides.
    """
    model = model or tn.compile(graph)
    device = model.device
    given = {n: t if t.device == device else t.to(device) for n, t in feeds.items()}
    weights = dict(state) if state is not None else initial_state(graph, seed)
    weights = {n: t.to(device) for n, t in weights.items()}
    model.load_state_dict(weights)
    floats = [n for n, t in given.items() if t.is_floating_point()]
    trained = [v.name for v in graph.parameters]

    def leaf(tensor: Tensor, watched: bool) -> Tensor:
        return tensor.detach().requires_grad_(watched)

    fed = {n: leaf(t, gradients and n in floats) for n, t in given.items()}
    runs = [(model(**fed), {**fed, **model.tensors()})]
    for run, exact in ((eager, False), (oracle, True)):
        wide = {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in given.items()}
        held = {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in weights.items()}
        wide = {n: leaf(t, gradients and n in floats) for n, t in wide.items()}
        held = {n: leaf(t, gradients and n in trained) for n, t in held.items()}
        runs.append((run(graph, wide, held), {**wide, **held}))
    judged = [_judged(f"output {n}", *(r[n] for r, _ in runs)) for n in graph.outputs]
    wanted = [*floats, *trained]
    reached = [n for n in graph.outputs if runs[1][0][n].requires_grad] if gradients else []
    if not (reached and wanted):
        return judged
    generator = torch.Generator().manual_seed(seed)
    directions = {n: torch.randn(runs[1][0][n].shape, generator=generator).to(runs[1][0][n]) for n in reached}
    found = []
    for outputs, tensors in runs:
        if ones:
            total = sum((outputs[n].sum() for n in reached), start=torch.zeros((), device=device))
            grads = torch.autograd.grad(total, [tensors[n] for n in wanted], allow_unused=True)
        else:
            upstream = [directions[n].to(outputs[n].dtype) for n in reached]
            grads = torch.autograd.grad(
                [outputs[n] for n in reached], [tensors[n] for n in wanted], upstream, allow_unused=True
            )
        found.append(dict(zip(wanted, grads, strict=True)))
    for name in wanted:
        parts = [f[name] for f in found]
        if all(p is None for p in parts):
            continue
        like = {**given, **weights}[name]
        filled = [torch.zeros_like(like, dtype=torch.float64 if i == 2 else None) if p is None else p for i, p in enumerate(parts)]
        judged.append(_judged(f"gradient {name}", *filled))
    return judged


def _judged(what: str, result: Tensor, eager_result: Tensor, exact: Tensor) -> Judged:
    result, eager_result, exact = (t.detach().cpu() for t in (result, eager_result, exact))
    return Judged(what, result, exact, compare(result, eager_result, exact))


def assert_within_policy(judged: Sequence[Judged], note: str = "") -> None:
    """Every result is as near to float64 as the policy asks."""
    wrong = [str(j) for j in judged if not j.ok]
    assert not wrong, "\n".join([note, *wrong])


def draw(graph: Graph, seed: int = 0, extremes: bool = False, **sizes: int) -> Tensors:
    """Tensors for the inputs, on the device that kernels run on."""
    return {n: t.to(pick_device()) for n, t in draw_feeds(graph, sizes, seed, extremes).items()}
