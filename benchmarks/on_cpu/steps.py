"""Whole training steps with Adam, Python included: each peer from the same weights, over the same fresh batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes import native
from tritonnotes.judge.tolerance import compare

from ..measure import Case, Subject
from ..peers import OURS
from ..timing import Call
from .nets import NETS, Net, TorchOps, chain
from .peers import COMPILED, FOREACH, FUSED, JAX, PYTHON, compiled, forget_compiled, missing

LR = 1e-3
JUDGED_STEPS = 3
SAME = 1e-5
"""How far the losses of others may be from float64."""

BATCHES = 8
"""Batches that steps go over in turn: one alone is learned until gradients are denormal numbers, which are slow."""

ROWS = (16, 64, 128, 256, 1024)
COMPILED_ROWS = (128,)
"""Where torch.compile is timed: it takes most of a minute for each batch size."""

QUICK_ROWS = (128,)
TENSORS = (8, 24, 96)
STEPS, AROUND = "steps", "python around a step"


def cases(quick: bool) -> list[Case]:
    """Every net at every batch size."""
    sizes = QUICK_ROWS if quick else ROWS
    nets = ("digits", "tabular") if quick else tuple(NETS)
    return [_case(STEPS, f"{name} batch {rows}", NETS[name], rows) for name in nets for rows in sizes]


def around(quick: bool) -> list[Case]:
    """Steps that have next to nothing to compute, with ever more tensors."""
    sizes = (24,) if quick else TENSORS
    return [_case(AROUND, f"{n} tensors", chain(n), 1, in_parts=True) for n in sizes]


def _case(family: str, shape: str, net: Net, rows: int, in_parts: bool = False) -> Case:
    weights = sum(v.numel() for v in first_weights(net).values())
    moved = 4 * (6 * weights + rows * net.features)  # weights and two moments of each, read and written; the batch
    return Case(family, shape, "float32", "step", moved, partial(make_subject, net, rows, in_parts=in_parts))


def first_weights(net: Net) -> dict[str, Tensor]:
    """The first weights of a net, which every peer starts from."""
    torch.manual_seed(0)
    model = tn.compile(net.graph(), training=True, device="cpu")
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def make_subject(net: Net, rows: int, device: torch.device, in_parts: bool = False) -> Subject:
    """All peers of one net at one batch size; `in_parts` what of our step is Python, too."""
    generator = torch.Generator().manual_seed(0)
    batches = [net.batch(rows, generator) for _ in range(BATCHES)]
    weights = first_weights(net)

    def of(step: Callable[[int], Any]) -> Call:
        numbers: Iterator[int] = itertools.cycle(range(BATCHES))
        return Call(step, lambda: next(numbers))

    def jax() -> Call:
        from . import jax_peers

        return of(jax_peers.step(net.loss, weights, batches, LR))

    makers: dict[str, Callable[[], Call]] = {
        OURS: lambda: of(our_step(net, weights, batches)),
        FUSED: lambda: of(torch_step(net, weights, batches, FUSED)),
        FOREACH: lambda: of(torch_step(net, weights, batches, FOREACH)),
        COMPILED: lambda: of(torch_step(net, weights, batches, COMPILED)),
        JAX: jax,
    }
    if in_parts:
        makers[PYTHON] = lambda: of(without_native_calls(our_step(net, weights, batches)))
    absent = missing()
    if rows not in COMPILED_ROWS:
        absent.setdefault(COMPILED, f"timed at {' and '.join(map(str, COMPILED_ROWS))} rows alone: compiling is slow")
    judge = Judge(net, weights, batches)
    return Subject({p: make for p, make in makers.items() if p not in absent}, absent, judge)


def our_step(net: Net, weights: dict[str, Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> Callable[[int], Tensor]:
    step = tn.compile_step(net.graph(), loss="loss", optimizer=tn.adam(lr=LR), device="cpu")
    step.model.load_state_dict(weights, strict=False)

    def run(number: int) -> Tensor:
        x, y = batches[number]
        return step(x=x, y=y)["loss"]

    return run


def without_native_calls(step: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """The same step after its first two batches, with nothing in the place of its native calls: it returns memory that
    nobody wrote to."""
    called: list[native.Bundle] = []
    launch = native.Bundle.run

    def noted(bundle: native.Bundle, threads: int | None = None) -> None:
        called.append(bundle)
        launch(bundle, threads)

    with patch.object(native.Bundle, "run", noted):
        for number in range(2):
            step(number)
    for bundle in called:
        bundle.__dict__["run"] = lambda threads=None: None
    return step


def torch_step(
    net: Net, weights: dict[str, Tensor], batches: Sequence[tuple[Tensor, Tensor]], peer: str
) -> Callable[[int], Tensor]:
    """Forward, backward and Adam in torch: eager, or both the loss and the update compiled."""
    held = {name: w.clone().requires_grad_() for name, w in weights.items()}
    how: dict[str, Any] = {"fused": True} if peer == FUSED else {"foreach": True}
    optimizer = torch.optim.Adam(held.values(), lr=LR, **how)
    loss: Callable[..., Tensor] = partial(net.loss, TorchOps)
    update: Callable[[], Any] = optimizer.step
    if peer == COMPILED:
        forget_compiled()
        loss, update = compiled(lambda w, x, y: net.loss(TorchOps, w, x, y)), compiled(optimizer.step)

    def run(number: int) -> Tensor:
        x, y = batches[number]
        value = loss(held, x, y)
        value.backward()
        update()
        optimizer.zero_grad()
        return value.detach()

    return run


class Judge:
    """Holds the losses of a peer's first steps to eager PyTorch and to float64."""

    def __init__(self, net: Net, weights: dict[str, Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._eager = self._losses(torch_step(net, weights, batches, FOREACH))
        exact = {name: w.double() for name, w in weights.items()}
        doubled = [(x.double(), y.double() if y.is_floating_point() else y) for x, y in batches]
        self._exact = self._losses(torch_step(net, exact, doubled, FOREACH))

    def __call__(self, peer: str, call: Call) -> str | None:
        """What is wrong with a peer's losses, or None. Takes its first steps. We are held to the policy of the tests;
        of others it is asked that they compute the same."""
        if peer == PYTHON:
            return None
        losses = torch.stack([_tensor(call.run(call.prepare())) for _ in range(JUDGED_STEPS)])
        if peer != OURS:
            same = torch.allclose(losses.double(), self._exact, rtol=SAME, atol=0)
            return None if same else f"its first losses are {losses.tolist()}, in float64 {self._exact.tolist()}"
        comparison = compare(losses, self._eager, self._exact)
        if comparison.ok:
            return None
        return f"its first {JUDGED_STEPS} losses are farther from float64 than eager PyTorch allows: {comparison}"

    def _losses(self, step: Callable[[int], Tensor]) -> Tensor:
        return torch.stack([step(number).clone() for number in range(JUDGED_STEPS)])


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()
    from . import jax_peers

    return jax_peers.tensor(value)
