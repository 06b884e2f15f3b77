"""What a compiled graph is to autograd: kernels for the first derivatives, eager PyTorch for those of higher order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..codegen.fusion.constraints import Fusion
from ..codegen.pipeline import make_program
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Graph, Value
from ..ir.passes.decompose import decompose
from ..ir.passes.joint import cotangent_names, gradient_graph
from ..ir.passes.split import split_gradient
from ..judge.executor import eager
from ..tensors.dtypes import torch_dtype
from .executors.execution import Execution
from .runner import Runner
from .turns import Turns
from .vetting import vet

NO_GRADIENT = "detach"
"""The op that no gradient passes, though it makes floats of floats."""


class Differentiable:
    """The two programs behind autograd, for the case that the leaves named in `wanted` want a gradient: forward, which
    also keeps what backward needs, and backward."""

    def __init__(
        self, graph: Graph, wanted: Sequence[str], fusion: Fusion, device: torch.device, how: Execution
    ) -> None:
        joint = gradient_graph(graph, list(wanted))
        self.graph = graph
        self.outputs = list(graph.outputs)
        self.floats = [n for n, v in graph.outputs.items() if v.dtype.is_float]
        self.constant = constant_outputs(graph, wanted)
        self.fixed = [n for n in self.outputs if n in self.constant or n not in self.floats]
        self.overwritten = _overwritten(graph, joint)
        self.fed_gradients = cotangent_names(graph, self.floats)
        made_gradients = cotangent_names(graph, wanted)
        split = split_gradient(joint, self.outputs, [*self.fed_gradients.values()])
        self.saved = split.saved
        self.reached = {n: made for n, made in made_gradients.items() if made in split.backward.outputs}
        self.forward = Runner(make_program(split.forward, fusion, graph, keep=True), device, how)
        self.backward = Runner(make_program(split.backward, fusion, graph, keep=True), device, how)
        self.backward_leaves = {b.name for b in self.backward.program.buffers if b.role == "leaf"}

    def under(self, how: Execution) -> Self:
        """The same programs, which run another way."""
        made = object.__new__(type(self))
        runners = {n: Runner(run.program, run.device, how) for n, run in self.runners.items()}
        made.__dict__.update(self.__dict__, **runners)
        return made

    @property
    def runners(self) -> dict[str, Runner]:
        return {"forward": self.forward, "backward": self.backward}

    def __call__(
        self, leaves: dict[str, Tensor], sizes: dict[str, int], numbers: dict[str, int], turns: Turns
    ) -> dict[str, Tensor]:
        """One forward run that autograd can go back through. Backward takes `turns` with those who change weights."""
        results = _First.apply(self, (sizes, numbers, turns), list(leaves), *leaves.values())
        return dict(zip(self.outputs, results, strict=True))

    def gradients(
        self, fed: Mapping[str, Tensor], cotangents: Mapping[str, Tensor], sizes: Any, numbers: Any
    ) -> dict[str, Tensor]:
        """The gradients of the leaves that are reached, from what the forward run kept and the outputs' gradients."""
        given = {self.fed_gradients[n]: vet(t, f"gradient of output {n!r}").contiguous() for n, t in cotangents.items()}
        needed = self.backward_leaves
        leaves = {n: t for some in (fed, given) for n, t in some.items() if n in needed}
        if torch.is_grad_enabled():  # to ask takes less than to enter no_grad
            with torch.no_grad():
                results = self.backward.run(leaves, sizes, numbers)
        else:
            results = self.backward.run(leaves, sizes, numbers)
        return {n: results[made] for n, made in self.reached.items()}


def constant_outputs(graph: Graph, wanted: Sequence[str]) -> frozenset[str]:
    """The float outputs that no gradient comes from, in torch's sense: what is made by way of comparisons or integers
    alone, of what was detached, or of leaves that want none."""
    primitives = decompose(graph)
    detached = {region.out for region in primitives.regions if region.op.name == NO_GRADIENT}
    varies: set[Value] = {primitives[name] for name in wanted}
    for value in primitives.values:
        if value.dtype.is_float and value not in detached and any(a in varies for a in value.inputs):
            varies.add(value)
    return frozenset(n for n, v in primitives.outputs.items() if v.dtype.is_float and v not in varies)


def _overwritten(graph: Graph, joint: Graph) -> list[str]:
    """The buffers that a run updates though its outputs or their gradients depend on what was there before."""
    needed = {*joint.outputs.values()}
    for value in reversed(joint.values):
        if value in needed:
            needed.update(value.inputs)
    return [name for name in graph.updates if joint[name] in needed]


