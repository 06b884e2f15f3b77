"""Where each line of generated source comes from, compared with what Python's own parser finds in the text."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_graph
from whole_models import made

import tritonnotes as tn
from tritonnotes.codegen.lower.lower import tile_programs
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.support.provenance import ROLES, LineMap, LineOrigin
from tritonnotes.codegen.target.call_sites import keeping_call_sites, with_call_sites
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph

B = tn.Dim("batch")


def digits() -> Program:
    g = tn.Graph("digits")
    x, y = g.input("x", (B, 64)), g.input("y", (B,), dtype="int64")
    h = tn.relu(tn.layer_norm(tn.linear(x, 128, name="fc1"), name="ln1"))
    h = tn.tanh(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2")) + h
    logits = tn.linear(h, 10, name="fc3")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    return make_program(joint_graph(g, "loss", tn.adam()), declared=g)


def forward(make: Callable[[Graph], object]) -> Callable[[], Program]:
    def program() -> Program:
        g = tn.Graph("small")
        g.output(out=make(g))
        return make_program(optimize(decompose(g)), declared=g)

    return program


def trained(make: Callable[[Graph], object], fusion: str = "optimal") -> Callable[[], Program]:
    def program() -> Program:
        g = tn.Graph("small")
        g.output(loss=make(g))
        return make_program(joint_graph(g, "loss", tn.adamw()), fusion, declared=g)

    return program


def long_rows(g: Graph) -> object:
    return tn.softmax(g.input("x", (B, 40_000)), dim=-1, name="scores")


def block(g: Graph) -> object:
    """A block of a transformer, whose tokens are mixed by a linear layer along them."""
    x = g.input("x", (B, 16, 32))
    mixed = tn.linear(tn.layer_norm(x, name="norm1").transpose(1, 2), 16, name="mix").transpose(1, 2) + x
    up = tn.gelu(tn.linear(tn.layer_norm(mixed, name="norm2"), 64, name="up"))
    weights = tn.softmax(tn.linear(up, 32, name="down"), dim=-1, name="weights")
    return tn.mean(weights * mixed)


def words(g: Graph) -> object:
    tokens = tn.embedding(g.input("tokens", (B, 8), dtype="int64"), 50, 16, name="table")
    h = tn.dropout(tn.rms_norm(tokens, name="norm"), 0.1, name="drop")
    return tn.cross_entropy(tn.linear(h, 5000, name="head").reshape(-1, 5000), g.input("y", (B * 8,), dtype="int64"))


def chunks_of_rows() -> Program:
    g = tn.Graph("large")
    h = tn.linear(g.input("x", (B, 16)), 32, name="fc")
    g.output(loss=tn.cross_entropy(tn.linear(h, 50_000, name="head"), g.input("y", (B,), dtype="int64")))
    program = tn.compile_step(g, optimizer=tn.adam(), logits_budget=2**20).program
    assert program.regions
    return program


def gpt() -> Program:
    module, example = made("GPT")
    return tn.compile(module, *example).gradient_programs[1]


def regression(loss: Callable[..., tn.Value]) -> Callable[[Graph], object]:
    return lambda g: loss(tn.linear(g.input("x", (B, 8)), 1, name="fc"), g.input("y", (B, 1)))


MODELS: dict[str, Callable[[], Program]] = {
    "digits": digits,
    "layer norm": forward(lambda g: tn.layer_norm(g.input("x", (B, 1000)), name="ln")),
    "long rows": forward(long_rows),
    "sums over rows": forward(lambda g: tn.mean(tn.exp(g.input("x", (B, 12))), dim=0)),
    "transformer block": trained(block),
    "not fused": trained(block, fusion="off"),
    "language model": trained(words),
    "chunks of rows": chunks_of_rows,
    "GPT": gpt,
    "numbers in memory": lambda: replace(digits(), in_memory=True),
} | {loss.__name__: trained(regression(loss)) for loss in (tn.mse_loss, tn.huber_loss, tn.smooth_l1_loss)}


@cache
def program_of(name: str) -> Program:
    return MODELS[name]()


def listed(program: Program) -> list[tuple[int, str, LineOrigin]]:
    lines = program.source.splitlines()
    assert len(program.line_map) == len(lines)
    return list(zip(range(1, len(lines) + 1), lines, program.line_map, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_every_line_says_where_it_comes_from(name: str) -> None:
    check_lines(program_of(name))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(["optimal", "off"]))
def test_every_line_of_a_random_graph_says_where_it_comes_from(data: st.DataObject, fusion: str) -> None:
    graph, _ = random_graph(lambda choices: data.draw(st.sampled_from(choices)), 6)
    program = make_program(optimize(decompose(graph)), fusion, declared=graph)
    check_lines(program)
    check_values(program)


def check_lines(program: Program) -> None:
    launches = {k.name for k in program.kernels} | set(program.places) | {""}
    for number, text, line in listed(program):
        assert line.role in ROLES
        assert (line.role == "blank") == (not text), number
        assert line.launch in launches
        if line.role in ("step", "setup", "comment", "signature"):
            assert line.origins, (number, text)
            assert line.function, (number, text)
        assert all(origin.phase in ("forward", "backward", "update") for origin in line.origins)


@pytest.mark.parametrize("name", MODELS)
def test_lines_are_of_values_and_ops_that_exist(name: str) -> None:
    program = program_of(name)
    graphs = [program.graph, *(region.graph for region in program.regions.values())]
    values = {v.name for graph in graphs for v in graph.values}
    ops = {v.name for v in program.declared.values} | values
    origins = {origin for _, _, line in listed(program) for origin in line.origins}
    assert {o.value for o in origins} <= values
    assert {o.name for o in origins} <= ops | {""}


@pytest.mark.parametrize("name", MODELS)
def test_every_value_that_a_kernel_computes_has_a_line(name: str) -> None:
    check_values(program_of(name))


def check_values(program: Program) -> None:
    """What fused kernels compute is written somewhere, in a line of its own or inside another; but for the mask of a
    maximum that is one element of a row in memory, which is loaded alone."""
    written = {o.value for _, _, line in listed(program) if line.role == "step" for o in line.origins}
    steps = (step for kernel in program.kernels for part in tile_programs(kernel) for step in part.steps)
    written |= {a.name for step in steps if step.op == "select" and step.value is not None for a in step.value.inputs}
    for plan in (program.plan, *(region.plan for region in program.regions.values())):
        missing = {u.value.name for k in plan.kernels for u in k.units} - written
        assert missing == set()


@pytest.mark.parametrize("name", MODELS)
def test_the_parser_finds_the_variable_that_the_map_names(name: str) -> None:
    """An assignment of a step is to the variable that the map says; a load or store of one is through its pointer."""
    program = program_of(name)
    found = 0
    for node in ast.walk(ast.parse(program.source)):
        if not isinstance(node, ast.Assign | ast.AugAssign):
            continue
        line = program.line_map[node.lineno]
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if line.role != "step" or not isinstance(target, ast.Name):
            continue
        known = {o.step for o in line.origins if o.primitive in ("load", "add", "mul", "sub", "div", "exp", "rsqrt")}
        if len({o.value for o in line.origins}) == 1 and known:
            found += 1
            assert target.id in known, ast.unparse(node)
    assert found > 1


def test_lines_of_one_op_are_found_by_its_name() -> None:
    program = program_of("digits")
    lines = program.source.splitlines()
    mine = [lines[number - 1].strip() for number in program.line_map.of_op("relu")]
    assert "relu = tl.where(ln1 < 0.0, 0.0, ln1)" in mine
    assert not any("rsqrt" in text for text in mine)
    assert program.line_map.of_op("no such op") == ()


def test_a_line_lists_what_is_written_inside_it() -> None:
    program = program_of("digits")
    lines = program.source.splitlines()
    number = 1 + next(i for i, text in enumerate(lines) if text.strip().startswith("rstd = tl.rsqrt(var + 1e-5)"))
    line = program.line_map[number]
    assert [(o.primitive, o.value) for o in line.origins] == [("rsqrt", "ln1.rstd"), ("add", "ln1.add")]
    assert {o.formula for o in line.origins} == {program.graph["ln1"].scope.formula}
    assert {o.op for o in line.origins} == {"layer_norm"}


def test_an_update_of_many_tensors_is_of_each_of_them() -> None:
    program = many_updates()
    (kernel,) = (k for k in program.kernels if k.kind == "foreach")
    parameters = {tensor.name for row in kernel.rows for tensor in row if tensor.op.name == "parameter"}
    assert len(parameters) == 3
    block = [(text, line) for _, text, line in listed(program) if line.function == f"{kernel.name}_block"]
    stores = [line for text, line in block if "tl.store(p_ptr" in text]
    assert stores
    for line in stores:
        assert {o.name for o in line.origins if o.primitive == "store"} == parameters
        assert {o.phase for o in line.origins} == {"update"}


def many_updates() -> Program:
    g = tn.Graph("many")
    x = g.input("x", (B, 2048))
    h = [tn.linear(x, size, name=f"fc{size}") for size in (2048, 4096, 1024)]
    g.output(loss=tn.add(tn.add(tn.mean(tn.sin(h[0])), tn.mean(tn.sin(h[1]))), tn.mean(h[2])))
    return make_program(joint_graph(g, "loss", tn.sgd()), declared=g)


def test_lines_are_counted_from_one() -> None:
    lines = LineMap((LineOrigin("header"),))
    assert lines[1].role == "header"
    for number in (0, 2, -1):
        with pytest.raises(IndexError, match="counted from 1"):
            lines[number]


def test_machine_code_leads_back_to_ops() -> None:
    """By the lines of its instructions, and the calls around them."""
    program = program_of("digits")
    lines, total, known, summed = program.source.splitlines(), 0, 0, 0
    for report in compile_program(program, 90):
        for instruction in report.instructions:
            total += 1
            generated = [line for file, line in instruction.places if len(file.rpartition("/")[2]) == 64 + len(".py")]
            mine = [n for n in generated if program.line_map[n].role in ("step", "setup")]
            known += bool(mine)
            in_library = instruction.file.endswith("standard.py")
            summed += in_library and bool(mine) and "tl.sum(" in lines[mine[0] - 1]
    assert known >= 0.95 * total
    assert summed > 100, "what tl.sum became is of the line that calls it"


PTX = """
\t.file\t1 "/kernels/mine.py"
\t.file\t2 "/triton/standard.py"
\t.loc\t1 5 3                         // mine.py:5:3
\t.loc\t2 263 15                      // standard.py:263:15 @[ standard.py:293:36 @[ mine.py:7:22 ] ]
\tadd.f32 %f1, %f2, %f3;
"""


def test_a_call_is_said_from_the_outside_in() -> None:
    made = [line.strip() for line in with_call_sites(PTX).splitlines() if ".loc" in line]
    assert made == [
        ".loc\t1 5 3                         // mine.py:5:3",
        ".loc\t1 7 22",
        ".loc\t2 293 36, function_name $L__called, inlined_at 1 7 22",
        ".loc\t2 263 15, function_name $L__called, inlined_at 2 293 36",
    ]


class Knobs:
    """Those of a Triton that lets nobody look at its stages."""


def test_stages_that_nobody_may_look_at_stay_as_they_are() -> None:
    knobs, taken, mine = Knobs(), Knobs(), object()
    vars(taken)["add_stages_inspection_hook"] = mine
    with keeping_call_sites(knobs), keeping_call_sites(taken):
        assert vars(knobs) == {}
        assert vars(taken) == {"add_stages_inspection_hook": mine}


@pytest.mark.parametrize(
    "ptx", [PTX.replace(" @[ standard.py:293:36 @[ mine.py:7:22 ] ]", ""), PTX.replace("mine.py:7", "other.py:7")]
)
def test_lines_that_name_no_call_that_is_known_stay_as_they_are(ptx: str) -> None:
    assert with_call_sites(ptx) == ptx
