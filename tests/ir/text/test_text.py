"""The text of a graph reads back as the same graph, and what is no such text is refused with line and remedy."""

from __future__ import annotations

import pytest
from counted_work import counted, lines_run
from graphs_for_text import BATCH, TAGS, bits, digits, levels, tagged, with_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import random_graph

from tritonnotes.ir import Graph
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import FormatError
from tritonnotes.ir.core.op import OPS, catalogue
from tritonnotes.ir.core.printer import print_graph
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.optim.update_rules import adam, sgd_momentum
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.text.parser import parse_graph


def test_the_text_says_a_thing_a_line() -> None:
    g = Graph("small")
    x = g.input("x", (BATCH, 4))
    w = g.parameter("w", (4,), "normal", mean=0.0, std=0.5)
    scaled = P.tanh(x * w)
    total = P.sum(scaled)
    g.output(total=total)
    g.update(w, w * 2)
    assert print_graph(g) == (
        "graph small declared\n"
        "x: float32[batch, 4] = input()\n"
        "w: float32[4] = parameter(init='normal', mean=0.0, std=0.5)\n"
        "mul: float32[batch, 4] = mul(x, w)\n"
        "scaled: float32[batch, 4] = tanh(mul)\n"
        "sum: float32[1, 1] = sum(scaled, axes=(0, 1))\n"
        "total: float32[] = reshape(sum, shape=())\n"
        "constant: float32[] = constant(value=2.0)\n"
        "mul_1: float32[4] = mul(w, constant)\n"
        "output total = total\n"
        "update w = mul_1\n"
    )


@pytest.mark.parametrize("level", ["declared", "decomposed", "joint"])
def test_every_level_reads_back(level: str) -> None:
    graph = levels()[level]
    text = print_graph(graph)
    read = parse_graph(text)
    verify(read)
    assert same_graph(read, graph)
    assert print_graph(read) == text
    assert [v.name for v in read.values] == [v.name for v in graph.values]


def test_what_is_read_compiles_to_the_same_joint_graph() -> None:
    graph = digits()
    for rule in (adam(lr=1e-3), sgd_momentum(lr=0.1)):
        expected = joint_graph(graph, "loss", rule)
        read = joint_graph(parse_graph(str(graph)), "loss", rule)
        assert str(read) == str(expected)
        assert [v.hint for v in read.values if not v.is_leaf] == [v.hint for v in expected.values if not v.is_leaf]


def test_hints_scopes_and_regions_survive() -> None:
    graph = decompose(digits())
    read = parse_graph(str(graph))
    assert [v.hint for v in read.values if not v.is_leaf] == [v.hint for v in graph.values if not v.is_leaf]
    assert [v.scope for v in read.values] == [v.scope for v in graph.values]
    assert [(r.op, r.out.name, r.scope) for r in read.regions] == [(r.op, r.out.name, r.scope) for r in graph.regions]
    assert len(graph.regions) > 2


def test_a_hint_that_the_name_does_not_tell_is_written() -> None:
    g = Graph("g")
    x = g.input("x", (3,))
    first = tagged.apply(x, tag=0, name="layer")
    first.hint = "hidden"
    assert "as hidden" in str(g)
    assert parse_graph(str(g))["layer"].hint == "hidden"


def test_odd_hints_read_back_or_are_left_out() -> None:
    g = Graph("g")
    x = g.input("x", (3,))
    long, dotted, greek = P.exp(x), P.exp(x), P.exp(x)
    long.hint, greek.hint = "h" * 200, "σ"
    g.output(**{"a.b": dotted})
    for read in (parse_graph(str(g)), Graph.from_json(g.to_json())):
        assert same_graph(read, g)
        assert [v.hint for v in read.values[1:]] == ["h" * 200, "a.b", None]


def test_every_attribute_reads_back_bit_for_bit() -> None:
    graph = with_tags()
    read = parse_graph(str(graph))
    assert same_graph(read, graph)
    assert str(read) == str(graph)
    assert [bits(read[f"class.{i}"].attrs["tag"]) for i in range(len(TAGS))] == [bits(tag) for tag in TAGS]


def test_an_absent_argument_is_none_and_a_value_called_none_is_quoted() -> None:
    text = str(with_tags())
    assert "class.0: float64[batch, 3] = custom.tagged('none', none, tag=nan)\n" in text
    assert "output none = none\n" in text


def test_the_class_is_the_callers_own() -> None:
    class Mine(Graph):
        pass

    assert type(Mine.from_text(str(digits()))) is Mine
    assert type(parse_graph(str(digits()), make=Mine)) is Mine


def test_comments_empty_lines_and_carriage_returns_are_for_people() -> None:
    text = str(decompose(digits()))
    assert "  # " in text, "scopes say the formula"
    spaced = "# a model\r\n\r\n" + text.replace("\n", "\r\n\r\n   # more\r\n")
    assert same_graph(parse_graph(spaced), parse_graph(text))


