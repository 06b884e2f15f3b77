"""Compiled models: torch modules whose forward and backward are generated kernels."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from ..codegen.fusion.constraints import Fusion, as_fusion
from ..codegen.pipeline import make_program
from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.program.program import Program
from ..codegen.report.explain import explain_plan
from ..codegen.support.sizes import NOMINAL, Sizes
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Graph, is_seed
from ..ir.core.rewrite import optimize
from ..ir.core.verify import verify
from ..ir.passes.chunks import LOGITS_BUDGET, check_budget, in_chunks
from ..ir.passes.decompose import decompose
from ..ir.passes.evaluation import evaluation_form
from ..ir.passes.joint import cotangent_name, gradient_graph
from ..ir.passes.split import split_gradient
from ..tensors.initial import initial_state
from ..tensors.seeds import fresh_seed
from .feeds import bind_feeds, check_held, check_sizes, check_targets, class_inputs, sized_ops
from .kernel_reports import Reports, program_reports
from .runner import Runner, pick_device
from .tuning import tuned


class Model(torch.nn.Module):
    """A compiled graph as a torch module. `model(x=..., y=...)` returns a dict of the graph's outputs.

    Parameters and buffers have the names that torch modules would give them. Outputs are differentiable once, with
    respect to parameters and floating inputs. `training` picks the form, as `train()` and `eval()` do later: in
    training, ops such as batch norm see the batch alone, and a call updates the buffers in place. `plan`, `source` and
    `explain()` speak of the forward run in the present form; `gradient_plan` and `gradient_source` of the backward run
    that autograd uses.

    In training a call draws its random numbers from `seed`, an int, or where that is None (the default) from a new one
    of torch's default generator: `torch.manual_seed` decides them, as it does for torch's own dropout.
    """

    seed: int | None = None

    def __init__(
        self,
        graph: Graph,
        *,
        training: bool = False,
        fusion: str | Fusion = "optimal",
        logits_budget: int | None = LOGITS_BUDGET,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        verify(graph)
        if not graph.outputs:
            raise DeclarationError(f"graph {graph.name!r} has no outputs; name them with g.output(...)")
        numbers = [v for v in graph.leaves("scalar", "slot") if not is_seed(v)]
        if numbers:
            name = numbers[0].name
            raise DeclarationError(
                f"{name!r} is a number or state of an optimizer; a model has inputs and parameters only"
            )
        self.graph = graph
        self.fusion = as_fusion(fusion)
        self.logits_budget = check_budget(logits_budget)
        self.device = pick_device(device)
        for name, tensor in initial_state(graph, seed).items():
            _register(self, name, tensor.to(self.device), graph[name].op.name == "parameter")
        self._targets = class_inputs(graph)
        self._held = graph.leaves("parameter", "buffer")
        self._forms: dict[bool, _Form] = {}
        self.train(training)

    def train(self, mode: bool = True) -> Self:
        """Go on in the training form, or with `mode=False` in the evaluation form; `eval()` is short for that."""
        super().train(mode)
        if mode not in self._forms:
            graph = self.graph if mode else evaluation_form(self.graph)
            same = [f for f in self._forms.values() if f.graph is graph]
            self._forms[mode] = same[0] if same else _Form(graph, self.fusion, self.logits_budget, self.device)
        return self

    def forward(self, **feeds: Tensor) -> dict[str, Tensor]:
        """The outputs by name. Raises `FeedError` for tensors that do not fit the declared inputs, and for parameters
        and buffers that are no longer as declared."""
        bound, sizes = bind_feeds(self.graph, feeds, self.device)
        check_targets(self._targets, bound)
        check_sizes(self._form.sized, sizes)
        state = self.tensors()
        check_held(self._held, state, self.device)
        wanted = tuple(n for n, t in (*bound.items(), *state.items()) if t.requires_grad)
        leaves = {**bound, **state}
        numbers = self._numbers()
        if wanted and torch.is_grad_enabled():
            outputs = self._form.differentiable(wanted)(leaves, sizes, numbers)
        else:
            outputs = self._form.runner.run({n: t.detach() for n, t in leaves.items()}, sizes, numbers)
        # A kernel writes past autograd's eyes: what was saved of the old buffers must not pass for the new ones.
        torch.autograd.graph.increment_version([state[n] for n in self._form.graph.updates])
        return outputs

    def tensors(self) -> dict[str, Tensor]:
        """The declared parameters and buffers by name, as they are now."""
        held = (self.named_parameters(remove_duplicate=False), self.named_buffers(remove_duplicate=False))
        found = {name: tensor for named in held for name, tensor in named}
        return {v.name: found[v.name] for v in self._held if v.name in found}

    def _numbers(self) -> dict[str, int]:
        """What random ops draw from in this call; the generator moves only where something is drawn."""
        names = seed_names(self._form.graph)
        return dict.fromkeys(names, fresh_seed() if self.seed is None else self.seed) if names else {}

    @property
    def _form(self) -> _Form:
        return self._forms[self.training]

    @property
    def program(self) -> Program:
        return self._form.runner.program

    @property
    def plan(self) -> FusionPlan:
        return self.program.plan

    @property
    def source(self) -> str:
        return self.program.source

    def explain(self) -> str:
        """The fusion plan and its reasons, in a screenful or two."""
        return "\n\n".join([explain_plan(self.plan), *map(str, self._form.chunkings)])

    def tune(self, batch: int = NOMINAL, *, progress: bool = True, **sizes: int) -> None:
        """Time other tiles and warps of the forward run on the GPU at a batch size, and take what is faster; `Dim`s not
        named in `sizes` are `batch`. Raises `DeclarationError` without a GPU."""
        program = tuned(self.program, self.device, Sizes(batch, sizes), progress=progress)
        self._form.runner = Runner(program, self.device)

    def reports(self, arch: int = 90, batch: int = NOMINAL, **sizes: int) -> Reports:
        """What each kernel of the forward run costs on the GPU of sm_`arch` (80, 90 or 100), which need not be there:
        registers, spills, occupancy, widths of accesses, predicted time. `Dim`s not named in `sizes` are `batch`.
        Raises `KernelError` for another architecture."""
        return program_reports(
            self.program, f"forward run of {self.graph.name}", archs=(arch,), batch=batch, sizes=sizes
        )

    def gradient_reports(self, arch: int = 90, batch: int = NOMINAL, **sizes: int) -> Reports:
        """As `reports`, of the backward run that autograd uses when all parameters want a gradient."""
        backward = self.gradient_programs[1]
        return program_reports(backward, f"backward run of {self.graph.name}", archs=(arch,), batch=batch, sizes=sizes)

    @property
    def gradient_programs(self) -> tuple[Program, Program]:
        """The forward and the backward program that autograd runs when all parameters want a gradient."""
        made = self._form.differentiable(tuple(n for n, _ in self.named_parameters()))
        return made.forward.program, made.backward.program

    @property
    def gradient_plan(self) -> FusionPlan:
        return self.gradient_programs[1].plan

    @property
    def gradient_source(self) -> str:
        return self.gradient_programs[1].source


class _Form:
    """One form of a graph, for training or evaluation, compiled: the forward run, and with autograd what it needs."""

    def __init__(self, graph: Graph, fusion: Fusion, logits_budget: int | None, device: torch.device) -> None:
        verify(graph)
        self.graph = graph
        self.sized = sized_ops(graph)
        self.fusion = fusion
        self.device = device
        forward, self.chunkings = in_chunks(optimize(decompose(graph)), logits_budget)
        verify(forward)
        self.runner = Runner(make_program(forward, fusion, graph), device)
        self._differentiable: dict[tuple[str, ...], _Differentiable] = {}

    def differentiable(self, wanted: tuple[str, ...]) -> _Differentiable:
        """The programs for the case that the leaves named in `wanted` want a gradient."""
        if wanted not in self._differentiable:
            self._differentiable[wanted] = _Differentiable(self.graph, list(wanted), self.fusion.lenient(), self.device)
        return self._differentiable[wanted]


class _Differentiable:
    """The two programs behind autograd: forward, which also keeps what backward needs, and backward."""

    def __init__(self, graph: Graph, wanted: list[str], fusion: Fusion, device: torch.device) -> None:
        joint = gradient_graph(graph, wanted)
        self.name = graph.name
        self.outputs = list(graph.outputs)
        self.floats = [n for n, v in graph.outputs.items() if v.dtype.is_float]
        split = split_gradient(joint, self.outputs, [cotangent_name(n) for n in self.floats])
        self.saved = split.saved
        self.wanted = wanted
        self.reached = [n for n in wanted if cotangent_name(n) in split.backward.outputs]
        self.forward = Runner(make_program(split.forward, fusion, graph), device)
        self.backward = Runner(make_program(split.backward, fusion, graph), device)
        self.backward_leaves = {b.name for b in self.backward.program.buffers if b.role == "leaf"}

    def __call__(self, leaves: dict[str, Tensor], sizes: dict[str, int], numbers: dict[str, int]) -> dict[str, Tensor]:
        results = _Apply.apply(self, sizes, numbers, list(leaves), *leaves.values())
        return dict(zip(self.outputs, results, strict=True))


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        programs: _Differentiable,
        sizes: dict[str, int],
        numbers: dict[str, int],
        names: list[str],
        *tensors: Tensor,
    ) -> Any:
        leaves = dict(zip(names, tensors, strict=True))
        results = programs.forward.run({n: t.detach() for n, t in leaves.items()}, sizes, numbers)
        kept = [n for n in names if n in programs.backward_leaves]
        ctx.save_for_backward(*(leaves[n] for n in kept), *(results[n] for n in programs.saved))
        ctx.programs, ctx.sizes, ctx.numbers, ctx.names, ctx.kept = programs, sizes, numbers, names, kept
        outputs = [results[n] for n in programs.outputs]
        ctx.mark_non_differentiable(*(t for t in outputs if not t.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        programs: _Differentiable = ctx.programs
        fed = dict(zip((*ctx.kept, *programs.saved), ctx.saved_tensors, strict=True))
        given = dict(zip(programs.outputs, cotangents, strict=True))
        fed |= {cotangent_name(n): given[n].contiguous() for n in programs.floats}
        leaves = {n: t.detach() for n, t in fed.items() if n in programs.backward_leaves}
        with torch.no_grad():
            results = programs.backward.run(leaves, ctx.sizes, ctx.numbers)
        gradients = {n: results[cotangent_name(n)] for n in programs.reached}
        if torch.is_grad_enabled():  # as create_graph=True has it
            watched = torch.empty(0, requires_grad=True)
            gradients = {n: _OnceOnly.apply(programs.name, g, watched) for n, g in gradients.items()}
        return None, None, None, None, *(gradients.get(n) for n in ctx.names)


class _OnceOnly(torch.autograd.Function):
    """A gradient that nobody may differentiate again: left without a history, it would pass for a constant."""

    @staticmethod
    def forward(ctx: Any, graph: str, gradient: Tensor, watched: Tensor) -> Tensor:
        ctx.graph = graph
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise DeclarationError(
            f"graph {ctx.graph!r}: its gradient was differentiated again, and a compiled model has first derivatives "
            "only; run tn.eager(graph, feeds, state) where second ones are wanted"
        )


def seed_names(graph: Graph) -> list[str]:
    """What a program calls the numbers that random ops of `graph` draw from."""
    return [v.name.rpartition(".")[2] for v in graph.leaves("scalar") if is_seed(v)]


def _register(module: torch.nn.Module, name: str, tensor: Tensor, is_parameter: bool) -> None:
    """Put `fc1.weight` where torch would: as `weight` of a submodule `fc1`."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, torch.nn.Module())
        module = module.get_submodule(part)
    try:
        if is_parameter:
            module.register_parameter(leaf, torch.nn.Parameter(tensor))
        else:
            module.register_buffer(leaf, tensor)
    except KeyError as error:
        raise DeclarationError(
            f"parameter {name!r}: torch modules keep that name for themselves ({error}); rename it"
        ) from None
