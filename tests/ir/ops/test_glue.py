"""What joins layers: reductions over any axes, views, comparisons, limits, casts, as torch's functions of these names.

`agree` asserts that formula and reference give the same values and gradients; `judge` holds the kernels against both.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled import DTYPES, assert_within_policy, draw, judge
from numerics import agree, formula_values
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, FormatError, ShapeError
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.ops.habits import METHODS_OF_TORCH
from tritonnotes.ir.ops.methods import METHODS
from tritonnotes.runtime.runner import pick_device

NAN, INF = math.nan, math.inf
BATCH = tn.Dim("batch")
Build = Callable[..., Any]


def graph_of(build: Build, **inputs: Any) -> tn.Graph:
    """One op on inputs given as shapes, or as (shape, dtype)."""
    graph = tn.Graph("glue")
    values = []
    for name, given in inputs.items():
        shape, dtype = given if len(given) == 2 and isinstance(given[1], str) else (given, "float64")
        values.append(graph.input(name, shape, dtype))
    graph.output(y=build(*values))
    return graph


def unary(build: Build, *x: Any) -> tuple[Any, Any]:
    given = torch.tensor(x, dtype=torch.float64)
    values, gradients = agree(graph_of(build, x=given.shape), x=given)
    return values["y"].tolist(), gradients["x"].tolist()


def same(got: Any, *want: float) -> bool:
    return np.array_equal(np.array(got), np.array(want), equal_nan=True)


# -- reductions over any axes ------------------------------------------------------------------------------------------

AXES: tuple[Any, ...] = (None, (), 0, 1, -1, (0, 2), [1], (-1, 0), (0, 1, 2))
REDUCTIONS: dict[str, tuple[Build, Build]] = {
    "sum": (tn.sum, torch.sum),
    "mean": (tn.mean, torch.mean),
    "max": (tn.max, torch.amax),
    "amin": (tn.amin, torch.amin),
    "var": (tn.var, torch.var),
    "std": (tn.std, torch.std),
    "logsumexp": (tn.logsumexp, torch.logsumexp),
}


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("dim", AXES, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_over_any_axes_is_torchs(name: str, dim: Any, keepdim: bool) -> None:
    build, theirs = REDUCTIONS[name]
    graph = graph_of(lambda x: build(x, dim, keepdim=keepdim), x=(BATCH, 3, 4))
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, _ = agree(graph, x=x)
    axes = (0, 1, 2) if dim is None or dim == () else dim
    torch.testing.assert_close(values["y"], theirs(x, dim=axes, keepdim=keepdim), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1, (0, 2), (1, 2), None], ids=str)
def test_statistics_of_any_axes_as_kernels(dim: Any, dtype: str) -> None:
    graph = tn.Graph("statistics")
    x = graph.input("x", (BATCH, 7, 5), dtype)
    var, mean = tn.var_mean(x, dim, keepdim=True)
    graph.output(var=var, mean=mean, std=tn.std(x, dim, correction=0), total=tn.logsumexp(x, dim))
    for batch in (2, 33):
        assert_within_policy(judge(graph, draw(graph, batch=batch)))


@pytest.mark.parametrize("dim", [None, 0, 1], ids=str)
@pytest.mark.parametrize("keepdim", [True, False])
def test_index_of_the_largest_is_torchs(dim: Any, keepdim: bool) -> None:
    x = torch.randint(-2, 3, (6, 5), generator=torch.Generator().manual_seed(2)).double()
    for place in ((1, 2), (0, 0), (5, 4)):
        x[place] = NAN
        graph = graph_of(lambda x: tn.argmax(x, dim, keepdim), x=(BATCH, 5))
        values, _ = agree(graph, x=x)
        assert torch.equal(values["y"], x.argmax(dim, keepdim))
        got = tn.compile(graph)(x=x.to(pick_device()))["y"].cpu()
        assert torch.equal(got, x.argmax(dim, keepdim))


def test_index_over_all_axes_needs_sizes_that_are_known() -> None:
    with pytest.raises(ShapeError, match=r"argmax .*\[3, batch\].*give dim"):
        graph_of(tn.argmax, x=(3, BATCH))


@pytest.mark.parametrize("build", [tn.sum, tn.mean, tn.max, tn.min, tn.var, tn.std, tn.logsumexp, tn.argmax])
def test_axis_is_another_name_of_dim(build: Build) -> None:
    graph = graph_of(lambda x: tn.cast(build(x, axis=0) == build(x, dim=0), "float64"), x=(4, 3))
    values, _ = agree(graph, x=torch.randn(4, 3).double())
    assert values["y"].all()
    with pytest.raises(DeclarationError, match="dim is 0 and axis 1; they are one argument"):
        graph_of(lambda x: build(x, 0, axis=1), x=(4, 3))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda x: tn.sum(x, 2), "sum: axis 2 of a value with 2 dims"),
        (lambda x: tn.mean(x, (0, 0)), "mean: axes .* name one axis twice"),
        (lambda x: tn.var(x, "rows"), "var: axis 'r' is no int|var: axis 'rows' is no int"),
        (lambda x: tn.max(x, x), "max: dim is the value 'x'; of two values take tn.maximum"),
        (lambda x: tn.sum(3.0), "sum: takes a Value of a graph, got 3.0"),
        (lambda x: tn.var(x, correction="n"), "var: correction is 'n'; give a number"),
        (lambda x: tn.argmax(x, (0, 1)), r"argmax: dim is \(0, 1\); give one axis"),
    ],
)
def test_mistaken_reduction_says_what_is_wanted(mistake: Build, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        graph_of(mistake, x=(4, 3))


def test_sums_of_integers_and_bools_count_as_torchs_do() -> None:
    for dtype in ("int32", "int64", "bool"):
        graph = graph_of(lambda x: tn.sum(x, 1), x=((BATCH, 5), dtype))
        x = torch.randint(0, 2, (4, 5)).to(getattr(torch, dtype))
        want = x.sum(1)
        assert graph.outputs["y"].dtype.name == "int64" and want.dtype == torch.int64
        assert torch.equal(tn.compile(graph)(x=x.to(pick_device()))["y"].cpu(), want)


@pytest.mark.parametrize("build", [tn.sum, tn.mean])
def test_sum_and_mean_take_a_dtype_to_compute_in(build: Build) -> None:
    graph = graph_of(lambda x: build(x, 1, dtype="float32"), x=((BATCH, 5), "float16"))
    assert graph.outputs["y"].dtype.name == "float32"
    assert_within_policy(judge(graph, draw(graph, batch=3)))


@pytest.mark.parametrize("build", [tn.mean, tn.var, tn.std, tn.logsumexp])
def test_mean_of_integers_names_the_remedy(build: Build) -> None:
    with pytest.raises(DTypeError, match=r"needs a float dtype, got int64 for 'x'; cast it first"):
        graph_of(build, x=((3,), "int64"))


def test_mean_of_large_16_bit_values_does_not_overflow_in_eager_either() -> None:
    graph = graph_of(lambda x: tn.mean(x, -1), x=((BATCH, 200), "float16"))
    x = torch.full((3, 200), 1000.0, dtype=torch.float16, device=pick_device())
    assert tn.eager(graph, {"x": x})["y"].tolist() == [1000.0] * 3
    assert tn.compile(graph)(x=x)["y"].tolist() == [1000.0] * 3


# -- variance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [0, 1, 0.5, 2, 4])
@pytest.mark.parametrize("build", [tn.var, tn.std])
def test_correction_may_use_up_every_element(build: Build, correction: float) -> None:
    graph = graph_of(lambda x: build(x, 1, correction=correction), x=(BATCH, 3))
    values, _ = agree(graph, x=[[1.0, 2, 4], [3, 3, 3], [0, -1, 5]])
    assert values["y"].isfinite().all() == (correction < 3)


@pytest.mark.parametrize("build", [tn.var, tn.std])
@pytest.mark.parametrize("shape", [(4, 1), (4, 0), (1,), ()], ids=str)
def test_spread_of_one_element_or_none_is_nan(build: Build, shape: tuple[int, ...]) -> None:
    values, gradients = agree(graph_of(lambda x: build(x, -1), x=shape), x=torch.ones(shape))
    assert values["y"].isnan().all() and gradients["x"].isnan().all()


def test_spread_over_a_batch_whose_size_is_known_late() -> None:
    graph = graph_of(lambda x: tn.var(x, 0) + tn.std(x, (0, 1)), x=((BATCH, 5), "float32"))
    for batch in (2, 7, 64):
        assert_within_policy(judge(graph, draw(graph, batch=batch), noisy=2))
    x = torch.ones(1, 5, device=pick_device())
    assert tn.compile(graph)(x=x)["y"].isnan().all() and tn.eager(graph, {"x": x})["y"].isnan().all()


def test_deviation_of_a_constant_row_is_0_with_gradient_0() -> None:
    values, gradients = agree(graph_of(lambda x: tn.std(x, 1), x=(2, 3)), x=[[2.0, 2, 2], [1, 2, 3]])
    assert values["y"].tolist() == [0, 1] and gradients["x"][0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_variance_keeps_its_digits_where_the_mean_dwarfs_it(dtype: str) -> None:
    graph = graph_of(lambda x: tn.var(x, -1), x=((BATCH, 200), dtype))
    x = torch.randn((33, 200), generator=torch.Generator().manual_seed(0), dtype=getattr(torch, dtype)) + 1e4
    assert_within_policy(judge(graph, {"x": x.to(pick_device())}))


def test_nan_poisons_its_own_row_alone() -> None:
    values, gradients = agree(graph_of(lambda x: tn.var(x, 1), x=(2, 3)), x=[[NAN, 2, 2], [1, 2, 3]])
    assert values["y"][0].isnan() and values["y"][1] == 1 and gradients["x"][1].isfinite().all()


def test_variance_and_mean_are_one_kernel() -> None:
    graph = tn.Graph("both")
    var, mean = tn.var_mean(graph.input("x", (BATCH, 64)), -1)
    graph.output(var=var, mean=mean)
    assert len(tn.compile(graph).plan.launches) == 1


# -- logsumexp ---------------------------------------------------------------------------------------------------------


def test_logsumexp_of_infinities_and_nan() -> None:
    y, _ = unary(lambda x: tn.logsumexp(x, 1), [-INF, -INF], [INF, 0.0], [INF, -INF], [NAN, 0.0], [-INF, 1.0], [1e4, 0])
    assert same(y, -INF, INF, INF, NAN, 1.0, 1e4)


def test_logsumexp_of_nothing_is_minus_infinity() -> None:
    values, _ = agree(graph_of(lambda x: tn.logsumexp(x, 1), x=(2, 0)), x=torch.zeros(2, 0))
    assert values["y"].tolist() == [-INF, -INF]


# -- clamp -------------------------------------------------------------------------------------------------------------


def test_clamp_has_gradient_1_at_its_bounds() -> None:
    y, d = unary(lambda x: tn.clamp(x, -1, 1), -2.0, -1.0, 0.0, 1.0, 2.0, NAN, INF, -INF)
    assert same(y, -1, -1, 0, 1, 1, NAN, 1, -1) and same(d, 0, 1, 1, 1, 0, 0, 0, 0)


def test_clamp_takes_one_bound() -> None:
    assert same(unary(lambda x: tn.clamp(x, min=0.5), 0.0, 0.5, 2.0)[0], 0.5, 0.5, 2)
    assert same(unary(lambda x: tn.clamp(x, max=0.5), 0.0, 0.5, 2.0)[0], 0, 0.5, 0.5)
    with pytest.raises(DeclarationError, match="neither min nor max is given"):
        graph_of(tn.clamp, x=(3,))
    with pytest.raises(DeclarationError, match="clamp: min: expected a number, got str"):
        graph_of(lambda x: tn.clamp(x, "0"), x=(3,))


def test_bounds_that_cross_give_the_upper_one() -> None:
    y, d = unary(lambda x: tn.clamp(x, 1.0, -1.0), -2.0, 0.0, 2.0)
    assert same(y, -1, -1, -1) and same(d, 0, 0, 0)


def test_bounds_may_be_values_and_get_gradients() -> None:
    grid = torch.tensor([-1.0, 0.0, 1.0, NAN]).double()
    x, low, high = torch.cartesian_prod(grid, grid, grid).T
    _, gradients = agree(graph_of(tn.clamp, x=(64,), min=(64,), max=(64,)), x=x, min=low, max=high)
    assert gradients["min"].any() and gradients["max"].any()
    agree(graph_of(lambda x, low: tn.clamp(x, low), x=(4, 3), low=(3,)), x=torch.randn(4, 3), low=torch.randn(3))
    agree(
        graph_of(lambda x, top: tn.clamp(x, max=top), x=(4, 3), top=(4, 1)), x=torch.randn(4, 3), top=torch.ones(4, 1)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp_by_values_as_a_kernel(dtype: str) -> None:
    graph = graph_of(tn.clamp, x=((BATCH, 33), dtype), low=((33,), dtype), high=((BATCH, 1), dtype))
    assert_within_policy(judge(graph, draw(graph, batch=7)))


def test_clamp_of_integers_promotes_as_torch_does() -> None:
    x = torch.tensor([-3, 0, 7])
    for low, high in ((-1, 5), (-1, 5.5), (None, 2.5)):
        graph = graph_of(lambda x, low=low, high=high: tn.clamp(x, low, high), x=((3,), "int64"))
        want = torch.clamp(x, low, high)
        assert graph.outputs["y"].dtype.name == str(want.dtype).removeprefix("torch.")
        assert torch.equal(tn.compile(graph)(x=x.to(pick_device()))["y"].cpu(), want)


# -- views -------------------------------------------------------------------------------------------------------------

VIEWS: tuple[tuple[str, Build, Callable[[Tensor], Tensor], tuple[Any, ...]], ...] = (
    ("reshape by −1", lambda x: tn.reshape(x, (6, -1)), lambda x: x.reshape(6, -1), (2, 3, 4)),
    ("reshape one by one", lambda x: tn.reshape(x, -1, 2), lambda x: x.reshape(-1, 2), (2, 3, 4)),
    ("reshape around a Dim", lambda x: tn.reshape(x, (BATCH, -1)), lambda x: x.reshape(5, -1), (BATCH, 3, 4)),
    ("reshape to a Dim", lambda x: tn.reshape(x, (-1, 12)), lambda x: x.reshape(-1, 12), (BATCH, 3, 4)),
    ("reshape to a Dim behind", lambda x: tn.reshape(x, (1, 4, 3, -1)), lambda x: x.reshape(1, 4, 3, -1), (BATCH, 12)),
    ("flatten", lambda x: tn.flatten(x), torch.flatten, (2, 3, 4)),
    ("flatten from 1", lambda x: tn.flatten(x, 1), lambda x: x.flatten(1), (BATCH, 3, 4)),
    ("flatten to 1", lambda x: tn.flatten(x, 0, 1), lambda x: x.flatten(0, 1), (2, 3, BATCH)),
    ("flatten a number", lambda x: tn.flatten(x), torch.flatten, ()),
    ("flatten a Dim", lambda x: tn.flatten(x), torch.flatten, (BATCH, 1)),
    ("flatten nothing", lambda x: tn.flatten(x), torch.flatten, (3, 0)),
    ("squeeze", lambda x: tn.squeeze(x), torch.squeeze, (1, 3, 1)),
    ("squeeze one", lambda x: tn.squeeze(x, 0), lambda x: x.squeeze(0), (1, 3, 1)),
    ("squeeze two", lambda x: tn.squeeze(x, (0, -1)), lambda x: x.squeeze((0, -1)), (1, 3, 1)),
    ("squeeze what is no 1", lambda x: tn.squeeze(x, 1), lambda x: x.squeeze(1), (1, 3, 1)),
    ("squeeze a number", lambda x: tn.squeeze(x, 0), lambda x: x.squeeze(0), ()),
    ("unsqueeze", lambda x: tn.unsqueeze(x, 1), lambda x: x.unsqueeze(1), (BATCH, 3)),
    ("unsqueeze at the end", lambda x: tn.unsqueeze(x, -1), lambda x: x.unsqueeze(-1), (BATCH, 3)),
    ("unsqueeze at the front", lambda x: tn.unsqueeze(x, -3), lambda x: x.unsqueeze(-3), (BATCH, 3)),
    ("expand", lambda x: tn.expand(x, 2, 5, 3), lambda x: x.expand(2, 5, 3), (5, 1)),
    ("expand what stays", lambda x: tn.expand(x, (-1, 3)), lambda x: x.expand(-1, 3), (BATCH, 1)),
    ("broadcast to", lambda x: tn.broadcast_to(x, (4, 5, 3)), lambda x: torch.broadcast_to(x, (4, 5, 3)), (5, 1)),
    ("permute", lambda x: tn.permute(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), (BATCH, 3, 4)),
    ("permute one by one", lambda x: tn.permute(x, 1, -1, 0), lambda x: x.permute(1, -1, 0), (BATCH, 3, 4)),
    ("transpose", lambda x: tn.transpose(x, 0, -1), lambda x: x.transpose(0, -1), (BATCH, 3, 4)),
    ("transpose a number", lambda x: tn.transpose(x, 0, -1), lambda x: x.transpose(0, -1), ()),
)


@pytest.mark.parametrize(("build", "theirs", "shape"), [pytest.param(*v[1:], id=v[0]) for v in VIEWS])
def test_view_is_torchs_in_formula_and_kernel(build: Build, theirs: Callable[[Tensor], Tensor], shape: Any) -> None:
    graph = graph_of(build, x=shape)
    known = [5 if isinstance(s, tn.Dim) else s for s in shape]
    x = torch.randn(known, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    d = {"y": torch.randn(theirs(x).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)}
    values, _ = agree(graph, d, x=x)
    assert torch.equal(values["y"], theirs(x))
    given = x.float().to(pick_device())
    after = graph_of(lambda x: build(tn.tanh(x)), x=(shape, "float32"))
    assert_within_policy(judge(after, {"x": given}))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda x: tn.reshape(x, (-1, -1)), r"reshape: 'x' .*only one size can be inferred"),
        (
            lambda x: tn.reshape(x, (5, -1)),
            r"reshape: 'x' of shape \[batch, 3, 4\] to \[5, -1\]: −1 stands for no size",
        ),
        (lambda x: tn.reshape(x, (tn.Dim("other"), -1)), "other is none of its sizes"),
        (lambda x: tn.reshape(x, (BATCH, 0, -1)), "−1 stands for no size"),
        (lambda x: tn.flatten(x, 2, 1), "start_dim 2 comes after end_dim 1"),
        (lambda x: tn.flatten(x, 3), "axis 3 of a value with 3 dims"),
        (lambda x: tn.unsqueeze(x, 4), "unsqueeze.*axis 4 of a value with 4 dims"),
        (lambda x: tn.expand(x, 3, 4), r"expand: 'x' .*to \[3, 4\]; give a size for each of its 3 axes"),
        (lambda x: tn.expand(x, -1, -1, -1, -1), "expand: .*behind those of new axes"),
        (lambda x: tn.expand(x, BATCH, 3, 5), "expand.*differ|expand.*does not"),
        (lambda x: tn.permute(x, (0, 1)), r"permute .*dims \(0, 1\) .*name each of its 3 axes once"),
        (lambda x: tn.permute(x, (0, 1, -2)), "name each of its 3 axes once"),
        (lambda x: tn.transpose(x, 0, 3), "transpose: axis 3 of a value with 3 dims"),
        (lambda x: tn.transpose(x, (1, 0), 2), r"transpose: swaps two axes, got \(1, 0\) and 2; tn.permute takes"),
        (lambda x: x.T, r"T: 'x' of shape \[batch, 3, 4\] is no matrix"),
        (lambda x: tn.squeeze(x, 3), "squeeze: axis 3"),
    ],
)
def test_mistaken_view_says_what_is_wanted(mistake: Build, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        graph_of(mistake, x=(BATCH, 3, 4))


def test_views_between_ops_need_no_launch_of_their_own() -> None:
    graph = tn.Graph("views")
    x = graph.input("x", (BATCH, 4, 8))
    wide = tn.unsqueeze(tn.tanh(x), 1)
    scaled = tn.squeeze(wide * tn.reshape(graph.parameter("w", (8,), init="ones"), (1, 1, 1, -1)), 1)
    graph.output(y=tn.sigmoid(tn.transpose(tn.transpose(scaled, 1, 2), -1, -2)))
    assert len(tn.compile(graph).plan.launches) == 1


# -- comparisons, choices, casts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparison_is_torchs_at_ties_and_special_numbers(name: str) -> None:
    grid = torch.tensor([-INF, -1.0, -0.0, 0.0, 1.0, INF, NAN])
    a, b = torch.cartesian_prod(grid, grid).T
    graph = graph_of(getattr(tn, name), a=((49,), "float32"), b=((49,), "float32"))
    feeds = {"a": a.to(pick_device()), "b": b.to(pick_device())}
    got = tn.compile(graph)(**feeds)["y"].cpu()
    assert got.dtype == torch.bool and torch.equal(got, getattr(torch, name)(a, b))
    assert torch.equal(formula_values(graph, {"a": a, "b": b})["y"], got)


def test_logic_joins_comparisons() -> None:
    def both(x: Value) -> Value:
        inside = tn.logical_and(x > -1, x < 1)
        return tn.where(tn.logical_or(tn.logical_not(inside), tn.eq(x, 0)), x, 2 * x)

    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0, NAN])
    values, gradients = agree(graph_of(both, x=(6,)), x=x)
    assert same(values["y"].tolist(), -2, -1, 0, 1, 2, NAN) and gradients["x"].tolist() == [1, 2, 1, 2, 1, 1]
    with pytest.raises(DTypeError, match="compare it first"):
        graph_of(lambda x: tn.logical_and(x, x), x=(3,))


def test_comparison_of_integers_with_numbers_promotes_as_torch_does() -> None:
    x = torch.tensor([1, 2, 3])
    graph = graph_of(lambda x: tn.cast(x > 1.5, "int32") + tn.cast(tn.le(x, 2), "int32"), x=((3,), "int64"))
    got = tn.compile(graph)(x=x.to(pick_device()))["y"].cpu()
    assert torch.equal(got, (x > 1.5).int() + (x <= 2).int())


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (1, 0), (1, 0.5), (True, False), (-INF, NAN)])
def test_choice_among_numbers_alone_has_torchs_dtype(a: Any, b: Any) -> None:
    graph = graph_of(lambda x: tn.where(x > 0, a, b), x=((BATCH, 3), "float32"))
    x = torch.tensor([[-1.0, 0.0, 1.0], [2.0, NAN, -2.0]], device=pick_device())
    want = torch.where(x > 0, a, b)
    for got in (tn.compile(graph)(x=x)["y"], tn.eager(graph, {"x": x})["y"]):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_choice_among_numbers_in_float64_keeps_all_their_digits() -> None:
    graph = graph_of(lambda x: x * tn.where(x > 0, graph_constant(x, 0.1), 0.2), x=(BATCH, 3))
    assert_within_policy(judge(graph, draw(graph, batch=7)))


def graph_constant(x: Value, number: float) -> Value:
    return x.graph.constant(number, x.dtype)


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16", "float64", "int32", "int64", "bool"])
@pytest.mark.parametrize("target", ["float32", "float16", "bfloat16", "float64", "int32", "int64", "bool"])
def test_cast_is_torchs(source: str, target: str) -> None:
    x = torch.tensor([-2.7, -1.0, -0.3, 0.0, 0.5, 1.999, 100.25]).to(getattr(torch, source))
    graph = graph_of(lambda x: x.to(target), x=((7,), source))
    got = tn.compile(graph)(x=x.to(pick_device()))["y"].cpu()
    want = x.to(getattr(torch, target))
    assert got.dtype == want.dtype and torch.equal(got, want)


def test_cast_takes_torchs_dtypes_and_refuses_a_device() -> None:
    assert graph_of(lambda x: x.to(torch.float16), x=(3,)).outputs["y"].dtype.name == "float16"
    with pytest.raises(DTypeError, match="unknown dtype 'cuda'"):
        graph_of(lambda x: x.to("cuda"), x=(3,))


# -- methods -----------------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "to": ("float32",), "pow": (2,), "eq": (0,), "ne": (0,), "lt": (0,), "le": (0,), "gt": (0,), "ge": (0,),
    "softmax": (-1,), "log_softmax": (-1,), "clamp": (-1, 1), "logsumexp": (-1,), "reshape": (-1,),
    "unsqueeze": (0,), "expand": (2, 3), "permute": (1, 0), "transpose": (0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", [*METHODS, "T"])
def test_method_is_the_tensors_of_the_same_name(name: str) -> None:
    graph = tn.Graph("method")
    x = graph.input("x", (2, 3), "float64")
    given = torch.rand(2, 3, dtype=torch.float64)
    arguments = ARGUMENTS.get(name, ())

    def call(of: Any) -> Any:
        return of.T if name == "T" else getattr(of, name)(*arguments)

    theirs = given.to(torch.float32) if name == "to" else call(given)
    graph.output(y=call(x))
    torch.testing.assert_close(tn.eager(graph, {"x": given})["y"], theirs, rtol=1e-12, atol=0, check_dtype=True)


def test_type_checkers_know_every_method() -> None:
    source = (Path(tn.__file__).parent / "ir" / "core" / "graph.py").read_text("utf-8")
    (value,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Value")
    (block,) = (n for n in value.body if isinstance(n, ast.If))
    known = {t.id for n in block.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    assert METHODS.keys() <= known <= METHODS.keys() | METHODS_OF_TORCH.keys()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y: float32[] = mean(x, dim=(0, 7), keepdim=false)", "axis 7"),
        ("y: float32[] = mean(x, dim=0.5, keepdim=false)", r"dim is 0.5, a float; it must be a tuple"),
        ("y: float32[4] = logsumexp(x, dim=('a',), keepdim=false)", "axis 'a' is no int"),
        ("y: float32[4, 3] = permute(x, dims=(0, 0))", "name each of its 2 axes once"),
        ("y: float32[4, 3] = expand(x, shape=('a', 3))", "sizes are ints"),
        ("y: float32[12] = flatten(x, start_dim=0, end_dim=9)", "axis 9"),
        ("y: float32[1, 4, 3] = unsqueeze(x, dim=-7)", "axis -7"),
        ("y: int64[] = argmax(x, dim=(), keepdim=false)", "some axes"),
    ],
)
def test_file_that_asks_for_axes_that_are_not_there_is_refused(line: str, message: str) -> None:
    text = f"graph g declared\nx: float32[4, 3] = input()\n{line}\noutput y = y\n"
    with pytest.raises(FormatError, match=message):
        tn.Graph.from_text(text)
