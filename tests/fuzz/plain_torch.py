"""A case in torch alone: eager in its own dtypes, exactly in float64, or with a rounding error after every step.

Nothing of tritonnotes runs here. A cast rounds in the exact run as well; its gradient passes unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from graph_cases import OPTIMIZERS, Case, coarsest, exact_values, feeds_of
from torch import Tensor
from torch.nn import functional as F

Tensors = dict[str, Tensor]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).double()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return d, None


def gap(x: Tensor, dims: list[int], sign: float = 1.0) -> Tensor:
    """How far the largest of each group is from the next one."""
    kept = [d for d in range(x.ndim) if d not in dims]
    rows = (sign * x).permute(*kept, *dims).reshape(*(x.shape[d] for d in kept), -1)
    if rows.shape[-1] < 2:
        return torch.ones(())
    top = rows.topk(2, -1).values
    return top[..., 0] - top[..., 1]


def batch_norm(x: Tensor, held: Mapping[str, Tensor], name: str, training: bool) -> Tensor:
    """As torch.nn.BatchNorm1d(eps=0.1) runs: its statistics are updated in place."""
    mean, var, weight, bias = (held[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    if training:
        held[f"{name}.num_batches_tracked"].add_(1)
    # Where channels lie last and rows do in the gradient, the backward run of torch 2.13 gives wrong numbers.
    return F.batch_norm(x.contiguous(), mean, var, weight, bias, training, 0.1, 0.1)


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """The share of rows whose largest logit is that of the target."""
    return (logits.argmax(1) == target).double().mean().float()


def clipped(optimizer: torch.optim.Optimizer, weights: list[Tensor], max_norm: float) -> torch.optim.Optimizer:
    """The optimizer with its gradients clipped before every step."""

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(weights, max_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


@dataclass
class Run:
    """How a case is run. `noise` draws rounding errors; `nearest` is how near to a jump it came, in margins."""

    case: Case
    exact: bool = False
    noise: torch.Generator | None = None
    nearest: float = float("inf")
    values: Tensors = field(default_factory=dict)

    def __call__(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], training: bool) -> Tensors:
        """Every value by name. `tensors` are inputs and state; running statistics are updated in place."""
        self.values = {}
        _forward(self.case)(tensors, self.keep, self.near, self.to, self.margin, training, **sizes)
        return self.values

    def keep(self, name: str, value: Tensor) -> Tensor:
        if self.exact and value.dtype in (torch.float16, torch.bfloat16, torch.float32):
            value = value.double()
        if value.is_floating_point() and name not in _exact(self.case):
            value = self.noised(value)
        if self.noise is not None and value.requires_grad:
            value.register_hook(self.noised)  # a gradient rounds on its way, also where its value does not
        self.values[name] = value
        return value

    def noised(self, value: Tensor) -> Tensor:
        """The value with a rounding error, where the run makes any."""
        if self.noise is None:
            return value
        return self._moved(value, coarsest(self.case))

    def near(self, value: Tensor) -> Tensor:
        """What a step computes with that no rounding has touched: a sum that is added up in float32 is the exact one of
        numbers near these."""
        if self.noise is None or not value.is_floating_point():
            return value
        return self._moved(value, min(coarsest(self.case), torch.finfo(torch.float32).eps))

    def _moved(self, value: Tensor, by: float) -> Tensor:
        error = torch.rand(value.shape, generator=self.noise, dtype=torch.float64) - 0.5
        return value * (1 + by * error)

    def to(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if not self.exact or not dtype.is_floating_point:
            return x.to(dtype)
        return _Rounded.apply(x.double(), dtype)

    def margin(self, distances: Callable[[], Tensor], *operands: Tensor) -> None:
        if not self.exact or self.noise is not None:
            return
        with torch.no_grad():
            found = distances()
            if not found.numel():
                return
            scale = max([1.0, *(float(x.abs().max()) for x in operands if x.is_floating_point() and x.numel())])
            self.nearest = min(self.nearest, float(found.min()) / (scale * margin_of(self.case)))


def margin_of(case: Case) -> float:
    """How near to a jump rounding errors may decide, in units of the largest operand."""
    eps = coarsest(case)
    return 16 * eps if eps > 1e-4 else 3e-5


@lru_cache(maxsize=64)
def _exact(case: Case) -> set[str]:
    return exact_values(case)


def lines(case: Case) -> list[str]:
    """The steps as torch has them."""
    made = [f"{x.name} = torch.tensor({x.value}, dtype=torch.{x.dtype})" for x in case.leaves if x.kind == "constant"]
    return made + [f"{step.name} = {step.filled('torch')}" for step in case.steps]


@lru_cache(maxsize=64)
def _forward(case: Case) -> Callable[..., None]:
    exact = _exact(case)
    body = [f'{x.name} = T["{x.name}"]' for x in case.leaves if x.kind != "constant"]
    body += [
        f'{x.name} = keep("{x.name}", torch.tensor({x.value}, dtype=torch.{x.dtype}))'
        for x in case.leaves
        if x.kind == "constant"
    ]
    for step in case.steps:
        if step.margin and not exact.issuperset(step.operands):
            body.append(f"margin(lambda: {step.filled('margin')}, {', '.join(step.operands)})")
        moved = {o: f"near_{o}" for o in step.operands if step.rounds and o in exact}
        body += [f"{near} = near({o})" for o, near in moved.items()]
        near = replace(step, operands=tuple(moved.get(o, o) for o in step.operands))
        body.append(f'{step.name} = keep("{step.name}", {near.filled("torch")})')
    head = f"def forward({', '.join(['T', 'keep', 'near', 'to', 'margin', 'training', *case.dims])}):"
    names: dict[str, Any] = {"torch": torch, "F": F, "gap": gap, "batch_norm": batch_norm, "accuracy": accuracy}
    exec("\n    ".join([head, *body, "pass"]), names)
    forward: Callable[..., None] = names["forward"]
    return forward


# -- what a case is judged by ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    feeds: Tensors
    sizes: dict[str, int]


def model_results(run: Run, batch: Batch, state: Tensors, upstream: Mapping[str, Tensor]) -> Tensors:
    """Outputs, gradients of all float leaves for the upstream gradients of the outputs, and buffers."""
    tensors = {n: _leaf(t, run.exact) for n, t in {**batch.feeds, **state}.items()}
    watched = [n for n in tensors if tensors[n].is_floating_point() and not is_buffer(n)]
    for name in watched:
        tensors[name].requires_grad_()
    values = run(tensors, batch.sizes, run.case.training)
    outputs = {n: _value(values, tensors, v) for n, v in run.case.named_outputs().items()}
    made = {f"output {n}": t.detach() for n, t in outputs.items()}
    reached = [n for n, t in outputs.items() if t.requires_grad and n in upstream]
    if reached:
        grads = torch.autograd.grad(
            [outputs[n] for n in reached],
            [tensors[n] for n in watched],
            [upstream[n].to(outputs[n].dtype) for n in reached],
            allow_unused=True,
        )
        made |= {f"gradient {n}": g for n, g in zip(watched, grads, strict=True) if g is not None}
    return made | {f"buffer {n}": t for n, t in tensors.items() if is_buffer(n)}


def step_results(run: Run, batches: list[Batch], state: Tensors) -> Tensors:
    """Outputs of each batch, then weights, buffers and optimizer state after each update."""
    case = run.case
    tensors = {n: _leaf(t, run.exact) for n, t in state.items()}
    weights = [n for n, t in tensors.items() if t.is_floating_point() and not is_buffer(n)]
    for name in weights:
        tensors[name].requires_grad_()
    names = {"torch": torch, "clipped": clipped, "weights": [tensors[n] for n in weights]}
    optimizer = eval(OPTIMIZERS[case.optimizer][1], names)
    accumulate = dict(case.options).get("accumulate", 1)
    made: Tensors = {}
    for number, batch in enumerate(batches, 1):
        values = run({**{n: _leaf(t, run.exact) for n, t in batch.feeds.items()}, **tensors}, batch.sizes, True)
        outputs = {n: _value(values, {**batch.feeds, **tensors}, v) for n, v in case.named_outputs().items()}
        (outputs["loss"] / accumulate).backward()
        made |= {f"batch {number}: output {n}": t.detach().clone() for n, t in outputs.items()}
        if number % accumulate == 0:
            _update(run, optimizer, [tensors[n] for n in weights])
        for name in tensors:
            what = "buffer" if is_buffer(name) else "weight"
            made[f"batch {number}: {what} {name}"] = tensors[name].detach().clone()
        for name in weights:
            for key, slot in optimizer.state.get(tensors[name], {}).items():
                if isinstance(slot, Tensor) and slot.shape == tensors[name].shape and key not in COUNTED:
                    made[f"batch {number}: state {name}.{key}"] = as_slope(key, slot)
    return made


def as_slope(key: str, slot: Tensor) -> Tensor:
    """A slot as it is judged, sums of squared gradients by their roots: where gradients cancel, the squares of what
    rounding leaves of them differ by far more than they do."""
    return slot.detach().sqrt() if key in _SQUARES else slot.detach().clone()


_SQUARES = ("sum", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta")


def _update(run: Run, optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> None:
    for weight in weights:
        if weight.grad is not None:
            weight.grad = run.noised(weight.grad)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    optimizer.zero_grad()
    for weight, old in zip(weights, before, strict=True):
        if run.noise is not None:  # what is added to a weight is a rounded number
            weight.data.copy_(old + run.noised(weight.detach() - old))
        kept = optimizer.state.get(weight, {})
        kept.update({k: run.noised(t) for k, t in kept.items() if isinstance(t, Tensor) and k not in COUNTED})


COUNTED = ("step", "mu_product")
"""What torch keeps in a tensor for each parameter, and tritonnotes once."""


def is_buffer(name: str) -> bool:
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def _leaf(tensor: Tensor, exact: bool) -> Tensor:
    made = tensor.detach().clone()
    return made.double() if exact and made.is_floating_point() else made


def trains(case: Case, state: Tensors) -> bool:
    """Whether the loss has a gradient in torch."""
    tensors = {n: _leaf(t, True) for n, t in state.items()}
    for name, tensor in tensors.items():
        tensor.requires_grad_(tensor.is_floating_point() and not is_buffer(name))
    feeds = {n: _leaf(t, True) for n, t in feeds_of(case, 0).items()}
    return Run(case, exact=True)({**tensors, **feeds}, dict(case.sizes[0]), True)[case.loss].requires_grad


def _value(values: Tensors, leaves: Mapping[str, Tensor], name: str) -> Tensor:
    return values[name] if name in values else leaves[name]
