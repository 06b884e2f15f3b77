"""Random graphs, fused and unfused, against eager PyTorch and float64; a graph that fails is cut down and kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compiled import Tensors, draw, judge
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import copy_graph, drop_dead
from tritonnotes.ir.core.types import Dim

QUICK = 60
MANY = 1000
FUSIONS = ("optimal", "off")


def complaints(graph: Graph, sizes: dict[str, int], seed: int = 0, fusions: tuple[str, ...] = FUSIONS) -> list[str]:
    """What is further from float64 than the policy allows, or raises, under each way of fusing."""

    def redraw(seed: int) -> Tensors:
        return draw(graph, seed, **sizes)

    found = []
    for fusion in fusions:
        try:
            model = tn.compile(graph, fusion=fusion)
            judged = judge(graph, redraw(seed), model=model)
            if not all(j.ok for j in judged):
                # What rounding between the ops does by itself takes runs of its own to know.
                judged = judge(graph, redraw(seed), model=model, noisy=3, redraw=redraw)
        except Exception as error:
            found.append(f"{fusion}: {type(error).__name__}: {error}")
        else:
            found += [f"{fusion}: {j}" for j in judged if not j.ok]
    return found


def cut_down(graph: Graph, sizes: dict[str, int], seed: int = 0) -> Graph:
    """The part of a failing graph that ends in the first value which fails by itself; the whole if none does."""
    for value in graph.values:
        part = ending_in(graph, value)
        if part is not None and complaints(part, sizes_of(part, sizes), seed):
            return part
    return graph


def ending_in(graph: Graph, value: Value) -> Graph | None:
    """The graph with one value for its output, and only the leaves that this needs."""
    if value.is_leaf:
        return None
    part, new = copy_graph(graph)
    part.outputs = {"result": new[value]}
    part.updates = {}
    part = drop_dead(part)
    read = {a for v in part.values for a in v.inputs}
    return copy_graph(part, values=[v for v in part.values if v in read or not v.is_leaf])[0]


def sizes_of(graph: Graph, sizes: dict[str, int]) -> dict[str, int]:
    named = {s.name for v in graph.values for s in v.shape if isinstance(s, Dim)}
    return {name: size for name, size in sizes.items() if name in named}


def assert_agrees(
    graph: Graph, sizes: dict[str, int], seed: int = 0, source: str = "", fusions: tuple[str, ...] = FUSIONS
) -> None:
    found = complaints(graph, sizes, seed, fusions)
    if found:
        part = cut_down(graph, sizes, seed)
        few = sizes_of(part, sizes)
        lines = [source, *(complaints(part, few, seed) or found), f"sizes {few}; keep it under REGRESSIONS:", str(part)]
        pytest.fail("\n".join(lines), pytrace=False)


@settings(
    max_examples=QUICK,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
@given(st.data())
def test_random_graphs_agree_with_eager_and_float64(data: st.DataObject) -> None:
    graph, sizes = random_graph(lambda options: data.draw(st.sampled_from(list(options))), 8)
    assert_agrees(graph, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, 100))
def test_many_random_graphs_agree_with_eager_and_float64(first: int) -> None:
    for seed in range(first, first + 100):
        graph, sizes = random_graph(seeded(seed))
        # Unfused kernels are many and alike, so every tenth graph is enough of them.
        fusions = FUSIONS[: 1 + (seed % 10 == 0)]
        assert_agrees(graph, sizes, seed, f"random_graph(seeded({seed}))", fusions)


# -- what failed once --------------------------------------------------------------------------------------------------

REGRESSIONS: dict[str, tuple[dict[str, int], str]] = {
    # A library call was to compute its small operand again, which it cannot.
    "operand of a library call": (
        {},
        """
        graph regression declared
        x: float16[1] = input()
        sign: float16[1] = sign(x)
        mul: float16[1] = mul(x, x)
        constant: float16[] = constant(value=1.0)
        add: float16[1] = add(mul, constant)
        fc.weight: float16[8, 1] = parameter(init='normal', mean=0.0, std=1.0)
        fc: float16[8] = linear(sign, fc.weight, none)
        output result = fc
        output beside = add
        """,
    ),
    # Two finished sums that are stored in two orders: the offset of one was overwritten by that of the other.
    "sums stored in two orders": (
        {"height": 5},
        """
        graph regression declared
        x: float32[3, 7, height] = input()
        a: float32[height, 7] = input()
        b: float32[1, 7, height] = input()
        turned: float32[3, height, 7] = transpose(x, axes=(0, 2, 1))
        result: float32[3, 7, height] = add(x, b)
        beside: float32[3, height, 7] = add(turned, a)
        output result = result
        output beside = beside
        """,
    ),
    # Both halves of a gradient went to their places, the second half twice.
    "halves stored side by side": (
        {"batch": 5},
        """
        graph regression declared
        x: bfloat16[batch, 6] = input()
        y: bfloat16[batch, 3] = glu(x, dim=1)
        output result = y
        """,
    ),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_failed_once_holds(name: str) -> None:
    sizes, text = REGRESSIONS[name]
    graph = Graph.from_text("\n".join(line.strip() for line in text.strip().splitlines()))
    assert_agrees(graph, sizes)


# -- the test itself ---------------------------------------------------------------------------------------------------


def test_a_planted_fault_is_found_and_cut_down_to_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonnotes.codegen.support.facets import FACETS, calls

    graph = Graph("planted")
    x = graph.input("x", (Dim("batch"), 7))
    spoiled = tn.sin(tn.tanh(x))
    graph.output(result=tn.exp(spoiled) + graph.input("other", (7,)), beside=tn.tanh(x))
    sizes = {"batch": 5}
    assert complaints(graph, sizes) == []
    monkeypatch.setitem(FACETS, "sin", replace(FACETS["sin"], triton=calls("tl.cos")))  # type: ignore[index]
    found = complaints(graph, sizes)
    assert any(line.startswith("optimal: output result") for line in found)
    assert any(line.startswith("off: output result") for line in found)
    part = cut_down(graph, sizes)
    assert [v.op.name for v in part.values] == ["input", "tanh", "sin"]
    with pytest.raises(pytest.fail.Exception, match="(?s)keep it under REGRESSIONS:.*sin"):
        assert_agrees(graph, sizes)
