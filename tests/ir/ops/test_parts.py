"""Parts of tensors, tensors end to end, and rows by number: meaning, gradients, kernels, plans."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from compiled import DTYPES, assert_within_policy, draw, judge
from numerics import agree, assert_same, formula_gradients, reference_gradients

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, FeedError, ShapeError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.passes.joint import gradient_graph
from tritonnotes.ir.primitives import add_rows, take_rows

BATCH = tn.Dim("batch")


def ops_of(graph: Graph) -> list[str]:
    return [v.op.name for v in graph.values if v.op.kind != "leaf"]


# -- narrow, chunk, split, indexing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(("start", "length"), [(0, 2), (1, 3), (3, 1), (0, 0), (-2, 2)])
def test_narrow_is_torchs(axis: int, start: int, length: int) -> None:
    graph = Graph("narrow")
    x = graph.input("x", (4, 5, 6), "float64")
    graph.output(y=tn.narrow(x, axis, start, length))
    values, _ = agree(graph, x=torch.randn(4, 5, 6))
    assert values["y"].shape[axis] == length


@pytest.mark.parametrize("key", [
    0, -1, slice(1, 3), slice(None, -1), (0, 1), (..., 2), (slice(None), None, 1), (None, ..., slice(2, 9)),
    (slice(3, 1), 0), ...,
], ids=str)  # fmt: skip
def test_indexing_is_torchs(key: Any) -> None:
    graph = Graph("indexed")
    x = graph.input("x", (3, 4, 5), "float64")
    graph.output(y=x[key] * 1.5)
    given = torch.randn(3, 4, 5, dtype=torch.float64)
    values, _ = agree(graph, x=given)
    assert_same(values, {"y": given[key] * 1.5})


@pytest.mark.parametrize(("key", "error", "message"), [
    (7, ShapeError, "no element 7 along axis 0"),
    ((0, 0, 0), ShapeError, "indexed along 3 axes; it has 2"),
    (slice(0, 4, 2), DeclarationError, "step 2"),
    (True, DeclarationError, "indexed by bool"),
    ([0, 1], DeclarationError, "indexed by list"),
    ((..., ...), DeclarationError, "two ..."),
])  # fmt: skip
def test_what_indexing_cannot_do_is_said(key: Any, error: type[Exception], message: str) -> None:
    x = Graph("indexed").input("x", (3, 4))
    with pytest.raises(error, match=message):
        x[key]


def test_axis_of_unknown_size_has_no_parts() -> None:
    x = Graph("symbolic").input("x", (BATCH, 4))
    for take in (lambda: x[1:], lambda: tn.narrow(x, 0, 0, 1), lambda: tn.chunk(x, 2), lambda: tn.cat([x, x])):
        with pytest.raises(ShapeError, match="Dim batch"):
            take()
    assert x[:, 1:].shape == (BATCH, 3)


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 6, 9])
def test_chunk_and_split_cut_as_torch_does(chunks: int) -> None:
    x = Graph("cut").input("x", (2, 7))
    given = torch.randn(2, 7)
    assert [p.shape for p in tn.chunk(x, chunks, 1)] == [tuple(p.shape) for p in given.chunk(chunks, 1)]
    assert [p.shape for p in tn.split(x, chunks, 1)] == [tuple(p.shape) for p in given.split(chunks, 1)]
    assert [p.shape for p in tn.split(x, [3, 0, 4], 1)] == [(2, 3), (2, 0), (2, 4)]


@pytest.mark.parametrize(("build", "message"), [
    (lambda x: tn.narrow(x, 1, 2, 9), "elements 2 to 11 .* which has 7"),
    (lambda x: tn.narrow(x, 1, -9, 2), "start -2"),
    (lambda x: tn.narrow(x, 3, 0, 1), "axis 3"),
    (lambda x: tn.split(x, [3, 3], 1), r"\[3, 3\] .* add up"),
    (lambda x: tn.split(x, 0, 1), "split_size is 0"),
    (lambda x: tn.chunk(x, 0, 1), "chunks is 0"),
    (lambda x: tn.cat([x, tn.sum(x, 1)], 1), "differ beside axis 1"),
    (lambda x: tn.cat([tn.sum(x)]), "0-dim"),
    (lambda x: tn.glu(x, 1), "is 7; it is halved"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_one_typed_error(build: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(Graph("wrong").input("x", (2, 7)))


def test_tensors_of_two_dtypes_are_not_joined() -> None:
    graph = Graph("mixed")
    with pytest.raises(DTypeError, match="'a' is float32 and 'b' is float64"):
        tn.cat([graph.input("a", (2,)), graph.input("b", (2,), "float64")])


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[(0, 2), (2, 3), (5, 1)], [(4, 2), (0, 3)], [(0, 4), (2, 4)], [(1, 3)]], ids=str)
def test_gradients_of_parts_meet(cuts: list[tuple[int, int]]) -> None:
    """Apart, end to end, with gaps, in any order, and overlapping."""
    graph = Graph("parts")
    x = graph.input("x", (3, 6), "float64")
    parts = [tn.narrow(x, 1, start, length) for start, length in cuts]
    graph.output(**{f"y{i}": tn.tanh(p) * (i + 1) for i, p in enumerate(parts)})
    tensors = {"x": torch.randn(3, 6, dtype=torch.float64)}
    d = {f"y{i}": torch.randn(3, length).double() for i, (_, length) in enumerate(cuts)}
    assert_same(formula_gradients(graph, tensors, d), reference_gradients(graph, tensors, d))


def test_gradients_of_disjoint_parts_are_joined_without_an_addition() -> None:
    graph = Graph("halves")
    a, b = tn.chunk(graph.input("x", (BATCH, 6)), 2, 1)
    graph.output(y=a * b)
    assert "add" not in ops_of(gradient_graph(graph, ["x"])) and "cat" in ops_of(gradient_graph(graph, ["x"]))


# -- kernels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_of_a_layer_and_their_gradient(dtype: str) -> None:
    graph = Graph("gated")
    x = graph.input("x", (BATCH, 10), dtype)
    gate, up = tn.chunk(tn.linear(x, 26, name="fc"), 2, -1)
    graph.output(y=tn.silu(gate) * up, joined=tn.cat([up, gate * 2, up], 1))
    for rows in (0, 1, 7, 33):
        assert_within_policy(judge(graph, draw(graph, batch=rows), noisy=2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_along_any_axis_of_views_and_reductions(axis: int) -> None:
    graph = Graph("views")
    x = graph.input("x", (4, 6, 8))
    turned = tn.permute(tn.tanh(x), (2, 0, 1))
    part = tn.narrow(turned, axis, 1, 3)
    graph.output(
        part=part,
        mean=tn.mean(part, axis),
        largest=tn.max(tn.narrow(x, axis, 1, 2), -1),
        joined=tn.cat([part, part * 2, tn.narrow(turned, axis, 0, 1)], axis),
    )
    assert_within_policy(judge(graph, draw(graph), noisy=2))


def test_one_row_of_a_matrix_counts_from_where_it_lies() -> None:
    graph = Graph("row")
    x = graph.input("x", (5, 7))
    graph.output(row=x[3] * 2, column=x[:, -1] + 1, element=x[2, 3] * 1)
    assert_within_policy(judge(graph, draw(graph)))


def test_zeros_around_a_part_fill_its_gradient() -> None:
    graph = Graph("middle")
    graph.output(y=tn.exp(tn.narrow(graph.input("x", (BATCH, 9), "bfloat16"), 1, 3, 4)))
    assert_within_policy(judge(graph, draw(graph, batch=5)))


def test_part_of_a_reshape_and_reshape_of_a_part() -> None:
    graph = Graph("reshaped")
    x = graph.input("x", (6, 8))
    inner = tn.narrow(tn.reshape(tn.tanh(x), (12, 4)), 1, 1, 2)
    graph.output(inner=inner * 2, outer=tn.reshape(tn.narrow(x, 1, 2, 4), (4, 6)) + 1)
    assert_within_policy(judge(graph, draw(graph)))


def test_joined_value_is_read_by_a_product_and_by_kernels() -> None:
    graph = Graph("read")
    x, y = graph.input("x", (BATCH, 5)), graph.input("y", (BATCH, 3))
    joined = tn.cat([tn.relu(x), y, tn.cat([y * y, x], 1)], 1)
    graph.output(product=tn.linear(joined, 4, name="fc"), normal=tn.layer_norm(joined, name="ln"), joined=joined)
    assert_within_policy(judge(graph, draw(graph, batch=9), noisy=2))


def test_gate_and_its_gradient_are_a_kernel_each() -> None:
    """SwiGLU reads each half once forward; backward it reads both and d, and writes both halves of the gradient."""
    graph = Graph("swiglu")
    x = graph.parameter("x", (64, 32), "normal", mean=0.0, std=1.0)
    graph.output(y=tn.swiglu(x))
    model = tn.compile(graph)
    assert [len(p.plan.launches) for p in model.gradient_programs] == [1, 1]
    assert [p.plan.bytes_moved() for p in model.gradient_programs] == [4 * 64 * 48, 4 * 64 * 80]


# -- rows by number ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (0,)], ids=str)
def test_rows_by_number_and_what_is_added_up_by_it(shape: tuple[int, ...]) -> None:
    graph = Graph("rows")
    table, index = graph.input("table", (5, 3, 2), "float64"), graph.input("index", shape, "int64")
    x = graph.input("x", (*shape, 3), "float64")
    graph.output(taken=take_rows(table, index), added=add_rows(x, index, 5))
    numbers = torch.randint(0, 5, shape)
    agree(graph, table=torch.randn(5, 3, 2), index=numbers, x=torch.randn(*shape, 3))


def embedding(dtype: str = "float32", **options: Any) -> Graph:
    graph = Graph("embedding")
    token = graph.input("token", (BATCH, 3), "int64")
    weight = graph.parameter("weight", (11, 8), "normal", dtype, mean=0.0, std=1.0)
    graph.output(y=tn.tanh(tn.embedding(token, weight=weight, **options)) * 2)
    return graph


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [None, 4, -1])
def test_embedding_and_its_gradient(dtype: str, padding: int | None) -> None:
    graph = embedding(dtype, padding_idx=padding)
    for rows in (0, 1, 33):
        assert_within_policy(judge(graph, draw(graph, batch=rows)))


def test_embedding_fuses_with_what_follows() -> None:
    assert len(tn.compile(embedding()).plan.launches) == 1


def test_row_outside_the_table_is_an_error_before_anything_runs() -> None:
    wanted = r"row 11 in input 'token' at \[0, 1\] is out of bounds for 11 rows; use 0 to 10$"
    with pytest.raises(FeedError, match=wanted):
        tn.compile(embedding(), device="cpu")(token=torch.tensor([[0, 11, 2]]))


def test_computed_row_outside_the_table_addresses_nothing() -> None:
    """Only an input can be checked by the host; what a kernel works out may be any number."""
    graph = Graph("computed")
    number = graph.input("number", (BATCH,), "int64") + 1
    table = graph.parameter("table", (4, 3), "ones")
    graph.output(y=take_rows(table, number))
    model = tn.compile(graph, device="cpu")
    y = model(number=torch.tensor([-5, -1, 2, 3, 2**40]))["y"]
    assert y[1:3].eq(1).all() and y[[0, 3, 4]].isnan().all()
    y[1:3].sum().backward()
    assert torch.equal(model.table.grad, torch.tensor([1.0, 0, 0, 1]).reshape(4, 1).expand(4, 3))


def test_declared_table_starts_as_torchs() -> None:
    graph = tn.Graph("declared")
    graph.output(y=tn.embedding(graph.input("token", (BATCH,), "int64"), 6, 4, padding_idx=2, name="words"))
    torch.manual_seed(7)
    module = torch.nn.Embedding(6, 4, padding_idx=2)
    assert torch.equal(graph.state(seed=7)["words.weight"], module.weight)


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda t, x: tn.embedding(x, 4, 3), DTypeError, "input 'x' is float32"),
    (lambda t, x: tn.embedding(t), DeclarationError, "num_embeddings is None"),
    (lambda t, x: tn.embedding(t, 4, 3, padding_idx=4), DeclarationError, "padding_idx is 4 of 4 rows"),
    (lambda t, x: tn.embedding(t, weight=x), ShapeError, r"weight 'x' has shape \[5\]"),
])  # fmt: skip
def test_embedding_says_what_it_wants(build: Any, error: type[Exception], message: str) -> None:
    graph = Graph("wrong")
    token: Value = graph.input("t", (5,), "int64")
    with pytest.raises(error, match=message):
        build(token, graph.input("x", (5,)))


# -- parts of views of parts -------------------------------------------------------------------------------------------


def test_parts_of_views_of_parts_are_torchs() -> None:
    """Views and parts in any order, with arithmetic between or not: each element comes from its own place."""
    for seed in range(60):
        pick = random.Random(seed)
        g = Graph("chain")
        fed, held = torch.arange(48.0).reshape(3, 8, 2), torch.tensor([0.5]).reshape(1, 1, 1)
        value, other = g.input("x", fed.shape), g.input("other", held.shape)
        said, expected = ["x"], fed
        for _ in range(pick.randint(2, 6)):
            shape = tuple(expected.shape)
            kind = pick.choice(("narrow", "narrow", "narrow", "unsqueeze", "squeeze", "permute", "add", "expand"))
            axis = pick.randrange(len(shape))
            if kind == "narrow":
                start = pick.randrange(shape[axis])
                length = pick.randint(1, shape[axis] - start)
                value, expected = tn.narrow(value, axis, start, length), expected.narrow(axis, start, length)
            elif kind == "unsqueeze" and len(shape) < 5:
                value, expected = tn.unsqueeze(value, axis), expected.unsqueeze(axis)
            elif kind == "squeeze" and shape[axis] == 1 and len(shape) > 1:
                value, expected = tn.squeeze(value, axis), expected.squeeze(axis)
            elif kind == "permute":
                order = pick.sample(range(len(shape)), len(shape))
                value, expected = tn.permute(value, order), expected.permute(order)
            elif kind == "add":
                value, expected = value + tn.reshape(other, (1,) * len(shape)), expected + 0.5
            elif kind == "expand" and shape[axis] == 1:
                wide = (*shape[:axis], 4, *shape[axis + 1 :])
                value, expected = tn.expand(value, wide), expected.expand(wide)
            said.append(kind)
        g.output(y=value, halves=value * 2)
        model = tn.compile(g, fusion=("greedy", "off")[seed % 2], strict=True)
        with torch.no_grad():
            found = model(x=fed, other=held)
        assert torch.equal(found["y"], expected), (seed, said)
        assert torch.equal(found["halves"], expected * 2), (seed, said)
