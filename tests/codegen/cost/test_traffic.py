"""The traffic model against the addresses that the interpreter sees: each byte loaded or stored, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from compiled import digits
from counted_traffic import assert_exact
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.analysis.axes import Space
from tritonnotes.codegen.analysis.units import make_units
from tritonnotes.codegen.cost.long_rows import reread_discount
from tritonnotes.codegen.cost.traffic import Traffic
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph, joint_graph, loss_gradient_graph
from tritonnotes.ir.passes.split import split_gradient
from tritonnotes.ir.primitives import take_rows


def programs_of(graph: Graph) -> list[Program]:
    """The programs behind `tn.compile`: forward alone, and, where a float comes in, forward and backward."""
    made = [make_program(optimize(decompose(graph)))]
    wanted = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    if wanted:
        joint = gradient_graph(graph, wanted)
        split = split_gradient(
            joint,
            list(graph.outputs),
            [*cotangent_names(graph, [n for n, v in graph.outputs.items() if v.dtype.is_float]).values()],
        )
        made += [make_program(split.forward), make_program(split.backward)]
    return made


def graph_of(build: Callable[..., Any], *shapes: Any, dtype: str = "float32") -> Graph:
    """A graph whose output is `build` of inputs of these shapes."""
    graph = Graph("traffic")
    graph.output(y=build(*(graph.input(f"x{i}", shape, dtype) for i, shape in enumerate(shapes))))
    return graph


BATCH = tn.Dim("batch")
GRAPHS = {
    "chain": graph_of(lambda x: tn.tanh(tn.exp(x) + 1), (BATCH, 33)),
    "bias under a matrix": graph_of(lambda x, b: tn.gelu(x + b), (BATCH, 33), (33,)),
    "column beside a row": graph_of(lambda a, b: a * b, (BATCH, 1), (1, 7)),
    "matrix and its transpose": graph_of(lambda x: x + tn.transpose(x, 0, 1), (9, 9)),
    "layer norm": graph_of(lambda x: tn.gelu(tn.layer_norm(x, name="ln")) + x, (BATCH, 40)),
    "layer norm, 16 bits": graph_of(lambda x: tn.layer_norm(x, name="ln"), (BATCH, 40), dtype="bfloat16"),
    "softmax": graph_of(lambda x: tn.softmax(x, -1), (5, 3, 17)),
    "sum over rows": graph_of(lambda x: tn.sum(x * x, 0), (BATCH, 70)),
    "mean of all": graph_of(lambda x: tn.mean(tn.exp(x)), (BATCH, 11)),
    "channels": graph_of(lambda x: x - tn.mean(x, (0, 2), keepdim=True), (4, 3, 25)),
    "products": graph_of(lambda x, w: tn.relu(tn.linear(tn.linear(x, 8), weight=w, bias=None)), (BATCH, 5), (6, 8)),
    "reshape": graph_of(lambda x: tn.sum(tn.reshape(tn.exp(x), (6, 10)), -1), (4, 15)),
    "halves of a gate": graph_of(lambda x: tn.glu(x), (BATCH, 18)),
    "parts that overlap": graph_of(lambda x: tn.narrow(x, 1, 0, 6) * tn.narrow(x, 1, 4, 6), (5, 12)),
    "joined": graph_of(lambda a, b: tn.cat([tn.exp(a), b], 1), (BATCH, 3), (BATCH, 4)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_each_launch_moves_what_the_plan_says(name: str) -> None:
    graph = GRAPHS[name]
    sizes = {"batch": 37} if any(BATCH in v.shape for v in graph.values) else {}
    for program in programs_of(graph):
        assert_exact(program, **sizes)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_demo_s_step_moves_what_its_plan_says(dtype: str) -> None:
    assert_exact(make_program(joint_graph(digits(dtype), "loss", tn.adam())), batch=37)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_move_what_their_plans_say(seed: int) -> None:
    graph, sizes = random_graph(seeded(seed), 6)
    assert_exact(make_program(optimize(decompose(graph))), **sizes)


@pytest.mark.parametrize("build", [
    lambda x: tn.softmax(x, -1), lambda x: tn.log_softmax(x, -1), lambda x: tn.layer_norm(x, weight=None, bias=None),
    lambda x: tn.tanh(x) - tn.mean(x, -1, keepdim=True) + tn.max(x, -1, keepdim=True),
])  # fmt: skip
def test_each_walk_along_a_long_row_counts(build: Callable[..., Any]) -> None:
    programs = programs_of(graph_of(build, (BATCH, 33_001)))
    for program in programs:
        assert_exact(program, batch=2)
    assert all(any(k.traffic().reread for k in program.plan.launches) for program in programs)


@pytest.mark.parametrize(("classes", "by_number"), [(33, 0), (33_001, 5 * 4)])
def test_what_each_program_reads_for_itself_counts_once(classes: int, by_number: int) -> None:
    """The targets, which each program counts, and on a walk along a long row all that is read again."""
    graph = Graph("classifier")
    logits, y = graph.input("logits", (BATCH, classes)), graph.input("y", (BATCH,), "int64")
    graph.output(loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    program = make_program(loss_gradient_graph(graph, "loss", ["logits"]))
    assert len(program.plan.launches) == 1
    assert_exact(program, by_number, batch=5)


def test_rows_taken_by_number_count_at_most_what_is_taken() -> None:
    graph = Graph("rows")
    table, index = graph.input("table", (1000, 8)), graph.input("index", (5,), "int64")
    graph.output(y=tn.exp(take_rows(table, index)))
    (kernel,) = make_program(optimize(decompose(graph))).plan.launches
    assert kernel.traffic() == Traffic(5 * 8 * 4 + 5 * 8, 5 * 8 * 4)


def test_partial_sums_count_once_for_each_program() -> None:
    plan = make_program(optimize(decompose(GRAPHS["sum over rows"]))).plan
    without, shared = (sum(k.traffic(programs=p).total for k in plan.launches) for p in (0, 100))
    assert plan.bytes_moved() == without == (256 * 70 + 70) * 4
    # Each program leaves a row, which the last ones read; and they count themselves, in groups of 16 and together.
    assert shared - without == 2 * 100 * 70 * 4 + (7 + 1) * 4


@pytest.mark.parametrize(("columns", "is_cached"), [(96 * 1024, True), (96 * 1024 + 1, False)])
def test_what_a_loop_reads_again_costs_less_while_the_cache_holds_it(columns: int, is_cached: bool) -> None:
    declared = Graph("row")
    declared.output(y=tn.exp(declared.input("x", (BATCH, columns), "bfloat16")))
    graph = optimize(decompose(declared))
    x, axes = graph["x"], make_units(graph).axes
    rows, cols = (tuple(axes.of(x) & {axis}) for axis in axes.labels[x] if axis is not None)
    space = Space(rows, cols, reduces_rows=True)
    moved = Traffic(1000, 1000, 1000)
    assert reread_discount(space, {x: 2}, axes, moved, {x: x.dtype}) == (450 if is_cached else 0)
    assert reread_discount(space, {x: 1}, axes, Traffic(1000, 1000), {x: x.dtype}) == 0
