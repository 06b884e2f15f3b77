"""The training step: forward, gradients and the optimizer's update as one program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..codegen.fusion.constraints import Fusion, as_fusion
from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.program.program import Program
from ..codegen.support.collector import paused_collector
from ..codegen.support.sizes import NOMINAL, Sizes
from ..codegen.support.text import counted
from ..distributed.parallel import DataParallel, Reducer
from ..explorer.numerics import Certificate
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Graph
from ..ir.core.optimizer import Optimizer
from ..ir.core.rewrite import snapshot
from ..ir.core.verify import verify
from ..ir.passes.chunks import LOGITS_BUDGET, check_budget
from ..ir.passes.scaling import GradScaler
from ..runtime.capture import MOST_CAPTURED
from ..runtime.executors.execution import Execution, execution
from ..runtime.executors.listed import explored
from ..runtime.feeds import named_feeds
from ..runtime.kernel_reports import Reports
from ..runtime.model import Model
from ..runtime.runner import pick_device
from ..tensors.shared import Shared
from .param_groups import Groups, ParamGroup, with_groups
from .progress import Progress, Report
from .step_optimizer import StepOptimizer
from .step_programs import StepPrograms, StepSource
from .step_runner import StepRunner
from .step_state import StepState
from .torch_scaler import as_scaler, load_scaler_state, scaler_state


def _of_state(name: str) -> Any:
    """An attribute of a step that is its state's."""
    return property(lambda step: getattr(step._state, name), lambda step, value: setattr(step._state, name, value))


