"""The same training by several ways side by side: a module's step by tritonnotes, by eager PyTorch and by
`torch.compile`, from the same weights on the same batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tritonnotes as tn

from ..datasets import Dataset

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]

OURS, EAGER, INDUCTOR = "tritonnotes", "eager", "torch.compile"


@dataclass(frozen=True)
class Trained:
    """What came of one way: the loss of each step, the loss on the rows held out, and seconds, of the first step, which
    compiles, and of the median step. `failed` says why there is none."""

    losses: tuple[float, ...] = ()
    held_out: float = float("nan")
    first: float = float("nan")
    usual: float = float("nan")
    failed: str = ""


def train_beside(
    module: nn.Module,
    data: Dataset,
    loss: Loss,
    *,
    lr: float = 1e-3,
    epochs: int = 3,
    batch_size: int = 128,
    seed: int = 0,
    ways: tuple[str, ...] = (OURS, EAGER, INDUCTOR),
    console: Console | None = None,
) -> dict[str, Trained]:
    """Train copies of `module` with Adam on the rows of `data`, once by each of the `ways`. Batch by batch they take
    turns, so that what else the machine does is shared alike. Shows a table on `console`, or nothing where it is None.

    `module` takes a batch of rows, and `loss` its result and their targets, as `torch.nn.functional.cross_entropy`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    modules = {way: deepcopy(module).to(device) for way in ways}
    steps = {way: STEPS[way](modules[way], loss, lr) for way in ways}
    losses: dict[str, list[Tensor]] = {way: [] for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    failed: dict[str, str] = {}
    for _, x, y in data.batches(batch_size, epochs, seed):
        x, y = x.to(device), y.to(device)
        for way in [way for way in ways if way not in failed]:
            try:
                took, found = _timed(steps[way], x, y)
            except torch._dynamo.exc.BackendCompilerFailed as error:
                inner = error.inner_exception
                failed[way] = f"{type(inner).__name__}: {str(inner).strip().splitlines()[0]}"
                continue
            times[way].append(took)
            losses[way].append(found)
    results = {}
    for way in ways:
        if way in failed:
            results[way] = Trained(failed=failed[way])
            continue
        first, *rest = times[way]
        with torch.no_grad():
            held_out = loss(modules[way].eval()(data.test_x.to(device)), data.test_y.to(device)).item()
        results[way] = Trained(tuple(map(float, losses[way])), held_out, first, median(rest or [first]))
    if console is not None:
        console.print(table_of(results, f"{type(module).__name__}, {batch_size} rows a step, {device}"))
    return results


def table_of(results: Mapping[str, Trained], title: str) -> Table:
    """A row for each way. Times are of this machine, and of the whole step with Python around it."""
    table = Table(title=title)
    for head in ("", "last loss", "held out", "first step", "usual", f"of {EAGER}"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    eager = results.get(EAGER, Trained())
    for way, found in results.items():
        if found.failed:
            table.add_row(way, f"not run: {found.failed}")
            continue
        table.add_row(
            way,
            f"{found.losses[-1]:.4f}",
            f"{found.held_out:.4f}",
            f"{found.first:.2f} s",
            f"{found.usual * 1000:.2f} ms",
            f"{found.usual / eager.usual:.2f}" if eager.losses else "",
        )
    return table


def _timed(step: Step, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    started = time.perf_counter()
    found = step(x, y).detach()
    if found.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, found


def _ours(module: nn.Module, loss: Loss, lr: float) -> Step:
    """Compiled by the first call, as the others are, so that its time is that of the first step."""
    made: list[tn.TrainingStep] = []

    def step(x: Tensor, y: Tensor) -> Tensor:
        if not made:
            target = "gpu" if x.is_cuda else "cpu"
            made.append(
                tn.compile_step(module, x, loss=loss, target_example=y, optimizer=tn.adam(lr=lr), target=target)
            )
        return made[0](x, y)["loss"]

    return step


def _eager(module: nn.Module, loss: Loss, lr: float) -> Step:
    return _loop(module, module, loss, lr)


def _inductor(module: nn.Module, loss: Loss, lr: float) -> Step:
    return _loop(torch.compile(module), module, loss, lr)


def _loop(called: Callable[[Tensor], Tensor], module: nn.Module, loss: Loss, lr: float) -> Step:
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, fused=True)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        found = loss(called(x), y)
        found.backward()
        optimizer.step()
        return found

    return step


STEPS: Mapping[str, Callable[[nn.Module, Loss, float], Step]] = {
    OURS: _ours, EAGER: _eager, INDUCTOR: _inductor,
}  # fmt: skip