def test_a_docstring_stays_in_its_comment() -> None:
    name = tagged.name
    assert name in OPS
    doc = tagged.__doc__
    try:
        tagged.__doc__ = "\x1b[31mx\x00 + shift\u2028output y = x\x85\x0boutput z = x"
        g = Graph("g")
        g.output(y=tagged.apply(g.input("x", (3,)), tag=0))
        text = str(decompose(g))
        assert parse_graph(text).outputs.keys() == {"y"}
        assert "# [31mx + shift\n" in text
        assert all(line.isprintable() for line in text.split("\n"))
    finally:
        tagged.__doc__ = doc


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_op_reads_back_from_text_and_json_at_both_levels(name: str) -> None:
    graph = Graph("g")
    graph.output(out=catalogue()[name].sample(graph, (BATCH, 6), "float32"))
    for each in (graph, decompose(graph)):
        verify(each)
        assert str(parse_graph(str(each))) == str(each)
        assert same_graph(Graph.from_json(each.to_json()), each)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_graphs_read_back(data: st.DataObject) -> None:
    graph, _ = random_graph(lambda choices: data.draw(st.sampled_from(list(choices))))
    for each in (graph, decompose(graph)):
        read = parse_graph(str(each))
        verify(read)
        assert same_graph(read, each)
        assert str(read) == str(each)


LINES = [
    "x: float32[batch, 4] = input()",
    "w: float32[4] = parameter(init='zeros')",
    "y: float32[batch, 4] = mul(x, w)",
    "output y = y",
]


def text_with(*lines: str, level: str = "declared") -> str:
    return "\n".join([f"graph g {level}", *lines, ""])


def test_the_lines_that_are_broken_below_read_as_they_are() -> None:
    assert same_graph(parse_graph(text_with(*LINES)), parse_graph(text_with(*LINES)))
    assert len(parse_graph(text_with(*LINES)).values) == 3


BAD = {
    "no line of a graph": ("what is this", "no line of a graph"),
    "a dangling argument": ("z: float32[batch, 4] = mul(x, gone)", "'gone' names no value that comes before"),
    "a value of itself": ("z: float32[batch, 4] = tanh(z)", "'z' names no value that comes before"),
    "an unknown op": ("z: float32[batch, 4] = os.system(x)", "unknown op 'os.system'"),
    "another shape than inferred": (
        "z: float32[batch, 5] = mul(x, w)",
        r"mul of these arguments is float32\[batch, 4\]",
    ),
    "another dtype than inferred": ("z: float64[batch, 4] = mul(x, w)", r"is float32\[batch, 4\]"),
    "another dtype than inferred by an op": ("z: float16[batch, 4] = relu(x)", r"relu of these arguments is float32"),
    "an unknown dtype": ("z: complex64[batch] = input()", "unknown dtype 'complex64'"),
    "a name twice": ("x: float32[3] = input()", "'x' is given twice"),
    "too few arguments": ("z: float32[batch, 4] = mul(x)", "takes 2 arguments"),
    "an absent argument": ("z: float32[batch, 4] = mul(x, none)", "argument 2 of .* is absent"),
    "an unknown attribute": ("z: float32[batch, 4] = tanh(x, fast=true)", "does not take fast"),
    "a missing attribute": ("z: float32[batch, 1] = sum(x)", "lacks axes"),
    "an attribute twice": ("z: float32[batch, 1] = sum(x, axes=(1,), axes=(1,))", "'axes' is given twice"),
    "an axis too far": ("z: float32[batch, 1] = sum(x, axes=(2,))", "axes of a value with 2 dims"),
    "an argument after an attribute": ("z: float32[batch, 1] = sum(axes=(1,), x)", "stand before attributes"),
    "a comma at the end": ("z: float32[batch, 4] = tanh(x,)", "ends in a comma"),
    "no comma": ("z: float32[batch, 4] = mul(x w)", "',' is wanted"),
    "an int for a float": ("c: float32[] = constant(value=1)", "is no float32"),
    "a float for an int": ("c: int64[] = constant(value=1.0)", "is no int64"),
    "a float past the largest": ("c: float32[] = constant(value=1e999)", "no number as this form writes it; write inf"),
    "digits that Python would not write": ("c: float32[] = constant(value=0.10000000000000001)", "write 0.1"),
    "an int of 5,000 digits": (f"c: int64[] = constant(value={'9' * 5000})", "no int64"),
    "a size of 5,000 digits": (f"c: int64[{'9' * 5000}] = input()", "no int64"),
    "an unclosed text": ("p: float32[3] = parameter(init='zeros)", "cannot be read"),
    "an unclosed tuple": ("z: float32[batch, 1] = sum(x, axes=(1,)", "is no attribute"),
    "tuples in tuples": (f"z: float32[batch, 1] = sum(x, axes={'(' * 10**5})", "is no attribute"),
    "a shape too large": ("z: float32[4611686018427387905] = input()", r"more than 2\*\*62 elements"),
    "a product of sizes too large": ("z: float32[4294967296, 4294967296] = input()", r"more than 2\*\*62 elements"),
    "too many dims": (f"z: float32[{', '.join(['1'] * 10**5)}] = input()", "at most 64"),
    "a size below 0": ("z: float32[-1] = input()", "sizes are ints"),
    "a Dim that nothing binds": ("z: host[] = dim_size(dim='length')", "uses length"),
    "a Dim that is no name": ("z: float32[ﬁ] = input()", "'ﬁ' is no name"),
    "an unknown init": ("p: float32[3] = parameter(init='pickle')", "init 'pickle'"),
    "a parameter of ints": ("p: int64[3] = parameter(init='zeros')", "only floats can be trained"),
    "a wrong reduction": ("z: float32[] = mse_loss(x, x, reduction='foo')", "use 'mean', 'sum' or 'none'"),
    "a text for an int": ("z: float32[batch, 4] = layer_norm(x, w, w, dims='a', eps=1e-05)", "must be a int"),
    "axes without end": (f"z: float32[batch, 4] = layer_norm(x, w, w, dims={2**62}, eps=1e-05)", "from 1 to 64"),
    "an output twice": ("output y = x", "'y' is given twice"),
    "an output of nothing": ("output z = gone", "'gone' names no value"),
    "an update of an input": ("update x = y", "no parameter, buffer or slot"),
    "an update that does not fit": ("update w = y", "does not fit"),
    "an unknown scope": ("scope y os.system forward", "unknown op 'os.system'"),
    "an unknown phase": ("scope y mul sideways", "phase 'sideways'"),
    "a region at this level": ("region y = relu(x)", "a declared graph has no regions"),
    "a lone surrogate": ("z\ud800: float32[3] = input()", "no line of a graph"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=list(BAD))
def test_a_bad_line_is_refused_with_its_number(line: str, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse_graph(text_with(*LINES, line))
    assert str(caught.value).startswith("line 6: ")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty text is no graph"),
        ("# nothing\n\n", "an empty text is no graph"),
        ("x: float32[3] = input()", "line 1: .*'graph digits declared'"),
        ("graph g sideways", "level is 'sideways'"),
        ("graph m\nPWN=1 declared", "line 1"),
        ("graph ﬁ declared", "line 1"),
    ],
)
def test_a_text_that_does_not_begin_as_a_graph_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_graph(text)


