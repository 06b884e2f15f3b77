"""Rewriting keeps what a graph means, shares what is computed twice, and drops what nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import (
    LEAVES,
    assert_same,
    cotangents,
    draw,
    formula_gradients,
    formula_values,
    reference_gradients,
)

from tritonnotes.ir import Dim, Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.core.rewrite import key_of, optimize
from tritonnotes.ir.core.verify import verify_joint
from tritonnotes.ir.ops.activations import relu, sigmoid
from tritonnotes.ir.ops.linear import linear
from tritonnotes.ir.ops.losses import cross_entropy
from tritonnotes.ir.ops.metrics import accuracy
from tritonnotes.ir.ops.normalization import layer_norm
from tritonnotes.ir.optim.update_rules import adam
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

BATCH = Dim("batch")


def digits() -> Graph:
    """The demo's model with this issue's ops."""
    graph = Graph("digits")
    x, y = graph.input("x", (BATCH, 64), "float64"), graph.input("y", (BATCH,), "int64")
    hidden = relu(layer_norm(linear(x, 32, name="fc1"), name="ln1"))
    hidden = P.tanh(layer_norm(linear(hidden, 32, name="fc2"), name="ln2")) + sigmoid(hidden)
    logits = linear(hidden, 10, name="fc3")
    graph.output(logits=logits, loss=cross_entropy(logits, y), accuracy=accuracy(logits, y))
    return graph


def values_of(graph: Graph, fed: dict[str, Any]) -> dict[str, np.ndarray]:
    found = evaluate(graph, fed)
    roots = {**graph.outputs, **{f"update.{n}": v for n, v in graph.updates.items()}}
    return {name: np.asarray(found[v]) for name, v in roots.items()}


def feeds_for(graph: Graph, **sizes: int) -> dict[str, Any]:
    fed: dict[str, Any] = {n: t.numpy() for n, t in draw(graph, **sizes).items()}
    return fed | {v.name: 0.5 for v in graph.leaves("scalar")}


def assert_keeps_meaning(graph: Graph, fed: dict[str, Any]) -> Graph:
    """Bit-equal where only the same operations are left; sums of the same terms may be taken in another order."""
    simple = optimize(graph)
    before, after = values_of(graph, fed), values_of(simple, fed)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    return simple


def assert_lean(graph: Graph) -> None:
    """Nothing dead, and nothing twice."""
    used = {a for v in graph.values for a in v.inputs} | set(graph.roots)
    dead = [v.name for v in graph.values if v not in used and v.op.name not in (*LEAVES, "scalar")]
    assert dead == []
    keys = [key_of(v, v.args) for v in graph.values]
    assert len(set(keys)) == len(keys)


def test_demo_model_means_the_same() -> None:
    graph = decompose(digits())
    simple = assert_keeps_meaning(graph, feeds_for(graph, batch=7))
    assert_lean(simple)
    assert len(simple.values) < len(graph.values)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_optimizing_twice_changes_nothing(batch: int) -> None:
    graph = joint_graph(digits(), "loss", adam(lr=1e-3))
    again = assert_keeps_meaning(graph, feeds_for(graph, batch=batch))
    assert_lean(graph)
    assert [v.op.name for v in again.values] == [v.op.name for v in graph.values]
    assert [v.name for v in again.values] == [v.name for v in graph.values]


def test_gradient_shares_what_forward_computes() -> None:
    """layer_norm's gradient recomputes its statistics on paper; in the graph they are the forward's own."""
    graph = Graph("norm")
    graph.output(y=layer_norm(graph.input("x", (BATCH, 8)), name="ln"))
    both = gradient_graph(graph, ["x", "ln.weight", "ln.bias"])
    assert_lean(both)
    assert sum(v.op.name == "rsqrt" for v in both.values) == 1


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 2.0, 3.0, 1.5])
def test_what_simplification_makes_is_made_once(exponent: float) -> None:
    """Powers, of which gradients take other powers: the products that they become are shared with all others."""
    graph = Graph("powers")
    y = sigmoid(graph.parameter("w", (3,)))
    graph.output(loss=P.sum(y**exponent + y**3 - y * y), other=y**2)
    verify_joint(joint_graph(graph, "loss", adam(lr=0.1)))


def primitive_graph() -> tuple[Graph, Value, Value]:
    graph = Graph("rewrite", level="primitive")
    return graph, graph.input("x", (3, 4), "float64"), graph.input("y", (3, 4), "float64")


def ops_of(graph: Graph) -> list[str]:
    return [v.op.name for v in optimize(graph).values if v.op.kind != "leaf"]


def test_common_subexpressions_are_shared_whatever_the_order_of_arguments() -> None:
    graph, x, y = primitive_graph()
    graph.output(a=P.exp(x + y), b=P.exp(y + x), c=x - y, d=y - x)
    assert sorted(ops_of(graph)) == ["add", "exp", "sub", "sub"]


def test_constants_that_print_alike_stay_apart() -> None:
    graph, x, _ = primitive_graph()
    zero, negative = graph.constant(0.0, "float64"), graph.constant(-0.0, "float64")
    graph.output(a=x * zero, b=x * negative, c=x * zero)
    assert ops_of(graph) == ["mul", "mul"]


def test_dead_values_go_and_leaves_stay() -> None:
    graph, x, _ = primitive_graph()
    P.exp(x)
    graph.output(a=P.tanh(x))
    simple = optimize(graph)
    assert [v.name for v in simple.inputs] == ["x", "y"] and ops_of(graph) == ["tanh"]


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda x, y: x * 1, []),
        (lambda x, y: 1 * x, []),
        (lambda x, y: x / 1, []),
        (lambda x, y: x - 0, []),
        (lambda x, y: P.neg(P.neg(x)), []),
        (lambda x, y: P.transpose(P.transpose(x, (1, 0)), (1, 0)), []),
        (lambda x, y: P.reshape(P.reshape(x, (12,)), (3, 4)), []),
        (lambda x, y: P.where(x > 0, y, y), []),
        # −0 + 0 is 0, 0 · ∞ is NaN, and so these stay.
        (lambda x, y: x + 0, ["add"]),
        (lambda x, y: x * 0, ["mul"]),
        (lambda x, y: x - x, ["sub"]),
        (lambda x, y: x / x, ["div"]),
    ],
)
def test_simple_algebra(build: Any, left: list[str]) -> None:
    graph, x, y = primitive_graph()
    graph.output(a=build(x, y))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, 2, 3, -4, 5, 6, 7]).reshape(3, 4)
    simple = assert_keeps_meaning(graph, {"x": special, "y": special[::-1].copy()})
    assert [v.op.name for v in simple.values if v.op.kind != "leaf"] == left


def test_simplification_never_changes_a_shape_or_dtype() -> None:
    graph = Graph("shapes", level="primitive")
    row = graph.input("row", (4,), "float64")
    ones = P.broadcast_to(graph.constant(1, "float64"), (3, 4))
    graph.output(
        a=row * ones, b=P.where(graph.constant(True), row, ones), c=P.reshape(P.broadcast_to(row, (1, 4)), (4,))
    )
    simple = assert_keeps_meaning(graph, {"row": np.arange(4.0)})
    assert {n: v.shape for n, v in simple.outputs.items()} == {"a": (3, 4), "b": (3, 4), "c": (4,)}


# -- random graphs -----------------------------------------------------------------------------------------------------

UNARY = (
    relu,
    sigmoid,
    P.tanh,
    P.exp,
    P.neg,
    P.abs,
    P.floor,
    lambda x: P.sum(x, 1, keepdim=True),
    lambda x: P.max(x, 1, True),
)
UNARY += (
    lambda x: P.broadcast_to(P.mean(x, 0), x.shape),
    lambda x: x * 1,
    lambda x: x - 0,
    lambda x: x + 0,
    layer_norm,
)
BINARY = (
    P.add,
    P.sub,
    P.mul,
    P.maximum,
    P.minimum,
    lambda a, b: P.where(a > b, a, b),
    lambda a, b: P.where(a < 0, b, 0),
)
STEP = st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 99), st.integers(0, 99))


def random_graph(steps: list[tuple[int, int, int]]) -> Graph:
    graph = Graph("random")
    values = [graph.input("x", (BATCH, 5), "float64"), graph.input("y", (BATCH, 5), "float64")]
    for which, first, second in steps:
        a, b = values[first % len(values)], values[second % len(values)]
        if which < len(UNARY):
            values.append(UNARY[which](a))
        else:
            values.append(BINARY[which - len(UNARY)](a, b))
    graph.output(last=values[-1], middle=values[len(values) // 2])
    return graph


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(STEP, min_size=1, max_size=12), st.sampled_from([0, 1, 4]))
def test_random_graphs_mean_the_same(steps: list[tuple[int, int, int]], batch: int) -> None:
    graph = decompose(random_graph(steps))
    assert_lean(assert_keeps_meaning(graph, feeds_for(graph, batch=batch)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(STEP, min_size=1, max_size=8))
def test_gradients_of_random_graphs_agree_with_autograd(steps: list[tuple[int, int, int]]) -> None:
    graph = random_graph(steps)
    tensors = draw(graph, batch=3)
    largest = max(float(t.abs().max()) for t in formula_values(graph, tensors).values())
    if not largest < 1e6:  # towers of exponentials leave no digits to compare
        return
    d = cotangents(graph, tensors)
    assert_same(formula_gradients(graph, tensors, d), reference_gradients(graph, tensors, d), rtol=1e-8)


@pytest.mark.parametrize("first", [0.5, -0.5, 2.0, 3.0, -1.0])
@pytest.mark.parametrize("second", [0.5, -0.5, 2.0, 3.0, -1.0])
def test_powers_share_what_they_are_made_of(first: float, second: float) -> None:
    graph = Graph("powers", level="primitive")
    x = graph.input("x", (2, 3), "float64")
    graph.output(y=P.pow(x, graph.constant(first, "float64")), z=P.pow(x, graph.constant(second, "float64")), w=x * x)
    made = optimize(graph).values
    assert len({key_of(value, value.args) for value in made}) == len(made)
