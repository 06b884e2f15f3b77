"""From a graph of primitives to a program: every pass, in the order in which it runs.

Each stage has one type, frozen once it is made, and is verified before the next begins.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph, bind

from .canonicalize.materialize import materialize
from .canonicalize.products import without_library_products
from .fusion.candidate import Candidate
from .fusion.constraints import Fusion, as_fusion
from .fusion.cost import scheduled_cost
from .fusion.horizontal import missed_wish
from .fusion.kept import kept_candidate
from .fusion.last_block import finalize_in_last_block
from .fusion.matmul_epilogue import fuse_matmul_epilogues, leave_biases_to_library
from .fusion.matmul_prologue import fuse_matmul_prologues
from .fusion.search.greedy import greedy
from .fusion.search.select import cheaper, reduction_strategies, replicate_reductions, search
from .lower.lower import lower
from .memory.buffers import allocate
from .plan.build import name_launches
from .plan.chunk_loops import chunk_loops, loop_over_chunks
from .plan.fusion_plan import FusionPlan, verify_plan
from .plan.join import add_library_biases, group_weight_gradients, join_foreach_updates
from .plan.opposites import NOT_SELECTED
from .plan.torch_calls import join_torch_calls
from .plan.verdicts import verdicts
from .plan.wishes import fused_as_asked, refusal_of
from .program.memory_budget import fit_memory
from .program.program import Program
from .support.collector import paused_collector

Names = frozenset[str]


@paused_collector()
def make_program(
    graph: Graph,
    fusion: str | Fusion = "optimal",
    declared: Graph | None = None,
    taken: Names = frozenset(),
    keep: bool = False,
) -> Program:
    """Plan a graph of primitives, lower it to tile programs and lay out its buffers; every stage is verified.

    `fusion` is 'optimal' (searched for within a budget), 'greedy', 'off' (every primitive its own kernel), or a
    `Fusion` with constraints; impossible ones raise `PlanError`. No launch has a name that is `taken`. Where one is to
    `keep` what is found, the kernel cache holds it for other processes: the program is the same.
    """
    options = as_fusion(fusion)
    plain = canonicalize(graph, options)
    find = partial(partition, plain, options)
    return _program(kept_candidate(plain, options, find) if keep else find(), taken, declared)


def _program(found: Candidate, taken: Names, declared: Graph | None = None) -> Program:
    program, budget = finish(schedule(found, taken), declared), found.options.memory_budget
    if budget is None:
        return program
    return fit_memory(
        found,
        program,
        budget,
        schedule=partial(schedule, taken=taken, group_matmuls=False),
        finish=partial(finish, declared=declared),
    )


def make_plan(graph: Graph, fusion: str | Fusion = "optimal", taken: Names = frozenset()) -> FusionPlan:
    """The plan alone, as `make_program` makes it."""
    options = as_fusion(fusion)
    return _plan(canonicalize(graph, options), options, taken)


@paused_collector()
def _plan(plain: Graph, options: Fusion, taken: Names) -> FusionPlan:
    """The plan of a graph that is canonical."""
    found = partition(plain, options)
    return schedule(found, taken) if options.memory_budget is None else _program(found, taken).plan


def _plan_reduced(plan: FusionPlan) -> Any:
    """What a pickle of a plan holds: the same graph, canonical as it is, and wishes give the same plan."""
    return _plan, (plan.graph, plan.candidate.options, plan.taken)


bind(FusionPlan, __reduce__=_plan_reduced)


def canonicalize(graph: Graph, options: Fusion) -> Graph:
    """What is planned: views that must be memory are copies and, where no library is to multiply, products are those
    that kernels compute."""
    plain = materialize(graph)
    return materialize(without_library_products(plain)) if options.all_generated else plain


def partition(graph: Graph, options: Fusion) -> Candidate:
    """The kernels for a graph that its user asks for: of those that are found under the constraints and those that are
    found without `fuse` and changed for it, the cheapest. Raises `PlanError` for constraints that cannot be met; where
    the graph is only part of what they speak of, it does without those."""
    if not options.fuse:
        return _partition(graph, options)
    made: list[Candidate] = []
    refused: PlanError | None = None
    try:
        made.append(_partition(graph, options))
    except PlanError as error:
        refused = error
    usual = _partition(graph, replace(options, fuse=()))
    made.append(fused_as_asked(usual, options))
    kept = [candidate for candidate in made if missed_wish(candidate, options) is None]
    if kept:
        return replace(min(kept, key=scheduled_cost), options=options)
    if options.is_strict:
        raise _refused(usual, options, refused)
    missed = missed_wish(usual, options)
    names = options.fuse[-1] if missed is None else missed.names
    return partition(graph, replace(options, fuse=tuple(wish for wish in options.fuse if wish != names)))


def _refused(usual: Candidate, options: Fusion, refused: PlanError | None) -> PlanError:
    """Says why `fuse` is impossible: by the rule that the verdict of the first such pair has. Where each pair is legal
    by itself, all together were `refused`."""
    missed, why = missed_wish(usual, options), refusal_of(usual, options)
    if missed is None or why is None or why == NOT_SELECTED:
        return refused or PlanError("fuse: no plan was found that holds all of it in one kernel; ask for fewer at once")
    return PlanError(f"fuse: {', '.join(missed.names)} cannot be fused, by the rule {why.rule!r}: {why.reason}")


def _partition(graph: Graph, options: Fusion) -> Candidate:
    best = greedy(graph, options)
    if not options.is_off:
        best = cheaper(best, replicate_reductions(best))
    if options.mode == "optimal":
        best = search(best, reduction_strategies(best))
    best.raise_if_illegal()
    if options.all_generated or (options.products and not options.is_off):
        best = fuse_matmul_epilogues(best)
    if options.products and not options.is_off:
        best = fuse_matmul_prologues(best)
    return best if options.is_off else leave_biases_to_library(best)


def schedule(found: Candidate, taken: Names = frozenset(), *, group_matmuls: bool = True) -> FusionPlan:
    """The launches of a candidate. Unless fusion is off, last programs finalize sums, the library adds biases, and
    updates share a launch, as weight gradients do where matmuls are grouped."""
    joins = not found.options.is_off
    if joins:
        found = finalize_in_last_block(found)
    launches = name_launches(found, taken)
    if joins:
        launches = add_library_biases(found, launches)
    launches = join_torch_calls(launches)
    launches = loop_over_chunks(launches, partial(plan_region, found.options))
    if joins:
        launches = join_foreach_updates(found, launches, taken)
    if joins and group_matmuls:
        launches = group_weight_gradients(found, launches, taken)
    plan = FusionPlan(found, launches, judge=partial(verdicts, replan=partition), taken=taken)
    verify_plan(plan)
    return plan


def plan_region(options: Fusion, region: Graph, taken: Names) -> FusionPlan:
    """The plan of what a loop over chunks of rows does for each chunk."""
    return make_plan(region, replace(options, memory_budget=None).lenient(), taken)


def finish(plan: FusionPlan, declared: Graph | None = None, same: Program | None = None) -> Program:
    """A plan lowered to tile programs, with its buffers laid out. `declared` is the graph that it came from, if that is
    another one. The tile programs of `same` are taken, which runs the same launches in another order."""
    if same is None:
        regions = {loop.name: finish(loop.plan) for loop in chunk_loops(plan.launches)}
        kernels = lower(plan)
    else:
        lowered = {kernel.name: kernel for kernel in same.kernels}
        regions, kernels = dict(same.regions), tuple(lowered[launch.name] for launch in plan.kernels)
    buffers = allocate(plan, kernels, {name: region.buffers for name, region in regions.items()})
    inner = (kernel for region in regions.values() for kernel in region.kernels)
    return Program(plan, (*kernels, *inner), buffers, declared or plan.graph, regions)
