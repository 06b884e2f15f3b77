"""What the tests of kernels share: graphs to compile, and compiled results held against eager PyTorch and float64.

Nothing here computes a result of its own: `fused` comes from kernels, `eager` and `oracle` from the torch executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph
from tritonnotes.ir.passes.split import split_gradient
from tritonnotes.judge.executor import eager, eager_updates, oracle, oracle_updates
from tritonnotes.judge.references import REFERENCES
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.judge.tolerance import Comparison, compare
from tritonnotes.runtime.runner import pick_device
from tritonnotes.tensors.dtypes import torch_dtype
from tritonnotes.tensors.initial import initial_state

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
        """The policy: twice eager and two ulp; for float64, where eager is its own oracle, 1e-10 of the largest, and
        1e-11 where a sum of thousands of numbers cancels to nothing, as numerics.assert_same has it.

        `noise` is allowed on top: what rounding between the ops of a random graph does by itself.
        """
        c = self.comparison
        if self.result.dtype != torch.float64:
            return c.special and c.max_error <= c.max_allowed + self.noise and c.rms_error <= c.rms_allowed + self.noise
        finite = self.oracle.isfinite() & self.result.isfinite()
        largest = float(self.oracle[finite].abs().max()) if finite.any() else 0.0
        return c.special and c.max_error <= 1e-10 * largest + 1e-11 + self.noise

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
    redraw: Callable[[int], Tensors] | None = None,
    training: bool = False,
) -> list[Judged]:
    """Outputs and gradients of the compiled graph beside eager's and the oracle's, and in `training` its buffers.

    Upstream gradients are random, or those of `.sum()`: ones of stride 0. `feeds` keep their strides. `noisy` is the
    number of float64 runs whose every op is off by a rounding error: what they differ by is allowed on top, sixteen
    times. Of few numbers eager may have rounded some luckily: where a result is beyond twice that, eager's error is the
    worst of `REDRAWS` more feeds, which `redraw` makes from a seed. Random ops draw from `seed` in all of them.
    """
    model = (model or tn.compile(graph)).train(training)
    weights = dict(state) if state is not None else initial_state(graph, seed)
    weights = {n: t.to(model.device) for n, t in weights.items()}
    runs = _Runs(graph, model, weights, ones, gradients, training)
    judged = runs.judged(
        feeds, seed, [runs.fused, eager, oracle, *(_noisy(oracle, graph, seed + i) for i in range(noisy))]
    )
    if redraw is None or all(j.ok for j in judged):
        return judged
    # Eager stands in for the kernels: its error is measured, on feeds of the same kind.
    others = [runs.judged(redraw(seed + i), seed + i, [eager, eager, oracle]) for i in range(1, REDRAWS + 1)]
    return [
        replace(j, comparison=against_the_worst(j.comparison, [again[i].comparison for again in others]))
        for i, j in enumerate(judged)
    ]


REDRAWS = 32


def against_the_worst(own: Comparison, others: Sequence[Comparison]) -> Comparison:
    """A comparison where eager's error is the worst of several draws."""
    return replace(
        own,
        eager_max_error=max(c.eager_max_error for c in (own, *others)),
        eager_rms_error=max(c.eager_rms_error for c in (own, *others)),
    )


