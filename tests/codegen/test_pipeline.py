"""Each pass that `codegen/pipeline.py` names, on a small graph: what it is given and what it makes of it, as text."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from textwrap import dedent
from typing import Any

import pytest

import tritonnotes as tn
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.fusion.constraints import Fusion, as_fusion
from tritonnotes.codegen.fusion.cost import cost_of, scheduled_cost
from tritonnotes.codegen.fusion.last_block import finalize_in_last_block
from tritonnotes.codegen.fusion.matmul_epilogue import fuse_matmul_epilogues
from tritonnotes.codegen.fusion.matmul_prologue import fuse_matmul_prologues
from tritonnotes.codegen.fusion.rematerialize import rematerialize
from tritonnotes.codegen.fusion.search.greedy import greedy
from tritonnotes.codegen.fusion.search.select import cheaper, reduction_strategies, replicate_reductions, search
from tritonnotes.codegen.lower.lower import lower
from tritonnotes.codegen.memory.buffers import allocate
from tritonnotes.codegen.pipeline import finish, make_program, partition, plan_region, schedule
from tritonnotes.codegen.plan.build import name_launches
from tritonnotes.codegen.plan.chunk_loops import chunk_loops, loop_over_chunks
from tritonnotes.codegen.plan.fusion_plan import verify_plan
from tritonnotes.codegen.plan.join import group_weight_gradients, join_foreach_updates
from tritonnotes.codegen.plan.launches import Launch
from tritonnotes.ir.core.errors import PlanError, VerificationError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.chunks import in_chunks
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph, loss_gradient_graph

BATCH = tn.Dim("batch")
OFF, GREEDY, OPTIMAL = map(as_fusion, ("off", "greedy", "optimal"))


def primitives(graph: Graph) -> Graph:
    return materialize(optimize(decompose(graph)))


def graph_of(y: Any, graph: Graph) -> Graph:
    graph.output(y=y)
    return primitives(graph)


def softmax() -> Graph:
    g = Graph("softmax")
    return graph_of(tn.softmax(g.input("x", (BATCH, 100)), 1), g)


def column_sum() -> Graph:
    g = Graph("column_sum")
    return graph_of(tn.sum(g.input("x", (BATCH, 8)), 0), g)


def two_layers() -> Graph:
    """A training step of two linear layers."""
    g = Graph("two_layers")
    h = tn.linear(g.input("x", (4, 8)), 8, bias=False, name="fc1")
    h = tn.linear(h, 8, bias=False, name="fc2")
    g.output(loss=tn.sum(h * h))
    return materialize(joint_graph(g, "loss", tn.sgd(lr=0.1)))


def assert_text(found: object, expected: str) -> None:
    assert str(found).strip() == dedent(expected).strip()


def assert_names(launches: tuple[Launch, ...], expected: str) -> None:
    assert_text("\n".join(launch.name for launch in launches), expected)


# -- canonicalize/ -----------------------------------------------------------------------------------------------------


def test_materialize_copies_a_transposed_value_before_it_is_reshaped() -> None:
    g = Graph("flat")
    g.output(y=tn.reshape(tn.transpose(g.input("x", (2, 3)), 0, 1), (6,)))
    before = optimize(decompose(g))
    assert_text(
        before,
        """
        graph flat primitive
        x: float32[2, 3] = input()
        scope transpose transpose forward  # x with two axes swapped
        transpose: float32[3, 2] = transpose(x, axes=(1, 0))
        scope y reshape forward  # the same elements in the same order
        y: float32[6] = reshape(transpose, shape=(6,))
        output y = y
        """,
    )
    assert_text(
        materialize(before),
        """
        graph flat primitive
        x: float32[2, 3] = input()
        scope transpose transpose forward  # x with two axes swapped
        transpose: float32[3, 2] = transpose(x, axes=(1, 0))
        scope y reshape forward  # the same elements in the same order
        y.copy: float32[3, 2] = copy(transpose)
        y: float32[6] = reshape(y.copy, shape=(6,))
        output y = y
        """,
    )


# -- fusion/ -----------------------------------------------------------------------------------------------------------


def test_greedy_merges_what_reads_each_other() -> None:
    assert_text(
        greedy(softmax(), OFF),
        """
        candidate for softmax: 5 kernels, off
          1. y.largest
          2. y.sub
          3. y.exp_shifted
          4. y.sum_exp
          5. y
        """,
    )
    assert_text(
        greedy(softmax(), GREEDY),
        """
        candidate for softmax: 1 kernel, greedy
          1. y.largest, y.sub, y.exp_shifted, y.sum_exp, y
        """,
    )


def test_greedy_with_fusion_off_keeps_together_what_the_user_wants() -> None:
    assert_text(
        greedy(softmax(), as_fusion(replace(OFF, fuse=(("y.largest", "y.sub"),)))),
        """
        candidate for softmax: 4 kernels, off
          1. y.largest, y.sub
          2. y.exp_shifted
          3. y.sum_exp
          4. y
        """,
    )


def test_rematerialize_computes_again_what_that_makes_cheaper() -> None:
    g = Graph("again")
    h = tn.exp(g.input("x", (BATCH, 64)))
    g.output(total=tn.sum(h, 0), y=tn.softmax(h, 1, name="softmax"))
    after = greedy(primitives(g), as_fusion(replace(GREEDY, forbid=(("sum", "softmax"),))))
    before = replace(after, partition=replace(after.partition, recomputed={}))
    assert_text(
        before,
        """
        candidate for again: 3 kernels, greedy
          1. h, sum:partial
          2. sum:finalize
          3. softmax.largest, softmax.sub, softmax.exp_shifted, softmax.sum_exp, softmax
        """,
    )
    assert_text(
        rematerialize(before),
        """
        candidate for again: 3 kernels, greedy
          1. h, sum:partial
          2. sum:finalize
          3. softmax.largest, softmax.sub, softmax.exp_shifted, softmax.sum_exp, softmax; recomputes h
        """,
    )
    assert cost_of(rematerialize(before)) < cost_of(before)


def test_replicate_reductions_lets_every_program_compute_a_small_sum() -> None:
    g = Graph("scaled")
    x, weights = g.input("x", (BATCH, 4)), g.input("weights", (BATCH,))
    before = greedy(graph_of(x * tn.sum(weights), g), GREEDY)
    assert_text(
        before,
        """
        candidate for scaled: 3 kernels, greedy
          1. sum:partial
          2. sum:finalize
          3. y
        """,
    )
    after = replicate_reductions(before)
    assert_text(
        after,
        """
        candidate for scaled: 1 kernel, greedy
          1. sum:replicated, y
        """,
    )
    assert cheaper(before, after) is after and cheaper(after, before) is after


def test_replicate_reductions_returns_a_candidate_without_small_sums() -> None:
    found = greedy(softmax(), GREEDY)
    assert replicate_reductions(found) is found


def test_search_tries_the_other_strategy_of_reductions() -> None:
    g = Graph("centered")
    x = g.input("x", (32, 64, 28, 28))
    before = greedy(graph_of(x - tn.mean(x, (0, 2, 3), keepdim=True), g), OPTIMAL)
    assert_text(
        before,
        """
        candidate for centered: 3 kernels, greedy
          1. mean.sum:partial
          2. mean.sum:finalize, mean
          3. y
        """,
    )
    strategies = reduction_strategies(before)
    assert [{v.name: is_row for v, is_row in s.items()} for s in strategies] == [{"mean.sum": True}]
    assert_text(
        search(before, strategies),
        """
        candidate for centered: 1 kernel, optimal
          1. mean.sum, mean, y
        """,
    )


def test_an_illegal_candidate_costs_beyond_measure_and_is_refused() -> None:
    found = greedy(column_sum(), OFF)
    illegal = found.with_partition(replace(found.partition, kernels=(frozenset(found.units.units),)))
    assert_text(
        illegal,
        """
        candidate for column_sum: 1 kernel, off
          1. sum:partial, sum:finalize
        """,
    )
    assert illegal is not None and illegal.refusal is not None
    assert scheduled_cost(illegal) == cost_of(illegal) > cost_of(found)
    with pytest.raises(PlanError, match="by the rule 'finalize': partials are added up after"):
        illegal.raise_if_illegal()
    found.raise_if_illegal()


def test_matmul_epilogues_are_computed_in_the_tiles_of_the_product() -> None:
    g = Graph("dense")
    before = greedy(graph_of(tn.relu(tn.linear(g.input("x", (BATCH, 64)), 32, bias=False, name="fc")), g), GREEDY)
    assert_text(
        before,
        """
        candidate for dense: 2 kernels, greedy
          1. fc
          2. y.lt, y
        """,
    )
    assert_text(
        fuse_matmul_epilogues(before),
        """
        candidate for dense: 1 kernel, greedy
          1. fc:product, y.lt, y
        """,
    )


def test_matmul_prologues_are_computed_block_by_block_as_they_are_multiplied() -> None:
    g = Graph("dense")
    x = tn.silu(g.input("x", (BATCH, 64)), name="act")
    before = fuse_matmul_epilogues(greedy(graph_of(tn.relu(tn.linear(x, 32, bias=False, name="fc")), g), GREEDY))
    assert_text(
        before,
        """
        candidate for dense: 2 kernels, greedy
          1. act.neg, act.exp, act.add, act
          2. fc:product, y.lt, y
        """,
    )
    assert_text(
        fuse_matmul_prologues(before),
        """
        candidate for dense: 1 kernel, greedy
          1. act.neg:operand, act.exp:operand, act.add:operand, act:operand, fc:product, y.lt, y
        """,
    )


def test_sums_are_finished_by_the_last_program_of_the_kernel_that_takes_them() -> None:
    before = greedy(column_sum(), GREEDY)
    assert_text(
        before,
        """
        candidate for column_sum: 2 kernels, greedy
          1. sum:partial
          2. sum:finalize
        """,
    )
    assert_text(
        finalize_in_last_block(before),
        """
        candidate for column_sum: 2 kernels, greedy
          1. sum:partial
          2. sum:finalize; in the last block of 1
        """,
    )


def test_a_candidate_keeps_what_is_found_out_about_it() -> None:
    found = greedy(column_sum(), GREEDY)
    assert found.memory is found.memory
    assert cost_of(found) is cost_of(found)
    assert finalize_in_last_block(found) is finalize_in_last_block(found)
    changed = found.with_partition(found.partition)
    assert changed is not None and finalize_in_last_block(changed) is not finalize_in_last_block(found)


# -- plan/ -------------------------------------------------------------------------------------------------------------


def test_launches_are_named_after_their_ops_and_last_programs_need_none() -> None:
    found = greedy(column_sum(), GREEDY)
    assert_names(
        name_launches(found),
        """
        sum_kernel
        finalize_sum
        """,
    )
    assert_names(name_launches(finalize_in_last_block(found)), "sum_kernel")
    assert_names(name_launches(finalize_in_last_block(found), frozenset({"sum_kernel"})), "sum_kernel_2")


def test_the_results_of_a_region_are_one_loop_over_chunks() -> None:
    g = Graph("head")
    x, y = g.input("x", (BATCH, 16)), g.input("y", (BATCH,), "int64")
    g.output(loss=tn.cross_entropy(tn.linear(x, 50, bias=False, name="fc"), y))
    whole = loss_gradient_graph(g, "loss", ["fc.weight"])
    chunked, _ = in_chunks(whole, budget=8 * 50 * 4)
    before = name_launches(finalize_in_last_block(greedy(materialize(chunked), GREEDY)))
    assert_names(
        before,
        """
        loss_kernel
        matmul_loss_losses
        matmul_fc_d_fc_weight
        loss_kernel_2
        """,
    )
    after = loop_over_chunks(before, partial(plan_region, GREEDY))
    assert_names(
        after,
        """
        loss_kernel
        chunks_loss_losses
        loss_kernel_2
        """,
    )
    (loop,) = chunk_loops(after)
    assert loop.rows == 16
    assert_names(
        loop.plan.launches,
        """
        fc_loss_forward_backward
        matmul_fc_d_fc_weight_2
        """,
    )


def test_updates_that_nothing_waits_for_share_a_launch() -> None:
    found = finalize_in_last_block(greedy(two_layers(), GREEDY))
    before = name_launches(found)
    assert_names(
        before,
        """
        matmul_fc1
        matmul_fc2
        mul_sum_fc2_forward_backward
        matmul_fc1_d_fc1
        matmul_fc2_d_fc2_weight
        matmul_fc1_d_fc1_weight
        fc1_weight_sgd
        fc2_weight_sgd
        """,
    )
    assert_names(
        join_foreach_updates(found, before),
        """
        matmul_fc1
        matmul_fc2
        mul_sum_fc2_forward_backward
        matmul_fc1_d_fc1
        matmul_fc2_d_fc2_weight
        matmul_fc1_d_fc1_weight
        update_sgd
        """,
    )


def test_weight_gradients_that_nothing_waits_for_share_a_launch() -> None:
    found = finalize_in_last_block(fuse_matmul_epilogues(greedy(two_layers(), GREEDY)))
    before = name_launches(found)
    assert_names(
        before,
        """
        matmul_fc1
        matmul_fc2
        mul_sum_fc2_forward_backward
        matmul_fc1_d_fc1
        fc2_backward_sgd
        fc1_backward_sgd
        """,
    )
    assert_names(
        group_weight_gradients(found, before),
        """
        matmul_fc1
        matmul_fc2
        mul_sum_fc2_forward_backward
        matmul_fc1_d_fc1
        grouped_matmul_sgd
        """,
    )


def test_a_plan_is_verified() -> None:
    plan = schedule(partition(softmax(), OFF))
    verify_plan(plan)
    with pytest.raises(VerificationError, match="runs before"):
        verify_plan(replace(plan, launches=plan.launches[::-1]))


# -- lower/, memory/, program/ -----------------------------------------------------------------------------------------


def test_a_launch_is_lowered_to_a_tile_program() -> None:
    (kernel,) = lower(schedule(partition(softmax(), GREEDY)))
    assert_text(
        "\n".join(f"{step.extent} {step.name} = {step.op}({', '.join(step.args)})" for step in kernel.steps),
        """
        tile x = load()
        row largest = max(x)
        tile x_minus_largest = sub(x, largest)
        tile exp_shifted = exp(x_minus_largest)
        row sum_exp = sum(exp_shifted)
        tile y = div(exp_shifted, sum_exp)
        tile store y_ptr = store(y)
        """,
    )


def test_buffers_hold_leaves_outputs_and_what_launches_leave_each_other() -> None:
    plan = schedule(partition(softmax(), OFF))
    buffers = allocate(plan, lower(plan), {})
    assert_text(
        "\n".join(f"{b.role} {b.name} {b.dtype}" for b in buffers),
        """
        leaf x float32
        temporary y.largest float32
        temporary y.sub float32
        temporary y.exp_shifted float32
        temporary y.sum_exp float32
        output y float32
        """,
    )


def step_with_a_wide_middle() -> Graph:
    g = Graph("wide")
    h = tn.relu(tn.linear(g.input("x", (256, 8)), 64, bias=False, name="up"))
    h = tn.linear(h, 8, bias=False, name="down")
    g.output(loss=tn.sum(h * h))
    return joint_graph(g, "loss", tn.sgd(lr=0.1))


def test_a_memory_budget_has_operands_computed_again() -> None:
    before = make_program(step_with_a_wide_middle())
    assert_text(
        before.plan.candidate,
        """
        candidate for wide: 6 kernels, optimal
          1. up:product, relu.lt, relu, relu.le
          2. down
          3. mul, sum, mul_1, down.d_down
          4. relu.d_relu:product, up.d_up
          5. down.d_down_weight:product, down.weight.mul, down.weight.updated
          6. up.d_up_weight:product, up.weight.mul, up.weight.updated
        """,
    )
    after = make_program(step_with_a_wide_middle(), Fusion(memory_budget=97_000))
    assert_text(
        after.plan.candidate,
        """
        candidate for wide: 7 kernels, optimal
          1. up:product, relu.lt, relu, relu.le
          2. down
          3. mul, sum
          4. mul_1:operand, down.d_down:operand, relu.d_relu:product, up.d_up
          5. down.d_down_weight:product; recomputes mul_1, down.d_down
          6. up.d_up_weight:product, up.weight.mul, up.weight.updated
          7. down.weight.mul, down.weight.updated
        """,
    )
    assert after.peak_bytes() <= 97_000 < before.peak_bytes()


def test_a_program_says_what_it_launches_and_holds() -> None:
    program = finish(schedule(partition(column_sum(), GREEDY)))
    assert_text(
        program,
        """
        program column_sum: 1 launch over 4 buffers
          leaf x: float32[batch, 8]
          output sum: float32[1, 8]
          partial sum:partial: float32[1, 8]
          arrivals sum_kernel:arrivals: int32[]
          1. sum_kernel
        """,
    )
