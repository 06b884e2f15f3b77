"""Whole training steps of a small classifier: forward, backward and update, as one program or as torch has it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph
from tritonnotes.judge.tolerance import compare

from . import shapes
from .measure import Case, Subject
from .peers import CAPTURED, EAGER, GPU_ALONE, MODES, OURS, REPLAYED, begin
from .timing import Call, captured

FAMILY = "steps"
LR = 1e-3
JUDGED_STEPS = 3
"""How many losses of a peer are compared: with Adam the rounding of a gradient near 0 decides the sign of a step, so
weights drift apart where losses do not."""


def classifier(layers: Sequence[int], batch: int) -> Graph:
    """Linear, layer norm and GELU for each hidden layer, then a linear one and cross entropy."""
    g = tn.Graph("mlp")
    h, y = g.input("x", (batch, layers[0])), g.input("y", (batch,), dtype="int64")
    for i, width in enumerate(layers[1:-1]):
        h = tn.gelu(tn.layer_norm(tn.linear(h, width, name=f"fc{i}"), name=f"ln{i}"))
    g.output(loss=tn.cross_entropy(tn.linear(h, layers[-1], name="out"), y))
    return g


class Classifier(nn.Module):
    """The same, as a torch module with the same names."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        for i, (fan_in, width) in enumerate(zip(layers[:-2], layers[1:-1], strict=True)):
            self.add_module(f"fc{i}", nn.Linear(fan_in, width))
            self.add_module(f"ln{i}", nn.LayerNorm(width))
        self.out = nn.Linear(layers[-2], layers[-1])
        self.hidden = len(layers) - 2

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for i in range(self.hidden):
            x = F.gelu(self.get_submodule(f"ln{i}")(self.get_submodule(f"fc{i}")(x)))
        return F.cross_entropy(self.out(x), y)


def cases(tiny: bool) -> list[Case]:
    """The step at every batch size."""
    layers, batches = (shapes.TINY_LAYERS, shapes.TINY_BATCHES) if tiny else (shapes.LAYERS, shapes.BATCHES)
    weights = sum(a * b + b for a, b in zip(layers, layers[1:], strict=False)) + 2 * sum(layers[1:-1])
    text = "-".join(map(str, layers))
    made = []
    for batch in batches:
        # Weights, two moments of each, read and written; the batch read.
        moved = 4 * (6 * weights + batch * layers[0]) + 8 * batch
        subject = partial(make_subject, layers, batch)
        made.append(Case(FAMILY, f"{text} batch {batch}", "float32", "step", moved, subject))
    return made


def make_subject(layers: Sequence[int], batch: int, device: torch.device) -> Subject:
    """All peers from the same weights, on the same batch."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(batch, layers[0], generator=generator, device=device)
    y = torch.randint(layers[-1], (batch,), generator=generator, device=device)
    torch.manual_seed(0)
    start = Classifier(layers).to(device)
    graph = classifier(layers, batch)
    launches: dict[str, int] = {}

    def ours(peer: str) -> Call:
        fused = tn.compile_step(graph, loss="loss", optimizer=tn.adam(lr=LR), device=device)
        launches[peer] = len(fused.plan.launches)
        fused.model.load_state_dict(start.state_dict())
        if peer == OURS:
            return Call(lambda _: fused(x=x, y=y)["loss"])
        fused.capture()

        def replayed(_: object) -> Tensor:
            loss = fused(x=x, y=y)["loss"]
            if fused.graph_reason is not None:
                raise RuntimeError(fused.graph_reason)
            return loss

        return Call(replayed)

    def theirs(peer: str, mode: str | None = None) -> Call:
        step = torch_step(copy.deepcopy(start), x, y, mode)
        return Call(lambda _: step(), partial(begin, peer))

    makers: dict[str, Callable[[], Call]] = {OURS: partial(ours, OURS), EAGER: partial(theirs, EAGER)}
    missing: dict[str, str] = {}
    on_gpu: dict[str, Callable[[], Call]] = {peer: partial(theirs, peer, mode) for peer, mode in MODES.items()}
    on_gpu[REPLAYED] = partial(ours, REPLAYED)
    on_gpu[CAPTURED] = lambda: captured_step(copy.deepcopy(start), x, y)
    if device.type == "cuda":
        makers |= on_gpu
    else:
        missing |= dict.fromkeys(on_gpu, GPU_ALONE)
    judge = Judge(start, x, y)
    return Subject(makers, missing, judge, launches, is_whole=True)


def torch_step(model: nn.Module, x: Tensor, y: Tensor, mode: str | None = None) -> Callable[[], Tensor]:
    """A step of torch: eager with Adam foreach; with a mode, model and update compiled, the rate a tensor."""
    if mode is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=LR, foreach=True)
        run: Callable[..., Any] = model
        update: Callable[[], Any] = optimizer.step
    else:
        rate = torch.tensor(LR, device=x.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, foreach=True, capturable=True)
        run = torch.compile(model, mode=mode, dynamic=False)
        update = torch.compile(optimizer.step, mode=mode, dynamic=False)

    def step() -> Tensor:
        loss = run(x, y)
        loss.backward()
        update()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach().clone()

    return step


def captured_step(model: nn.Module, x: Tensor, y: Tensor) -> Call:
    """The eager step in a CUDA graph. The steps before the capture are undone, so that its losses can be judged."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, foreach=True, capturable=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    first = copy.deepcopy(model.state_dict())
    replay = captured([Call(lambda _: step())])
    model.load_state_dict(first)
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()
    return Call(lambda _: replay()[0])


class Judge:
    """Holds the losses of the first steps to eager PyTorch and to float64."""

    def __init__(self, start: nn.Module, x: Tensor, y: Tensor) -> None:
        self.eager = self._losses(torch_step(copy.deepcopy(start), x, y))
        self.exact = self._losses(torch_step(copy.deepcopy(start).double(), x.double(), y))

    def __call__(self, peer: str, call: Call) -> str | None:
        """What is wrong with a peer's losses, or None. Takes its first steps."""
        losses = self._losses(lambda: call.run(call.prepare()))
        comparison = compare(losses, self.eager, self.exact)
        if comparison.ok:
            return None
        return f"its first {JUDGED_STEPS} losses are farther from float64 than eager PyTorch allows: {comparison}"

    def _losses(self, step: Callable[[], Tensor]) -> Tensor:
        return torch.stack([step().clone() for _ in range(JUDGED_STEPS)])
