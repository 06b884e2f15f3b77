"""The numerics certificate: fused kernels, eager PyTorch and float64 side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .codegen.pipeline import make_program
from .ir.core.graph import Graph
from .ir.core.optimizer import Optimizer
from .ir.core.types import Dim, DType
from .ir.optim.update import update_graph
from .judge.executor import eager, eager_updates, oracle, oracle_updates
from .judge.samples import draw_feeds
from .judge.tolerance import Comparison, compare
from .judge.update_references import reference_step
from .runtime.model import Model
from .runtime.runner import Runner
from .tensors.dtypes import torch_dtype
from .tensors.initial import initial_state


@dataclass(frozen=True)
class Row:
    """One result: `what` is 'output', 'gradient', 'buffer' (as a run leaves it) or 'update'; `comparison` how far the
    kernels are from float64."""

    what: str
    name: str
    comparison: Comparison


@dataclass(frozen=True)
class Certificate:
    """How far every output, gradient and update is from float64, fused and eager. `ok`: all within the policy."""

    graph: str
    sizes: Mapping[str, int]
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return all(row.comparison.ok for row in self.rows)

    def __str__(self) -> str:
        sizes = ", ".join(f"{n}={s}" for n, s in self.sizes.items())
        lines = [f"certificate of {self.graph}" + (f" at {sizes}" if sizes else "")]
        lines.append(f"  {'':24} {'fused error':>12} {'eager error':>12} {'allowed':>12}")
        for row in self.rows:
            c = row.comparison
            verdict = "ok" if c.ok else "FAILS"
            name = f"{row.what} {row.name}"
            lines.append(f"  {name:24} {c.max_error:12.3e} {c.eager_max_error:12.3e} {c.max_allowed:12.3e}  {verdict}")
        held = "every result errs at most twice as much as eager, plus two units in the last place"
        lines.append(f"  {'OK: ' + held if self.ok else 'FAILS: see the rows above'}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """For programs: graph, sizes, ok, and the errors of each row."""
        rows = [
            {
                "what": r.what,
                "name": r.name,
                "ok": r.comparison.ok,
                "max_error": r.comparison.max_error,
                "eager_max_error": r.comparison.eager_max_error,
                "allowed": r.comparison.max_allowed,
            }
            for r in self.rows
        ]
        return {"graph": self.graph, "sizes": dict(self.sizes), "ok": self.ok, "rows": rows}


def check(
    graph: Graph,
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
    fusion: str = "optimal",
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Certificate:
    """Compare compiled kernels with eager PyTorch and with float64: outputs, and gradients of all parameters and
    floating inputs, in the evaluation form. Given an `optimizer`, these are those of the training form, and the buffers
    that a run leaves and three updates by the optimizer's rule are compared as well.

    `sizes` gives each `Dim` a size (default 33: awkward on purpose). `feeds` and `state` default to random tensors
    within the domains of the ops that read them, and to the initial weights.
    """
    dims = {s.name: 33 for v in graph.values for s in v.shape if isinstance(s, Dim)}
    bound = {**dims, **(sizes or {})}
    training = optimizer is not None
    model = Model(graph, training=training, fusion=fusion, device=device, seed=seed)
    given = dict(feeds) if feeds is not None else draw_feeds(graph, bound, seed)
    given = {n: t.to(model.device) for n, t in given.items()}
    weights = dict(state) if state is not None else initial_state(graph, seed)
    weights = {n: t.to(model.device) for n, t in weights.items()}
    model.load_state_dict(weights)
    model.seed = seed
    rows = _outputs_and_gradients(graph, model, given, weights, seed)
    if optimizer is not None:
        new = [run(graph, given, weights, seed=seed) for run in (eager_updates, oracle_updates)]
        rows += [Row("buffer", n, compare(model.tensors()[n], *(state[n] for state in new))) for n in graph.updates]
        dtypes = dict.fromkeys(v.dtype for v in graph.parameters)
        rows += [row for dtype in dtypes for row in _updates(optimizer, dtype, fusion, model.device, seed)]
    return Certificate(graph.name, bound, tuple(rows))


def _outputs_and_gradients(
    graph: Graph, model: Model, feeds: dict[str, Tensor], weights: dict[str, Tensor], seed: int
) -> list[Row]:
    trained = [v.name for v in graph.parameters]
    inputs = [v.name for v in graph.inputs if v.dtype.is_float]

    def leaves(tensors: Mapping[str, Tensor], names: list[str], exact: bool) -> dict[str, Tensor]:
        wide = {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in tensors.items()}
        return {n: t.detach().requires_grad_(n in names) for n, t in wide.items()}

    judged = []
    for run, exact in ((eager, False), (oracle, True)):
        fed, held = leaves(feeds, inputs, exact), leaves(weights, trained, exact)
        judged.append((run(graph, fed, held, training=model.training, seed=seed), {**fed, **held}))
    fed = leaves(feeds, inputs, False)
    fused = model(**fed)
    results = [(fused, {**fed, **model.tensors()}), *judged]
    rows = [Row("output", n, compare(*(r[n].detach() for r, _ in results))) for n in graph.outputs]
    # Only the outputs that something trained or fed reaches have a gradient.
    floats = [n for n in graph.outputs if judged[0][0][n].requires_grad]
    if not floats:
        return rows
    generator = torch.Generator().manual_seed(seed)
    directions = {n: torch.randn(judged[0][0][n].shape, generator=generator).to(judged[0][0][n]) for n in floats}
    gradients = []
    for outputs, tensors in results:
        wanted = {n: tensors[n] for n in (*inputs, *trained)}
        given = [directions[n].to(outputs[n].dtype) for n in floats]
        found = torch.autograd.grad([outputs[n] for n in floats], list(wanted.values()), given, allow_unused=True)
        gradients.append(dict(zip(wanted, found, strict=True)))
    for name in (*inputs, *trained):
        parts = [g[name] for g in gradients]
        if parts[1] is None and parts[0] is None:
            continue
        like = feeds[name] if name in feeds else weights[name]
        fused_part, eager_part, exact_part = (torch.zeros_like(like) if p is None else p for p in parts)
        rows.append(Row("gradient", name, compare(fused_part, eager_part, exact_part)))
    return rows


def _updates(optimizer: Optimizer, dtype: DType, fusion: str, device: torch.device, seed: int) -> list[Row]:
    """Three updates of one made-up parameter by made-up gradients, by the rule's kernel and by its torch reference.

    A rule is judged on given gradients: where it divides by their size, as Adam does, the rounding of a gradient near 0
    decides the sign of a whole step, in eager PyTorch as well.
    """
    count = Dim("elements")
    alone = update_graph(optimizer, (count,), dtype)
    runner = Runner(make_program(alone, fusion), device)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(1000, generator=generator, dtype=torch.float64).to(torch_dtype(dtype)) for _ in range(4)]
    start = {n: torch.full((1000,), first, dtype=torch_dtype(dtype)) for n, first in optimizer.state.items()}
    fused = {n: t.clone().to(device) for n, t in {"p": drawn[0], **start}.items()}
    judges = [(drawn[0].to(t), {n: s.to(t) for n, s in start.items()}) for t in (drawn[0].dtype, torch.float64)]
    wanted = [v.name.rpartition(".")[2] for v in alone.leaves("scalar")]
    numbers = optimizer.numbers
    for step, gradient in enumerate(drawn[1:], 1):
        given = {**optimizer.settings, **numbers, "step": step}
        runner.run({**fused, "g": gradient.to(device)}, {count.name: 1000}, {n: float(given[n]) for n in wanted})
        judged = [reference_step(optimizer, p, gradient.to(p), state, step, numbers) for p, state in judges]
        judges = [(p, state) for p, state, _ in judged]
        numbers = judged[-1][2]
    (eager_p, eager_state), (exact_p, exact_state) = judges
    eager_results, exact_results = {"p": eager_p, **eager_state}, {"p": exact_p, **exact_state}
    return [
        Row("update", f"{optimizer.rule.name} {n}", compare(t.cpu(), eager_results[n], exact_results[n]))
        for n, t in fused.items()
    ]
