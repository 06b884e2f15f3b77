"""Compiled models: torch modules whose forward and backward are generated kernels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ..codegen.fusion.constraints import Fusion, as_fusion
from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.program.program import Program
from ..codegen.report.explain import explain_plan
from ..codegen.support.sizes import NOMINAL, Sizes
from ..explorer.numerics import Certificate
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Graph, is_seed
from ..ir.core.rewrite import snapshot
from ..ir.core.verify import verify
from ..ir.passes.chunks import LOGITS_BUDGET, check_budget
from ..ir.passes.evaluation import evaluation_form
from ..tensors.initial import initial_state
from ..tensors.seeds import fresh_seed
from ..tensors.shared import Shared
from .executors.execution import Execution, execution
from .executors.listed import explored
from .feeds import named_feeds
from .form import Form
from .held import Origin
from .kernel_reports import Reports, program_reports
from .named_module import NOT_A_KEYWORD, NamedModule, TensorPlaces, tensors_by_name
from .runner import pick_device
from .traced import run_traced
from .tuning import tuned
from .turns import Turns


class Model(NamedModule):
    """A compiled graph as a torch module. `model(x=..., y=...)` returns a dict of the graph's outputs.

    Parameters and buffers have the names that torch modules would give them. Outputs are differentiable with respect to
    parameters and floating inputs; eager PyTorch computes derivatives of higher order. `training` selects the form, and
    so do `train()` and `eval()` later. In training form, ops such as batch norm use the statistics of the batch, and a
    call updates the buffers in place. `plan`, `source` and `explain()` describe the forward run in the current form,
    and `gradient_plan` and `gradient_source` the backward run for autograd. `execution` states how kernels run on the
    CPU. Without `at_once`, the forward run is compiled when it is first used.

    A model can be copied, pickled and saved with `torch.save`. Copies share the compiled programs, and pickles contain
    the graph. Under `torch.compile` and `torch.export` a call is one op. Threads that call it take `turns`.

    In training form, random numbers depend on `seed`, an int. With None (the default) each call takes a new seed from
    torch's default generator, so `torch.manual_seed` determines them, as it does for torch's own dropout.
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
        strict: bool | None = None,
        sanitize: bool = False,
        seed: int = 0,
        at_once: bool = True,
        shared: Shared | None = None,
        is_trained: bool = False,
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
        self.graph = graph = snapshot(graph)
        self.logits_budget = check_budget(logits_budget)
        self.device = pick_device(device)
        self.execution = execution(self.device, strict, sanitize)
        self.fusion = as_fusion(fusion).on(self.execution.target(self.device))
        self._forms: dict[bool, Form] = {}
        self._places: dict[bool, TensorPlaces] = {}
        self._at_once = at_once
        self._keys = dict(shared.keys) if shared is not None else {}
        self.turns = Turns()
        given = Shared() if shared is None else shared
        self._origin = Origin(given.source, given.tensors, is_trained)
        # Last, since a tensor may be called as one of these attributes is.
        self._hold_all(initial_state(graph, seed) if shared is None else given.tensors, given)
        self.train(training)

    def _hold_all(self, tensors: Mapping[str, Tensor], shared: Shared) -> None:
        """Hold these tensors, on the model's device, under all their names."""
        held = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        kinds = {value.name: value.op.name for value in self.graph.leaves("parameter", "buffer")}
        for alias, name in [*((self._keys.get(name, name), name) for name in held), *shared.aliases.items()]:
            persistent = alias not in shared.transient
            self.hold(alias, held[name], kinds[name] == "parameter", persistent=persistent)

    def train(self, mode: bool = True) -> Self:
        """Go on in the training form, or with `mode=False` in the evaluation form; `eval()` is short for that."""
        super().train(mode)
        if mode not in self._forms:
            graph = self.graph if mode else evaluation_form(self.graph)
            same = [f for f in self._forms.values() if f.graph is graph]
            self._forms[mode] = same[0] if same else self._compiled(graph)
            self._places[mode] = TensorPlaces(self._forms[mode].held_names, self._keys)
        if self._at_once:
            _ = self._form.runner
        return self

    def _compiled(self, graph: Graph) -> Form:
        return Form(graph, self.fusion, self.logits_budget, self.device, self.execution)

    def forward(self, /, *inputs: Tensor, **feeds: Tensor) -> dict[str, Tensor]:
        """The outputs by name. `inputs` are fed in the order of declaration, `feeds` by name. Raises `FeedError` for
        tensors that do not fit the declared inputs, and for parameters and buffers that are no longer as declared."""
        if NOT_A_KEYWORD in feeds:
            feeds["self"] = feeds.pop(NOT_A_KEYWORD)
        form, fed = self._form, named_feeds(self._form.inputs, inputs, feeds)
        if torch.compiler.is_compiling():
            return run_traced(form, fed, self.tensors(), self._traced_seed())
        if len(fed) < len(form.inputs):
            self._origin.check_fed(form.inputs, fed)
        places = self._places[self.training]
        with self.turns.lock:
            self._follow_origin()
            checked = places.checked(self)
            state = places.tensors(self) if checked is None else checked
            outputs = form.run(fed, state, self._numbers, self.turns, checked is not None)
            if checked is None:
                places.note_checked(self)
        return outputs

    def tensors(self) -> dict[str, Tensor]:
        """The declared parameters and buffers by name, as they are now."""
        if torch.compiler.is_compiling():  # what is remembered says nothing to a tracer
            return tensors_by_name(self, self._form.held_names, self._keys)
        self._follow_origin()
        return self._places[self.training].tensors(self)

    def known_tensors(self) -> list[Tensor] | None:
        """As `tensors`, without names; None where the module has to be walked to find them."""
        self._follow_origin()
        return self._places[self.training].known(self)

    def _follow_origin(self) -> None:
        """Hold what the module holds that this one was imported from. Raises `FeedError` where it cannot."""
        if not self._origin.stays():
            for key, tensor in self._origin.follow().items():
                self.hold(key, tensor, isinstance(tensor, torch.nn.Parameter))

    def _numbers(self, names: Sequence[str]) -> dict[str, int]:
        """What random ops draw from in this call; the generator moves only where something is drawn."""
        return dict.fromkeys(names, fresh_seed() if self.seed is None else self.seed) if names else {}

    def _traced_seed(self) -> Tensor | None:
        """What `_numbers` gives, as a tensor that a tracer sees drawn."""
        if not self._form.seeds:
            return None
        if self.seed is None:
            return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
        return torch.full((), self.seed, dtype=torch.int64, device="cpu")

    def under(self, how: Execution) -> Self:
        """A copy that runs the same programs another way on the CPU, such as under the strict interpreter."""
        made = deepcopy(self)
        made.execution = how
        forms = {id(form): form.under(how) for form in self._forms.values()}
        made._forms = {mode: forms[id(form)] for mode, form in self._forms.items()}
        return made

    @property
    def _form(self) -> Form:
        return self._forms[self.training]

    def extra_repr(self) -> str:
        """What torch's `repr` of a module says besides its parts: the graph, and the forward run where it is made."""
        form = "training" if self.training else "evaluation"
        made = self._form.made()
        plan = f"; {made[0].plan.totals}" if made else ""
        fed, found = ", ".join(self._form.inputs), ", ".join(self._form.outputs)
        return f"{self.graph.name!r} in {form} form on {self.device}: {fed} -> {found}{plan}"

    @property
    def is_made(self) -> bool:
        """Whether the forward run has been planned: that of a step's model is when it is first used."""
        return bool(self._form.made())

    @property
    def program(self) -> Program:
        return self._form.runner.program

    @property
    def plan(self) -> FusionPlan:
        return self.program.plan

    @property
    def source(self) -> str:
        return self.program.source

    def explain(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> str:
        """The fusion plan and its reasons, in a screenful or two, with the bytes at any sizes: `Dim`s not named in
        `sizes` are `batch`. The plan is always that for 256."""
        runs = f"It runs as {self.execution.describe(self.device)}."
        return "\n\n".join([explain_plan(self.plan, batch, **sizes), *map(str, self._form.chunkings), runs])

    def explore(
        self,
        path: str | os.PathLike[str],
        arch: int | str = 90,
        certificate: Certificate | None = None,
        machine_code: bool = True,
        progress: bool = True,
    ) -> Path:
        """Write a page that shows the forward run, one HTML file that loads nothing: formulas, graphs, plan, Triton,
        machine code for sm_`arch` (80, 90 or 100, or "cpu" for this machine's) and memory, linked with each other
        (docs/explorer.md), and the errors of a `certificate`, which is `tn.check(model)`. Disassembling takes up to two
        seconds a kernel: `machine_code=False` leaves it out, `progress=False` hides how far it is. Raises `KernelError`
        for another architecture."""
        title = f"forward run of {self.graph.name}"
        return explored(path, self.program, title, arch, certificate, machine_code, progress)

    def tune(self, batch: int | Mapping[str, int] = NOMINAL, *, progress: bool = True, **sizes: int) -> None:
        """Time other tiles and warps of the forward run on the GPU at a batch size, and take what is faster; `Dim`s not
        named in `sizes` are `batch`. Raises `DeclarationError` without a GPU."""
        program = tuned(self.program, self.device, Sizes(batch, sizes), progress=progress)
        self._forms[self.training] = self._form.tuned(program)

    def reports(self, arch: int = 90, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> Reports:
        """What each kernel of the forward run costs on the GPU of sm_`arch` (80, 90 or 100), which need not be there:
        registers, spills, occupancy, widths of accesses, predicted time. `Dim`s not named in `sizes` are `batch`.
        Raises `KernelError` for another architecture."""
        return program_reports(
            self.program, f"forward run of {self.graph.name}", archs=(arch,), batch=batch, sizes=sizes
        )

    def gradient_reports(self, arch: int = 90, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> Reports:
        """As `reports`, of the backward run that autograd uses when all parameters want a gradient."""
        backward = self.gradient_programs[1]
        return program_reports(backward, f"backward run of {self.graph.name}", archs=(arch,), batch=batch, sizes=sizes)

    @property
    def gradient_programs(self) -> tuple[Program, Program]:
        """The forward and the backward program that autograd runs when all parameters want a gradient."""
        names = {key: name for name, key in self._keys.items()}
        forward, backward = self.programs_of([names.get(n, n) for n, _ in self.named_parameters()])
        return forward, backward

    def programs_of(self, wanted: Sequence[str] = ()) -> tuple[Program, ...]:
        """The programs of a call where the leaves named in `wanted` want a gradient: forward and backward. Where none
        does, the forward run alone."""
        names = tuple(n for n in self._form.leaves if n in wanted)
        if not names:
            return (self.program,)
        made = self._form.differentiable(names)
        return made.forward.program, made.backward.program

    @property
    def gradient_plan(self) -> FusionPlan:
        return self.gradient_programs[1].plan

    @property
    def gradient_source(self) -> str:
        return self.gradient_programs[1].source


def outputs_by_name(model: Model, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a model's graph, of a compiled module too, whose own call gives what the module returns."""
    return Model.forward(model, **feeds)
