"""The demonstration: a real model's training step, compiled, trained beside eager PyTorch on real data, and judged.

`train` runs the fused step, eager PyTorch and a float64 run from the same weights on the same batches; `run_demo`
adds the fusion plan, the numerics certificate, a plot and the generated kernels, and shows them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

import tritonnotes as tn

from ..codegen.fusion.constraints import Fusion
from ..codegen.pipeline import make_plan
from ..codegen.plan.fusion_plan import FusionPlan
from ..datasets import Dataset, MissingExtraError, load_digits
from ..ir.core.optimizer import Optimizer
from ..ir.passes.chunks import LOGITS_BUDGET
from ..ir.passes.joint import joint_graph
from ..judge.executor import oracle
from ..training.step import TrainingStep
from .rich_tables import certificate_table, epoch_table, plan_table, score_table

CURVE_LIMIT = 1e-4
"""How far the fused loss may be from the eager one, relative to it, at any step of the run."""

TorchOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


def digits() -> tn.Graph:
    """The demonstration's model: two hidden layers with layer norm and a residual, 64 pixels to 10 digits."""
    g = tn.Graph("digits")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, 64))
    y = g.input("y", (batch,), dtype="int64")
    h = tn.relu(tn.layer_norm(tn.linear(x, 128, name="fc1"), name="ln1"))
    h = tn.tanh(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2")) + h
    logits = tn.linear(h, 10, name="fc3")
    loss = tn.cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=tn.accuracy(logits, y))
    return g


