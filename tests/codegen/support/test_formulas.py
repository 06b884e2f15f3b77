"""Figures as formulas: what a function of sizes computes, for all sizes at once."""

from __future__ import annotations

import random
from functools import cache

import pytest
from compiled import digits
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.plan.chunk_loops import chunk_loops
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.support.formulas import Formula, formula_of, largest, smallest
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.core.types import Dim, element_count
from tritonnotes.ir.passes.chunks import in_chunks
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.primitives import CHUNK_ROWS

B, T = Dim("batch"), Dim("time")

SIZES = [*range(1, 9), 127, 128, 129, 511, 512, 513, 4097, 65536]


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (lambda s: element_count((B, 3, B * T), s) + 7, "3·batch·batch·time + 7"),
        (lambda s: (s["batch"] - 3) * (s["batch"] + 3), "batch·batch − 9"),
        (lambda s: -(-s["batch"] // 512) * 8, "8·⌊(batch + 511) / 512⌋"),
        (lambda s: (128 * s["time"] + 130) // 128, "time + 1"),
        (lambda s: sum(divmod(s["batch"], 7)), "batch − 6·⌊(batch) / 7⌋"),
        (lambda s: smallest(s["batch"] * 4, 4 * s["batch"] + 1, s["time"] * 9), "min(4·batch, 9·time)"),
        (lambda s: largest(1, smallest(s["batch"] // 64, 8)), "max(1, min(⌊(batch) / 64⌋, 8))"),
        (lambda s: max(0, s["batch"]) + min(4, 3), "batch + 3"),
        (lambda s: 5, "5"),
    ],
)
def test_a_figure_is_a_formula_that_gives_the_same_numbers(figure, shown) -> None:
    formula = formula_of(figure, [B, T])
    assert str(formula) == shown
    for batch in SIZES:
        for time in (1, 5, 600):
            assert formula.at({"batch": batch, "time": time}) == figure({"batch": batch, "time": time})


def test_equal_polynomials_are_equal() -> None:
    one = formula_of(lambda s: (s["batch"] + 1) * (s["batch"] - 1), [B])
    other = formula_of(lambda s: s["batch"] * s["batch"] - 1, [B])
    assert one == other and hash(one) == hash(other) and one != other + 1
    assert formula_of(lambda s: s["batch"] - s["batch"], [B]) == 0


def test_a_path_for_some_sizes_alone_is_refused() -> None:
    with pytest.raises(TypeError, match=r"whether batch < 100 depends on sizes: use smallest\(\) or largest\(\)"):
        formula_of(lambda s: 1 if s["batch"] < 100 else 2, [B])
    with pytest.raises(TypeError, match="divided by a positive number"):
        formula_of(lambda s: s["batch"] // -2, [B])


def compare(figure, program: Program, rng: random.Random) -> None:
    formula = formula_of(figure, program.dims)
    assert isinstance(formula, Formula)
    for _ in range(6):
        sizes = {dim.name: rng.choice((rng.randint(1, 40), rng.randint(1, 9000))) for dim in program.dims}
        assert formula.at(sizes) == figure(sizes), (formula, sizes)


def compare_plan(plan: FusionPlan, program: Program, rng: random.Random) -> None:
    compare(plan.launch_count, program, rng)
    for launch in plan.launches:
        compare(launch.bytes_moved, program, rng)


@pytest.mark.parametrize("seed", range(12))
def test_figures_of_random_programs_are_formulas(seed: int) -> None:
    graph = random_graph(seeded(seed), 8)[0]
    program = make_program(optimize(decompose(graph)), declared=graph)
    rng = random.Random(seed)
    compare_plan(program.plan, program, rng)
    compare(program.programs, program, rng)
    compare(program.buffer_bytes, program, rng)
    for verdict in program.plan.verdicts[:20]:
        compare(verdict.bytes_at, program, rng)
        compare(verdict.opposite_bytes_at, program, rng)
        nominal = {dim.name: 256 for dim in program.dims}
        assert verdict.bytes_at(nominal) == verdict.bytes
        assert verdict.opposite_bytes_at(nominal) == verdict.opposite.bytes


@cache
def many_classes() -> Program:
    """A step whose loss goes over chunks of rows."""
    g = tn.Graph("many_classes")
    x, y = g.input("x", (B, T, 32)), g.input("y", (B, T), dtype="int64")
    h = tn.layer_norm(x + tn.embedding(y, 4000, 32, name="table"), name="ln")
    logits = tn.linear(tn.reshape(h, (B * T, 32)), 3000, name="head")
    g.output(loss=tn.cross_entropy(logits, tn.reshape(y, (B * T,))))
    chunked, _ = in_chunks(joint_graph(g, "loss", tn.adam()), 32 * 3000 * 4)
    return make_program(chunked, declared=g)


def test_a_training_step_and_chunks_of_rows_are_formulas_too() -> None:
    rng = random.Random(1)
    for program in (make_program(joint_graph(digits(), "loss", tn.adam())), many_classes()):
        compare_plan(program.plan, program, rng)
        compare(program.programs, program, rng)
        compare(program.buffer_bytes, program, rng)
        compare(program.bytes_beside_arena, program, rng)
        for verdict in program.plan.verdicts[:40]:
            compare(verdict.bytes_at, program, rng)


def test_chunks_of_rows_move_what_their_launches_do_and_an_empty_chunk_moves_nothing() -> None:
    (loop,) = chunk_loops(many_classes().plan.launches)
    zeros = sum(4 * element_count(v.shape, {}) for _, v in loop.sums)
    added = sum(4 * element_count(v.shape, {}) for name, v in loop.sums if name in loop.multiplied)
    for rows in (1, loop.rows - 1, loop.rows, loop.rows + 1, 2 * loop.rows):
        chunks = [loop.rows] * (rows // loop.rows) + [rows % loop.rows] * (rows % loop.rows > 0)
        moved = sum(k.bytes_moved({CHUNK_ROWS.name: n}) for n in chunks for k in loop.plan.launches)
        assert loop.bytes_moved({"batch": rows, "time": 1}) == zeros + added * len(chunks) + moved
        assert loop.launch_count({"batch": rows, "time": 1}) == len(loop.sums) + len(chunks) * len(loop.plan.launches)
