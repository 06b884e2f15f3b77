"""Where activations go wrong: ties, NaN, infinities, integers, odd slopes. Formula and reference agree on each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from edges import BATCH, INF, NAN, graph_of, same, unary
from numerics import agree

import tritonnotes as tn
from tritonnotes.ir import Value
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError
from tritonnotes.judge.executor import eager

UNARY: dict[str, Callable[[Value], Value]] = {
    "leaky_relu": tn.leaky_relu,
    "elu": tn.elu,
    "selu": tn.selu,
    "celu": tn.celu,
    "relu6": tn.relu6,
    "hardtanh": tn.hardtanh,
    "threshold": lambda x: tn.threshold(x, 0.25, 20.0),
    "hardshrink": tn.hardshrink,
    "softshrink": tn.softshrink,
    "gelu": tn.gelu,
    "gelu_tanh": lambda x: tn.gelu(x, approximate="tanh"),
    "silu": tn.silu,
    "mish": tn.mish,
    "softplus": tn.softplus,
    "softsign": tn.softsign,
    "logsigmoid": tn.logsigmoid,
    "hardsigmoid": tn.hardsigmoid,
    "hardswish": tn.hardswish,
    "tanhshrink": tn.tanhshrink,
    "softmax": lambda x: tn.softmax(x, -1),
    "log_softmax": lambda x: tn.log_softmax(x, -1),
    "softmin": lambda x: tn.softmin(x, 0),
}
AT_ZERO = {"softplus": math.log(2), "logsigmoid": -math.log(2), "hardsigmoid": 0.5}
"""Values at 0 that are not 0."""

SPECIAL = (0.0, -0.0, INF, -INF, NAN, 1e4, -1e4)


@pytest.mark.parametrize("x", SPECIAL, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_special_number_goes_where_torch_sends_it(name: str, x: float) -> None:
    # One at a time: torch's vectors and its tails differ in the gradient of NaN; a lone number is of the tail.
    y, _ = unary(UNARY[name], x)
    if x == 0 and name not in ("threshold", "softmax", "softmin", "log_softmax"):
        assert y[0] == pytest.approx(AT_ZERO.get(name, 0.0))


@pytest.mark.parametrize("name", UNARY)
def test_activation_of_nothing_is_nothing(name: str) -> None:
    assert unary(UNARY[name]) == ([], [])


@pytest.mark.parametrize(
    ("name", "at", "gradient"),
    [
        ("relu6", (0.0, 6.0), (0, 0)),
        ("hardtanh", (-1.0, 1.0), (0, 0)),
        ("hardsigmoid", (-3.0, 3.0), (0, 0)),
        ("hardswish", (-3.0, 3.0), (0, 1)),
        ("hardshrink", (-0.5, 0.5), (0, 0)),
        ("softshrink", (-0.5, 0.5), (0, 0)),
        ("threshold", (0.25,), (0,)),
        ("leaky_relu", (0.0,), (0.01,)),
        ("elu", (0.0,), (1,)),
    ],
)
def test_gradient_at_a_tie(name: str, at: tuple[float, ...], gradient: tuple[float, ...]) -> None:
    _, d = unary(UNARY[name], *at)
    assert same(d, *gradient)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish", "hardswish"])
def test_gate_of_minus_infinity_is_nan(name: str) -> None:
    assert math.isnan(unary(UNARY[name], -INF)[0][0])


@pytest.mark.parametrize("name", ["leaky_relu", "elu", "relu6", "hardtanh", "threshold", "hardshrink", "softshrink"])
def test_no_gradient_passes_where_it_is_off_even_an_infinite_one(name: str) -> None:
    graph = graph_of(UNARY[name], x=(1,))
    agree(graph, {"y": torch.tensor([INF]).double()}, x=[-0.01])


def test_softplus_is_linear_above_its_threshold() -> None:
    y, d = unary(tn.softplus, 19.5, 20.0, 20.5, 800.0)
    assert y[1] > 20 and y[2:] == [20.5, 800] and d[2:] == [1, 1]
    unary(lambda x: tn.softplus(x, 2.0, 1.0), -3.0, 0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tn.leaky_relu(x, 0.3),
        lambda x: tn.leaky_relu(x, negative_slope=-0.5),
        lambda x: tn.elu(x, 0.5),
        lambda x: tn.elu(x, -0.5),
        lambda x: tn.celu(x, 2.0),
        lambda x: tn.hardtanh(x, -0.5, 2.0),
        lambda x: tn.hardtanh(x, 0, 2),
        lambda x: tn.threshold(x, -0.5, 0.0),
        lambda x: tn.hardshrink(x, 1.0),
        lambda x: tn.hardshrink(x, -1.0),
        lambda x: tn.softshrink(x, 0.0),
        lambda x: tn.softplus(x, beta=-0.5),
    ],
)
def test_attributes_are_taken_in_torchs_order(build: Callable[[Value], Value]) -> None:
    unary(build, -2.0, -1.0, -0.5, -0.1, 0.3, 0.5, 1.0, 2.0, 5.0)


@pytest.mark.parametrize("name", ["relu6", "hardtanh", "threshold"])
def test_clipping_works_on_integers(name: str) -> None:
    graph = graph_of(UNARY[name], x=((3,), "int64"))
    x = torch.tensor([-3, 0, 9])
    assert torch.equal(agree(graph, x=x)[0]["y"], eager(graph, {"x": x})["y"])
    assert graph.outputs["y"].dtype.name == "int64"


@pytest.mark.parametrize("name", sorted(set(UNARY) - {"relu6", "hardtanh", "threshold"}))
def test_float_activation_of_integers_raises(name: str) -> None:
    with pytest.raises(DTypeError, match="needs a float dtype"):
        graph_of(UNARY[name], x=((3,), "int64"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: tn.gelu(x, approximate="erf"), "use 'none' or 'tanh'"),
        (lambda x: tn.softshrink(x, -0.1), "lambd is -0.1"),
        (lambda x: tn.celu(x, 0.0), "alpha is 0"),
        (lambda x: tn.hardtanh(x, 1.0, -1.0), "lies above max_val"),
        (lambda x: tn.softplus(x, 0), "beta is 0"),
        (lambda x: tn.elu(x, slope=1.0), "it takes"),
        (lambda x: tn.softmax(x, 3), "axis 3"),
    ],
)
def test_what_torch_refuses_raises(build: Callable[[Value], Value], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        graph_of(build, x=(2, 3))


# -- prelu -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (2, 3, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_prelu_has_one_slope_or_one_for_each_channel(shape: tuple[int, ...], channels: bool) -> None:
    count = shape[1] if channels and len(shape) > 1 else 1
    graph = graph_of(lambda x: tn.prelu(x, num_parameters=count, name="act"), x=shape)
    d = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    _, gradients = agree(graph, {"y": d}, x=torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    assert gradients["act.weight"].shape == (count,)


def test_prelu_starts_at_a_quarter() -> None:
    graph = tn.Graph("g")
    graph.output(y=tn.prelu(graph.input("x", (BATCH, 3)), num_parameters=3, name="act"))
    assert graph.state()["act.weight"].tolist() == [0.25] * 3


@pytest.mark.parametrize("x", [0.0, NAN, INF, -INF])
def test_prelu_of_special_numbers(x: float) -> None:
    agree(graph_of(lambda x: tn.prelu(x, name="act"), x=(1,)), x=[x], **{"act.weight": torch.tensor([0.0])})


def test_prelu_of_a_wrong_count_of_slopes_raises() -> None:
    with pytest.raises(ShapeError, match="one for each of the 3 channels"):
        graph_of(lambda x: tn.prelu(x, num_parameters=4), x=(2, 3))
    with pytest.raises(DTypeError, match="cast one of them"):
        graph_of(tn.prelu, x=(2, 3), weight=((3,), "float32"))


# -- softmax -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("build", [tn.softmax, tn.log_softmax, tn.softmin])
def test_softmax_runs_along_any_axis(build: Callable[..., Value], dim: int) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    d = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    agree(graph_of(lambda x: build(x, dim), x=(2, 3, 4)), {"y": d}, x=x)


@pytest.mark.parametrize("row", [[-INF, -INF], [INF, 0.0], [NAN, 0.0], [-INF, 0.0], [1e4, -1e4]], ids=str)
@pytest.mark.parametrize("build", [tn.softmax, tn.log_softmax])
def test_softmax_of_extreme_rows(build: Callable[..., Value], row: list[float]) -> None:
    values, _ = agree(graph_of(lambda x: build(x, -1), x=(2,)), x=row)
    assert bool(values["y"].isnan().all()) == (row[0] != row[0] or INF in row or row[1] == -INF)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3)], ids=str)
def test_softmax_over_nothing_is_empty(shape: tuple[int, ...]) -> None:
    values, _ = agree(graph_of(lambda x: tn.softmax(x, 1), x=shape), x=torch.zeros(shape))
    assert values["y"].shape == shape


def test_softmax_casts_first_where_a_dtype_is_given() -> None:
    graph = graph_of(lambda x: tn.softmax(x, 0, dtype="float32"), x=((3,), "int64"))
    assert graph.outputs["y"].dtype.name == "float32"


def test_whole_number_is_as_good_as_a_float() -> None:
    certificate = compiled(lambda x: tn.elu(tn.hardtanh(x, -2, 2), 1), (7, 5))
    assert certificate.ok, certificate


def compiled(build: Callable[[Value], Value], shape: tuple[Any, ...]) -> tn.Certificate:
    graph = tn.Graph("small")
    graph.output(y=build(graph.input("x", shape)))
    return tn.check(graph)


@pytest.mark.parametrize("dim", [0, 1])
def test_kernel_of_softmax_along_any_axis(dim: int) -> None:
    certificate = compiled(lambda x: tn.log_softmax(tn.softmax(x, dim), dim), (BATCH, 5) if dim else (6, BATCH))
    assert certificate.ok, certificate


@pytest.mark.parametrize("name", sorted(UNARY))
def test_kernel_in_a_chain_passes_its_certificate(name: str) -> None:
    certificate = compiled(lambda x: UNARY[name](x * 0.5) + x, (7, 5))
    assert certificate.ok, certificate