@dataclass(frozen=True)
class Curves:
    """Losses by step: fused, eager and eager in float64. `epochs` says which epoch each step belongs to."""

    epochs: tuple[int, ...]
    fused: tuple[float, ...]
    eager: tuple[float, ...]
    exact: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The largest |fused − eager| / |eager| of any step."""
        return _largest_relative(self.fused, self.eager)

    @property
    def eager_drift(self) -> float:
        """The same of eager float32 against eager float64: how far rounding alone carries a run."""
        return _largest_relative(self.eager, self.exact)

    @property
    def fused_drift(self) -> float:
        """The same of the fused run against eager float64."""
        return _largest_relative(self.fused, self.exact)

    def by_epoch(self) -> list[tuple[float, float, float]]:
        """For each epoch: mean fused loss, mean eager loss, largest relative difference of a step."""
        rows = []
        for epoch in dict.fromkeys(self.epochs):
            fused = [f for e, f in zip(self.epochs, self.fused, strict=True) if e == epoch]
            judged = [f for e, f in zip(self.epochs, self.eager, strict=True) if e == epoch]
            means = (sum(fused) / len(fused), sum(judged) / len(judged))
            rows.append((*means, _largest_relative(fused, judged)))
        return rows


def _largest_relative(found: Iterable[float], wanted: Iterable[float]) -> float:
    return max((_relative(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)


def _relative(found: float, wanted: float) -> float:
    """|found − wanted| / |wanted|. A NaN is as far off as can be: max() would step over it."""
    if found == wanted:
        return 0.0
    gap = abs(found - wanted) / abs(wanted) if wanted else math.inf
    return gap if gap == gap else math.inf


@dataclass(frozen=True)
class DemoResult:
    """All that the demonstration found. Times in seconds, bytes at the batch size trained with; paths as given.

    The scores are the graph's scalar outputs (loss, accuracy, …) on the rows held out.
    """

    device: str
    seed: int
    epochs: int
    batch_size: int
    steps: int
    compile_seconds: float
    plan_seconds: float
    fused_seconds: float
    eager_seconds: float
    fused_scores: Mapping[str, float]
    eager_scores: Mapping[str, float]
    curve_difference: float
    eager_drift: float
    fused_drift: float
    fused_losses: tuple[float, ...]
    eager_losses: tuple[float, ...]
    launches: int
    generated_kernels: int
    bytes_moved: int
    unfused_launches: int
    unfused_bytes_moved: int
    certificate: Mapping[str, object]
    certified: bool
    files: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """The curves agree and every number is as near to float64 as the numerics contract asks."""
        return self.curve_difference <= CURVE_LIMIT and self.certified

    def to_dict(self) -> dict[str, Any]:
        """For programs: every field, the limit on the curves, and `ok`."""
        return {**asdict(self), "curve_limit": CURVE_LIMIT, "ok": self.ok}


def run_demo(
    graph: tn.Graph,
    data: Dataset | None = None,
    *,
    optimizer: Optimizer | None = None,
    torch_optimizer: TorchOptimizer | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    logits_budget: int | None = LOGITS_BUDGET,
    strict: bool | None = None,
    out: str | Path = "tritonnotes-demo",
    console: Console | None = None,
) -> DemoResult:
    """Train `graph` (inputs x, y; output loss) on `data`, or on the digits, beside eager PyTorch, and report.

    `optimizer` and `torch_optimizer` must be the same rule in both worlds (Adam at 0.002 unless given);
    `logits_budget` and `strict` are those of `tn.compile_step`. Writes `step.py`, `loss.png` and `result.json` to
    `out`. Shows all of it on `console`, or nothing where that is None.
    Raises `MissingExtraError` where scikit-learn or matplotlib is missing, `OSError` where `out` cannot be written.
    """
    optimizer = optimizer or tn.adam(lr=2e-3)
    torch_optimizer = torch_optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=2e-3))
    _require_matplotlib()
    data = data or load_digits(seed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    say = (console or Console(quiet=True)).print

    started = time.perf_counter()
    step = tn.compile_step(
        graph, loss="loss", optimizer=optimizer, seed=seed, logits_budget=logits_budget, strict=strict
    )
    _compile_kernels(step, data, batch_size)
    compile_seconds = time.perf_counter() - started
    plan_seconds = _planning_time(graph, optimizer, step.plan.candidate.options.target)
    where = step.model.execution.describe(step.device)
    say(f"Training {graph.name} with {optimizer} on {len(data.x):,} rows, {len(data.test_x)} more held out; {where}.")
    say(f"Compiled in {compile_seconds:.2f} s, kernels included; planning takes {plan_seconds * 1000:.0f} ms of that.")

    curves, times, weights = train(step, torch_optimizer, data, epochs, batch_size, seed, console)
    say(epoch_table(curves.by_epoch()))
    agree = "within" if curves.difference <= CURVE_LIMIT else "BEYOND"
    steps = f"over {len(curves.fused)} steps, {agree} {CURVE_LIMIT:.0e}"
    say(f"Loss curves, fused and eager: at most {curves.difference:.1e} apart, relative, {steps}.")
    say(f"Both against eager PyTorch in float64: fused {curves.fused_drift:.1e}, eager {curves.eager_drift:.1e}.")
    remark = _INTERPRETED if step.model.execution.strict else ""
    say(f"Time: fused {times[0]:.2f} s, eager {times[1]:.2f} s.{remark}\n")

    unfused = make_plan(step.plan.graph, Fusion("off", target=step.plan.candidate.options.target))
    say(plan_table(step.plan, unfused, batch_size))
    certificate = tn.check(graph, optimizer=optimizer, device=step.device, strict=strict)
    say(certificate_table(certificate))
    scores = _held_out(step, weights, data)
    say(score_table(*scores, rows=len(data.test_x)))

    files = {"kernels": folder / "step.py", "plot": folder / "loss.png", "result": folder / "result.json"}
    files["kernels"].write_text(step.source, encoding="utf-8")
    _plot(curves, files["plot"])
    timing = (compile_seconds, plan_seconds, *times)
    settings = {"device": str(step.device), "seed": seed, "epochs": epochs, "batch_size": batch_size}
    result = _result(settings, timing, scores, curves, (step.plan, unfused), certificate, files)
    files["result"].write_text(json.dumps(plain(result.to_dict()), indent=2) + "\n", encoding="utf-8")
    for what, path in files.items():
        say(f"{what.capitalize():8} {path}", highlight=False, soft_wrap=True)
    return result


_INTERPRETED = " The strict interpreter checks every access and runs no machine code: this says nothing of speed."


def _compile_kernels(step: TrainingStep, data: Dataset, batch_size: int) -> None:
    """Compile the kernels for the sizes of all batches, by steps that are taken back."""
    state = step.state_dict()
    for size in dict.fromkeys((min(batch_size, len(data.x)), len(data.x) % batch_size or batch_size)):
        if not step.model.execution.strict:  # which compiles nothing
            step(x=data.x[:size].to(step.device), y=data.y[:size].to(step.device))
    step.load_state_dict(state)


def train(
    step: TrainingStep,
    torch_optimizer: TorchOptimizer,
    data: Dataset,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    console: Console | None = None,
) -> tuple[Curves, tuple[float, float], dict[str, Tensor]]:
    """Train `step`, eager PyTorch and eager float64 in turn on each batch, from the weights that `step` holds.

    Returns the curves, the seconds spent in the fused and in the eager steps, and the eager run's weights.
    """
    judges = [_Eager(step, torch_optimizer, run, dtype) for run, dtype in ((tn.eager, None), (oracle, torch.float64))]
    epoch_of: list[int] = []
    losses: list[float] = []
    fused_seconds = eager_seconds = 0.0
    total = epochs * math.ceil(len(data.x) / batch_size)
    with _progress(console) as progress:
        task = progress.add_task("training", total=total, losses="") if progress else None
        for epoch, x, y in data.batches(batch_size, epochs, seed):
            x, y = x.to(step.device), y.to(step.device)
            started = time.perf_counter()
            losses.append(float(step(x=x, y=y)["loss"]))
            fused_seconds += time.perf_counter() - started
            started = time.perf_counter()
            judges[0].step(x, y)
            eager_seconds += time.perf_counter() - started
            judges[1].step(x, y)
            epoch_of.append(epoch)
            if progress and task is not None:
                shown = f"epoch {epoch + 1}/{epochs}  fused {losses[-1]:.4f}  eager {judges[0].losses[-1]:.4f}"
                progress.update(task, advance=1, losses=shown)
    curves = Curves(tuple(epoch_of), tuple(losses), *(tuple(j.losses) for j in judges))
    return curves, (fused_seconds, eager_seconds), judges[0].weights


class _Eager:
    """One run of eager PyTorch: every op by its torch.nn.functional reference, the update by torch.optim."""

    def __init__(
        self,
        step: TrainingStep,
        torch_optimizer: TorchOptimizer,
        run: Callable[..., dict[str, Tensor]],
        dtype: torch.dtype | None,
    ) -> None:
        self.graph, self.run = step.graph, run
        trained = {v.name for v in step.graph.parameters}
        self.weights = {n: t.detach().clone().to(dtype or t.dtype) for n, t in step.model.tensors().items()}
        for name in trained:
            self.weights[name].requires_grad_()
        self.optimizer = torch_optimizer([self.weights[n] for n in self.weights if n in trained])
        self.losses: list[float] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = self.run(self.graph, {"x": x, "y": y}, self.weights)["loss"]
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


def _progress(console: Console | None) -> Any:
    if console is None:
        return nullcontext()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[losses]}"), console=console)


def _planning_time(graph: tn.Graph, optimizer: Optimizer, target: str | None) -> float:
    """Seconds that planning the training step takes, its joint graph given, once everything it imports is loaded."""
    joint = joint_graph(graph, "loss", optimizer)
    started = time.perf_counter()
    make_plan(joint, Fusion(target=target))
    return time.perf_counter() - started


Scores = Mapping[str, float]


def _held_out(step: TrainingStep, weights: Mapping[str, Tensor], data: Dataset) -> tuple[Scores, Scores]:
    """The scalar outputs on the rows held out: fused with the fused run's weights, eager with the eager run's."""
    feeds = {"x": data.test_x.to(step.device), "y": data.test_y.to(step.device)}
    scalars = [name for name, value in step.graph.outputs.items() if not value.shape and value.dtype.is_float]
    with torch.no_grad():
        fused, judged = step.model(**feeds), tn.eager(step.graph, feeds, weights)
    return {n: float(fused[n]) for n in scalars}, {n: float(judged[n]) for n in scalars}


def _result(
    settings: Mapping[str, Any],
    timing: tuple[float, ...],
    scores: tuple[Scores, Scores],
    curves: Curves,
    plans: tuple[FusionPlan, FusionPlan],
    certificate: tn.Certificate,
    files: Mapping[str, Path],
) -> DemoResult:
    plan, unfused = plans
    batch = settings["batch_size"]
    return DemoResult(
        **settings,
        steps=len(curves.fused),
        compile_seconds=timing[0],
        plan_seconds=timing[1],
        fused_seconds=timing[2],
        eager_seconds=timing[3],
        fused_scores=scores[0],
        eager_scores=scores[1],
        curve_difference=curves.difference,
        eager_drift=curves.eager_drift,
        fused_drift=curves.fused_drift,
        fused_losses=curves.fused,
        eager_losses=curves.eager,
        launches=len(plan.launches),
        generated_kernels=len(plan.kernels),
        bytes_moved=plan.bytes_moved(batch),
        unfused_launches=len(unfused.launches),
        unfused_bytes_moved=unfused.bytes_moved(batch),
        certificate=certificate.to_dict(),
        certified=certificate.ok,
        files={what: str(path) for what, path in files.items()},
    )


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: tuples as lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "which draws the loss curves") from None


def _plot(curves: Curves, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, without pyplot: whatever backend the caller uses stays as it is.
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, gaps = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    losses.plot(curves.eager, linewidth=4, alpha=0.4, label="eager PyTorch")
    losses.plot(curves.fused, linewidth=1, label="fused")
    losses.set(ylabel="loss", yscale="log", title="Fused training step and eager PyTorch, same weights and batches")
    losses.legend()
    for label, run in (("fused and eager", curves.fused), ("float64 and eager", curves.exact)):
        gaps.plot([_relative(a, b) for a, b in zip(run, curves.eager, strict=True)], label=label)
    gaps.axhline(CURVE_LIMIT, linestyle="--", color="grey", label="limit")
    # Steps that agree to the last bit have no place on a logarithmic axis.
    gaps.set(xlabel="step", ylabel="relative difference")
    gaps.set_yscale("log", nonpositive="mask")
    gaps.legend(loc="lower right", ncols=3)
    figure.savefig(path, dpi=120)
