"""The training step: forward, gradients and the optimizer's update as one program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .capture import MOST_CAPTURED, CapturedRuns, no_graph
from .cards import Reports, step_reports
from .codegen.fusion.constraints import Fusion, as_fusion
from .codegen.pipeline import make_program
from .codegen.plan.launches import FusionPlan
from .codegen.program.program import Program
from .codegen.report.explain import explain_memory, explain_plan
from .codegen.support.sizes import NOMINAL, Sizes
from .eager_memory import eager_peak_bytes
from .feeds import bind_feeds, check_apart, check_held, check_sizes, check_targets, class_inputs, sized_ops
from .ir.core.errors import DeclarationError, FeedError
from .ir.core.graph import Graph, is_seed
from .ir.core.optimizer import Optimizer
from .ir.core.verify import verify, verify_joint
from .ir.optim.update import next_numbers
from .ir.passes.across_ranks import across_ranks
from .ir.passes.chunks import LOGITS_BUDGET, Chunking, check_budget, in_chunks
from .ir.passes.joint import FIRST, WORLD_SIZE, apart_graph, gathering_graph, joint_graph, trained_parameters
from .ir.passes.scaling import GradScaler
from .model import Model
from .parallel import DataParallel, Reducer, owners, rank_of
from .progress import Progress, Report
from .references import torch_dtype
from .runtime import Runner
from .seeds import step_seed
from .tuning import tuned


class TrainingStep:
    """`step(x=..., y=...)` trains on one batch and returns the graph's outputs, as they were before the update.

    `hyperparameters` may be changed between steps (`step.hyperparameters["lr"] = 1e-4`): nothing is compiled anew.
    The graph runs in its training form, and its buffers are updated with the weights. `seed` decides what random ops
    draw: something else at each step, and the same in a step of the same number. `model` holds both, in evaluation
    form. `plan` and `source` speak of `program`, which is the whole step unless it is cut in two.

    With `accumulate` above 1 so many batches share an update: the first ones gather their gradients (`gathering` is
    that program), the last one adds its own and updates, which is `program`. `steps` counts updates, `gathered` batches
    since the last one. With `data_parallel` every batch is gathered, and `program` is the update alone, so that `plan`
    and `source` are: those of the rest are `gathering.plan` and `gathering.source`. `explain()` and `cards()` speak of
    both.

    With a `scaler` an overflow skips an update, which only the device knows: `steps` counts the skipped ones too, and
    the slots `scaler.scale`, `scaler.growth_tracker` and `scaler.step` hold what torch.amp.GradScaler and the optimizer
    would.
    """

    def __init__(
        self,
        graph: Graph,
        loss: str,
        optimizer: Optimizer,
        *,
        accumulate: int = 1,
        scaler: GradScaler | None = None,
        data_parallel: DataParallel | bool = False,
        fusion: str | Fusion = "optimal",
        logits_budget: int | None = LOGITS_BUDGET,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        check_budget(logits_budget)
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise DeclarationError(
                f"compile_step: accumulate is {accumulate!r}; it counts the batches of an update, so an int ≥ 1"
            )
        if scaler is not None and not isinstance(scaler, GradScaler):
            raise DeclarationError(
                f"compile_step: scaler is {scaler!r}; pass a tn.GradScaler(), which runs on the device, or None"
            )
        if data_parallel and data_parallel is not True and not isinstance(data_parallel, DataParallel):
            raise DeclarationError(
                f"compile_step: data_parallel is {data_parallel!r}; pass True, or tn.DataParallel(group=…)"
            )
        if not isinstance(optimizer, Optimizer):
            raise DeclarationError(
                f"compile_step: optimizer is {optimizer!r}; pass an update rule with its numbers, as in "
                "tn.adam(lr=1e-3)"
            )
        verify(graph)
        self.graph = graph
        self.loss = loss
        self.optimizer = optimizer
        self.accumulate, self.scaler = accumulate, scaler
        lenient = as_fusion(fusion).lenient()
        owner: dict[str, int] = {}
        syncs = isinstance(data_parallel, DataParallel) and data_parallel.sync_batch_norm
        trained = across_ranks(graph) if syncs else graph
        gathering = gathering_graph(trained, loss, accumulate, scaler) if accumulate > 1 or data_parallel else None
        if gathering is not None and data_parallel:
            options = data_parallel if isinstance(data_parallel, DataParallel) else DataParallel()
            whole = joint = apart_graph(gathering, optimizer, scaler)
            if options.shard:
                rank, world_size = rank_of(options)
                owner = owners(trained_parameters(gathering), world_size)
                joint = apart_graph(
                    gathering, optimizer, scaler, [n for n, held_by in owner.items() if held_by == rank]
                )
        else:
            whole = joint = joint_graph(graph, loss, optimizer, accumulate, scaler)
        self._chunkings: dict[str, Chunking] = {}
        self.program = self._planned(joint, lenient if data_parallel else fusion, logits_budget)
        self.gathering = None if gathering is None else self._planned(gathering, lenient, logits_budget)
        self.model = Model(
            graph, fusion=as_fusion(fusion).lenient(), logits_budget=logits_budget, device=device, seed=seed
        )
        self.device = self.model.device
        self.steps = 0
        self.gathered = 0
        self._batches = 0
        self._progress: list[Progress] = []
        self._fixed = {n: v for part in optimizer.parts for n, v in part.hyperparameters.items() if part.is_fixed(n)}
        self.hyperparameters: dict[str, float | bool] = optimizer.settings
        self.numbers = optimizer.numbers
        self.seed = seed
        self.slots: dict[str, Tensor] = {
            s.name: torch.full(s.shape, s.attrs["init"], dtype=torch_dtype(s.dtype), device=self.device)  # type: ignore[arg-type]
            for s in joint.leaves("slot")
        }
        self._owners = owner
        self._slot_owners = {f"{p}.{state}": rank for p, rank in owner.items() for state in optimizer.state}
        self._whole = whole
        held = {v.name: v for g in (joint, gathering) if g is not None for v in g.leaves("parameter", "buffer", "slot")}
        self._targets = class_inputs(graph)
        self._held = tuple(held.values())
        self._sized = sized_ops(graph)
        self._runner = Runner(self.program, self.device)
        self._gatherer = None if self.gathering is None else Runner(self.gathering, self.device)
        self._reducer = self._reduced(data_parallel) if data_parallel else None
        if self._reducer is not None and self._gatherer is not None:
            self._gatherer.all_reduce = self._reducer.all_reduce
            if self._reducer.world_size > 1:
                self._sized = sized_ops(trained)  # a row on each process is more than one
        self._captured: CapturedRuns | None = None
        self._graph_reason: str | None = "capture() was not asked for"

    def _planned(self, joint: Graph, fusion: str | Fusion, logits_budget: int | None) -> Program:
        verify(joint)
        verify_joint(joint)
        chunked, found = in_chunks(joint, logits_budget)
        if chunked is not joint:
            verify_joint(chunked)
        self._chunkings |= {chunking.name: chunking for chunking in found}
        return make_program(chunked, fusion, self.graph)

    def __call__(self, **feeds: Tensor) -> dict[str, Tensor]:
        """One step. Raises `FeedError` for tensors that do not fit, before anything is changed."""
        bound, sizes = bind_feeds(self.graph, feeds, self.device)
        check_targets(self._targets, bound)
        check_sizes(self._sized, sizes)
        is_last = self.gathered == self.accumulate - 1
        reducer = self._reducer if is_last else None
        given = self._given()
        following = next_numbers(self.optimizer, given) if is_last and self.scaler is None else self.numbers
        weights = self.model.tensors()
        check_held(self._held, {**weights, **self.slots}, self.device)
        with torch.no_grad():
            if self._gatherer is None or (is_last and self._reducer is None):
                outputs = self._run(self._runner, bound, sizes, given, weights)
            elif reducer is None:
                outputs = self._run(self._gatherer, bound, sizes, given, weights)
            else:
                reducer.begin()
                outputs = self._run(self._gatherer, bound, sizes, given, weights, reducer)
                reducer.finish()
                self._run(self._runner, {}, {}, given, weights)
                self._share(weights)
            if self._reducer is not None and self._reducer.options.broadcast_buffers:
                self._reducer.broadcast([weights[v.name] for v in self.graph.leaves("buffer")])
        self.steps += is_last
        self.gathered = 0 if is_last else self.gathered + 1
        self.numbers = following
        self._batches += 1
        for progress in self._progress:
            progress.update(self._batches, outputs)
        return outputs

    def _run(
        self,
        runner: Runner,
        bound: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        given: Mapping[str, float],
        weights: Mapping[str, Tensor],
        reducer: Reducer | None = None,
    ) -> dict[str, Tensor]:
        program = runner.program
        scalars: dict[str, float] = {n: given[n] for n in (s.rpartition(".")[2] for s in joint_scalars(program.graph))}
        rank = self._reducer.rank if self._reducer is not None else 0
        drawn = step_seed(self.seed + rank, self.steps * self.accumulate + self.gathered)
        scalars |= {v.name.rpartition(".")[2]: drawn for v in program.graph.leaves("scalar") if is_seed(v)}
        held = {**weights, **self.slots}
        updated = list(program.graph.updates)
        check_apart({n: held[n] for n in updated})
        leaves = {n: t.detach() for n, t in {**bound, **held}.items()}
        runner.around = (lambda launch: launch) if reducer is None else reducer.around
        captured = self._captured if runner is self._runner else None
        outputs = (captured or runner).run(leaves, sizes, scalars)
        # A kernel writes past autograd's eyes: backward through the old weights must raise, as after torch's own step.
        torch.autograd.graph.increment_version([weights[n] for n in updated if n in weights])
        return outputs

    def _share(self, weights: Mapping[str, Tensor]) -> None:
        """Give all processes the weights that each has updated, where they are shared out."""
        assert self._reducer is not None
        self._reducer.share((weights[name], rank) for name, rank in self._owners.items())
        others = [weights[n] for n, rank in self._owners.items() if rank != self._reducer.rank]
        torch.autograd.graph.increment_version(others)

    def _all_slots(self) -> dict[str, Tensor]:
        """A copy of the slots of all processes: those of other ones come from there."""
        held = {n: t.clone() for n, t in self.slots.items()}
        for name, like in self._slots_wanted().items():
            if name not in held:
                held[name] = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        if self._slot_owners:
            assert self._reducer is not None
            self._reducer.share((held[name], rank) for name, rank in self._slot_owners.items())
        return held

    def _slots_wanted(self) -> dict[str, Tensor]:
        """What the slots of a state look like: this process' own, and those that others hold, which have no memory."""
        others = {s.name: s for s in self._whole.leaves("slot") if s.name not in self.slots}
        made = {
            n: torch.empty(s.shape, dtype=torch_dtype(s.dtype), device="meta")  # type: ignore[arg-type]
            for n, s in others.items()
        }
        return {**self.slots, **made}

    def _reduced(self, data_parallel: DataParallel | bool) -> Reducer:
        """Put the gradients' slots into flat buckets, and give all processes the weights of rank 0."""
        options = data_parallel if isinstance(data_parallel, DataParallel) else DataParallel()
        assert self.gathering is not None
        slots = [v for v in self.gathering.graph.leaves("slot") if v.name in self.gathering.graph.updates]
        settings = {
            "other hyperparameters": {**self.hyperparameters, **self.numbers},
            "another scaler": self.scaler,
        }
        update = str(self._whole) if options.shard else self.program.source  # programs differ where state is shared out
        reducer = Reducer(options, self.gathering, slots, self.device, update=update, settings=settings)
        self.slots |= reducer.tensors
        with torch.no_grad():
            reducer.broadcast(list(self.model.tensors().values()))
        return reducer

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
        self._progress.append(made)
        return made

    def _given(self) -> dict[str, float]:
        """Every number that the host knows: hyperparameters, the rule's own numbers, and the step that comes."""
        _check_numbers(self.optimizer, self.hyperparameters)
        for name, value in self._fixed.items():
            if self.hyperparameters[name] != value:
                raise DeclarationError(
                    f"{self.optimizer.rule.name}: {name} was {value!r} when the step was compiled, "
                    "which switched its term off; compile the step anew to switch it on"
                )
        counted = {"step": self.steps + 1, FIRST: self.gathered == 0}
        if self._reducer is not None:
            counted[WORLD_SIZE] = self._reducer.world_size
        return {n: float(v) for n, v in {**self.hyperparameters, **self.numbers, **counted}.items()}

    @property
    def plan(self) -> FusionPlan:
        return self.program.plan

    @property
    def source(self) -> str:
        return self.program.source

    def explain(self) -> str:
        """The fusion plan of the step and its reasons, and the memory that it needs beside eager PyTorch's. Where
        gradients are gathered that is a program of its own, which comes first."""
        titles = [f"{phase[0].upper()}{phase[1:]}:\n\n" if phase else "" for phase in self._phases]
        plans = [t + explain_plan(program.plan) for t, program in zip(titles, self._programs, strict=True)]
        apart = sum(program.buffer_bytes() for program in self._programs) - self._spare_bytes()
        arenas = "one arena" if len(plans) == 1 else "two arenas"
        budget = self.program.fusion.memory_budget
        over = max(program.peak_bytes() for program in self._programs) - (budget or 0)
        memory = explain_memory(
            self.peak_bytes(), apart, NOMINAL, self.eager_peak_bytes(), arenas=arenas, budget=budget, over=over
        )
        chunked = ["\n".join(map(str, self._chunkings.values()))] if self._chunkings else []
        return "\n\n".join([*plans, *chunked, memory, *([self._shared_out()] if self._owners else [])])

    def _shared_out(self) -> str:
        """What this process holds of optimizer state that is shared out."""
        wanted = {n: t for n, t in self._slots_wanted().items() if n in self._slot_owners}
        all_bytes = sum(t.nbytes for t in wanted.values())
        own_bytes = sum(t.nbytes for n, t in wanted.items() if n in self.slots)
        assert self._reducer is not None
        rank, world_size = self._reducer.rank, self._reducer.world_size
        updated = ", ".join(n for n, owner in self._owners.items() if owner == rank)
        return (
            f"Optimizer state: {own_bytes:,} of {all_bytes:,} bytes, shared out over {world_size} processes; this one "
            f"updates {updated}."
        )

    @property
    def _phases(self) -> list[str]:
        """What each of the programs does, in words, where there are two."""
        if self.gathering is None:
            return [""]
        second = "the update" if self._reducer is not None else "the last batch and the update"
        return ["gathering gradients (`gathering`)", f"{second} (`program`)"]

    @property
    def _programs(self) -> list[Program]:
        """In the order in which they run."""
        return [self.program] if self.gathering is None else [self.gathering, self.program]

    def peak_bytes(self, batch: int = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """Bytes that a step holds beside weights, optimizer state and inputs, known before it runs: its outputs, and
        one arena for each of its programs, which keep it. `Dim`s not named in `sizes` are `batch`; unless `programs`
        share each sum over rows, as many do as on an H100."""
        held = sum(program.peak_bytes(batch, programs=programs, **sizes) for program in self._programs)
        return held - self._spare_bytes(batch, **sizes)

    def _spare_bytes(self, batch: int = NOMINAL, **sizes: int) -> int:
        """What is counted too often where each program is counted with its outputs: a batch has those of one."""
        outputs = [program.output_bytes(batch, **sizes) for program in self._programs]
        return sum(outputs) - max(outputs)

    def eager_peak_bytes(self, batch: int = NOMINAL, **sizes: int) -> int | None:
        """The same of eager PyTorch, as `tritonnotes.eager_memory` counts it; None where that needs a run."""
        return eager_peak_bytes(self.graph, self.loss, Sizes(batch, sizes))

    def tune(self, batch: int = NOMINAL, *, progress: bool = True, **sizes: int) -> None:
        """Time other tiles and warps on the GPU at a batch size, and take what is faster (`tritonnotes.tuning`); `Dim`s
        not named in `sizes` are `batch`. Sums may be taken in another order then. Raises `DeclarationError` without a
        GPU, and for a step of several processes, which must all run the same plan."""
        if self._reducer is not None:
            raise DeclarationError(
                f"tune: {self.graph.name!r} is a step of several processes, which time apart and must run one plan; "
                "leave it out, or tune a step compiled without data_parallel"
            )
        self.program = tuned(self.program, self.device, Sizes(batch, sizes), progress=progress)
        if self.gathering is not None:
            self.gathering = tuned(self.gathering, self.device, Sizes(batch, sizes), progress=progress)
        self._runner = Runner(self.program, self.device)
        self._gatherer = None if self.gathering is None else Runner(self.gathering, self.device)
        if self._captured is not None:
            self.capture(self._captured.most)

    def capture(self, most: int = MOST_CAPTURED) -> None:
        """From now on, capture the whole step in a CUDA graph for each set of sizes, at its second step, and replay it;
        at most `most` of them are kept. Numbers such as the learning rate may still change. Without a GPU, or where a
        capture is refused, kernels are launched one by one, and `graph_reason` says why; so are those of a step that
        gathers gradients over batches or processes."""
        self._graph_reason = no_graph(self.device)
        if self.gathering is not None:
            self._graph_reason = "gradients are gathered over batches or processes before the update"
        self._captured = CapturedRuns(self.program, self.device, most=most) if self._graph_reason is None else None

    @property
    def graph_reason(self) -> str | None:
        """Why steps are not replayed from a CUDA graph; None where they are."""
        return self._captured.reason if self._captured is not None else self._graph_reason

    def reports(self, arch: int = 90, batch: int = NOMINAL, **sizes: int) -> Reports:
        """What each kernel of the step costs on the GPU of sm_`arch` (80, 90 or 100), as `Model.cards` has it. Where
        gradients are gathered the kernels of `gathering` come first, then those of `program`; `parts` has each."""
        programs = dict(zip(self._phases, self._programs, strict=True))
        return step_reports(programs, f"training step of {self.graph.name}", arch=arch, batch=batch, sizes=sizes)

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-for-bit resume needs: `model`, `slots` (optimizer state), `steps`, `gathered` (batches
        since the last update), `numbers` (that the rule keeps beside its state), `seed` (of what is drawn) and
        `hyperparameters`.
        With `DataParallel(shard=True)` it is the whole of all processes, which must all call it."""
        return {
            "model": {n: t.detach().clone() for n, t in self.model.state_dict().items()},
            "slots": self._all_slots(),
            "steps": self.steps,
            "gathered": self.gathered,
            "numbers": dict(self.numbers),
            "seed": self.seed,
            "hyperparameters": dict(self.hyperparameters),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`'s result. Everything is checked before anything is changed."""
        wanted = {*_HELD, *_NUMBERS}
        if not isinstance(state, Mapping) or set(state) != wanted:
            raise FeedError(
                f"load_state_dict: holds {_keys(state)}, wanted {sorted(wanted)}; pass state_dict()'s result"
            )
        _check_tensors("model", self.model.state_dict(), state["model"])
        _check_tensors("slots", self._slots_wanted(), state["slots"])
        if type(state["steps"]) is not int or state["steps"] < 0:
            raise FeedError(f"load_state_dict: steps is {state['steps']!r}; it counts steps, so an int ≥ 0")
        if type(state["gathered"]) is not int or not 0 <= state["gathered"] < self.accumulate:
            raise FeedError(
                f"load_state_dict: gathered is {state['gathered']!r} of {self.accumulate} batches of an update; "
                "compile the step with the accumulate= that the state was saved with"
            )
        if type(state["seed"]) is not int:
            raise FeedError(f"load_state_dict: seed is {state['seed']!r}; pass the int that state_dict() gives")
        try:
            _check_numbers(self.optimizer, state["hyperparameters"])
            _check_numbers(self.optimizer, state["numbers"], self.optimizer.numbers, "numbers")
        except DeclarationError as error:
            raise FeedError(f"load_state_dict: {error}") from None
        self.model.load_state_dict(state["model"])
        for name, slot in self.slots.items():
            slot.copy_(state["slots"][name])
        self.steps, self.gathered = state["steps"], state["gathered"]
        self.numbers = dict(state["numbers"])
        self.seed = state["seed"]
        self.hyperparameters = dict(state["hyperparameters"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of `state_dict()` to a safetensors file, whole or not at all. With `DataParallel(shard=True)` all
        processes must call it, since each holds a part; each writes the whole to its `path`."""
        state = self.state_dict()
        checkpoint.save(path, _flat(state), {n: state[n] for n in _NUMBERS})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue bit for bit from what `save` wrote. Raises `FeedError` for what does not fit, before anything is
        changed."""
        tensors, numbers = checkpoint.load(
            path, _flat({"model": self.model.state_dict(), "slots": self._slots_wanted()})
        )
        if not isinstance(numbers, dict) or set(numbers) != set(_NUMBERS):
            raise FeedError(f"load {path}: its numbers are {_keys(numbers)}, wanted {sorted(_NUMBERS)}")
        held = {what: {n[len(what) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{what}/")} for what in _HELD}
        self.load_state_dict({**held, **numbers})


_HELD = ("model", "slots")
_NUMBERS = ("steps", "gathered", "numbers", "seed", "hyperparameters")


def _flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {f"{what}/{name}": tensor for what in _HELD for name, tensor in state[what].items()}


def joint_scalars(joint: Graph) -> list[str]:
    """The names of the host numbers that a joint graph takes, seeds aside."""
    return [v.name for v in joint.leaves("scalar") if not is_seed(v)]


def _check_numbers(
    optimizer: Optimizer, given: Any, wanted: Mapping[str, object] | None = None, what: str = "hyperparameters"
) -> None:
    """Raise `DeclarationError` unless these are the optimizer's hyperparameters (or its own numbers), each a number."""
    name = optimizer.rule.name
    known = set(optimizer.settings if wanted is None else wanted)
    if not isinstance(given, Mapping) or set(given) != known:
        raise DeclarationError(f"{name}: {what} are {_keys(given)}; they must be {sorted(known)}")
    for key, value in given.items():
        if not isinstance(value, bool | int | float):
            raise DeclarationError(f"{name}: {key} is {value!r}; each of its {what} is a number or a bool")


def _keys(given: Any) -> object:
    return sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__


def _check_tensors(what: str, have: Mapping[str, Tensor], given: Any) -> None:
    if not isinstance(given, Mapping):
        raise FeedError(f"load_state_dict: {what} is {type(given).__name__}; pass state_dict()'s result")
    missing, unknown = sorted(set(have) - set(given)), sorted(set(given) - set(have))
    if missing or unknown:
        raise FeedError(
            f"load_state_dict: {what} lacks {missing} and has unknown {unknown}; load the state of the same graph"
        )
    for name, tensor in have.items():
        other = given[name]
        if not isinstance(other, Tensor) or other.shape != tensor.shape or other.dtype != tensor.dtype:
            got = f"{other.dtype}{list(other.shape)}" if isinstance(other, Tensor) else type(other).__name__
            raise FeedError(f"load_state_dict: {what} {name!r} is {got}, wanted {tensor.dtype}{list(tensor.shape)}")
