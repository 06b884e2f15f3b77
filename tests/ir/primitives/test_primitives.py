"""The closed set: each primitive's numpy meaning against torch, its derivative against autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import agree, assert_same, draw, formula_values, reference_values

from tritonnotes.ir import Dim, Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError
from tritonnotes.ir.core.op import OPS, lookup
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.ir.core.types import float64
from tritonnotes.ir.passes.joint import gradient_graph

NAN, INF = math.nan, math.inf
BATCH = Dim("batch")
GRID = [-INF, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.5, INF, NAN]
ELEMENTWISE = [p for p in PRIMITIVES.values() if p.kind == "elementwise"]
LOGICAL = {"logical_and", "logical_or", "logical_not"}
LEAVES = {p.name for p in PRIMITIVES.values() if p.kind == "leaf"}
# Where numpy, torch and C differ by their own words, and no op has a say yet.
POSITIVE = {"log", "log1p", "sqrt", "rsqrt", "pow"}

Build = Callable[..., Value]


def graph_of(build: Build, **inputs: Any) -> Graph:
    graph = Graph("primitive")
    values = [graph.input(name, shape, dtype) for name, (shape, dtype) in inputs.items()]
    graph.output(y=build(*values))
    return graph


def elementwise_graph(name: str, *shapes: tuple[Any, ...]) -> Graph:
    dtypes = ["bool" if name in LOGICAL or (name == "where" and i == 0) else "float64" for i in range(len(shapes))]
    return graph_of(
        lambda *args: args[0].graph.call(name, *args),
        **{f"arg{i}": (shape, dtype) for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))},
    )


def filled(graph: Graph, seed: int, positive: bool, **sizes: int) -> dict[str, torch.Tensor]:
    tensors = draw(graph, seed, **sizes)
    return {n: t.abs() + 0.1 if positive and t.is_floating_point() else t for n, t in tensors.items()}


# -- elementwise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primitive", ELEMENTWISE, ids=lambda p: p.name)
def test_elementwise_meaning_and_derivative_agree_with_torch(primitive: Any) -> None:
    for rows, cols in ((0, 3), (1, 1), (7, 33), (64, 5)):
        graph = elementwise_graph(primitive.name, *[(BATCH, cols)] * primitive.arity)
        tensors = filled(graph, rows, primitive.name in POSITIVE, batch=rows)
        d = torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows)).double()
        agree(graph, {"y": d} if graph.outputs["y"].dtype.is_float else None, **tensors)


@pytest.mark.parametrize("primitive", [p for p in ELEMENTWISE if p.arity == 2], ids=lambda p: p.name)
@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((3, 1), (1, 4)), ((), (3, 4))], ids=str)
def test_binary_primitive_broadcasts_and_sums_its_cotangents_back(primitive: Any, shapes: Any) -> None:
    graph = elementwise_graph(primitive.name, *shapes)
    agree(graph, **filled(graph, 1, primitive.name in POSITIVE))


@pytest.mark.parametrize("primitive", [p for p in ELEMENTWISE if p.arity == 1], ids=lambda p: p.name)
def test_unary_primitive_sends_special_numbers_where_torch_does(primitive: Any) -> None:
    graph = elementwise_graph(primitive.name, (len(GRID),))
    x = torch.tensor(GRID, dtype=torch.float64)
    agree(graph, arg0=x.bool() if primitive.name in LOGICAL else x)


@pytest.mark.parametrize("primitive", [p for p in ELEMENTWISE if p.arity == 2], ids=lambda p: p.name)
def test_binary_primitive_sends_special_numbers_where_torch_does(primitive: Any) -> None:
    x = torch.tensor(GRID, dtype=torch.float64)
    pairs = torch.cartesian_prod(x, x).T  # of one shape, so that no sum hides one NaN behind another
    a, b = pairs.bool() if primitive.name in LOGICAL else pairs
    agree(elementwise_graph(primitive.name, a.shape, b.shape), arg0=a, arg1=b)


def test_where_takes_one_side_and_keeps_the_other_sides_nan_out_of_the_gradient() -> None:
    graph = elementwise_graph("where", (3,), (3,), (3,))
    tensors = {"arg0": [True, False, True], "arg1": [1.0, NAN, INF], "arg2": [NAN, 2.0, NAN]}
    values, gradients = agree(graph, **tensors)
    assert values["y"].tolist() == [1, 2, INF]
    assert gradients["arg1"].tolist() == [1, 0, 1] and gradients["arg2"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5])
def test_power_with_a_constant_exponent(exponent: float) -> None:
    graph = graph_of(lambda x: x**exponent, x=((6,), "float64"))
    agree(graph, x=[0.0, 0.5, 1.0, 3.0, INF, NAN])


@pytest.mark.parametrize("base", [0.0, 0.5, 2.0])
def test_power_of_a_constant_base(base: float) -> None:
    agree(graph_of(lambda x: base**x, x=((4,), "float64")), x=[0.0, 0.5, 1.0, 3.0])


@pytest.mark.parametrize("primitive", [p for p in ELEMENTWISE if p.arity == 2], ids=lambda p: p.name)
@pytest.mark.parametrize("number_first", [True, False])
def test_number_may_stand_on_either_side(primitive: Any, number_first: bool) -> None:
    number = True if primitive.name in LOGICAL else 1.5
    dtype = "bool" if primitive.name in LOGICAL else "float64"
    graph = graph_of(
        lambda x: x.graph.call(primitive.name, *((number, x) if number_first else (x, number))), x=((4,), dtype)
    )
    agree(graph, **filled(graph, 2, True))


@pytest.mark.parametrize("name", ["neg", "abs", "sign", "add", "sub", "mul", "maximum", "minimum", "floor", "eq", "lt"])
def test_integers_stay_integers(name: str) -> None:
    arity = PRIMITIVES[name].arity
    graph = graph_of(
        lambda *args: args[0].graph.call(name, *args), **{f"arg{i}": ((5,), "int64") for i in range(arity)}
    )
    tensors = draw(graph, 4)
    got = formula_values(graph, tensors)
    assert_same(got, reference_values(graph, tensors))
    assert not got["y"].is_floating_point()


def test_truth_is_no_number() -> None:
    with pytest.raises(DTypeError, match="does not work on bool"):
        graph_of(lambda x: -x, x=((3,), "bool"))


# -- reductions --------------------------------------------------------------------------------------------------------

AXES = [None, 0, -1, (0, 2), (1,), (0, 1, 2)]


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("build", [P.sum, P.max, P.min, P.mean], ids=lambda b: b.__name__)
def test_reduction_over_any_axes(build: Build, axis: Any, keepdim: bool) -> None:
    graph = graph_of(lambda x: build(x, axis, keepdim), x=((BATCH, 3, 4), "float64"))
    values, _ = agree(graph, x=torch.randn(5, 3, 4))
    theirs = {"sum": torch.sum, "max": torch.amax, "min": torch.amin, "mean": torch.mean}[build.__name__]
    dims = (0, 1, 2) if axis is None else axis
    assert values["y"].shape == theirs(torch.zeros(5, 3, 4), dim=dims, keepdim=keepdim).shape


@pytest.mark.parametrize("build", [P.max, P.min])
def test_tied_extrema_share_the_gradient(build: Build) -> None:
    _, gradients = agree(graph_of(lambda x: build(x, 1), x=((2, 4), "float64")), x=[[1.0, 1, 1, 1], [2, 3, 2, 3]])
    assert gradients["x"][0].tolist() == [0.25] * 4


@pytest.mark.parametrize("build", [P.sum, P.max, P.min])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_reduction_of_special_numbers(build: Build, bad: float) -> None:
    agree(graph_of(lambda x: build(x, 1), x=((2, 3), "float64")), x=[[1.0, bad, 2.0], [1.0, 2.0, 3.0]])


def test_sum_of_nothing_is_0_and_its_maximum_is_an_error() -> None:
    values, _ = agree(graph_of(lambda x: P.sum(x, 1), x=((2, 0), "float64")), x=torch.zeros(2, 0))
    assert values["y"].tolist() == [0, 0]
    with pytest.raises(ShapeError, match="empty along"):
        graph_of(lambda x: P.max(x, 1), x=((2, 0), "float64"))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_argmax_agrees_with_torch(axis: int) -> None:
    x = torch.randint(-2, 3, (6, 5), generator=torch.Generator().manual_seed(2)).double()
    x[1, 2] = NAN
    graph = graph_of(lambda x: P.argmax(x, axis), x=((BATCH, 5), "float64"))
    values, _ = agree(graph, x=x)
    assert torch.equal(values["y"], x.argmax(axis))


# -- shapes, casts, leaves and contractions ----------------------------------------------------------------------------

OTHERS: dict[str, list[tuple[Build, dict[str, Any]]]] = {
    "reshape": [
        (lambda x: P.reshape(x, (12,)), {"x": ((3, 4), "float64")}),
        (lambda x: P.reshape(x, (4, BATCH, 1)), {"x": ((BATCH, 4), "float64")}),
        (lambda x: P.reshape(x, ()), {"x": ((1, 1), "float64")}),
    ],
    "transpose": [
        (lambda x: P.transpose(x, (1, 0)), {"x": ((BATCH, 4), "float64")}),
        (lambda x: P.transpose(x, (2, 0, 1)), {"x": ((2, 3, 4), "float64")}),
    ],
    "broadcast_to": [
        (lambda x: P.broadcast_to(x, (2, 3, 4)), {"x": ((3, 1), "float64")}),
        (lambda a, b: P.broadcast_to(a, (BATCH, 4)) * b, {"a": ((4,), "float64"), "b": ((BATCH, 1), "float64")}),
    ],
    "cast": [
        (lambda x: P.cast(x, "int64"), {"x": ((3, 4), "float64")}),
        (lambda x: P.cast(x, "float64"), {"x": ((3, 4), "int32")}),
        (lambda x: P.cast(x > 0, "float64") * x, {"x": ((3, 4), "float64")}),
    ],
    "round_to": [(lambda x: P.round_to(x, "float64"), {"x": ((3, 4), "float64")})],
    "narrow": [
        (lambda x: P.narrow(x, 1, 1, 2), {"x": ((BATCH, 5), "float64")}),
        (lambda x: P.narrow(x, 0, 3, 0), {"x": ((3, 2), "float64")}),
    ],
    "cat": [
        (lambda a, b: P.cat([a, b, a], 1), {"a": ((BATCH, 2), "float64"), "b": ((BATCH, 3), "float64")}),
        (lambda a, b: P.cat([a, b]), {"a": ((0, 2), "float64"), "b": ((3, 2), "float64")}),
    ],
    "take_rows": [
        (lambda t, i: P.take_rows(t, i), {"t": ((4, 3), "float64"), "i": ((BATCH, 2), "int64")}),
        (lambda t, i: P.take_rows(t, i), {"t": ((4,), "float64"), "i": ((), "int64")}),
    ],
    "add_rows": [
        (lambda x, i: P.add_rows(x, i, 4), {"x": ((BATCH, 2, 3), "float64"), "i": ((BATCH, 2), "int64")}),
        (lambda x, i: P.add_rows(x, i, 2), {"x": ((3,), "float64"), "i": ((3,), "int64")}),
    ],
    "all_reduce": [(lambda x: P.all_reduce(x * 2), {"x": ((BATCH, 3), "float64")})],
    "iota": [(lambda x: P.index_along(x, 1) * x, {"x": ((3, BATCH, 2), "float64")})],
    "matmul": [
        (lambda a, b: P.matmul(a, b), {"a": ((BATCH, 3), "float64"), "b": ((3, 4), "float64")}),
        (lambda a, b: P.matmul(a, b, True), {"a": ((2, BATCH, 3), "float64"), "b": ((4, 3), "float64")}),
        (lambda a, b: P.matmul(a, b), {"a": ((3,), "float64"), "b": ((3, 4), "float64")}),
        (lambda a, b: P.matmul(a, b, True), {"a": ((BATCH, 0), "float64"), "b": ((4, 0), "float64")}),
    ],
    "library": [
        (
            lambda x, w: P.library(x.graph, (x, w), "aten.conv1d.default", ("%0", "%1"), (), 0, (BATCH, 3, 3), float64),
            {"x": ((BATCH, 2, 5), "float64"), "w": ((3, 2, 3), "float64")},
        ),
        (
            lambda x: P.library(
                x.graph, (x,), "aten.topk.default", ("%0", 2, 1), (("largest", False),), 0, (BATCH, 2), float64
            ),
            {"x": ((BATCH, 5), "float64")},
        ),
    ],
    "matmul_over_rows": [
        (lambda a, b: P.matmul_over_rows(a, b), {"a": ((BATCH, 3), "float64"), "b": ((BATCH, 4), "float64")}),
        (lambda a, b: P.matmul_over_rows(a, b), {"a": ((2, BATCH, 3), "float64"), "b": ((2, BATCH, 4), "float64")}),
        (lambda a, b: P.matmul_over_rows(a, b), {"a": ((3,), "float64"), "b": ((4,), "float64")}),
        (lambda a, b: P.matmul_over_rows(a, b), {"a": ((BATCH, 0), "float64"), "b": ((BATCH, 4), "float64")}),
    ],
}


@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize(
    ("build", "inputs"), [pytest.param(*case, id=f"{n}-{i}") for n, cs in OTHERS.items() for i, case in enumerate(cs)]
)
def test_primitive_that_moves_or_contracts_agrees_with_torch(build: Build, inputs: Any, batch: int) -> None:
    graph = graph_of(build, **inputs)
    tensors = draw(graph, batch, batch=batch)
    d = None
    if graph.outputs["y"].dtype.is_float:
        shape = formula_values(graph, tensors)["y"].shape
        d = {"y": torch.randn(shape, generator=torch.Generator().manual_seed(3)).double()}
    agree(graph, d, **tensors)


def test_unfitting_shapes_are_errors_that_show_both() -> None:
    for build, a, b in (
        (P.matmul, (3, 4), (3, 4)),
        (P.matmul_over_rows, (3, 4), (2, 4)),
        (P.add, (3, 4), (3,)),
        (P.add, (BATCH, 4), (Dim("other"), 4)),
    ):
        with pytest.raises(ShapeError, match=r"\[.*\].*\["):
            graph_of(build, a=(a, "float64"), b=(b, "float64"))
    with pytest.raises(ShapeError, match="as many elements"):
        graph_of(lambda x: P.reshape(x, (5,)), x=((3, 4), "float64"))


# -- the set is closed -------------------------------------------------------------------------------------------------


def test_every_primitive_is_covered_here() -> None:
    # A region of rows means what is in it; tests/ir/passes/test_chunks.py holds it against eager PyTorch.
    # What torch has no second derivative of here, the gradient of a library op, is met where gradients are compared.
    elsewhere = {"sum", "max", "min", "chunked", "library_gradient"}
    covered = {p.name for p in ELEMENTWISE} | elsewhere | OTHERS.keys() | LEAVES
    assert covered == PRIMITIVES.keys()


def test_every_derivative_is_made_of_primitives() -> None:
    graphs = [elementwise_graph(p.name, *[(BATCH, 3)] * p.arity) for p in ELEMENTWISE]
    graphs += [graph_of(build, **inputs) for cases in OTHERS.values() for build, inputs in cases]
    for graph in graphs:
        floats = [v.name for v in graph.inputs if v.dtype.is_float]
        for value in gradient_graph(graph, floats).values:
            assert PRIMITIVES[value.op.name] is value.op


def test_no_name_is_both_op_and_primitive() -> None:
    assert not OPS.keys() & PRIMITIVES.keys()


@pytest.mark.parametrize("name", ["os.system", "eval", "torch.relu", "__import__", ""])
def test_unknown_op_is_one_typed_error(name: str) -> None:
    with pytest.raises(DeclarationError, match="unknown op"):
        lookup(name)
