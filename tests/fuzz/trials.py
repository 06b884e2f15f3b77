"""A case compiled and run: `tn.compile` with and without autograd, two batches of `tn.compile_step`, and plain torch.

The policy is TESTING's: twice eager's error and two units in the last place, against float64. Where that fails, what
rounding errors by themselves do to the exact result is allowed on top.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from graph_cases import OPTIMIZERS, Case, coarsest, declare, drawn, feeds_of, shape_of, size_in, state_of
from plain_torch import Batch, Run, Tensors, as_slope, model_results, step_results
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph
from tritonnotes.judge.tolerance import Comparison, compare
from tritonnotes.runtime.executors import interpreted
from tritonnotes.runtime.runner import Runner

NOISY_RUNS = 4
SMALL_TILE = 128
PARTS = 3
NOISE = {True: 16.0, False: 4.0}
"""How many times what rounding errors do is allowed: of fine floats, and of 16-bit ones, which eager rounds as well."""


@dataclass(frozen=True)
class Verdict:
    """`complaints` are what is wrong, each after what it is of; `undecided` says that rounding may decide a jump."""

    complaints: tuple[str, ...] = ()
    undecided: bool = False

    @property
    def kind(self) -> str:
        """What a smaller case must fail at to be the same failure."""
        if not self.complaints:
            return ""
        what, _, rest = self.complaints[0].partition(": ")
        if " raised " in what:
            return re.sub(r"\d+", "", f"{what}: {rest.rpartition(': ')[2]}")
        return " ".join(what.split()[:2])


def try_case(case: Case) -> Verdict:
    """Everything that is wrong with a case; raises what torch raises where the case makes no sense in torch."""
    batches = [Batch(feeds_of(case, i), dict(case.sizes[i])) for i in range(len(case.sizes))]
    try:
        graph, _ = declare(case)
    except Exception as error:
        return Verdict((f"declare {type(error).__name__}: {error}",))
    state = state_of(case, graph)
    with warnings.catch_warnings(), _tiles(case):
        warnings.simplefilter("ignore")
        exact = Run(case, exact=True)
        complaints = _of_types(case, graph, batches[0], state)
        if case.modelled:
            complaints += _of_model(case, graph, batches[0], state, exact)
        if case.loss:
            complaints += _of_step(case, graph, batches, state, exact)
    undecided = exact.nearest < 1
    if undecided:
        complaints = [c for c in complaints if "misplaced" in c or " raised " in c]
    return Verdict(tuple(complaints), undecided)


@contextmanager
def _tiles(case: Case) -> Iterator[None]:
    """Tiles of so few elements, and sums in so many parts, under the interpreter."""
    if not case.small_tiles:
        yield
        return
    defaults: Any = Runner.__init__.__kwdefaults__
    before = defaults["tile"], interpreted.PROGRAMS
    defaults["tile"], interpreted.PROGRAMS = SMALL_TILE, PARTS
    try:
        yield
    finally:
        defaults["tile"], interpreted.PROGRAMS = before


def _of_types(case: Case, graph: Graph, batch: Batch, state: Tensors) -> list[str]:
    """Shapes and dtypes of all values, as declared and as eager has them."""
    _, names = declare(case)
    run = Run(case)
    with torch.no_grad():
        values = run({n: t.clone() for n, t in {**batch.feeds, **state}.items()}, batch.sizes, case.training)
    wrong = []
    for step in case.steps:
        value, made = names[step.name], values[step.name]
        shape = tuple(size_in(s, batch.sizes) for s in shape_of(value))
        if (value.dtype.name, shape) != (str(made.dtype).removeprefix("torch."), tuple(made.shape)):
            declared = f"{value.dtype}{list(shape)}"
            wrong.append(f"type {step.tn}: declared as {declared}, torch has {made.dtype}{list(made.shape)}")
    return wrong


# -- the model ---------------------------------------------------------------------------------------------------------


def _of_model(case: Case, graph: Graph, batch: Batch, state: Tensors, exact: Run) -> list[str]:
    upstream = _upstream(case, graph, batch)
    truth = model_results(exact, batch, state, upstream)
    eager = model_results(Run(case), batch, state, upstream)
    try:
        model = tn.compile(graph, training=case.training, fusion=case.fusion, strict=not case.native)
        model.load_state_dict(state)
        found = {f"output {n}": t for n, t in _without_autograd(model, batch).items()}
        model.load_state_dict(state)
        watched = _fused_model(model, batch, upstream)
    except Exception as error:
        return [f"model raised {type(error).__name__}: {error}"]
    wrong = [f"model has no {name}" for name in truth if name not in watched and bool(truth[name].any())]
    for what, results in (("no_grad", found), ("model", watched)):
        for name, result in results.items():
            if name not in truth:
                if bool(result.any()):
                    wrong.append(f"{what} {name}: torch has none, and this is not 0")
                continue
            wrong += _judged(f"{what} {name}", result, eager[name], truth[name])
    if not wrong:
        return []
    noise = _noise([model_results(r, batch, state, upstream) for r in _noisy(case)], truth, case)
    results = [("no_grad", found), ("model", watched)]
    return [w for w in wrong if " has no " in w or "torch has none" in w] + [
        w
        for what, made in results
        for name, result in made.items()
        if name in truth
        for w in _judged(f"{what} {name}", result, eager[name], truth[name], noise[name])
    ]


def _without_autograd(model: Any, batch: Batch) -> Tensors:
    with torch.no_grad():
        made: Tensors = model(**batch.feeds)
    return made


def _fused_model(model: Any, batch: Batch, upstream: Mapping[str, Tensor]) -> Tensors:
    feeds = {n: t.detach().requires_grad_(t.is_floating_point()) for n, t in batch.feeds.items()}
    outputs = model(**feeds)
    held = model.tensors()
    made = {f"output {n}": t.detach() for n, t in outputs.items()}
    leaves = {n: t for n, t in {**feeds, **held}.items() if t.requires_grad}
    reached = [n for n in upstream if outputs[n].requires_grad]
    if reached and leaves:
        grads = torch.autograd.grad(
            [outputs[n] for n in reached], list(leaves.values()), [upstream[n] for n in reached], allow_unused=True
        )
        made |= {f"gradient {n}": g for n, g in zip(leaves, grads, strict=True) if g is not None}
    return made | {f"buffer {n}": t.clone() for n, t in held.items() if n not in leaves}


def _upstream(case: Case, graph: Graph, batch: Batch) -> Tensors:
    made = {}
    for name, value in graph.outputs.items():
        if value.dtype.is_float:
            shape = tuple(size_in(s, batch.sizes) for s in shape_of(value))
            made[name] = drawn(case.seed, f"upstream of {name}", shape, getattr(torch, value.dtype.name), "normal")
    return made


# -- the step ----------------------------------------------------------------------------------------------------------


def _of_step(case: Case, graph: Graph, batches: list[Batch], state: Tensors, exact: Run) -> list[str]:
    truth = step_results(exact, batches, state)
    eager = step_results(Run(case), batches, state)
    try:
        optimizer = eval(OPTIMIZERS[case.optimizer][0], {"tn": tn})
        options = {"fusion": case.fusion, "strict": not case.native, **dict(case.options)}
        step = tn.compile_step(graph, optimizer=optimizer, **options)
        step.model.load_state_dict(state)
        found = _fused_step(step, batches)
    except Exception as error:
        return [f"step raised {type(error).__name__}: {error}"]
    wrong = _step_complaints(found, eager, truth)
    if not wrong:
        return []
    noise = _noise([step_results(r, batches, state) for r in _noisy(case)], truth, case)
    return _step_complaints(found, eager, truth, noise)


def _fused_step(step: Any, batches: list[Batch]) -> Tensors:
    made: Tensors = {}
    for number, batch in enumerate(batches, 1):
        outputs = step(**batch.feeds)
        made |= {f"batch {number}: output {n}": t.clone() for n, t in outputs.items()}
        parameters = {n for n, _ in step.model.named_parameters()}
        for name, tensor in step.model.tensors().items():
            what = "weight" if name in parameters else "buffer"
            made[f"batch {number}: {what} {name}"] = tensor.detach().clone()
        slots = {n: t for n, t in step.slots.items() if not n.endswith(".grad")}
        made |= {f"batch {number}: state {n}": as_slope(n.rpartition(".")[2], t) for n, t in slots.items()}
    return made


def _step_complaints(
    found: Tensors, eager: Tensors, truth: Tensors, noise: Mapping[str, float] | None = None
) -> list[str]:
    wrong = [f"step has no {n}" for n in truth if n not in found and bool(truth[n].any())]
    for name, result in found.items():
        if name in truth:
            allowed = noise[name] if noise else 0.0
            wrong += _judged(f"step {name.partition(': ')[2]}", result, eager[name], truth[name], allowed)
    return wrong


# -- judging -----------------------------------------------------------------------------------------------------------


def _judged(what: str, result: Tensor, eager: Tensor, exact: Tensor, noise: float = 0.0) -> list[str]:
    try:
        found = compare(result, eager, exact)
    except tn.TritonNotesError as error:
        return [f"{what}: {error}"]
    return [] if _is_within(found, result, exact, noise) else [f"{what}: {found}, noise {noise:.1e}"]


def _is_within(found: Comparison, result: Tensor, exact: Tensor, noise: float) -> bool:
    if result.dtype == torch.float64:
        finite = exact[exact.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        return found.special and found.max_error <= 1e-10 * largest + 1e-11 + noise
    within = found.max_error <= found.max_allowed + noise and found.rms_error <= found.rms_allowed + noise
    return found.special and within


def _noisy(case: Case) -> list[Run]:
    return [Run(case, exact=True, noise=torch.Generator().manual_seed(i)) for i in range(NOISY_RUNS)]


def _noise(runs: list[Tensors], truth: Tensors, case: Case) -> dict[str, float]:
    times = NOISE[coarsest(case) < 1e-4]
    made = {}
    for name, exact in truth.items():
        gaps = [float((r[name] - exact).nan_to_num(0, 0, 0).abs().max()) for r in runs if r[name].numel()] \
            if exact.is_floating_point() else []  # fmt: skip
        made[name] = times * max(gaps, default=0.0)
    return made
