"""What the tests of kernels share: graphs to compile, and compiled results held against eager PyTorch and float64.

Nothing here computes a result of its own: `fused` comes from kernels, `eager` and `oracle` from the torch executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.executor import eager, eager_updates, oracle, oracle_updates
from tritonnotes.ir.graph import Graph
from tritonnotes.references import REFERENCES
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
    noise: float = 0.0

    @property
    def ok(self) -> bool:
        """The policy: for float64, where eager is its own oracle, 1e-10 of the largest; else twice eager and two ulp.

        `noise` is allowed on top: what rounding between the ops of a random graph does by itself.
        """
        c = self.comparison
        if self.result.dtype != torch.float64:
            return c.special and c.max_error <= c.max_allowed + self.noise and c.rms_error <= c.rms_allowed + self.noise
        finite = self.oracle.isfinite() & self.result.isfinite()
        largest = float(self.oracle[finite].abs().max()) if finite.any() else 0.0
        return c.special and c.max_error <= 1e-10 * largest + self.noise

    def __str__(self) -> str:
        return f"{self.what}: {self.comparison}, noise {self.noise:.1e}"


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
    noisy: int = 0,
    training: bool = False,
) -> list[Judged]:
    """Outputs and gradients of the compiled graph beside eager's and the oracle's, and in `training` its buffers.

    Upstream gradients are random, or those of `.sum()`: ones of stride 0. `feeds` keep their strides. `noisy` is the
    number of float64 runs whose every op is off by a rounding error: what they differ by is allowed on top, sixteen
    times.
    """
    model = (model or tn.compile(graph)).train(training)
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
    judges: list[tuple[Callable[..., Tensors], bool]] = [(eager, False), (oracle, True)]
    judges += [(_noisy(oracle, graph, seed + i), True) for i in range(noisy)]
    for run, exact in judges:
        wide = {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in given.items()}
        held = {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in weights.items()}
        wide = {n: leaf(t, gradients and n in floats) for n, t in wide.items()}
        held = {n: leaf(t, gradients and n in trained) for n, t in held.items()}
        runs.append((run(graph, wide, held, training=training), {**wide, **held}))
    judged = [_judged(f"output {n}", [r[n] for r, _ in runs]) for n in graph.outputs]
    if training:
        left = [model.tensors(), eager_updates(graph, given, weights), oracle_updates(graph, given, weights)]
        judged += [_judged(f"buffer {n}", [tensors[n] for tensors in left]) for n in graph.updates]
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
        wide = [torch.zeros_like(like, dtype=torch.float64 if i > 1 else None) for i in range(len(parts))]
        judged.append(_judged(f"gradient {name}", [z if p is None else p for p, z in zip(parts, wide, strict=True)]))
    return judged


def _judged(what: str, results: Sequence[Tensor]) -> Judged:
    result, eager_result, exact, *noisy = (t.detach().cpu() for t in results)
    noise = 0.0
    if exact.is_floating_point() and exact.numel():
        gaps = [(t - exact).nan_to_num(0, 0, 0).abs().max() for t in noisy]
        noise = 16 * float(max(gaps, default=torch.zeros(())))
    return Judged(what, result, exact, compare(result, eager_result, exact), noise)


def _noisy(run: Callable[..., Tensors], graph: Graph, seed: int) -> Callable[..., Tensors]:
    """`run` with a rounding error after every op: up to half a unit in the last place of the graph's coarsest dtype."""
    rounding = max(
        torch.finfo(getattr(torch, v.dtype.name)).eps for v in graph.leaves("input", "parameter") if v.dtype.is_float
    )
    generator = torch.Generator().manual_seed(seed)

    def off(reference: Callable[..., Any]) -> Callable[..., Any]:
        def rounded(*args: Any, **attrs: Any) -> Any:
            result = reference(*args, **attrs)
            if not isinstance(result, Tensor) or not result.is_floating_point():
                return result
            error = torch.rand(result.shape, generator=generator, dtype=torch.float64).to(result.device) - 0.5
            return result * (1 + rounding * error)

        return rounded

    def noisy_run(*args: Any, **form: bool) -> Tensors:
        with _replaced(REFERENCES, {n: off(r) for n, r in REFERENCES.items() if n not in EXACT}):
            return run(*args, **form)

    return noisy_run


EXACT = ("reshape", "transpose", "broadcast_to", "where", "max", "min", "neg", "abs", "relu", "copy", "sign", "floor")
"""What rounds nothing."""


@contextmanager
def _replaced(table: dict[str, Any], with_these: Mapping[str, Any]) -> Iterator[None]:
    before = dict(table)
    table.update(with_these)
    try:
        yield
    finally:
        table.update(before)


def assert_within_policy(judged: Sequence[Judged], note: str = "") -> None:
    """Every result is as near to float64 as the policy asks."""
    wrong = [str(j) for j in judged if not j.ok]
    assert not wrong, "\n".join([note, *wrong])


def draw(graph: Graph, seed: int = 0, extremes: bool = False, **sizes: int) -> Tensors:
    """Tensors for the inputs, on the device that kernels run on."""
    return {n: t.to(pick_device()) for n, t in draw_feeds(graph, sizes, seed, extremes).items()}
