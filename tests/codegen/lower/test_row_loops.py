"""Loops along rows that registers do not hold: one scheduler for the cost model and for tile programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest

import tritonnotes as tn
from tritonnotes.codegen.analysis.idioms import RUNNING_MAXIMUM, SELECTED, SOFTMAX, RowValues, match
from tritonnotes.codegen.analysis.row_loops import Row, RowLoops, schedule_row_loops
from tritonnotes.codegen.analysis.units import make_units
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.lower.row_loops import row_loops
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose

BATCH = tn.Dim("batch")

SOFTMAX_ROW = {
    "largest": ("x",),
    "shifted": ("x", "largest"),
    "exp": ("shifted",),
    "total": ("exp",),
    "log": ("total",),
    "y": ("exp", "total"),
}
"""The softmax of a row x that is computed elsewhere."""


def scheduled(beside: Mapping[str, str]) -> RowLoops[str]:
    wide = {"x", "shifted", "exp", "y"}
    return schedule_row_loops(Row(SOFTMAX_ROW, wide.__contains__, ["largest", "total"], beside, {}, ["y"]))


def text(found: RowLoops[str]) -> list[str]:
    return [
        f"for {', '.join(sorted(loop.read))}: {', '.join(loop.wide) or '-'}"
        f"; reduce {', '.join(loop.reductions) or '-'}; store {', '.join(loop.stored) or '-'}"
        f"; then {', '.join(loop.after) or '-'}"
        for loop in found.loops
    ]


def test_a_loop_takes_all_reductions_whose_arguments_are_known_by_then() -> None:
    assert text(scheduled({})) == [
        "for x: -; reduce largest; store -; then largest",
        "for x: shifted, exp; reduce total; store -; then total, log",
        "for x: shifted, exp, y; reduce -; store y; then -",
    ]


def test_a_sum_beside_a_running_maximum_needs_no_loop_of_its_own() -> None:
    assert text(scheduled({"total": "largest"})) == [
        "for x: -; reduce largest, total; store -; then largest, total, log",
        "for x: shifted, exp, y; reduce -; store y; then -",
    ]


NORM_ROW = {
    "total": ("x",),
    "mean": ("total",),
    "off": ("x", "mean"),
    "squared": ("off", "off"),
    "squares": ("squared",),
    "rstd": ("squares",),
    "y": ("off", "rstd"),
}
"""A row x, which is computed elsewhere, less its mean over its deviation."""


@pytest.mark.parametrize("about", ["mean", "given"])
def test_squares_about_a_mean_follow_from_moments_and_those_about_a_known_number_do_not(about: str) -> None:
    row = {name: tuple(about if a == "mean" else a for a in args) for name, args in NORM_ROW.items()}
    wide = {"x", "off", "squared", "y"}
    moments = {"squares": ("x", about)}
    found = schedule_row_loops(Row(row, wide.__contains__, ["total", "squares"], {}, moments, ["y"]))
    assert [dict(loop.moments) for loop in found.loops] == [{"squares": "x"} if about == "mean" else {}, {}]
    assert [loop.reductions for loop in found.loops] == [("total", "squares"), ()]
    assert [loop.wide for loop in found.loops] == [() if about == "mean" else ("off", "squared"), ("off", "y")]


def primitives(build: Callable[[Value], Value]) -> Graph:
    g = Graph("row")
    g.output(y=build(g.input("x", (BATCH, 100))))
    return materialize(optimize(decompose(g)))


def test_idioms_are_found_in_formulas() -> None:
    graph = primitives(lambda x: tn.softmax(x, 1))
    axes = make_units(graph).axes
    row = RowValues(axes, axes.of(graph["x"]) - axes.of(graph["y.largest"]))
    found = {v.name: match(RUNNING_MAXIMUM, v, row) for v in graph.values}
    assert {name: {n: v.name for n, v in names.items()} for name, names in found.items() if names} == {
        "y.sum_exp": {"x": "x", "largest": "y.largest"}
    }
    assert match(SOFTMAX, graph["y"], row) is not None and match(SELECTED, graph["y.largest"], row) is None


def test_a_pattern_wants_one_and_the_same_node_under_one_name() -> None:
    graph = primitives(lambda x: tn.sum(tn.exp(x - tn.amax(-x, 1, keepdim=True)), 1))
    axes = make_units(graph).axes
    row = RowValues(axes, axes.of(graph["x"]))
    assert all(match(RUNNING_MAXIMUM, v, row) is None for v in graph.values)


def test_what_reduces_and_writes_nothing_along_the_row_needs_no_loop() -> None:
    found = schedule_row_loops(Row({"loss": ("number",)}, {"x"}.__contains__, [], {}, {}, []))
    assert not found.loops and found.before == ("loss",)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_logit_of_the_target_is_loaded_by_its_number(dtype: str) -> None:
    g = Graph("loss")
    x, y = g.input("x", (BATCH, LONG), dtype), g.input("y", (BATCH,), "int64")
    g.output(loss=tn.cross_entropy(x, y))
    program = make_program(optimize(decompose(g)))
    assert program.source.count("for start in") == 1
    (launch,) = program.plan.launches
    assert launch.traffic(4).reread == 0


LONG = 100_000

GRAPHS: dict[str, Callable[[Value], Value]] = {
    "softmax": lambda x: tn.softmax(x, 1),
    "log_softmax": lambda x: tn.log_softmax(x, 1),
    "layer_norm": lambda x: tn.layer_norm(x),
    "rms_norm": lambda x: tn.gelu(tn.rms_norm(x)),
    "softmax of a norm": lambda x: tn.softmax(tn.layer_norm(x), 1),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_tile_programs_read_a_row_as_often_as_the_cost_model_counts(name: str) -> None:
    g = Graph("long")
    g.output(y=GRAPHS[name](g.input("x", (BATCH, LONG))))
    program = make_program(optimize(decompose(g)), "greedy")
    looped = [kernel for kernel in program.kernels if kernel.layout.loops_cols]
    assert looped
    for kernel in looped:
        loads = {s.name: kernel.parameter(s.attrs["pointer"]).value for s in kernel.steps if s.op == "load"}
        reads = Counter(loads[name] for loop in row_loops(kernel).loops for name in loop.wide if name in loads)
        counted = kernel.plan.loop_reads
        assert counted and {v: reads[v] for v in counted} == dict(counted)
