"""What each function of a launch is for, and how it goes over its tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from compiled import digits, gradient_programs

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.lower.functions import (
    ALL_TILES,
    GIVEN_BLOCK,
    GROUP_MEMBER,
    LAST_BLOCK,
    LAUNCHED,
    MATMUL_OPERAND,
    ONLY_TILE,
    PERSISTENT,
    PREFETCHED,
    REPLICATED_SUM,
    TILE_PER_PROGRAM,
    Purpose,
    Traversal,
)
from tritonnotes.codegen.lower.grouped_matmul import GroupedMatmulKernel
from tritonnotes.codegen.lower.tile_ir import Kernel
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.target.targets import CPU
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph, loss_gradient_graph

BATCH = tn.Dim("batch")


def classifier(classes: int) -> Graph:
    graph = Graph("classifier")
    logits, y = graph.input("logits", (BATCH, classes)), graph.input("y", (BATCH,), "int64")
    graph.output(loss=tn.cross_entropy(logits, y))
    return loss_gradient_graph(graph, "loss", ["logits"])


def of(columns: int, build: Callable[[Value], Value]) -> Callable[[], Graph]:
    def make() -> Graph:
        graph = Graph("case")
        graph.output(y=build(graph.input("x", (BATCH, columns))))
        return decompose(graph)

    return make


def functions(kernels: Iterable[Kernel]) -> Iterator[Kernel]:
    """Kernels and those that they call."""
    for kernel in kernels:
        if isinstance(kernel, GroupedMatmulKernel):
            yield from functions(member.kernel for member in kernel.members)
            continue
        yield kernel
        yield from functions(part.kernel for part in (*kernel.replicated_sums, *kernel.operands, *kernel.last_block))


COUNT = (REPLICATED_SUM, ALL_TILES)
"""The number of targets that count, which the last program takes once more."""


CASES: dict[str, tuple[Callable[[], Graph], list[tuple[Purpose, Traversal]]]] = {
    "elementwise": (of(64, tn.relu), [(LAUNCHED, TILE_PER_PROGRAM)]),
    "sums of few columns": (of(64, lambda x: tn.sum(x, 0)), [(LAUNCHED, PREFETCHED[3]), (LAST_BLOCK, ONLY_TILE)]),
    "sums of more columns than fit": (
        of(2048, lambda x: tn.sum(x, 0)),
        [(LAUNCHED, PREFETCHED[3]), (LAST_BLOCK, ALL_TILES)],
    ),
    "a sum that each program takes": (
        lambda: classifier(10),
        [(LAUNCHED, PREFETCHED[3]), COUNT, (LAST_BLOCK, ONLY_TILE), COUNT],
    ),
    "an operand of an activation": (
        of(50, lambda x: tn.linear(tn.silu(x) * 2.0, 72, name="fc")),
        [(LAUNCHED, TILE_PER_PROGRAM), (MATMUL_OPERAND, GIVEN_BLOCK)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_function_goes_over_its_tiles_as_its_purpose_asks(name: str) -> None:
    make, expected = CASES[name]
    layouts = [kernel.layout for kernel in functions(make_program(make()).kernels)]
    assert [(layout.purpose, layout.traversal) for layout in layouts] == expected


def test_a_program_that_holds_one_long_row_leaves_a_partial_sum_for_each() -> None:
    program = make_program(classifier(32_000))
    (kernel,) = program.kernels
    (last,) = (part.kernel for part in kernel.last_block)
    traversal = kernel.layout.traversal
    assert traversal.is_one_row and not kernel.layout.counts_programs and not kernel.layout.loops_tiles
    assert last.layout.purpose is LAST_BLOCK and last.layout.counts_programs
    assert "grid = (max(batch, 1),)" in program.source, "a launch of no rows finishes its sums all the same"


def test_members_of_a_group_are_functions_of_a_tile_by_its_number() -> None:
    program = make_program(joint_graph(digits(), "loss", tn.adam()))
    members = [k for k in functions(program.kernels) if k.layout.purpose is GROUP_MEMBER]
    assert len(members) == 3
    assert {k.layout.traversal.arguments for k in members} == {("tile", "part", "parts")}
    assert all(k.layout.traversal.grid is None for k in members)


def backward_norm(columns: int) -> Program:
    graph = tn.Graph("case")
    graph.output(y=tn.layer_norm(graph.input("x", (4096, columns))))
    return gradient_programs(graph)[1]


@pytest.mark.parametrize(("columns", "stages"), [(64, 3), (1024, 3), (4096, 3), (8192, 2)])
def test_tiles_on_their_way_fit_in_shared_memory(columns: int, stages: int) -> None:
    (kernel, *_) = backward_norm(columns).kernels
    assert isinstance(kernel, Kernel) and kernel.layout.traversal == PREFETCHED[stages]


def test_a_plan_for_a_cpu_adds_up_tile_by_tile() -> None:
    """What is carried from tile to tile stays in its nearest cache."""
    (kernel, *_) = make_program(backward_norm(64).graph, Fusion(target=CPU)).kernels
    assert isinstance(kernel, Kernel) and kernel.layout.traversal == PERSISTENT
