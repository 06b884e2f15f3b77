"""A strict look: kernels whose numbers are judged as machine code, once more under the strict interpreter, on few rows.

Machine code says what the numbers are. It does not say that a lane reads past a tensor, what another buffer left in its
place, or what another program has yet to write: numbers may be right all the same, by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import torch
from torch import Tensor

from .codegen.memory.buffers import Buffer
from .codegen.program.program import Program
from .codegen.support.sizes import Sizes
from .codegen.support.text import counted
from .ir.core.errors import KernelError, first_line
from .ir.core.graph import Graph
from .ir.core.types import bind_dims, dims_in
from .judge.samples import draw_feeds
from .runtime.executors.execution import Execution
from .runtime.model import Model, outputs_by_name
from .runtime.runner import Runner
from .tensors.dtypes import torch_dtype
from .training.step import TrainingStep

STRICT = Execution(strict=True, split=True)
"""Launches are split, so that there are programs that can race, and a tile that is not full."""

SMALL = (5, 7, 3)
"""The sizes of `Dim`s, in turn: no multiples of a block, and two axes differ."""

FEW = 37
"""The elements of an update alone: two blocks, of which one has a tail."""

MOST_BYTES = 2**25
"""What programs may move for a look, static sizes being what they are: the interpreter takes seconds for as much."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class StrictLook:
    """What the strict interpreter saw of `kernels` at `sizes`. Each of its `findings` names a kernel, a program and a
    line of the source. `left_out` says why it did not look, and is empty where it did."""

    sizes: Mapping[str, int] = field(default_factory=dict)
    kernels: int = 0
    findings: tuple[str, ...] = ()
    left_out: str = ""

    @property
    def ok(self) -> bool:
        return not self.findings

    def lines(self) -> Iterator[str]:
        """What to print of it."""
        held = counted(len(self.findings), "finding") if self.findings else "not judged" if self.left_out else "right"
        how = self.left_out or f"{counted(self.kernels, 'kernel')}{_at(self.sizes)}"
        yield f"bounds, memory and races: {held} (strict interpreter: {how})"
        yield from (f"FAILS: {finding}" for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """For programs: ok, sizes, the count of kernels, findings, and why it was left out or None."""
        seen = {"sizes": dict(self.sizes), "kernels": self.kernels, "findings": list(self.findings)}
        return {"ok": self.ok, **seen, "left_out": self.left_out or None}


@dataclass(frozen=True)
class Run:
    """Something to look at: `make` runs the kernels of `programs` under the interpreter, on feeds."""

    programs: Sequence[Program]
    make: Callable[[Tensors], object]


def runs_of_model(model: Model, seed: int, *, without_autograd: bool) -> list[Run]:
    """A call of a model with autograd, and back; and before it one without, where that is judged as well."""
    tensors = model.tensors()
    inputs = [v.name for v in model.graph.inputs if v.dtype.is_float]
    wanted = [*inputs, *(v.name for v in model.graph.parameters if tensors[v.name].requires_grad)]

    def call(feeds: Tensors) -> dict[str, Tensor]:
        made = model.under(STRICT)
        made.seed = seed
        return outputs_by_name(made, feeds)

    def alone(feeds: Tensors) -> None:
        with torch.no_grad():
            call(feeds)

    def and_back(feeds: Tensors) -> None:
        leaves = {n: t.detach().clone().requires_grad_(n in inputs) for n, t in feeds.items()}
        outputs = [t for t in call(leaves).values() if t.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])

    runs = [Run(model.programs_of(), alone)] if without_autograd else []
    return [*runs, Run(model.programs_of(wanted), and_back)]


def runs_of_step(step: TrainingStep) -> list[Run]:
    """The batches of one update of a step, from where it stands."""

    def update(feeds: Tensors) -> None:
        made = step.under(STRICT)
        made.load_state_dict({**made.state_dict(), "gathered": 0})
        for _ in range(made.accumulate):
            made(**feeds)

    gathering = [] if step.gathering is None else [step.gathering]
    return [Run([*gathering, step.program], update)]


def run_of_update(program: Program, numbers: Mapping[str, float]) -> Run:
    """One update of a made-up parameter."""

    def update(_: Tensors) -> None:
        (count,) = program.dims
        leaves = {n: t.fill_(0.5) for n, t in ((b.name, _empty(b)) for b in program.buffers if b.role == "leaf")}
        Runner(program, torch.device("cpu"), STRICT).run(leaves, {count.name: FEW}, numbers)

    return Run([program], update)


def strict_look(
    graph: Graph,
    runs: Sequence[Run],
    model: Model,
    *,
    sizes: Mapping[str, int],
    feeds: Tensors | None,
    seed: int,
) -> StrictLook:
    """Make each run once under the strict interpreter at small sizes; where an op refuses these, at the `sizes` that
    were compared, on the `feeds` that were given. The `model` made the numbers; it holds parameters and buffers."""
    if model.execution.strict:
        return StrictLook(left_out="the strict interpreter made these numbers itself")
    if model.device.type != "cpu":
        made_by = model.execution.describe(model.device)
        return StrictLook(left_out=f"{made_by} made these numbers, and none of them is machine code")
    programs = [program for run in runs for program in run.programs]
    kernels = sum(len(program.kernels) for program in programs)
    if not kernels:
        return StrictLook(left_out="no kernel is generated")
    dims = list(dict.fromkeys(dim.name for v in graph.values for dim in dims_in(v.shape)))
    compared = dict(sizes)
    if feeds is not None:
        compared = {}
        bind_dims([(v.shape, tuple(feeds[v.name].shape)) for v in graph.inputs], compared)
    small = {name: min(size, compared.get(name, size)) for name, size in zip(dims, cycle(SMALL), strict=False)}
    refused, findings = "", dict[str, None]()
    for tried in (small, compared):
        is_last = tried == compared
        moved = sum(program.plan.bytes_moved(Sizes(SMALL[0], tried)) for program in programs)
        if moved > MOST_BYTES:
            much = f"{moved:,} bytes are moved{_at(tried)}, and more than {MOST_BYTES:,} take long"
            return StrictLook(findings=(*findings,), left_out=refused + much)
        try:
            fed = feeds if is_last and feeds is not None else draw_feeds(graph, tried, seed, state=model.tensors())
            for run in runs:  # what one finds stays found where another refuses the sizes
                findings |= dict.fromkeys(_findings(run, fed, every=is_last))
        except Exception as error:
            if is_last:
                raise
            refused = f"{first_line(error)}{_at(tried)}; "
            continue
        return StrictLook(tried, kernels, (*findings,))
    raise AssertionError("the last sizes are looked at, or raise")


def _findings(run: Run, feeds: Tensors, *, every: bool) -> Iterator[str]:
    """What stops a run: the interpreter, or with `every` anything at all, which a size then does not excuse."""
    try:
        run.make(feeds)
    except KernelError as error:
        yield str(error)
    except Exception as error:
        if not every:
            raise
        yield f"{type(error).__name__}: {error}"


def _empty(buffer: Buffer) -> Tensor:
    return torch.empty(FEW, dtype=torch_dtype(buffer.dtype), device="cpu")


def _at(sizes: Mapping[str, int]) -> str:
    return " at " + ", ".join(f"{n}={s}" for n, s in sizes.items()) if sizes else ""
