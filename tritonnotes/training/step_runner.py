"""Runs a training step batch by batch: feeds are checked, programs launched or replayed, numbers moved on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codegen.program.program import Program
from ..distributed.parallel import Reducer
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import is_seed
from ..ir.optim.update import next_numbers
from ..ir.passes.joint import number_key
from ..ir.passes.scaling import GradScaler
from ..judge.indices import IndexCheck
from ..runtime.capture import MOST_CAPTURED, CapturedRuns, no_graph
from ..runtime.executors.executor import Around, Held, Launch, LaunchOrder
from ..runtime.feeds import FeedBinder, check_apart, check_held, check_indices, check_sizes, sized_ops
from ..runtime.held import Seen, Written, detached
from ..runtime.runner import Runner
from ..tensors.allocation import AllocationError
from .progress import Progress, raise_held_back
from .step_programs import StepPrograms
from .step_state import StepState


class _Batch(NamedTuple):
    """One batch as its programs take it: `numbers` are the host's, `weights` parameters and buffers."""

    feeds: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    numbers: Mapping[str, float]
    weights: Mapping[str, Tensor]

    def unfed(self) -> _Batch:
        """The same for a program that begins at what another one left."""
        return _Batch({}, {}, self.numbers, self.weights)


@dataclass(frozen=True)
class _Stays:
    """What a program is given from batch to batch: `held` are weights and slots, `written` the memory of those that it
    updates, `updated` the weights among these. `keys` are what the host calls its numbers, `seeds` the numbers that
    random ops draw from."""

    held: Held
    written: Written
    updated: Sequence[Tensor]
    keys: Mapping[str, str]
    seeds: Sequence[str]