@dataclass(frozen=True)
class _Runs:
    """Runs of one graph with one set of weights: compiled, eager, or exact."""

    graph: Graph
    model: tn.Model
    weights: Tensors
    ones: bool
    gradients: bool
    training: bool

    def fused(self, graph: Graph, feeds: Tensors, state: Tensors, training: bool, seed: int) -> Tensors:
        self.model.seed = seed
        return self.model(**feeds)

    def judged(self, feeds: Mapping[str, Tensor], seed: int, runs: Sequence[Callable[..., Tensors]]) -> list[Judged]:
        """Every output and gradient of the first run, beside those of the second (eager) and the third (exact)."""
        graph, model = self.graph, self.model
        given = {n: t if t.device == model.device else t.to(model.device) for n, t in feeds.items()}
        floats = [n for n, t in given.items() if t.is_floating_point()]
        wanted = [*floats, *(v.name for v in graph.parameters)]
        model.load_state_dict(self.weights)
        made = []
        for index, run in enumerate(runs):
            fed, held = (self._leaves(each, wanted, exact=index > 1) for each in (given, self.weights))
            if run == self.fused:
                held = model.tensors()
            made.append((run(graph, fed, held, training=self.training, seed=seed), {**fed, **held}))
        judged = [_judged(f"output {n}", [r[n] for r, _ in made]) for n in graph.outputs]
        if self.training:
            eagerly = eager_updates(graph, given, self.weights, seed=seed)
            own = model.tensors() if runs[0] == self.fused else eagerly
            left = [own, eagerly, oracle_updates(graph, given, self.weights, seed=seed)]
            judged += [_judged(f"buffer {n}", [tensors[n] for tensors in left]) for n in graph.updates]
        reached = [n for n in graph.outputs if made[1][0][n].requires_grad] if self.gradients else []
        if not (reached and wanted):
            return judged
        found = [self._gradients(outputs, tensors, reached, wanted, seed) for outputs, tensors in made]
        for name in wanted:
            parts = [f[name] for f in found]
            if all(p is None for p in parts):
                continue
            like = {**given, **self.weights}[name]
            zeros = [torch.zeros_like(like, dtype=torch.float64 if i > 1 else None) for i in range(len(parts))]
            filled = [z if p is None else p for p, z in zip(parts, zeros, strict=True)]
            judged.append(_judged(f"gradient {name}", filled))
        return judged

    def _leaves(self, tensors: Mapping[str, Tensor], wanted: Sequence[str], exact: bool) -> Tensors:
        """Tensors that autograd watches, in float64 for an exact run; strides stay as they are."""
        wide = {n: t.double() if exact and t.is_floating_point() else t for n, t in tensors.items()}
        return {n: t.detach().requires_grad_(self.gradients and n in wanted) for n, t in wide.items()}

    def _gradients(
        self, outputs: Tensors, tensors: Tensors, reached: Sequence[str], wanted: Sequence[str], seed: int
    ) -> dict[str, Tensor | None]:
        watched = [tensors[n] for n in wanted]
        if self.ones:
            total = sum((outputs[n].sum() for n in reached), start=torch.zeros((), device=self.model.device))
            grads = torch.autograd.grad(total, watched, allow_unused=True)
        else:
            generator = torch.Generator().manual_seed(seed)
            upstream = []
            for name in reached:
                drawn = torch.randn(outputs[name].shape, generator=generator)
                rounded = drawn.to(torch_dtype(self.graph.outputs[name].dtype))  # the same number for every run
                upstream.append(rounded.to(outputs[name]))
            grads = torch.autograd.grad([outputs[n] for n in reached], watched, upstream, allow_unused=True)
        return dict(zip(wanted, grads, strict=True))


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

    def noisy_run(*args: Any, **form: Any) -> Tensors:
        with _replaced(REFERENCES, {n: off(r) for n, r in REFERENCES.items() if n not in EXACT}):
            return run(*args, **form)

    return noisy_run


EXACT = (
    "reshape",
    "transpose",
    "broadcast_to",
    "narrow",
    "cat",
    "where",
    "max",
    "min",
    "neg",
    "abs",
    "relu",
    "copy",
    "sign",
    "floor",
)
"""What rounds nothing."""


@contextmanager
def _replaced(table: dict[str, Any], with_these: Mapping[str, Any]) -> Iterator[None]:
    before = dict(table)
    table.update(with_these)
    try:
        yield
    finally:
        table.update(before)


def gradient_programs(graph: Graph) -> tuple[Program, Program]:
    """The forward and the backward program for the case that every float leaf wants a gradient."""
    wanted = [v.name for v in (*graph.inputs, *graph.parameters) if v.dtype.is_float]
    cotangents = cotangent_names(graph, [n for n, v in graph.outputs.items() if v.dtype.is_float])
    split = split_gradient(gradient_graph(graph, wanted), list(graph.outputs), [*cotangents.values()])
    return make_program(split.forward, declared=graph), make_program(split.backward, declared=graph)


def assert_within_policy(judged: Sequence[Judged], note: str = "") -> None:
    """Every result is as near to float64 as the policy asks."""
    wrong = [str(j) for j in judged if not j.ok]
    assert not wrong, "\n".join([note, *wrong])


def draw(graph: Graph, seed: int = 0, extremes: bool = False, **sizes: int) -> Tensors:
    """Tensors for the inputs, on the device that kernels run on."""
    return {n: t.to(pick_device()) for n, t in draw_feeds(graph, sizes, seed, extremes).items()}
