"""What the tests of drop-in optimizers share: options of every class, and runs beside torch's own and a float64 oracle.

The oracle is torch's optimizer on float64 copies of the same, already rounded, parameters and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tritonnotes import optim
from tritonnotes.judge.tolerance import Comparison, compare
from tritonnotes.runtime.runner import pick_device

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (7,), (), (0, 4), (33, 31))

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ],
    "Adagrad": [
        {},
        {"lr_decay": 0.5},
        {"initial_accumulator_value": 0.1},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
    ],
    "Adadelta": [{}, {"rho": 0.95}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}],
    "RMSprop": [
        {},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.5, "weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
    ],
    "Adam": [
        {},
        {"betas": (0.5, 0.9)},
        {"amsgrad": True},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "amsgrad": True, "decoupled_weight_decay": True},
    ],
    "AdamW": [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "amsgrad": True}, {"maximize": True}],
    "NAdam": [
        {},
        {"momentum_decay": 6e-3},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "RAdam": [{}, {"eps": 1e-6}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    "Adamax": [{}, {"betas": (0.5, 0.9)}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}],
}
CASES = [(name, how) for name, each in OPTIONS.items() for how in each]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def case_name(case: Any) -> str:
    name, how = case
    return "-".join([name, *(f"{k}={v}" for k, v in how.items())])


def for_dtype(how: dict[str, Any], name: str, dtype: torch.dtype) -> dict[str, Any]:
    """The same options; in float16, where eps vanishes beside a second moment that has underflown, a larger eps."""
    has_eps = name != "SGD" and "eps" not in how
    return {**how, "eps": 1e-3} if dtype == torch.float16 and has_eps else how


def parameters(dtype: torch.dtype, shapes: Iterable[tuple[int, ...]] = SHAPES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [t.to(dtype).to(pick_device()).requires_grad_() for t in drawn]


def gradients(step: int, like: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Those of one step, rounded to `dtype` whatever the dtype of the parameters is."""
    generator = torch.Generator().manual_seed(1000 + step)
    drawn = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in like]
    return [g.to(dtype).to(p.dtype).to(p.device) for g, p in zip(drawn, like, strict=True)]


@dataclass(frozen=True)
class Judged:
    """How far one kind of tensor, of all parameters together, is from the oracle after a run."""

    what: str
    comparison: Comparison

    @property
    def ok(self) -> bool:
        return self.comparison.ok

    @property
    def ulps(self) -> float:
        """The largest error in units of the last place of the largest number."""
        return self.comparison.max_error / self.comparison.ulp if self.comparison.ulp else 0.0

    @property
    def eager_ulps(self) -> float:
        return self.comparison.eager_max_error / self.comparison.ulp if self.comparison.ulp else 0.0

    def __str__(self) -> str:
        return f"{self.what}: {self.comparison}"


def judge(
    case: Any,
    dtype: torch.dtype,
    steps: int,
    give: Callable[[int, int], bool] = lambda step, i: True,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> list[Judged]:
    """Parameters and state after `steps`, of the drop-in beside torch's own class and the oracle.

    `give(step, i)` says whether parameter i has a gradient in a step.
    """
    name, how = case
    how = for_dtype(how, name, dtype)
    classes = [getattr(optim, name), getattr(torch.optim, name), getattr(torch.optim, name)]
    runs = []
    for make, its_dtype in zip(classes, (dtype, dtype, torch.float64), strict=True):
        params = [p.detach().to(its_dtype).requires_grad_() for p in parameters(dtype, shapes)]
        optimizer = make(params, **how)
        for step in range(steps):
            for i, (p, g) in enumerate(zip(params, gradients(step, params, dtype), strict=True)):
                p.grad = g if give(step, i) else None
            optimizer.step()
        runs.append(tensors_of(optimizer, params))
    mine, theirs, exact = runs
    assert mine.keys() == theirs.keys()
    return [Judged(what, compare(mine[what], theirs[what], exact[what].to(mine[what].device))) for what in mine]


def tensors_of(optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters, and each kind of state, all numbers in a row; counts of steps as integers.

    In a row, since the error of one number alone says nothing: eager may have been lucky with it.
    """
    found: dict[str, list[Tensor]] = {"p": [p.detach().flatten() for p in params]}
    for p in params:
        for key, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                found.setdefault(key, []).append((value.long() if key == "step" else value).flatten())
    return {what: torch.cat(each) for what, each in found.items()}


def assert_ok(judged: Sequence[Judged]) -> None:
    bad = [str(j) for j in judged if not j.ok]
    assert not bad, "\n".join(bad)


def table() -> Iterable[str]:
    """The lines of a Markdown table: the worst error of every class over its options, beside torch's own."""
    yield "| class | options | steps | " + " | ".join(str(d).removeprefix("torch.") for d in DTYPES) + " |"
    yield "|---|---|---|" + "---|" * len(DTYPES)
    for name, options in OPTIONS.items():
        for steps in (7, 200):
            cells = []
            for dtype in DTYPES:
                judged = [j for how in options for j in judge((name, how), dtype, steps, shapes=((257,),))]
                assert all(j.ok for j in judged), (name, dtype, steps)
                mine, theirs = max(j.ulps for j in judged), max(j.eager_ulps for j in judged)
                cells.append(f"{mine:.1f} ({theirs:.1f})")
            yield f"| {name} | {len(options)} | {steps} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