def test_an_op_in_a_graph_of_primitives_is_refused() -> None:
    with pytest.raises(FormatError, match="'relu' is an op, and this is a graph of primitives"):
        parse_graph(text_with("x: float32[3] = input()", "y: float32[3] = relu(x)", level="primitive"))


def test_a_region_must_be_what_its_op_makes() -> None:
    lines = ["x: float32[3] = input()", "y: float32[3] = tanh(x)", "c: bool[3] = eq(x, y)"]
    parse_graph(text_with(*lines, "region y = relu(x)", level="primitive"))
    for region, message in (
        ("region c = relu(x)", "'c' is bool"),
        ("region x = relu(y)", "comes after what it makes"),
        ("region y = tanh(x)", "no gradient of its own"),
        ("region y = relu(gone)", "names no value"),
    ):
        with pytest.raises(FormatError, match=message):
            parse_graph(text_with(*lines, region, level="primitive"))


@pytest.mark.parametrize(
    "junk", ["(", "'", "\\'", "<", "a", "0", "1.", "a.", "-", " as a", ") as a", ": ", "] = a(", "="]
)
def test_junk_is_refused_after_linear_work(junk: str) -> None:
    def lines(count: int) -> int:
        total = 0
        for line in (junk * count, f"z: float32[3] = tanh({junk * count})", f"scope {junk * count}"):

            def refused(line: str = line) -> None:
                with pytest.raises(FormatError):
                    parse_graph(text_with(line))

            total += lines_run(refused)
        return total

    # Patterns run in C, uncounted: those that went back over what they read would not come to an end here.
    assert lines(10**5) < 120 * lines(10**3)


def test_a_long_text_reads_with_linear_work() -> None:
    def lines_of(count: int) -> int:
        lines = ["x: float32[3] = input()"]
        lines += [f"tanh_{i}: float32[3] = tanh({f'tanh_{i - 1}' if i else 'x'})" for i in range(count)]
        graph, ran = counted(lambda: parse_graph(text_with(*lines)))
        assert len(graph.values) == count + 1
        return ran

    assert lines_of(2_000) < 8.5 * lines_of(250)