class TrainingStep:
    """`step(x=..., y=...)` trains on one batch and returns the graph's outputs, computed before the update.

    `hyperparameters` may be changed between steps (`step.hyperparameters["lr"] = 1e-4`); nothing is recompiled. The
    graph runs in its training form, and its buffers are updated with the weights. `seed` determines the numbers of
    random ops: they differ from step to step, and are the same in a step of the same number. `model` has the weights
    and buffers, in evaluation form. `plan` and `source` are those of `program`, which is the whole step unless there
    are two programs.

    `step.model.get_parameter("fc.weight").requires_grad_(False)` freezes a parameter from the next step on. The
    parameter and its optimizer state do not change until `requires_grad_()` is called. The first step with a new set of
    frozen parameters compiles a program. The count of steps continues for all parameters.

    With `accumulate` above 1, this number of batches shares an update. The first ones accumulate their gradients (the
    program `gathering`), and the last one adds its own and applies the update (`program`). `steps` counts updates, and
    `gathered` counts batches since the last update. With `data_parallel` every batch is accumulated, and `program` is
    only the update; forward and backward are in `gathering.plan` and `gathering.source`. `explain()` and `reports()`
    describe both programs.

    With a `scaler` an overflow skips an update. Only the device knows this: `steps` also counts skipped updates. The
    slots `scaler.scale`, `scaler.growth_tracker` and `scaler.step` have the state that torch.amp.GradScaler and the
    optimizer would have.

    A step can be copied and pickled with its state. Threads that call it, or `model`, take turns.
    """

    steps: int = _of_state("steps")
    gathered: int = _of_state("gathered")
    hyperparameters: dict[str, float | bool] = _of_state("hyperparameters")
    numbers: dict[str, float] = _of_state("numbers")
    seed: int = _of_state("seed")
    slots: dict[str, Tensor] = _of_state("slots")

    @paused_collector()
    def __init__(
        self,
        graph: Graph,
        loss: str,
        optimizer: Optimizer,
        *,
        param_groups: Groups | None = None,
        accumulate: int = 1,
        scaler: GradScaler | torch.amp.GradScaler | None = None,
        data_parallel: DataParallel | bool = False,
        fusion: str | Fusion = "optimal",
        logits_budget: int | None = LOGITS_BUDGET,
        device: torch.device | str | None = None,
        strict: bool | None = None,
        sanitize: bool = False,
        seed: int = 0,
        shared: Shared | None = None,
    ) -> None:
        check_budget(logits_budget)
        _check_options(optimizer, accumulate, data_parallel)
        made_scaler = as_scaler(scaler)
        parallel = DataParallel() if data_parallel is True else data_parallel or None
        verify(graph)
        tensors = {} if shared is None else shared.tensors
        optimizer = with_groups(optimizer, param_groups, [v.name for v in graph.parameters], tensors)
        self.graph = graph = snapshot(graph)
        self.loss = loss
        self.declared_optimizer = optimizer
        self.accumulate, self.scaler = accumulate, made_scaler
        where: dict[str, Any] = {"device": device, "strict": strict, "sanitize": sanitize}
        place = pick_device(device)
        fusion = as_fusion(fusion).on(execution(place, strict, sanitize).target(place))
        self._options = {"fusion": fusion, "logits_budget": logits_budget, "seed": seed, "shared": shared, **where}
        self._source = StepSource(graph, loss, optimizer, accumulate, made_scaler, parallel, fusion, logits_budget)
        programs = self._source.without(frozenset())
        same = {"logits_budget": logits_budget, "seed": seed, "shared": shared, **where}
        model = Model(graph, fusion=fusion.lenient(), at_once=False, is_trained=True, **same)
        reducer = None if parallel is None else _joined(parallel, programs, model, optimizer, made_scaler)
        self._begin(programs, model, seed, reducer)
        if isinstance(scaler, torch.amp.GradScaler):
            self.load_scaler_state_dict(scaler.state_dict())

    def _begin(self, programs: StepPrograms, model: Model, seed: int, reducer: Reducer | None) -> None:
        """Train these weights from now on."""
        self.model, self.device = model, model.device
        graphs, rule, accumulate = programs.graphs, self.declared_optimizer, self.accumulate
        self._state = StepState(graphs, rule, model, accumulate=accumulate, seed=seed, reducer=reducer)
        self._optimizer: StepOptimizer | None = None
        self._runner = StepRunner(programs, self._state, self.scaler, programs_without=self._source.without)

    def __call__(self, /, *inputs: Tensor, **feeds: Tensor) -> dict[str, Tensor]:
        """One step; `inputs` are fed in the order of declaration, `feeds` by name. Raises `FeedError` for tensors that
        do not fit, before anything is changed, and `InterruptedStepError` where an earlier step was interrupted between
        its launches, until a state is loaded."""
        outputs = self._runner.run(named_feeds(self._runner.inputs, inputs, feeds))
        if self._optimizer is not None and not self.gathered:
            self._optimizer.note_update()
        return outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A step that goes on from the same state, with the same programs; without callbacks."""
        return self._copied(memo, self.model.execution)

    def under(self, how: Execution) -> Self:
        """A copy that runs the same programs another way on the CPU, such as under the strict interpreter."""
        made = self._copied({}, how)
        made._options |= {"strict": how.strict, "sanitize": how.sanitize}
        return made

    def _copied(self, memo: dict[int, Any], how: Execution) -> Self:
        self._check_copied()
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(self.__dict__, _options=dict(self._options))
        with self._state.turns:
            programs = self._runner.programs_of_frozen
            model = deepcopy(self.model, memo)
            made._begin(programs[frozenset()], model if how == model.execution else model.under(how), self.seed, None)
            made._runner.programs_of_frozen |= programs
            made._runner.follow_frozen(made.model.tensors())
            made.load_state_dict(self.state_dict())
            made._state.beside = deepcopy(self._state.beside, memo)
        return made

    def __reduce__(self) -> Any:
        self._check_copied()
        given = {"accumulate": self.accumulate, "scaler": self.scaler, **self._options}
        frozen = [n for n, p in self.model.named_parameters() if not p.requires_grad]
        return _restored, (
            type(self),
            (self.graph, self.loss, self.declared_optimizer),
            given,
            frozen,
            self.state_dict(),
            self._state.beside,
        )

    def _check_copied(self) -> None:
        """Raise where there is no copy: processes that share a step know each other by it."""
        if self._programs.graphs.is_apart:
            raise DeclarationError(
                f"{self.graph.name!r} is a step of several processes, which cannot be copied; copy state_dict() instead"
            )

    def __repr__(self) -> str:
        updated = counted(len(self._programs.graphs.updated_parameters()), "parameter")
        return (
            f"TrainingStep({self.graph.name!r} on {self.device}: minimizes {self.loss!r}, updates {updated} by "
            f"{self.declared_optimizer!r}; {self.plan.totals})"
        )

    @property
    def _programs(self) -> StepPrograms:
        return self._runner.programs

    @property
    def program(self) -> Program:
        """The program that ends in the update: the whole step, unless it is cut in two."""
        return self._programs.update

    @property
    def gathering(self) -> Program | None:
        """The program that gathers gradients before the update; None where the step is one program."""
        return self._programs.gathering

    @property
    def plan(self) -> FusionPlan:
        return self.program.plan

    @property
    def source(self) -> str:
        return self.program.source

    @property
    def param_groups(self) -> list[ParamGroup]:
        """The parameters by their numbers, as torch.optim's: first those of no group, whose numbers `hyperparameters`
        are, then the groups that the step was compiled with. Numbers may be set between steps:
        `step.param_groups[1]["lr"] = 1e-4`."""
        return self._state.param_groups

    @property
    def optimizer(self) -> StepOptimizer:
        """The step as an optimizer of torch.optim, for its schedulers, and for checkpoints that torch.optim reads and
        writes: `torch.optim.lr_scheduler.CosineAnnealingLR(step.optimizer, 100)`. `declared_optimizer` is the rule."""
        if self._optimizer is None:
            self._optimizer = StepOptimizer(self, self._state)
        return self._optimizer

    def explain(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> str:
        """The fusion plan of the step and its reasons, and the memory that it needs beside eager PyTorch's. Where
        gradients are gathered that is a program of its own, which comes first. Bytes are those at any sizes: `Dim`s not
        named in `sizes` are `batch`. The plan is always that for 256."""
        return "\n\n".join([*self._programs.explain(Sizes(batch, sizes)), *self._state.explain_sharing()])

    def peak_bytes(self, batch: int | Mapping[str, int] = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """Bytes that a step holds beside weights, optimizer state and inputs, known before it runs: its outputs, and
        one arena for each of its programs, which keep it. `Dim`s not named in `sizes` are `batch`; unless `programs`
        share each sum over rows, as many do as on an H100."""
        return self._programs.peak_bytes(batch, programs=programs, **sizes)

    def eager_peak_bytes(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int | None:
        """The same of eager PyTorch, as `tritonnotes.judge.eager_memory` counts it; None where that needs a run."""
        return self._programs.eager_peak_bytes(batch, **sizes)

    def reports(self, arch: int = 90, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> Reports:
        """What each kernel of the step costs on the GPU of sm_`arch` (80, 90 or 100), as `Model.reports` has it. Where
        gradients are gathered the kernels of `gathering` come first, then those of `program`; `parts` has each."""
        return self._programs.reports(arch, batch, sizes)

    def explore(
        self,
        path: str | os.PathLike[str],
        arch: int | str = 90,
        certificate: Certificate | None = None,
        machine_code: bool = True,
        progress: bool = True,
    ) -> Path:
        """Write a page that shows the step, one HTML file that loads nothing: formulas, graphs, plan, Triton, machine
        code for sm_`arch` (80, 90 or 100, or "cpu" for this machine's) and memory, linked with each other
        (docs/explorer.md), and the errors of a `certificate`, which is `tn.check(step)`. Disassembling takes up to two
        seconds a kernel: `machine_code=False` leaves it out, `progress=False` hides how far it is. Where gradients are
        gathered it shows the program of the update. Raises `KernelError` for another architecture."""
        title = f"training step of {self.program.declared.name}"
        return explored(path, self.program, title, arch, certificate, machine_code, progress)

    def tune(self, batch: int | Mapping[str, int] = NOMINAL, *, progress: bool = True, **sizes: int) -> None:
        """Time other tiles and warps on the GPU at a batch size, and take what is faster
        (`tritonnotes.runtime.tuning`); `Dim`s not named in `sizes` are `batch`. Sums may be taken in another order
        then. Raises `DeclarationError` without a GPU, and for a step of several processes, which must all run the same
        plan."""
        if self._programs.graphs.is_apart:
            raise DeclarationError(
                f"tune: {self.graph.name!r} is a step of several processes, which time apart and must run one plan; "
                "leave it out, or tune a step compiled without data_parallel"
            )
        self._runner.use(self._programs.tuned(self.device, Sizes(batch, sizes), progress))

    def capture(self, most: int = MOST_CAPTURED) -> None:
        """From now on, capture the whole step in a CUDA graph for each set of sizes, at its second step, and replay it;
        at most `most` of them are kept. Numbers such as the learning rate may still change. Without a GPU, or where a
        capture is refused, kernels are launched one by one, and `graph_reason` says why; so are those of a step that
        gathers gradients over batches or processes."""
        self._runner.capture(most)

    @property
    def graph_reason(self) -> str | None:
        """Why steps are not replayed from a CUDA graph; None where they are."""
        return self._runner.graph_reason

    def on_progress(
        self, callback: Callable[[Report], object], every: int = 1, names: Sequence[str] | None = None
    ) -> Progress:
        """Call `callback` with the outputs of shape () of every `every`-th batch, read without waiting for the device.

        `names` picks some of them. A `Report` has `batch`, from 1, and `values`, floats by name. On a GPU reports come
        once their copies are done, at a later batch; the `Progress` that is returned has `finish()`, which waits for
        the last ones. Raises `DeclarationError` for names that are no outputs of shape ().
        """
        scalars = [n for n, v in self.graph.outputs.items() if not v.shape]
        unknown = [n for n in names or () if n not in scalars]
        if unknown:
            raise DeclarationError(
                f"on_progress: {unknown[0]!r} is no output of shape () of graph {self.graph.name!r}; it has {scalars}"
            )
        made = Progress(callback, every, names)
        self._runner.progress.append(made)
        return made

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-for-bit resume needs: `model`, `slots` (optimizer state), `steps`, `gathered` (batches
        since the last update), `numbers` (that the rule keeps beside its state), `seed` (of what is drawn) and
        `hyperparameters`.
        With `DataParallel(shard=True)` it is the whole of all processes, which must all call it."""
        return self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`'s result. Everything is checked before anything is changed."""
        self._state.load_state_dict(state)

    def scaler_state_dict(self) -> dict[str, Any]:
        """The state of the scaler as torch.amp.GradScaler has it, which loads it; empty without a scaler."""
        return scaler_state(self._state, self.scaler)

    def load_scaler_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state_dict()` of a torch.amp.GradScaler. Raises `FeedError` where its factors are others
        than those compiled."""
        load_scaler_state(self._state, self.scaler, state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of `state_dict()` to a safetensors file, whole or not at all. With `DataParallel(shard=True)` all
        processes must call it, since each holds a part; each writes the whole to its `path`."""
        self._state.save(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue bit for bit from what `save` wrote. Raises `FeedError` for what does not fit, before anything is
        changed."""
        self._state.load(path)


def _restored(
    kind: type[TrainingStep], what: Any, given: dict[str, Any], frozen: Any, state: Any, beside: Any
) -> TrainingStep:
    """What a pickle of a step is: compiled anew, with its state loaded."""
    made = kind(*what, **given)
    for name in frozen:
        made.model.get_parameter(name).requires_grad_(False)
    made._runner.follow_frozen(made.model.tensors())
    made.load_state_dict(state)
    made._state.beside = beside
    return made


def _check_options(optimizer: object, accumulate: object, data_parallel: object) -> None:
    """Raise `DeclarationError` for what `compile_step` does not take."""
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise DeclarationError(
            f"compile_step: accumulate is {accumulate!r}; it counts the batches of an update, so an int ≥ 1"
        )
    if data_parallel and data_parallel is not True and not isinstance(data_parallel, DataParallel):
        raise DeclarationError(
            f"compile_step: data_parallel is {data_parallel!r}; pass True, or tn.DataParallel(group=…)"
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        name = type(optimizer).__name__
        raise DeclarationError(
            f"compile_step: optimizer is an object of {type(optimizer).__module__}.{name}, which updates parameters by "
            "itself; pass the update rule of that name with its numbers, as in tn.adamw(lr=1e-3)"
        )
    if not isinstance(optimizer, Optimizer):
        raise DeclarationError(
            f"compile_step: optimizer is {optimizer!r}; pass an update rule with its numbers, as in tn.adam(lr=1e-3)"
        )


def _joined(
    options: DataParallel, programs: StepPrograms, model: Model, optimizer: Optimizer, scaler: GradScaler | None
) -> Reducer:
    """Put the gradients' slots into flat buckets, and give all processes the weights of rank 0."""
    gathering = programs.gathering
    assert gathering is not None
    slots = [v for v in gathering.graph.leaves("slot") if v.name in gathering.graph.updates]
    settings = {
        "other hyperparameters": {**optimizer.all_settings, **optimizer.all_numbers},
        "another scaler": scaler,
    }
    # Programs differ where state is shared out.
    update = str(programs.graphs.whole) if options.shard else programs.update.source
    reducer = Reducer(options, gathering, slots, model.device, update=update, settings=settings)
    with torch.no_grad():
        reducer.broadcast(list(model.tensors().values()))
    return reducer
