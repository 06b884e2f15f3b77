"""Where ops go wrong: ties, NaN, infinities, empty tensors. Each case holds for formula and reference, both ways.

`agree` asserts that both give the same values and gradients; what follows says which those are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from edges import BATCH, INF, NAN, graph_of, same, unary
from numerics import agree, formula_values, reference_values

from tritonnotes.ir import Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError
from tritonnotes.ir.ops.activations import relu, sigmoid
from tritonnotes.ir.ops.linear import linear
from tritonnotes.ir.ops.losses import cross_entropy
from tritonnotes.ir.ops.metrics import accuracy
from tritonnotes.ir.ops.normalization import layer_norm
from tritonnotes.ir.ops.regression import mse_loss
from tritonnotes.judge.executor import eager


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# -- activations -------------------------------------------------------------------------------------------------------


def test_relu_of_nan_is_nan_with_gradient_1() -> None:
    y, d = unary(relu, NAN)
    assert same(y, NAN) and same(d, 1)


def test_relu_at_its_tie_has_gradient_0_and_keeps_the_sign_of_zero() -> None:
    y, d = unary(relu, 0.0, -0.0)
    assert same(d, 0, 0)
    assert [math.copysign(1, v) for v in y] == [1, -1]


def test_relu_of_infinities() -> None:
    y, d = unary(relu, INF, -INF)
    assert same(y, INF, 0) and same(d, 1, 0)


def test_relu_passes_no_gradient_where_it_is_off_even_an_infinite_one() -> None:
    graph = graph_of(relu, x=(2,))
    _, gradients = agree(graph, {"y": torch.tensor([INF, NAN]).double()}, x=[-1.0, 0.0])
    assert same(gradients["x"].tolist(), 0, 0)


def test_relu_works_on_integers() -> None:
    graph = graph_of(relu, x=((3,), "int64"))
    values, _ = agree(graph, x=torch.tensor([-2, 0, 3]))
    assert values["y"].tolist() == [0, 0, 3] and graph.outputs["y"].dtype.name == "int64"


def test_sigmoid_saturates_without_overflow() -> None:
    y, d = unary(sigmoid, INF, -INF, 1e4, -1e4, 0.0)
    assert same(y, 1, 0, 1, 0, 0.5) and same(d, 0, 0, 0, 0, 0.25)


def test_tanh_saturates_and_keeps_the_sign_of_zero() -> None:
    y, d = unary(P.tanh, INF, -INF, 1e4, -1e4, -0.0)
    assert same(y, 1, -1, 1, -1, 0) and same(d, 0, 0, 0, 0, 1)
    assert math.copysign(1, y[4]) == -1


@pytest.mark.parametrize("build", [sigmoid, P.tanh])
def test_nan_stays_in_its_element(build: Callable[..., Value]) -> None:
    y, d = unary(build, NAN, 1.0)
    assert math.isnan(y[0]) and math.isnan(d[0]) and not math.isnan(y[1] + d[1])


@pytest.mark.parametrize("build", [relu, sigmoid, P.tanh])
def test_activation_of_nothing_is_nothing(build: Callable[..., Value]) -> None:
    assert unary(build) == ([], [])


# -- layer_norm --------------------------------------------------------------------------------------------------------


def norm_graph(cols: int, **attrs: Any) -> Graph:
    return graph_of(lambda x: layer_norm(x, name="ln", **attrs), x=(BATCH, cols))


def test_constant_row_normalizes_to_0() -> None:
    values, gradients = agree(norm_graph(5, weight=None, bias=None), x=torch.full((2, 5), 3.0))
    assert not values["y"].any() and gradients["x"].isfinite().all()


def test_constant_row_without_eps_is_nan() -> None:
    values, gradients = agree(norm_graph(5, eps=0.0), x=torch.full((2, 5), 3.0))
    assert values["y"].isnan().all() and gradients["x"].isnan().all()


def test_one_column_normalizes_to_0() -> None:
    values, _ = agree(norm_graph(1, weight=None, bias=None), x=[[3.0], [-1.0]])
    assert not values["y"].any()


def test_zero_columns_give_an_empty_result() -> None:
    values, gradients = agree(norm_graph(0), x=torch.zeros(3, 0))
    assert values["y"].shape == (3, 0) and gradients["ln.weight"].shape == (0,)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_bad_number_poisons_its_own_row_only(bad: float) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x[1, 2] = bad
    values, gradients = agree(norm_graph(4), x=x)
    assert values["y"][1].isnan().all() and values["y"][::2].isfinite().all()
    assert gradients["x"][1].isnan().all() and gradients["x"][::2].isfinite().all()
    assert gradients["ln.weight"].isnan().all() and gradients["ln.bias"].isfinite().all()


def test_empty_batch_gives_zero_weight_gradients() -> None:
    _, gradients = agree(norm_graph(4), x=torch.zeros(0, 4))
    assert gradients["x"].shape == (0, 4)
    assert gradients["ln.weight"].tolist() == gradients["ln.bias"].tolist() == [0] * 4


def test_mean_far_from_zero_loses_no_accuracy() -> None:
    x = 1e4 + 1e-2 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = norm_graph(64, weight=None, bias=None)
    values = formula_values(graph, {"x": x})["y"]
    # Cancelling 1e4 leaves 1e-12 of the 1e-2 that remain.
    torch.testing.assert_close(values, reference_values(graph, {"x": x})["y"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("absent", [{"weight": None}, {"bias": None}, {"weight": None, "bias": None}])
def test_affine_parts_may_be_left_out(absent: dict[str, None]) -> None:
    graph = norm_graph(4, **absent)
    assert len(graph.parameters) == 2 - len(absent)
    agree(graph, {"y": torch.randn(3, 4).double()}, x=torch.randn(3, 4))


def test_several_trailing_dims_are_normalized_together() -> None:
    graph = graph_of(lambda x: layer_norm(x, (3, 4), name="ln"), x=(BATCH, 3, 4))
    agree(graph, {"y": torch.randn(2, 3, 4).double()}, x=torch.randn(2, 3, 4))


# -- cross_entropy -----------------------------------------------------------------------------------------------------


def entropy_graph(shape: tuple[Any, ...], *, dtype: str = "int64", **attrs: Any) -> Graph:
    target = shape[:1] + shape[2:] if len(shape) > 1 else ()
    return graph_of(lambda x, t: cross_entropy(x, t, **attrs), x=shape, target=(target, dtype))


ROWS = entropy_graph((BATCH, 3))


@pytest.mark.parametrize(("reduction", "want"), [("mean", NAN), ("sum", 0.0)])
def test_empty_batch_has_mean_nan_and_sum_0(reduction: str, want: float) -> None:
    graph = entropy_graph((BATCH, 3), reduction=reduction)
    values, gradients = agree(graph, x=torch.zeros(0, 3), target=torch.zeros(0, dtype=torch.int64))
    assert same([values["y"].item()], want) and gradients["x"].shape == (0, 3)


def test_empty_batch_without_reduction_is_empty() -> None:
    graph = entropy_graph((BATCH, 3), reduction="none")
    values, _ = agree(graph, x=torch.zeros(0, 3), target=torch.zeros(0, dtype=torch.int64))
    assert values["y"].shape == (0,)


def test_all_targets_ignored_has_mean_nan_and_gradient_0() -> None:
    values, gradients = agree(ROWS, x=torch.randn(2, 3), target=torch.tensor([-100, -100]))
    assert values["y"].isnan() and not gradients["x"].any()


def test_ignored_row_that_holds_nan_leaves_the_loss_finite_and_its_own_gradient_nan() -> None:
    x = torch.tensor([[NAN, 1, 2], [1, 2, 3]])
    values, gradients = agree(ROWS, x=x, target=torch.tensor([-100, 1]))
    assert values["y"].isfinite()
    assert gradients["x"][0].isnan().all() and gradients["x"][1].isfinite().all()


def test_minus_infinity_on_another_class_counts_for_nothing() -> None:
    values, gradients = agree(ROWS, x=[[-INF, 1.0, 2.0]], target=torch.tensor([1]))
    assert values["y"].isfinite() and gradients["x"][0, 0] == 0


def test_minus_infinity_on_the_target_is_an_infinite_loss_with_a_finite_gradient() -> None:
    values, gradients = agree(ROWS, x=[[-INF, 1.0, 2.0]], target=torch.tensor([0]))
    assert values["y"] == INF and gradients["x"][0, 0] == -1


@pytest.mark.parametrize("row", [[-INF] * 3, [INF, 0.0, 0.0], [0.0, INF, 0.0], [NAN, 0.0, 0.0]])
def test_row_without_a_distribution_is_nan(row: list[float]) -> None:
    values, gradients = agree(ROWS, x=[row], target=torch.tensor([0]))
    assert values["y"].isnan() and gradients["x"].isnan().all()


def test_logits_of_ten_thousand_are_fine() -> None:
    values, _ = agree(ROWS, x=[[1e4, -1e4, 0.0]], target=torch.tensor([1]))
    assert values["y"] == 2e4


@pytest.mark.parametrize("target", [3, -1])
def test_target_outside_the_classes_raises_in_torch_and_is_infinite_in_the_formula(target: int) -> None:
    tensors = {"x": torch.zeros(1, 3, dtype=torch.float64), "target": torch.tensor([target])}
    assert formula_values(ROWS, tensors)["y"] == INF
    with pytest.raises(IndexError, match="out of bounds"):
        reference_values(ROWS, tensors)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5), (2, 3, 4, 5)], ids=str)
def test_any_upstream_gradient_is_honoured(shape: tuple[int, ...], reduction: str) -> None:
    graph = entropy_graph(shape, reduction=reduction)
    target = torch.randint(0, 3, graph["target"].shape, generator=torch.Generator().manual_seed(1))
    if target.ndim:
        target.view(-1)[0] = -100
    d = torch.randn(target.shape if reduction == "none" else ()).double()
    agree(graph, {"y": d}, x=torch.randn(shape), target=target)


def test_ignore_index_may_be_a_class() -> None:
    values, gradients = agree(
        entropy_graph((BATCH, 3), ignore_index=0), x=torch.randn(2, 3), target=torch.tensor([0, 2])
    )
    assert values["y"].isfinite() and not gradients["x"][0].any() and gradients["x"][1].all()


def test_one_class_has_loss_0() -> None:
    values, gradients = agree(entropy_graph((BATCH, 1)), x=[[3.0], [-4.0]], target=torch.tensor([0, 0]))
    assert values["y"] == 0 and not gradients["x"].any()


def test_int32_targets_are_taken() -> None:
    agree(entropy_graph((BATCH, 3), dtype="int32"), x=torch.randn(2, 3), target=torch.tensor([0, 2], dtype=torch.int32))


def test_bad_declaration_says_what_is_wanted() -> None:
    with pytest.raises(DeclarationError, match="'mean', 'sum' or 'none'"):
        entropy_graph((BATCH, 3), reduction="average")
    with pytest.raises(DTypeError, match="class indices are int64"):
        entropy_graph((BATCH, 3), dtype="float32")
    with pytest.raises(ShapeError, match="want targets of shape"):
        graph_of(cross_entropy, x=(BATCH, 3), target=((BATCH, 3), "int64"))


# -- mse_loss ----------------------------------------------------------------------------------------------------------


def test_squared_error_of_other_shapes_warns_and_broadcasts() -> None:
    with pytest.warns(UserWarning, match="broadcast, which is rarely meant"):
        graph = graph_of(mse_loss, a=(BATCH, 3), b=(3,))
    agree(graph, a=torch.randn(4, 3), b=torch.randn(3))


@pytest.mark.parametrize(("reduction", "want"), [("mean", NAN), ("sum", 0.0)])
def test_squared_error_of_nothing(reduction: str, want: float) -> None:
    graph = graph_of(lambda a, b: mse_loss(a, b, reduction=reduction), a=(BATCH, 3), b=(BATCH, 3))
    values, _ = agree(graph, a=torch.zeros(0, 3), b=torch.zeros(0, 3))
    assert same([values["y"].item()], want)


def test_squared_error_of_infinities_and_nan() -> None:
    graph = graph_of(lambda a, b: mse_loss(a, b, reduction="none"), a=(4,), b=(4,))
    values, gradients = agree(graph, a=[INF, INF, NAN, 1.0], b=[0.0, INF, 0.0, 1.0])
    assert same(values["y"].tolist(), INF, NAN, NAN, 0) and same(gradients["a"].tolist(), INF, NAN, NAN, 0)


# -- linear ------------------------------------------------------------------------------------------------------------


def linear_graph(*shape: Any, **attrs: Any) -> Graph:
    return graph_of(lambda x: linear(x, 2, name="fc", **attrs), x=shape)


def test_linear_without_input_features_gives_the_bias() -> None:
    values, gradients = agree(linear_graph(BATCH, 0), x=torch.zeros(3, 0), **{"fc.bias": torch.tensor([1.0, 2.0])})
    assert values["y"].tolist() == [[1, 2]] * 3
    assert gradients["fc.weight"].shape == (2, 0) and gradients["fc.bias"].tolist() == [3, 3]


def test_linear_of_an_empty_batch_has_zero_weight_gradients() -> None:
    values, gradients = agree(linear_graph(BATCH, 4), x=torch.zeros(0, 4))
    assert values["y"].shape == (0, 2)
    assert gradients["fc.weight"].shape == (2, 4) and not gradients["fc.weight"].any()


def test_linear_multiplies_infinity_by_zero_to_nan() -> None:
    values, _ = agree(
        linear_graph(BATCH, 2, bias=False), x=[[INF, 1.0]], **{"fc.weight": torch.tensor([[0.0, 1], [1, 1]])}
    )
    assert same(values["y"].tolist(), [NAN, INF])


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_takes_any_rank(shape: tuple[int, ...], bias: bool) -> None:
    graph = linear_graph(*shape, bias=bias)
    agree(graph, {"y": torch.randn(*shape[:-1], 2).double()}, x=torch.randn(shape))


# -- accuracy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "predicted"),
    [([1.0, 3.0, 3.0], 1), ([1.0, NAN, 3.0], 1), ([NAN, 1.0, NAN], 0), ([-INF] * 3, 0), ([INF, INF, 0.0], 0)],
)
def test_prediction_takes_nan_first_then_the_lowest_of_ties(row: list[float], predicted: int) -> None:
    graph = graph_of(accuracy, x=(BATCH, 3), target=((BATCH,), "int64"))
    values, _ = agree(graph, x=[row], target=torch.tensor([predicted]))
    assert values["y"] == 1


def test_accuracy_of_nothing_is_nan() -> None:
    graph = graph_of(accuracy, x=(BATCH, 3), target=((BATCH,), "int64"))
    values, _ = agree(graph, x=torch.zeros(0, 3), target=torch.zeros(0, dtype=torch.int64))
    assert values["y"].isnan()


# -- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [P.add, P.sub, P.mul, P.div])
@pytest.mark.parametrize("shapes", [((4, 3), (3,)), ((4, 1), (1, 3)), ((2, 1, 3), (4, 1)), ((), (4, 3))], ids=str)
def test_broadcast_arguments_get_gradients_of_their_own_shape(build: Callable[..., Value], shapes: Any) -> None:
    graph = graph_of(build, a=shapes[0], b=shapes[1])
    d = torch.randn(graph.outputs["y"].shape).double()
    _, gradients = agree(graph, {"y": d}, a=torch.randn(shapes[0]), b=torch.randn(shapes[1]))
    assert (gradients["a"].shape, gradients["b"].shape) == shapes


@pytest.mark.parametrize("build", [P.add, P.sub, P.mul, P.div])
def test_arithmetic_of_special_numbers(build: Callable[..., Value]) -> None:
    grid = torch.tensor([0.0, -0.0, 1.0, -2.0, INF, -INF, NAN])
    a, b = torch.cartesian_prod(grid, grid).T  # of one shape, so that no sum hides one NaN behind another
    agree(graph_of(build, a=(49,), b=(49,)), a=a, b=b)


@pytest.mark.parametrize("build", [P.add, P.sub, P.mul, P.div])
def test_value_met_with_itself_gets_both_gradients(build: Callable[..., Value]) -> None:
    agree(graph_of(lambda x: build(x, x), x=(4,)), x=[1.0, -2.0, 0.5, 3.0])


@pytest.mark.parametrize("shape", [(2,), ()], ids=str)
@pytest.mark.parametrize("dtype", ["bool", "int32", "float16"])
@pytest.mark.parametrize("number", [2, -100, 0.5])
def test_number_beside_a_value_makes_of_it_what_torch_does(dtype: str, shape: tuple[int, ...], number: float) -> None:
    x = torch.ones(shape, dtype=getattr(torch, dtype))
    for build in (lambda x: x * number, lambda x: x != number):
        want = build(x)
        graph = graph_of(build, x=(shape, dtype))
        assert f"torch.{graph.outputs['y'].dtype}" == str(want.dtype)
        assert torch.equal(formula_values(graph, {"x": x})["y"].to(want.dtype), want)


def test_numbers_beside_values_take_their_dtype() -> None:
    graph = Graph("numbers")
    x = graph.input("x", (3,), "float16")
    graph.output(y=2 * x / 3 - 1 + (1 - x) * 0.1)
    x_fed = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16)
    got = eager(graph, {"x": x_fed})["y"]
    assert got.dtype == torch.float16
    assert torch.equal(got, 2 * x_fed / 3 - 1 + (1 - x_fed) * 0.1)