class _First(torch.autograd.Function):
    """A forward run, and its gradients by kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        programs: Differentiable,
        given: tuple[dict[str, int], dict[str, int], Turns],
        names: list[str],
        *tensors: Tensor,
    ) -> Any:
        sizes, numbers, turns = given
        leaves = dict(zip(names, tensors, strict=True))
        results = programs.forward.run(leaves, sizes, numbers)
        # A buffer that the run updates is kept, where it is needed, by the run itself.
        updates = programs.graph.updates
        ctx.kept = [n for n in names if n not in updates] if updates else names
        ctx.save_for_backward(*map(leaves.__getitem__, ctx.kept), *map(results.__getitem__, programs.saved.values()))
        ctx.programs, ctx.sizes, ctx.numbers, ctx.turns, ctx.names = programs, sizes, numbers, turns, names
        outputs = {n: results[n] for n in programs.outputs}
        if programs.fixed:
            # A result and its detached self are one tensor of the run.
            outputs |= {n: outputs[n].detach() for n in programs.constant}
            ctx.mark_non_differentiable(*map(outputs.__getitem__, programs.fixed))
        return tuple(outputs.values())

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        programs: Differentiable = ctx.programs
        given = dict(zip(programs.outputs, cotangents, strict=True))
        upstream = {n: given[n] for n in programs.floats}
        with ctx.turns.lock:
            fed = dict(zip((*ctx.kept, *programs.saved), ctx.saved_tensors, strict=True))
            gradients = programs.gradients(fed, upstream, ctx.sizes, ctx.numbers)
        if torch.is_grad_enabled():  # as create_graph=True has it
            leaves = {n: fed[n] for n in ctx.kept}
            names = [*leaves], [*upstream], [*gradients]
            made = _Again.apply(programs, ctx.numbers, names, *leaves.values(), *upstream.values(), *gradients.values())
            gradients = dict(zip(gradients, made, strict=True))
        return None, None, None, *(gradients.get(n) for n in ctx.names)


class _Again(torch.autograd.Function):
    """Gradients that may be differentiated in their turn, as functions of all that they were made of: eager PyTorch
    does that, as often as it is asked to."""

    @staticmethod
    def forward(ctx: Any, programs: Differentiable, numbers: dict[str, int], names: Any, *tensors: Tensor) -> Any:
        leaves, upstream, gradients = names
        ctx.programs, ctx.numbers, ctx.names = programs, numbers, names
        ctx.save_for_backward(*tensors[: len(leaves) + len(upstream)])
        return tuple(t.view_as(t) for t in tensors[-len(gradients) :]) if gradients else ()

    @staticmethod
    def backward(ctx: Any, *seconds: Tensor) -> Any:
        is_again = torch.is_grad_enabled()
        needed = ctx.needs_input_grad[3:]
        tensors = [
            t if is_again else t.detach().requires_grad_(is_needed)
            for t, is_needed in zip(ctx.saved_tensors, needed, strict=False)
        ]
        leaves, upstream, gradients = ctx.names
        device = tensors[0].device.type if tensors else "cpu"
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            first = eager_gradients(
                ctx.programs,
                dict(zip(leaves, tensors, strict=False)),
                dict(zip(upstream, tensors[len(leaves) :], strict=False)),
                ctx.numbers,
            )
            pairs = [(first[n], s) for n, s in zip(gradients, seconds, strict=True) if first[n].requires_grad]
            wanted = [t for t, is_needed in zip(tensors, needed, strict=False) if is_needed]
            found: Sequence[Tensor | None] = [None] * len(wanted)
            if pairs and wanted:
                roots, given = zip(*pairs, strict=True)
                found = torch.autograd.grad(roots, wanted, given, create_graph=is_again, allow_unused=True)
        rest = iter(found)
        return None, None, None, *(next(rest) if is_needed else None for is_needed in needed)


def eager_gradients(
    programs: Differentiable, leaves: Mapping[str, Tensor], upstream: Mapping[str, Tensor], numbers: Mapping[str, int]
) -> dict[str, Tensor]:
    """What `Differentiable.gradients` gives, by eager PyTorch, so that autograd sees how it is made."""
    graph = programs.graph
    inputs = {v.name for v in graph.inputs}
    if programs.overwritten:
        raise DeclarationError(
            f"graph {graph.name!r}: its gradient was differentiated again, and depends on the buffer "
            f"{programs.overwritten[0]!r}, which the run has overwritten; differentiate tn.eager(…) instead"
        )
    feeds = {n: t for n, t in leaves.items() if n in inputs}
    state = {n: t for n, t in leaves.items() if n not in inputs}
    # The other buffers are there for what a run leaves in them: no output depends on their values.
    like = next(iter([*leaves.values(), *upstream.values()]))
    state |= {n: torch.zeros(v.shape, dtype=torch_dtype(v.dtype), device=like.device)  # type: ignore[arg-type]
              for n, v in ((v.name, v) for v in graph.leaves("buffer")) if n not in state}  # fmt: skip
    seed = next(iter(numbers.values()), 0)
    outputs = eager(graph, feeds, state, training=True, seed=seed)
    roots = [n for n in upstream if outputs[n].requires_grad]
    wanted = [leaves[n] for n in programs.reached]
    given = [upstream[n].to(outputs[n].dtype) for n in roots]
    found = torch.autograd.grad([outputs[n] for n in roots], wanted, given, create_graph=True, allow_unused=True)
    pairs = zip(programs.reached, found, wanted, strict=True)
    return {n: torch.zeros_like(t) if g is None else g for n, g, t in pairs}
