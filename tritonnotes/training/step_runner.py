"""Runs a training step batch by batch: feeds are checked, programs launched or replayed, numbers moved on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed.parallel import Reducer
from ..ir.core.graph import Graph, is_seed
from ..ir.optim.update import next_numbers
from ..ir.passes.scaling import GradScaler
from ..runtime.capture import MOST_CAPTURED, CapturedRuns, no_graph
from ..runtime.feeds import bind_feeds, check_apart, check_held, check_sizes, check_targets, class_inputs, sized_ops
from ..runtime.runner import Runner
from .progress import Progress
from .step_programs import StepPrograms
from .step_state import StepState


@dataclass(frozen=True)
class _Batch:
    """One batch as its programs take it: `numbers` are the host's, `weights` parameters and buffers."""

    feeds: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    numbers: Mapping[str, float]
    weights: Mapping[str, Tensor]

    def unfed(self) -> _Batch:
        """The same for a program that begins at what another one left."""
        return _Batch({}, {}, self.numbers, self.weights)


class StepRunner:
    """The programs of a step on the device of its state.

    `updating` runs the program that ends in the update, `gathering` the one before it, where there is one. With a
    `reducer` every batch is gathered, and the gradients of all processes are added up before the update. `captured`
    replays the whole step; `progress` are reported to after each of `batches`.
    """

    def __init__(self, programs: StepPrograms, state: StepState, scaler: GradScaler | None = None) -> None:
        self.state = state
        self.device = state.model.device
        self.reducer = state.reducer
        self.captured: CapturedRuns | None = None
        self.batches = 0
        self.progress: list[Progress] = []
        self._counts_on_device = scaler is not None
        self._not_captured: str | None = "capture() was not asked for"
        self.use(programs)
        graphs = programs.graphs
        self._graph, self._owners = graphs.declared, graphs.owners
        self._held = graphs.held()
        self.targets = class_inputs(graphs.declared)
        # A row on each of several processes is more than one.
        many = self.reducer is not None and self.reducer.world_size > 1
        self._sized = sized_ops(graphs.trained if many else graphs.declared)

    def use(self, programs: StepPrograms) -> None:
        """Run these from now on, captured anew where the ones before were."""
        self.programs = programs
        self.updating = Runner(programs.update, self.device)
        self.gathering = None if programs.gathering is None else Runner(programs.gathering, self.device)
        if self.reducer is not None and self.gathering is not None:
            self.gathering.all_reduce = self.reducer.all_reduce
        if self.captured is not None:
            self.capture(self.captured.most)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One batch, and its outputs. Raises `FeedError` and `DeclarationError` before anything is changed."""
        state = self.state
        bound, sizes = bind_feeds(self._graph, feeds, self.device)
        check_targets(self.targets, bound)
        check_sizes(self._sized, sizes)
        numbers = state.host_numbers()
        counts = state.is_last and not self._counts_on_device
        following = next_numbers(state.optimizer, numbers) if counts else state.numbers
        weights = state.model.tensors()
        check_held(self._held, {**weights, **state.slots}, self.device)
        with torch.no_grad():
            outputs = self._run_batch(_Batch(bound, sizes, numbers, weights))
        state.advance(following)
        self._report(outputs)
        return outputs

    def _run_batch(self, batch: _Batch) -> dict[str, Tensor]:
        if self.gathering is None:
            return self._run_program(self.updating, batch)
        if self.reducer is not None:
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
        graph = runner.program.graph
        held = {**batch.weights, **self.state.slots}
        updated = list(graph.updates)
        check_apart({n: held[n] for n in updated})
        leaves = {n: t.detach() for n, t in {**batch.feeds, **held}.items()}
        runner.around = (lambda launch: launch) if reducer is None else reducer.around
        captured = self.captured if runner is self.updating else None
        outputs = (captured or runner).run(leaves, batch.sizes, self._scalars(graph, batch.numbers))
        # A kernel writes past autograd's eyes: backward through the old weights must raise, as after torch's own step.
        torch.autograd.graph.increment_version([batch.weights[n] for n in updated if n in batch.weights])
        return outputs

    def _scalars(self, graph: Graph, numbers: Mapping[str, float]) -> dict[str, float]:
        """The host numbers of a program by name, and the seeds that its random ops draw from."""
        wanted = graph.leaves("scalar")
        scalars = {n: numbers[n] for n in (v.name.rpartition(".")[2] for v in wanted if not is_seed(v))}
        drawn = self.state.batch_seed()
        return scalars | {v.name.rpartition(".")[2]: drawn for v in wanted if is_seed(v)}

    def _share(self, reducer: Reducer, weights: Mapping[str, Tensor]) -> None:
        """Give all processes the weights that each has updated, where they are shared out."""
        reducer.share((weights[name], rank) for name, rank in self._owners.items())
        others = [weights[n] for n, rank in self._owners.items() if rank != reducer.rank]
        torch.autograd.graph.increment_version(others)

    def _report(self, outputs: Mapping[str, Tensor]) -> None:
        self.batches += 1
        for progress in self.progress:
            progress.update(self.batches, outputs)

    def capture(self, most: int = MOST_CAPTURED) -> None:
        """As `TrainingStep.capture`."""
        self._not_captured = no_graph(self.device)
        if self.gathering is not None:
            self._not_captured = "gradients are gathered over batches or processes before the update"
        program = self.programs.update
        self.captured = CapturedRuns(program, self.device, most=most) if self._not_captured is None else None

    @property
    def graph_reason(self) -> str | None:
        """As `TrainingStep.graph_reason`."""
        return self.captured.reason if self.captured is not None else self._not_captured
