"""From a graph of primitives to a program: every pass, in the order in which it runs.

Each stage has one type, frozen once it is made, and is verified before the next begins.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph

from .analysis.units import Unit
from .canonicalize.materialize import materialize
from .fusion.candidate import Candidate
from .fusion.constraints import Fusion, as_fusion
from .fusion.last_block import finalize_in_last_block
from .fusion.matmul_epilogue import fuse_matmul_epilogues
from .fusion.matmul_prologue import fuse_matmul_prologues
from .fusion.memory import refusal_of
from .fusion.reduction_strategy import replicable_sums
from .fusion.search.select import as_scheduled, cheaper, first_candidate, search_plans
from .lower.lower import make_kernels
from .memory.buffers import allocate
from .plan.build import name_launches
from .plan.chunk_loops import join_chunks
from .plan.join import group_weight_gradients, join_foreach_updates
from .plan.launches import FusionPlan, inner_names, memories_of_outputs, verify_plan
from .plan.verdicts import verdicts
from .program.memory_budget import fit_memory
from .program.program import Program
from .support.collector import paused_collector


@paused_collector()
def make_program(
    graph: Graph,
    fusion: str | Fusion = "optimal",
    declared: Graph | None = None,
    taken: frozenset[str] = frozenset(),
) -> Program:
    """Plan a graph of primitives, lower it to tile programs and lay out its buffers; every stage is verified.

    `fusion` is 'optimal' (searched for within a budget), 'greedy', 'off' (every primitive its own kernel), or a
    `Fusion` with wishes; impossible ones raise `PlanError`. No launch has a name that is `taken`.
    """
    options = as_fusion(fusion)
    found = partition(materialize(graph), options)
    program = finish(schedule(found, options, taken), options, declared)
    if options.memory_budget is None:
        return program
    return fit_memory(
        found,
        program,
        options.memory_budget,
        partial(schedule, options=options, taken=taken, group_matmuls=False),
        partial(finish, options=options, declared=declared),
    )


@paused_collector()
def make_plan(graph: Graph, fusion: str | Fusion = "optimal", taken: frozenset[str] = frozenset()) -> FusionPlan:
    """The plan alone, as `make_program` makes it."""
    options = as_fusion(fusion)
    if options.memory_budget is not None:
        return make_program(graph, options, taken=taken).plan
    return schedule(partition(materialize(graph), options), options, taken)


def partition(graph: Graph, options: Fusion) -> Candidate:
    """The partition of a graph's units that its user asks for. Raises `PlanError` for wishes that cannot be had."""
    best = first_candidate(graph, {}, options)
    replicated = replicable_sums(best.units) if options.mode != "off" else frozenset()
    if replicated:
        best = cheaper(best, first_candidate(graph, {}, options, replicated, best))
    if options.mode == "optimal":
        best = as_scheduled(search_plans(graph, best, options, replicated), [best])
    refusal = refusal_of(best.legality, best.partition)
    if refusal is not None:
        raise PlanError(f"fuse: cannot be had, by the rule {refusal.rule!r}: {refusal.reason}")
    if options.products and options.mode != "off":
        best = fuse_matmul_prologues(fuse_matmul_epilogues(best))
    return best


def schedule(
    found: Candidate, options: Fusion, taken: frozenset[str] = frozenset(), *, group_matmuls: bool = True
) -> FusionPlan:
    """The plan of a choice: unless fusion is off, last programs finish sums and updates share a launch, and so do
    weight gradients that run `side_by_side`."""
    units, legality, kernels = found.units, found.legality, found.partition
    joins = options.mode != "off"
    inside: dict[frozenset[Unit], frozenset[Unit]] = {}
    if joins:
        kernels, inside = finalize_in_last_block(units, legality, kernels)
    launches = name_launches(units, legality, kernels, inside, taken)
    launches = join_chunks(launches, partial(plan_region, options))
    if joins:
        taken = taken.union(*(inner_names(k.chunks) for k in launches if k.chunks))
        launches = join_foreach_updates(units, legality, kernels, launches, taken)
    if joins and group_matmuls:
        launches = group_weight_gradients(units, legality, kernels, launches, taken)
    judge = partial(verdicts, replan=partition)
    plan = FusionPlan(units.graph, launches, units, legality, kernels, found.how, joins, judge)
    verify_plan(plan)
    return plan


def plan_region(options: Fusion, region: Graph, taken: frozenset[str]) -> FusionPlan:
    """The plan of what a loop over chunks of rows does for each chunk."""
    return make_plan(region, replace(options, memory_budget=None).lenient(), taken)


def finish(plan: FusionPlan, options: Fusion, declared: Graph | None = None) -> Program:
    """A plan lowered to tile programs, with its buffers laid out."""
    regions = {k.name: finish(k.chunks.plan, options) for k in plan.launches if k.chunks}
    kernels = make_kernels(plan)
    buffers = allocate(plan, kernels, {name: region.buffers for name, region in regions.items()})
    kernels = (*kernels, *(k for region in regions.values() for k in region.kernels))
    outputs = {
        name: (memory.name, plan.graph.outputs[name].shape) for name, memory in memories_of_outputs(plan).items()
    }
    return Program(plan.graph, declared or plan.graph, plan, kernels, buffers, outputs, regions, options)
