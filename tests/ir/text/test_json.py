"""A graph's JSON reads back exactly, attributes to the bit."""

from __future__ import annotations

import json
from enum import Enum, IntEnum

import numpy as np
import pytest
from graphs_for_text import BATCH, TAGS, bits, digits, levels, tagged, with_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import random_graph

from tritonnotes import layer_norm
from tritonnotes.ir import Dim, Graph
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.types import DTYPES
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.optim.update_rules import adam
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.text.json_form import from_json, to_json


def facts(graph: Graph) -> list[tuple[object, ...]]:
    return [(v.name, v._name, v.hint, v.scope, v.index) for v in graph.values]


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["declared", "decomposed", "joint"])
def test_every_level_reads_back_with_names_hints_and_scopes(level: str) -> None:
    graph = levels()[level]
    read = from_json(to_json(graph))
    verify(read)
    assert same_graph(read, graph)
    assert facts(read) == facts(graph)
    assert to_json(read) == to_json(graph)
    assert str(read) == str(graph)
    assert [(r.op, r.out.name, r.scope) for r in read.regions] == [(r.op, r.out.name, r.scope) for r in graph.regions]


def test_what_is_read_compiles_to_the_same_joint_graph() -> None:
    graph = digits()
    read = Graph.from_json(graph.to_json())
    assert facts(joint_graph(read, "loss", adam(lr=1e-3))) == facts(joint_graph(graph, "loss", adam(lr=1e-3)))


def test_every_attribute_reads_back_bit_for_bit() -> None:
    read = from_json(to_json(with_tags()).encode())
    assert [bits(read[f"class.{i}"].attrs["tag"]) for i in range(len(TAGS))] == [bits(tag) for tag in TAGS]
    assert same_graph(read, with_tags())


def test_numpy_scalars_are_python_numbers_from_the_declaration_on() -> None:
    g = Graph("g")
    x = g.input("x", (3, 4))
    given_ = [np.float32(0.1), np.float64(-0.0), np.int8(3), np.bool_(True), np.float16(np.nan), [np.int64(1), 2.0]]
    wanted = [0.10000000149011612, -0.0, 3, True, float("nan"), (1, 2.0)]
    for index, tag in enumerate(given_):
        tagged.apply(x, tag=tag, name=f"t{index}")
    read = from_json(to_json(g))
    for each in (g, read):
        assert [bits(each[f"t{i}"].attrs["tag"]) for i in range(len(wanted))] == [bits(w) for w in wanted]


def test_the_file_is_plain_json_that_says_version_1() -> None:
    document = json.loads(to_json(digits()), parse_constant=pytest.fail, parse_float=pytest.fail)
    assert (document["format"], document["version"], document["level"]) == ("tritonnotes.graph", 1, "declared")
    by_name = {value["name"]: value for value in document["values"]}
    assert by_name["ln2"] == {
        "name": "ln2",
        "op": "layer_norm",
        "dtype": "float32",
        "shape": ["batch", 32],
        "args": ["fc2", "ln2.weight", None],
        "attrs": {"dims": 1, "eps": {"float": "1e-05"}},
    }
    assert document["outputs"] == {"logits": "fc3", "loss": "loss", "accuracy": "accuracy"}


ATTRS = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100)
    | st.sampled_from([*DTYPES.values(), Dim("nan"), BATCH]),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_graphs_with_random_attributes_read_back(data: st.DataObject) -> None:
    graph, _ = random_graph(lambda choices: data.draw(st.sampled_from(list(choices))))
    tag = data.draw(ATTRS)
    last = tagged.apply(graph.outputs["result"], tag=tag)
    graph.output(tagged=last)
    for each in (graph, decompose(graph)):
        read = from_json(to_json(each))
        verify(read)
        assert same_graph(read, each)
        assert facts(read) == facts(each)
        assert same_graph(Graph.from_text(str(each)), each)
    assert bits(from_json(to_json(graph)).outputs["tagged"].attrs["tag"]) == bits(last.attrs["tag"])


class _Mode(str, Enum):  # noqa: UP042  (its str() is its name)
    FAST = "fast"


def test_numbers_and_strings_of_other_classes_become_plain() -> None:
    class Metres(float):
        pass

    g = Graph("g")
    x = g.input("x", (3,))
    given_ = [Metres(0.5), IntEnum("Level", "LOW")["LOW"], _Mode.FAST]
    made = [tagged.apply(x, tag=tag).attrs["tag"] for tag in given_]
    assert [(type(m), m) for m in made] == [(float, 0.5), (int, 1), (str, "fast")]
    assert same_graph(from_json(to_json(g)), g)


@pytest.mark.parametrize(
    "tag",
    [None, {}, {1}, len, object(), "ü", "a\n", "x" * 101, 2**63, 10**5000, 1j, b"x", (None,)],
    ids=lambda tag: type(tag).__name__,
)
def test_what_no_file_could_hold_is_refused_at_declaration(tag: object) -> None:
    g = Graph("g")
    x = g.input("x", (3,))
    with pytest.raises(DeclarationError, match="custom.tagged: tag"):
        tagged.apply(x, tag=tag)
    assert len(g.values) == 1


def test_an_eps_from_numpy_is_a_float() -> None:
    g = Graph("g")
    normed = layer_norm(g.input("x", (3, 4)), eps=np.float32(1e-5))
    assert type(normed.attrs["eps"]) is float
    assert same_graph(from_json(to_json(g)), g)
