"""A graph as an attribute: printed before what names it, read back as one object, verified with the graph around it."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest
from counted_work import counted

from tritonnotes.ir import Graph
from tritonnotes.ir.core.attributes import check_attr
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import DeclarationError, FormatError, VerificationError
from tritonnotes.ir.core.rewrite import key_of
from tritonnotes.ir.core.verify import verify

REGION = """\
graph chunk primitive
x: float32[chunk.rows, 4] = input()
doubled: float32[chunk.rows, 4] = add(x, x)
sum: float32[1, 4] = sum(x, axes=(0,))
output out_0 = doubled
output out_1 = sum
"""
TEXT = f"""\
graph outer primitive
subgraph chunk
{"".join(f"  {line}" for line in REGION.splitlines(keepends=True))}end
x: float32[8, 4] = input()
rows: float32[8, 4] = chunked(x, region=@chunk, which=0, rows=2)
total: float32[1, 4] = chunked(x, region=@chunk, which=1, rows=2)
output rows = rows
output total = total
"""


def outer() -> Graph:
    return Graph.from_text(TEXT)


def test_the_text_reads_back_and_both_results_share_one_region() -> None:
    graph = outer()
    assert str(graph) == TEXT
    verify(graph)
    first, second = graph["rows"], graph["total"]
    assert first.attrs["region"] is second.attrs["region"]
    assert str(first.attrs["region"]) == REGION


def test_json_reads_back() -> None:
    graph = outer()
    read = Graph.from_json(graph.to_json())
    verify(read)
    assert same_graph(read, graph) and str(read) == TEXT
    assert read["rows"].attrs["region"] is read["total"].attrs["region"]
    assert "subgraphs" not in json.loads(Graph.from_text(REGION).to_json())


def test_subgraphs_of_one_name_are_told_apart() -> None:
    graph = outer()
    other = Graph.from_text(REGION.replace("add(x, x)", "mul(x, x)"))
    attrs = MappingProxyType({"region": other, "which": 0, "rows": 2})
    graph.output(squared=graph.append("chunked", (graph["x"],), attrs, (8, 4), graph["x"].dtype))
    verify(graph)
    assert [*graph.subgraphs] == ["chunk", "chunk_2"]
    assert str(Graph.from_text(str(graph))) == str(graph)
    assert same_graph(Graph.from_json(graph.to_json()), graph)


def test_equal_regions_are_one_subexpression_and_different_ones_are_not() -> None:
    value, args = outer()["rows"], ()
    twin = outer()["rows"]
    assert key_of(value, args) == key_of(twin, args)
    changed = Graph.from_text(TEXT.replace("add(x, x)", "mul(x, x)"))["rows"]
    assert key_of(value, args) != key_of(changed, args)


def test_a_broken_subgraph_is_found() -> None:
    graph = outer()
    region = graph["rows"].attrs["region"]
    region["doubled"].shape = (4, 4)
    with pytest.raises(VerificationError, match="graph 'chunk': add 'doubled'"):
        verify(graph)


def test_a_graph_within_a_tuple_is_no_attribute() -> None:
    graph = outer()
    assert check_attr(graph, "f: x") is graph
    with pytest.raises(DeclarationError, match="a Graph is no attribute"):
        check_attr((graph,), "f: x")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("region=@chunk", "region=@other", "'@other' names no subgraph that comes before"),
        ("region=@chunk", "region=3", "region is 3; it must be a graph"),
        ("end\n", "", "is no line of a graph|ends within a subgraph|given twice"),
        ("  graph chunk primitive\n", "", "a graph begins with a line such as"),
        ("  graph chunk primitive\n", "  graph chunk declared\n", "no graph of primitives"),
        ("axes=(0,)", "axes=(1,)", "says float32"),
        ("which=1", "which=2", "result 2 of 2"),
        ("end\n", "end\nend\n", "is no line of a graph"),
        ("end\n", "end\nsubgraph chunk\n  graph chunk primitive\nend\n", "the subgraph 'chunk' is given twice"),
    ],
)
def test_a_text_that_is_wrong_is_refused(before: str, after: str, message: str) -> None:
    assert before in TEXT
    with pytest.raises(FormatError, match=message):
        Graph.from_text(TEXT.replace(before, after))


def test_a_text_that_ends_within_a_subgraph_is_refused() -> None:
    for text in ("graph outer primitive\nsubgraph chunk\n", "graph outer primitive\nsubgraph chunk\n" + REGION):
        with pytest.raises(FormatError, match="ends within a subgraph"):
            Graph.from_text(text)


def test_subgraphs_nest_only_so_deep() -> None:
    text = "graph g primitive\n" + "subgraph s\ngraph g primitive\n" * 10**4
    with pytest.raises(FormatError, match="nest more than 8 deep"):
        Graph.from_text(text)
    with pytest.raises(FormatError, match="no graph of primitives with inputs"):  # a region holds none of its own
        Graph.from_text(f"graph around primitive\nsubgraph s\n{TEXT}end\ny: float32[8, 4] = input()\n{WITHIN}")


WITHIN = "z: float32[8, 4] = chunked(y, region=@s, which=0, rows=2)\n"


def test_a_file_that_is_wrong_is_refused() -> None:
    document = json.loads(outer().to_json())
    for change, message in (
        ({"subgraphs": {}}, "'chunk' is none of the subgraphs"),
        ({"subgraphs": {"chunk": 3}}, "a subgraph: is a int; it must be an object"),
        ({"subgraphs": {"no name": document["subgraphs"]["chunk"]}}, "is no name"),
        ({"subgraphs": []}, "subgraphs is a list; it must be a dict"),
    ):
        with pytest.raises(FormatError, match=message):
            Graph.from_json(json.dumps(document | change))


def test_many_results_of_one_large_region_are_read_with_linear_work() -> None:
    def lines(count: int) -> int:
        constants = "".join(f"  c{i}: float32[] = constant(value=1.0)\n" for i in range(count))
        results = "".join(f"r{i}: float32[8, 4] = chunked(x, region=@chunk, which=0, rows=2)\n" for i in range(count))
        text = TEXT.replace("  output out_0", f"{constants}  output out_0")
        text = text.replace("output rows", f"{results}output rows")

        def read() -> Graph:
            graph = Graph.from_text(text)
            verify(graph)
            return graph

        graph, ran = counted(read)
        assert len(graph.values) == count + 3
        return ran

    assert lines(800) < 8.5 * lines(100)