class StepRunner:
    """The programs of a step on the device of its state.

    `updating` runs the program that ends in the update, `gathering` the one before it, where there is one. With a
    `reducer` every batch is gathered, and the gradients of all processes are added up before the update. `captured`
    replays the whole step; `progress` are reported to after each of `batches`.
    """

    def __init__(
        self,
        programs: StepPrograms,
        state: StepState,
        scaler: GradScaler | None = None,
        *,
        programs_without: Callable[[frozenset[str]], StepPrograms],
    ) -> None:
        self.state = state
        self._programs_without = programs_without
        self.programs_of_frozen: dict[frozenset[str], StepPrograms] = {}
        self._frozen = frozenset[str]()
        self.device = state.model.device
        self.reducer = state.reducer
        self._how = state.model.execution
        self.captured: CapturedRuns | None = None
        self.batches = 0
        self.progress: list[Progress] = []
        self._counts_on_device = scaler is not None
        self._seen = Seen([], {})
        self._weights: Mapping[str, Tensor] = {}
        self._stays: dict[Runner, _Stays] = {}
        self._not_captured: str | None = "capture() was not asked for"
        self.use(programs)
        graphs = programs.graphs
        self._graph, self._owners = graphs.declared, graphs.owners
        self._binder = FeedBinder(graphs.declared, self.device)
        self._held = graphs.held()
        self.inputs = tuple(v.name for v in graphs.declared.inputs)
        self._trained = graphs.updated_parameters()
        self._indices = IndexCheck(graphs.declared)
        # A row on each of several processes is more than one.
        many = self.reducer is not None and self.reducer.world_size > 1
        self._sized = sized_ops(graphs.trained if many else graphs.declared)

    def use(self, programs: StepPrograms) -> None:
        """Run these from now on, captured anew where the ones before were."""
        self.programs = self.programs_of_frozen[self._frozen] = programs
        self._has_run: set[Runner] = set()
        self._forget()
        self.updating = Runner(programs.update, self.device, self._how)
        self.gathering = None if programs.gathering is None else Runner(programs.gathering, self.device, self._how)
        if self.reducer is not None and self.gathering is not None:
            self.gathering.all_reduce = self.reducer.all_reduce
        if self.captured is not None:
            self.capture(self.captured.most)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One batch, and its outputs. Raises `FeedError` and `DeclarationError` before anything is changed."""
        with self.state.turns.lock:
            if not self.state.is_whole:
                self.state.check_whole("step")
            if self.progress:
                raise_held_back(self.progress)
            outputs = self._run(feeds)
            self.batches += 1
            for progress in self.progress:
                progress.update(self.batches, outputs)
            return outputs

    def _run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = self.state
        bound, sizes = self._binder.bind(feeds)
        if self._sized:
            check_sizes(self._sized, sizes)
        numbers = state.host_numbers()
        is_last, following = state.is_last, state.numbers
        if following and is_last and not self._counts_on_device:
            following = next_numbers(state.optimizer, numbers)
        self._look_at_held()
        check_indices(self._indices, bound, self._weights, sizes)
        outputs = self._run_batch(_Batch(bound, sizes, numbers, self._weights))
        state.advance(is_last, following)
        return outputs

    def _look_at_held(self) -> None:
        """Check parameters, buffers and slots, unless they are the tensors of the last batch, as they were then."""
        model, slots = self.state.model, self.state.slots
        known = model.known_tensors()
        if known is not None and self._seen.are(known, slots):
            return
        weights = model.tensors()
        check_held(self._held, {**weights, **slots}, self.device)
        self.follow_frozen(weights)
        self._forget()
        self._seen = Seen(model.known_tensors() or [*weights.values()], slots)
        self._weights = weights

    def _forget(self) -> None:
        """Look at all that is held when it is used next."""
        self._seen, self._weights, self._stays = Seen([], {}), {}, {}

    def _stays_of(self, runner: Runner, weights: Mapping[str, Tensor]) -> _Stays:
        """What a program is given of weights and slots, once for all batches that find them as they are."""
        graph, held = runner.program.graph, {**weights, **self.state.slots}
        check_apart(held, graph.updates)
        written = Written({n: held[n] for n in graph.updates})
        updated = [weights[n] for n in graph.updates if n in weights]
        scalars = graph.leaves("scalar")
        given = self.programs.graphs.declared.given_names
        keys = {v.name: number_key(v.name, given) for v in scalars if not is_seed(v)}
        seeds = [v.name for v in scalars if is_seed(v)]
        self._stays[runner] = found = _Stays(Held(detached(held)), written, updated, keys, seeds)
        return found

    def follow_frozen(self, weights: Mapping[str, Tensor]) -> None:
        """Go on with the programs that leave those `weights` alone that want no gradient. Raises `DeclarationError`
        where that cannot be before an update, or among processes."""
        frozen = frozenset(n for n in self._trained if not weights[n].requires_grad)
        if frozen == self._frozen:
            return
        what = f"step of {self._graph.name!r}: requires_grad_() of {', '.join(sorted(frozen ^ self._frozen))}"
        if self.reducer is not None:
            raise DeclarationError(f"{what}: processes share the step, and must all train the same parameters")
        if self.state.gathered:
            raise DeclarationError(
                f"{what}: {self.state.gathered} of {self.state.accumulate} batches of an update are gathered; change "
                "what is frozen between updates"
            )
        made = self.programs_of_frozen.get(frozen) or self._programs_without(frozen)
        self._frozen = frozen
        self.use(made)

    def _run_batch(self, batch: _Batch) -> dict[str, Tensor]:
        if self.gathering is None:
            return self._run_program(self.updating, batch)
        if self.reducer is not None:
            with torch.no_grad():
                return self._run_shared(self.gathering, self.reducer, batch)
        return self._run_program(self.updating if self.state.is_last else self.gathering, batch)

    def _run_shared(self, gathering: Runner, reducer: Reducer, batch: _Batch) -> dict[str, Tensor]:
        """A batch of a step that processes share: gradients, and after the last batch their sum and the update."""
        if self.state.is_last:
            reducer.begin()
            outputs = self._run_program(gathering, batch, reducer)
            reducer.finish()
            self._run_program(self.updating, batch.unfed())
            self._share(reducer, batch.weights)
        else:
            outputs = self._run_program(gathering, batch)
        if reducer.options.broadcast_buffers:
            reducer.broadcast([batch.weights[v.name] for v in self._graph.leaves("buffer")])
        return outputs

    def _run_program(self, runner: Runner, batch: _Batch, reducer: Reducer | None = None) -> dict[str, Tensor]:
        """One run of a program; with a `reducer` gradients are sent while it goes on."""
        stays = self._stays.get(runner) or self._stays_of(runner, batch.weights)
        feeds = detached(stays.written.apart(batch.feeds))
        captured = self.captured if runner is self.updating else None
        around: Around | None = None if reducer is None else reducer.around
        was_whole = self.state.is_whole
        runner.begin = None
        if captured is None and around is None and runner.is_recorded:
            runner.begin = self.state.begin
        elif runner in self._has_run or captured is not None:
            self.state.begin()
        else:
            # The first run compiles kernels, which takes long: until one is launched that writes what lasts, nothing
            # is torn.
            around = beginning(runner.program, self.state.begin, around)
        runner.around = around
        try:
            numbers = self._scalars(stays, batch.numbers)
            outputs = (captured or runner).run(feeds, batch.sizes, numbers, stays.held)
        except AllocationError:
            if was_whole:  # memory is allocated before the first launch
                self.state.end()
            raise
        self._has_run.add(runner)
        # A kernel writes past autograd's eyes: backward through the old weights must raise, as after torch's own step.
        torch.autograd.graph.increment_version(stays.updated)
        return outputs

    def _scalars(self, stays: _Stays, numbers: Mapping[str, float]) -> dict[str, float]:
        """The host numbers of a program by name, and the seeds that its random ops draw from."""
        found = {name: numbers[key] for name, key in stays.keys.items()}
        return found | dict.fromkeys(stays.seeds, self.state.batch_seed()) if stays.seeds else found

    def _share(self, reducer: Reducer, weights: Mapping[str, Tensor]) -> None:
        """Give all processes the weights that each has updated, where they are shared out."""
        reducer.share((weights[name], rank) for name, rank in self._owners.items())
        others = [weights[n] for n, rank in self._owners.items() if rank != reducer.rank]
        torch.autograd.graph.increment_version(others)

    def capture(self, most: int = MOST_CAPTURED) -> None:
        """As `TrainingStep.capture`."""
        self._not_captured = no_graph(self.device)
        if self.gathering is not None:
            self._not_captured = "gradients are gathered over batches or processes before the update"
        program = self.programs.update
        self.captured = CapturedRuns(program, self.device, self._how, most=most) if self._not_captured is None else None

    @property
    def graph_reason(self) -> str | None:
        """As `TrainingStep.graph_reason`."""
        return self.captured.reason if self.captured is not None else self._not_captured


def beginning(program: Program, begin: Callable[[], None], around: Around | None) -> Around:
    """`around`, with a call of `begin` before the first launch that writes what the program updates."""
    updated = set(program.graph.updates)
    writes = {name for name, place in program.places.items() if updated & program.uses[place].writes}
    names = {kernel.name for kernel in program.kernels}
    if not writes <= names:  # a library call does not go through here
        begin()

    def with_begin(launch: Launch) -> Launch:
        inner = launch if around is None else around(launch)
        order = LaunchOrder(program)

        def launch_and_begin(kernel: Any, *arguments: Any, **options: Any) -> None:
            if order.next(kernel.__name__).name in writes:
                begin()
            inner(kernel, *arguments, **options)

        return launch_and_begin

    return with_begin
