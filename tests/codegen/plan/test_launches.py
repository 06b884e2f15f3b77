"""The kinds of launches: each runs kernels of the partition, and says what that takes."""

from __future__ import annotations

import pytest
from compiled import digits

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.horizontal import FOREACH, GROUPED_MATMUL
from tritonnotes.codegen.lower.foreach import ForeachKernel
from tritonnotes.codegen.lower.grouped_matmul import GroupedMatmulKernel
from tritonnotes.codegen.lower.lower import lower, tile_programs
from tritonnotes.codegen.lower.tile_ir import Kernel
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.chunk_loops import CHUNK_LOOP, ChunkLoop, chunk_loops
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.launches import ForeachLaunch, GroupedMatmul, LibraryCall, TileLaunch
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.chunks import in_chunks
from tritonnotes.ir.passes.joint import joint_graph, loss_gradient_graph


def grouped() -> FusionPlan:
    """Products in generated kernels, grouped weight gradients, sums finalized in the last block."""
    return make_plan(joint_graph(digits(), "loss", tn.adam()))


def called() -> FusionPlan:
    """Products by the library, and the updates behind them in one launch."""
    return make_plan(joint_graph(digits(), "loss", tn.adam()), Fusion("greedy", products=False))


def looped() -> FusionPlan:
    """Logits of which 16 rows are held at a time."""
    g = Graph("head")
    x, y = g.input("x", (50, 24)), g.input("y", (50,), "int64")
    g.output(loss=tn.cross_entropy(tn.linear(x, 40, name="vocabulary"), y))
    joint = loss_gradient_graph(g, "loss", ["vocabulary.weight", "vocabulary.bias"])
    return make_plan(in_chunks(joint, 16 * 40 * 4)[0], "greedy")


PLANS = {"grouped": grouped, "called": called, "looped": looped}
CLASSES = {GROUPED_MATMUL: GroupedMatmul, FOREACH: ForeachLaunch, "library": LibraryCall, CHUNK_LOOP: ChunkLoop}
"""The classes of launches by kind; all others are tile programs of their own."""


@pytest.mark.parametrize("name", PLANS)
def test_launches_run_each_kernel_of_the_partition_once(name: str) -> None:
    plan = PLANS[name]()
    pieces = [frozenset(piece.units) for launch in plan.launches for piece in launch.pieces]
    assert len(pieces) == len(set(pieces)) and set(pieces) == set(plan.partition.kernels)
    for launch in plan.launches:
        assert type(launch) is CLASSES.get(launch.kind, TileLaunch), launch.name
        # What a bias is added to does not leave the call.
        held = {launch.unit.value} if isinstance(launch, LibraryCall) else set()
        assert {v for piece in launch.pieces for v in piece.loads} - held == set(launch.loads)
        assert [line.split()[0] for line in launch.describe() if line.startswith(("reads", "writes"))] == [
            "reads",
            "writes",
        ]


def test_every_class_occurs() -> None:
    found = {type(launch) for make in PLANS.values() for launch in make().launches}
    assert found == {TileLaunch, *CLASSES.values()}


def test_launches_of_several_kernels_name_them() -> None:
    (matmuls,) = (k for k in grouped().launches if isinstance(k, GroupedMatmul))
    (updates,) = (k for k in called().launches if isinstance(k, ForeachLaunch))
    assert matmuls.joins == ("fc3_backward_adam", "fc2_backward_adam", "fc1_backward_adam")
    assert len(updates.joins) == len(updates.members) == sum(len(alike.kernels) for alike in updates.group)
    assert all(not k.joins for k in grouped().launches if isinstance(k, TileLaunch))


def test_a_loop_counts_the_launches_of_all_chunks() -> None:
    plan = looped()
    (loop,) = chunk_loops(plan.launches)
    assert loop.chunk_count({}) == 4 and loop.launch_count({}) == len(loop.sums) + 4 * len(loop.plan.launches)
    assert plan.launch_count() == loop.launch_count({}) + len(plan.launches) - 1
    assert loop not in plan.kernels and loop not in plan.library and plan.loop_count == 1


def test_a_generated_launch_is_lowered_by_its_class() -> None:
    lowered = {TileLaunch: Kernel, GroupedMatmul: GroupedMatmulKernel, ForeachLaunch: ForeachKernel}
    for plan in (grouped(), called()):
        for launch, kernel in zip(plan.kernels, lower(plan), strict=True):
            assert type(kernel) is lowered[type(launch)]
            assert (kernel.name, kernel.kind) == (launch.name, launch.kind)
            assert all(tile.steps for tile in tile_programs(kernel))
