"""The programs of a training step: which there are, how they are compiled, and the memory that they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from ..codegen.fusion.constraints import Fusion, as_fusion, check_known
from ..codegen.pipeline import make_program
from ..codegen.program.program import Program
from ..codegen.report.explain import explain_memory, explain_plan
from ..codegen.support.sizes import NOMINAL, Sizes
from ..distributed.parallel import DataParallel, owners, rank_of
from ..ir.core.graph import Graph, Value
from ..ir.core.optimizer import Optimizer
from ..ir.core.verify import verify, verify_joint
from ..ir.passes.across_ranks import across_ranks
from ..ir.passes.chunks import Chunking, in_chunks
from ..ir.passes.joint import apart_graph, gathering_graph, joint_graph, trained_parameters
from ..ir.passes.scaling import GradScaler
from ..judge.eager_memory import eager_peak_bytes
from ..runtime.kernel_reports import Reports, step_reports
from ..runtime.tuning import tuned


@dataclass(frozen=True)
class StepGraphs:
    """The graphs of a training step.

    `declared` is the user's, and `trained` the one that is differentiated: the same, or with statistics over the rows
    of all processes. `update` ends in the optimizer's update. Where gradients are first gathered, over batches or
    processes, `gathering` does so. `is_apart` says that processes share the step: `update` then begins at the gathered
    gradients, else it computes those of the last batch itself.

    `owners` maps each parameter to the rank that updates it, where optimizer state is shared out. `update` then holds
    the parameters of this process, and `whole` those of all.
    """

    declared: Graph
    trained: Graph
    update: Graph
    gathering: Graph | None
    whole: Graph
    is_apart: bool = False
    owners: Mapping[str, int] = field(default_factory=dict)

    def held(self) -> tuple[Value, ...]:
        """The parameters, buffers and slots that a step reads or updates."""
        graphs = [g for g in (self.update, self.gathering) if g is not None]
        return tuple({v.name: v for g in graphs for v in g.leaves("parameter", "buffer", "slot")}.values())

    def updated_parameters(self) -> list[str]:
        """The names of the parameters that a step updates, on whichever process."""
        return [p.name for p in self.whole.parameters if p.name in self.whole.updates]


def step_graphs(
    graph: Graph,
    loss: str,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    scaler: GradScaler | None = None,
    parallel: DataParallel | None = None,
    frozen: frozenset[str] = frozenset(),
) -> StepGraphs:
    """The graphs of a step that `accumulate` batches, and the processes of `parallel`, share. Without processes some
    parameters may be `frozen`. Raises `DeclarationError` where there is nothing to train or to share out."""
    if parallel is None:
        gathering = gathering_graph(graph, loss, accumulate, scaler, frozen) if accumulate > 1 else None
        update = joint_graph(graph, loss, optimizer, accumulate, scaler, frozen)
        return StepGraphs(graph, graph, update, gathering, update)
    trained = across_ranks(graph) if parallel.sync_batch_norm else graph
    gathering = gathering_graph(trained, loss, accumulate, scaler)
    whole = apart_graph(gathering, optimizer, scaler)
    if not parallel.shard:
        return StepGraphs(graph, trained, whole, gathering, whole, is_apart=True)
    rank, world_size = rank_of(parallel)
    owned_by = owners(trained_parameters(gathering), world_size)
    mine = [name for name, owner in owned_by.items() if owner == rank]
    update = apart_graph(gathering, optimizer, scaler, mine)
    return StepGraphs(graph, trained, update, gathering, whole, is_apart=True, owners=owned_by)


@dataclass(frozen=True)
class StepPrograms:
    """The compiled graphs of a step. `update` is the whole step, unless `gathering` runs before it; `chunkings` are
    the layers computed for some rows at a time."""

    graphs: StepGraphs
    loss: str
    update: Program
    gathering: Program | None
    chunkings: tuple[Chunking, ...]

    @property
    def in_order(self) -> list[Program]:
        """In the order in which they run."""
        return [self.update] if self.gathering is None else [self.gathering, self.update]

    @property
    def phases(self) -> list[str]:
        """What each of them does, in words, where there are two."""
        if self.gathering is None:
            return [""]
        second = "the update" if self.graphs.is_apart else "the last batch and the update"
        return ["gathering gradients (`gathering`)", f"{second} (`program`)"]

    def explain(self, sizes: Sizes) -> Iterator[str]:
        """The plan of each program with its reasons, what is computed in chunks, and the memory that all need."""
        for phase, program in zip(self.phases, self.in_order, strict=True):
            title = f"{phase[0].upper()}{phase[1:]}:\n\n" if phase else ""
            yield title + explain_plan(program.plan, sizes)
        if self.chunkings:
            yield "\n".join(map(str, self.chunkings))
        apart = sum(program.buffer_bytes(sizes) for program in self.in_order) - self._spare_bytes(sizes)
        arenas = "one arena" if self.gathering is None else "two arenas"
        budget = self.update.fusion.memory_budget
        over = max(program.peak_bytes(sizes) for program in self.in_order) - (budget or 0)
        yield explain_memory(
            self.peak_bytes(sizes),
            apart,
            self.update.plan.at(sizes),
            self.eager_peak_bytes(sizes),
            arenas=arenas,
            budget=budget,
            over=over,
        )

    def peak_bytes(self, batch: int | Mapping[str, int] = NOMINAL, *, programs: int = 0, **sizes: int) -> int:
        """As `TrainingStep.peak_bytes`."""
        held = sum(program.peak_bytes(batch, programs=programs, **sizes) for program in self.in_order)
        return held - self._spare_bytes(batch, **sizes)

    def eager_peak_bytes(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int | None:
        """As `TrainingStep.eager_peak_bytes`."""
        return eager_peak_bytes(self.graphs.declared, self.loss, Sizes(batch, sizes))

    def _spare_bytes(self, batch: int | Mapping[str, int] = NOMINAL, **sizes: int) -> int:
        """What is counted too often where each program is counted with its outputs: a batch has those of one."""
        outputs = [program.output_bytes(batch, **sizes) for program in self.in_order]
        return sum(outputs) - max(outputs)

    def reports(self, arch: int, batch: int | Mapping[str, int], sizes: Mapping[str, int]) -> Reports:
        """As `TrainingStep.reports`."""
        programs = dict(zip(self.phases, self.in_order, strict=True))
        title = f"training step of {self.graphs.declared.name}"
        return step_reports(programs, title, arch=arch, batch=batch, sizes=sizes)

    def tuned(self, device: torch.device, sizes: Sizes, progress: bool) -> StepPrograms:
        """The same with the tiles and warps that are fastest on a GPU, and the library calls."""
        update = tuned(self.update, device, sizes, progress=progress)
        gathering = None if self.gathering is None else tuned(self.gathering, device, sizes, progress=progress)
        return replace(self, update=update, gathering=gathering)


def compile_programs(graphs: StepGraphs, loss: str, fusion: str | Fusion, logits_budget: int | None) -> StepPrograms:
    """Plan and compile the graphs of a step. What is asked of `fusion` must hold where the loss and the update are in
    one program; in any other it holds as far as that program has what it names."""
    lenient = as_fusion(fusion).lenient()
    if graphs.is_apart and graphs.gathering is not None:
        check_known(lenient, (graphs.gathering, graphs.update))
    update, chunkings = _compiled(graphs, graphs.update, lenient if graphs.is_apart else fusion, logits_budget)
    gathering = None
    if graphs.gathering is not None:
        gathering, found = _compiled(graphs, graphs.gathering, lenient, logits_budget)
        chunkings |= found
    return StepPrograms(graphs, loss, update, gathering, tuple(chunkings.values()))


def _compiled(
    graphs: StepGraphs, joint: Graph, fusion: str | Fusion, logits_budget: int | None
) -> tuple[Program, dict[str, Chunking]]:
    verify(joint)
    verify_joint(joint)
    chunked, found = in_chunks(joint, logits_budget)
    if chunked is not joint:
        verify_joint(chunked)
    return make_program(chunked, fusion, graphs.declared, keep=True), {chunking.name: chunking for chunking in found}


@dataclass(frozen=True)
class StepSource:
    """What the programs of a step are made of."""

    graph: Graph
    loss: str
    optimizer: Optimizer
    accumulate: int
    scaler: GradScaler | None
    parallel: DataParallel | None
    fusion: Fusion
    logits_budget: int | None

    def without(self, frozen: frozenset[str]) -> StepPrograms:
        """The programs that leave the parameters `frozen` alone. What is asked of fusion holds as far as they have what
        it names."""
        graphs = step_graphs(
            self.graph,
            self.loss,
            self.optimizer,
            accumulate=self.accumulate,
            scaler=self.scaler,
            parallel=self.parallel,
            frozen=frozen,
        )
        fusion = self.fusion.lenient() if frozen else self.fusion
        return compile_programs(graphs, self.loss, fusion, self.logits_budget)
