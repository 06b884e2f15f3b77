"""Normalizations where they are hard: edge cases, large means, every norm's own arguments, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import Judged, assert_within_policy
from compiled import judge as judge_model
from numerics import agree
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, FeedError, ShapeError
from tritonnotes.runtime.runner import pick_device

BATCH = tn.Dim("batch")
DEVICE = pick_device()
Build = Callable[..., tn.Value]

STANDARDIZING: dict[str, tuple[Build, tuple[Any, ...]]] = {
    "layer_norm": (tn.layer_norm, (BATCH, 6, 33)),
    "group_norm": (lambda x, **how: tn.group_norm(x, 2, **how), (BATCH, 6, 33)),
    "instance_norm": (lambda x, **how: tn.instance_norm(x, affine=True, **how), (BATCH, 6, 33)),
    "batch_norm": (tn.batch_norm, (BATCH, 6, 33)),
}
"""Norms that take the mean away, and a shape for each."""

NORMS = {
    **STANDARDIZING,
    "rms_norm": (tn.rms_norm, (BATCH, 6, 33)),
    "normalize": (lambda x, **how: tn.normalize(x, dim=-1, **how), (BATCH, 6, 33)),
}


def compiled(graph: tn.Graph, **how: Any) -> tn.Model:
    """Planned greedily: what is tested is the numbers, and the search for the best plan takes most of a second."""
    return tn.compile(graph, fusion="greedy", **how)


def judge(graph: tn.Graph, feeds: dict[str, Tensor], *given: Any, **how: Any) -> list[Judged]:
    return judge_model(graph, feeds, *given, model=how.pop("model", None) or compiled(graph), **how)


def graph_of(name: str, shape: Any = None, dtype: str = "float32", **how: Any) -> tn.Graph:
    build, usual = NORMS[name]
    g = tn.Graph("norm")
    g.output(y=build(g.input("x", usual if shape is None else shape, dtype), **how))
    return g


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def trained(graph: tn.Graph, **feeds: Tensor) -> dict[str, Tensor]:
    """The outputs of the compiled training form."""
    return {n: t.detach() for n, t in compiled(graph, training=True)(**feeds).items()}


# -- constant, empty and poisoned rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [7.0, 3.3, 0.1, -1e4 - 0.1, 1e-20])
@pytest.mark.parametrize("name", STANDARDIZING)
def test_equal_numbers_normalize_to_exactly_0(name: str, value: float) -> None:
    x = torch.full((7, 6, 33), value, device=DEVICE)
    assert not trained(graph_of(name), x=x)["y"].any()


@pytest.mark.parametrize("value", [3.0, 3.3])
@pytest.mark.parametrize("name", STANDARDIZING)
def test_equal_numbers_without_eps_are_nan(name: str, value: float) -> None:
    x = torch.full((7, 6, 33), value, device=DEVICE)
    assert trained(graph_of(name, eps=0.0), x=x)["y"].isnan().all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layer_norm", (3, 0)),
        ("rms_norm", (3, 0)),
        ("normalize", (3, 0)),
        ("instance_norm", (2, 6, 0)),
        ("batch_norm", (4, 6, 0)),
        ("batch_norm", (0, 6)),
    ],
)
def test_nothing_normalizes_to_nothing(name: str, shape: tuple[int, ...], training: bool) -> None:
    graph = graph_of(name, shape)
    assert_within_policy(judge(graph, {"x": torch.zeros(shape, device=DEVICE)}, training=training))


def test_groups_without_elements_normalize_to_nothing() -> None:
    # Eager gives the weights NaN for a gradient here, a mean of nothing.
    model, x = compiled(graph_of("group_norm", (2, 6, 0))), torch.zeros(2, 6, 0, device=DEVICE)
    y = model(x=x)["y"]
    y.sum().backward()
    assert y.shape == (2, 6, 0) and not any(p.grad is None or p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", NORMS)
def test_weights_have_a_gradient_of_0_for_an_empty_batch(name: str) -> None:
    model = compiled(graph_of(name), training=True)
    before = {n: t.clone() for n, t in model.named_buffers() if n.endswith(("mean", "var"))}
    x = torch.zeros(0, 6, 33, device=DEVICE, requires_grad=True)
    model(x=x)["y"].sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    for parameter in model.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    for name, buffer in before.items():
        assert torch.equal(model.get_buffer(name), buffer), "an empty batch has no statistics to move towards"


POISONED = {  # what shares its statistics with x[1, 2, 3]
    "layer_norm": (1, 2),
    "rms_norm": (1, 2),
    "normalize": (1, 2),
    "instance_norm": (1, 2),
    "group_norm": (1, slice(0, 3)),
    "batch_norm": (slice(None), 2),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NORMS)
def test_bad_number_poisons_what_shares_its_statistics_and_nothing_else(name: str, bad: float) -> None:
    x = normal(3, 6, 33)
    x[1, 2, 3] = bad
    x.requires_grad_()
    y = compiled(graph_of(name), training=True)(x=x)["y"]
    y.backward(normal(3, 6, 33, seed=1))
    shares = torch.zeros(3, 6, 33, dtype=torch.bool, device=DEVICE)
    shares[POISONED[name]] = True
    for result in (y, x.grad):
        assert result is not None and result[~shares].isfinite().all()
    assert_within_policy(judge(graph_of(name), {"x": x.detach()}, gradients=False, training=True))


# -- large means, magnitudes, shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NORMS)
def test_digits_stay_where_the_mean_dwarfs_the_deviation(name: str, dtype: str) -> None:
    for seed, shape in enumerate([(33, 6, 33), (64, 6, 33), (7, 6, 33)]):
        x = normal(*shape, seed=seed, dtype=getattr(torch, dtype)) + 1e4
        assert_within_policy(judge(graph_of(name, dtype=dtype), {"x": x}, training=True))


@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NORMS)
def test_norm_holds_at_any_magnitude(name: str, dtype: str, magnitude: float) -> None:
    def redraw(seed: int) -> dict[str, Tensor]:
        return {"x": (normal(33, 6, 33, seed=seed) * magnitude).to(getattr(torch, dtype))}

    assert_within_policy(judge(graph_of(name, dtype=dtype), redraw(0), training=True, redraw=redraw))


@pytest.mark.parametrize(
    "shape", [(BATCH, 5), (BATCH, 5, 7), (BATCH, 5, 3, 9), (BATCH, 2, 3, 4, 5), (33, 7), (BATCH, 5, tn.Dim("length"))]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "group_norm"])
def test_norm_of_channels_over_any_number_of_axes(name: str, dtype: str, shape: tuple[Any, ...]) -> None:
    if name == "instance_norm" and len(shape) == 2:
        return
    build = (lambda x: tn.group_norm(x, 1)) if name == "group_norm" else NORMS[name][0]
    g = tn.Graph("channels")
    g.output(y=build(g.input("x", shape, dtype)))
    sizes = {"batch": 7, "length": 11}

    def redraw(seed: int) -> dict[str, Tensor]:
        known = [s if isinstance(s, int) else sizes[s.name] for s in shape]
        return {"x": normal(*known, seed=seed, dtype=getattr(torch, dtype)) * 2 + 1}

    for training in (True, False):
        assert_within_policy(judge(g, redraw(0), training=training, redraw=redraw), f"{g} training={training}")


@pytest.mark.parametrize("fusion", ["greedy", "off"])
@pytest.mark.parametrize("dims", [(33,), (6, 33), (4, 6, 33)])
@pytest.mark.parametrize("build", [tn.layer_norm, tn.rms_norm], ids=["layer_norm", "rms_norm"])
def test_norm_over_several_last_dims(build: Build, dims: tuple[int, ...], fusion: str) -> None:
    g = tn.Graph("trailing")
    g.output(y=build(g.input("x", (BATCH, 4, 6, 33)), dims))
    assert g.parameters[0].shape == dims
    assert_within_policy(judge(g, {"x": normal(7, 4, 6, 33)}, model=tn.compile(g, fusion=fusion)))


@pytest.mark.slow
def test_layer_norm_of_rows_too_long_for_one_program() -> None:
    graph = graph_of("layer_norm", (BATCH, 66_000))
    assert_within_policy(judge(graph, {"x": normal(2, 66_000) + 3}, noisy=2))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"])
@pytest.mark.parametrize("given", ["float32 weights", "no weights", "weight alone", "bias alone"])
def test_norm_with_and_without_parameters(name: str, given: str) -> None:
    for dtype in ("float32", "bfloat16"):
        g = tn.Graph("affine")
        x = g.input("x", (BATCH, 6, 5), dtype)
        shape = (5,) if name in ("layer_norm", "rms_norm") else (6,)
        wide = "float32" if given == "float32 weights" else dtype
        weight = g.parameter("weight", shape, "uniform", wide, low=0.5, high=2.0) if "bias" not in given else None
        bias = g.parameter("bias", shape, "normal", wide, mean=0.0, std=1.0) if given != "weight alone" else None
        if given == "no weights":
            weight = bias = None
        how = {"weight": weight} if name == "rms_norm" else {"weight": weight, "bias": bias}
        build = {**NORMS, "instance_norm": (tn.instance_norm, ())}[name][0]
        g.output(y=build(x, **how))
        assert g.outputs["y"].dtype.name == dtype
        feeds = {"x": normal(33, 6, 5, dtype=getattr(torch, dtype))}
        for training in (True, False):
            assert_within_policy(judge(g, feeds, training=training), f"{g} training={training}")


# -- rms_norm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rms_norm_without_eps_takes_the_one_that_torch_takes(dtype: torch.dtype) -> None:
    x = torch.tensor([[1e-3, -2e-3, 1e-4, 0.0]], device=DEVICE).to(dtype)
    if dtype == torch.float64:
        x = x * 1e-5
    g = tn.Graph("rms")
    g.output(y=tn.rms_norm(g.input("x", (BATCH, 4), dtype), weight=None))
    got = compiled(g)(x=x)["y"]
    want = torch.nn.functional.rms_norm(x, (4,))
    torch.testing.assert_close(got, want, rtol=2 * torch.finfo(dtype).eps, atol=0)


# -- normalize ---------------------------------------------------------------------------------------------------------

POWERS = [2.0, 1.0, 3.0, 1.5, 0.5, 0.0, -1.0, math.inf, -math.inf]


@pytest.mark.parametrize("dim", [1, -1, 0, (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("p", POWERS)
def test_normalize_by_any_norm_along_any_dims(p: float, dim: Any) -> None:
    g = tn.Graph("unit")
    g.output(y=tn.normalize(g.input("x", (5, 7, 3)), p, dim))
    x = normal(5, 7, 3)
    agree(g, x=x.cpu())
    assert_within_policy(judge(g, {"x": x}, noisy=2))


@pytest.mark.parametrize("p", [2.0, 1.0, 3.0, 0.0, math.inf])
def test_normalize_leaves_a_row_of_0_at_0(p: float) -> None:
    g = tn.Graph("unit")
    g.output(y=tn.normalize(g.input("x", (BATCH, 5)), p))
    x = torch.zeros(3, 5)
    x[1] = torch.tensor([3.0, 0.0, -4.0, 0.0, 1.0])
    values, gradients = agree(g, x=x)
    assert not values["y"][0].any() and gradients["x"].isfinite().all()
    assert_within_policy(judge(g, {"x": x.to(DEVICE)}))


def test_normalize_below_eps_divides_by_eps() -> None:
    g = tn.Graph("unit")
    g.output(y=tn.normalize(g.input("x", (BATCH, 2)), eps=10.0))
    values, gradients = agree(g, x=[[3.0, 4.0], [30.0, 40.0], [6.0, 8.0]])
    assert values["y"].tolist() == [[0.3, 0.4], [0.6, 0.8], [0.6, 0.8]]
    assert gradients["x"][0].tolist() == [0.1, 0.1]


# -- weight_norm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, None])
def test_linear_with_a_normed_weight_is_torchs_own(dim: int | None) -> None:
    torch.manual_seed(0)
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(7, 5), dim=dim).to(DEVICE)
    g = tn.Graph("normed")
    x = g.input("x", (BATCH, 7))
    lengths = {0: (5, 1), 1: (1, 7), None: ()}[dim]
    length = g.parameter("fc.parametrizations.weight.original0", lengths)
    direction = g.parameter("fc.parametrizations.weight.original1", (5, 7))
    bias = g.parameter("fc.bias", (5,))
    g.output(y=tn.linear(x, bias=bias, weight=tn.weight_norm(direction, length, dim), name="fc"))
    state = {f"fc.{n}": t.detach() for n, t in module.state_dict().items()}
    model = compiled(g, device=DEVICE)
    model.load_state_dict(state, strict=True)
    fed = normal(33, 7)
    torch.testing.assert_close(model(x=fed)["y"].detach(), module(fed).detach())
    assert_within_policy(judge(g, {"x": fed}, state))


def test_direction_of_0_is_nan() -> None:
    g = tn.Graph("normed")
    g.output(y=tn.weight_norm(g.input("v", (2, 3)), g.input("g", (2, 1))))
    y = compiled(g)(v=torch.tensor([[0.0, 0, 0], [3, 0, 4]], device=DEVICE), g=torch.ones(2, 1, device=DEVICE))["y"]
    assert y[0].isnan().all() and y[1].tolist() == pytest.approx([0.6, 0, 0.8])


# -- what is refused ---------------------------------------------------------------------------------------------------


def declared(build: Build, shape: Any, dtype: str = "float32") -> tn.Graph:
    g = tn.Graph("refused")
    g.output(y=build(g.input("x", shape, dtype)))
    return g


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (tn.batch_norm, (1, 5), r"batch_norm .*one value in \[1, 5\].*training needs two"),
        (tn.batch_norm, (1, 5, 1, 1), r"one value in \[1, 5, 1, 1\]"),
        (tn.batch_norm, (5,), r"has shape \[5\].*a batch and a known number of channels"),
        (tn.batch_norm, (4, BATCH), "known number of channels"),
        (tn.instance_norm, (4, 5, 1), r"each channel of an instance has one value in \[4, 5, 1\]"),
        (tn.instance_norm, (4, 5), r"one value in \[4, 5\]"),
        (lambda x: tn.group_norm(x, 2), (1, 2), r"each group has one value in \[1, 2\]"),
        (lambda x: tn.group_norm(x, 4), (3, 6), "6 channels do not make 4 groups; use a divisor of 6"),
        (lambda x: tn.group_norm(x, 0), (3, 6), "do not make 0 groups"),
        (lambda x: tn.layer_norm(x, (3, 4)), (2, 4, 3), r"does not end in normalized_shape \[3, 4\]"),
        (lambda x: tn.rms_norm(x, ()), (2, 3), r"does not end in normalized_shape \[\]"),
        (lambda x: tn.normalize(x, dim=2), (2, 3), "axis 2 of a value with 2 dims"),
        (lambda x: tn.weight_norm(x, x.graph.parameter("g", (3,))), (2, 3), r"'g' has shape \[3\].*for \[2, 1\]"),
        (lambda x: tn.weight_norm(x, x.graph.parameter("g", (2, 1)), 2), (2, 3), "dim is 2"),
    ],
)  # fmt: skip
def test_shape_that_cannot_be_normalized_is_refused_at_declaration(build: Build, shape: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=f"(?s){message}"):
        declared(build, shape)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: tn.batch_norm(x, running_mean=None), "one of running_mean and running_var is None"),
        (lambda x: tn.instance_norm(x, use_input_stats=False), "needs running_mean and running_var"),
        (lambda x: tn.group_norm(x, 2.0), "num_groups is 2.0; give an int"),
        (lambda x: tn.weight_norm(x, x, "all"), "dim is 'all'; give an int, or None"),
        (
            lambda x: tn.batch_norm(x, x.graph.buffer("m", (4,)), x.graph.buffer("v", (4,)), momentum=None),
            "momentum=None weighs each batch alike",
        ),
        (lambda x: tn.batch_norm(x, tn.mean(x, (0, 2)), tn.mean(x * x, (0, 2))), "no parameter, buffer or slot"),
        (lambda x: tn.batch_norm(x, weight=x.graph.parameter("w", (3,))), r"'w' has shape \[3\], but \[4\] is wanted"),
    ],
)
def test_argument_that_makes_no_sense_is_refused(build: Build, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declared(build, (BATCH, 4, 3))


@pytest.mark.parametrize("build", [tn.batch_norm, lambda x: tn.normalize(x), tn.layer_norm, tn.rms_norm])
def test_integers_are_refused(build: Build) -> None:
    with pytest.raises((DTypeError, DeclarationError), match="(?s)int64.*(cast|trained)"):
        declared(build, (BATCH, 4, 3), "int64")


def test_parameters_of_several_dtypes_are_refused() -> None:
    def build(x: tn.Value) -> tn.Value:
        return tn.batch_norm(
            x, weight=x.graph.parameter("w", (4,)), bias=x.graph.parameter("b", (4,), dtype="bfloat16")
        )

    with pytest.raises(
        DTypeError, match="'weight' is float32, 'bias' is bfloat16; give .* one dtype, bfloat16 or float32"
    ):
        declared(build, (BATCH, 4), "bfloat16")


REFUSED_AT_THE_CALL = {
    "batch_norm": (tn.batch_norm, (1, 4)),
    "instance_norm": (lambda x: tn.instance_norm(x, track_running_stats=True), (5, 4, 1)),
    "group_norm": (lambda x: tn.group_norm(x, 4), (1, 4)),
}


@pytest.mark.parametrize("name", REFUSED_AT_THE_CALL)
def test_size_that_leaves_one_value_is_refused_at_the_call(name: str) -> None:
    build, sizes = REFUSED_AT_THE_CALL[name]
    g = declared(build, tuple(size if i == 1 else tn.Dim(f"n{i}") for i, size in enumerate(sizes)))
    model = compiled(g, training=True)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(FeedError, match=rf"{name} '{name}_1': each .* one value in \[{', '.join(map(str, sizes))}\]"):
        model(x=normal(*sizes))
    with pytest.raises(ValueError, match="Expected more than 1"):
        tn.eager(g, {"x": normal(*sizes)}, before, training=True)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    if name != "group_norm":
        model.eval()(x=normal(*sizes))  # running statistics do for one value as well


def test_step_on_one_value_for_each_channel_is_refused_before_anything_changes() -> None:
    g = tn.Graph("refused")
    y = tn.batch_norm(g.input("x", (BATCH, 4)), name="bn")
    g.output(loss=tn.mean(y * y))
    step = tn.compile_step(g, optimizer=tn.sgd(lr=0.1), fusion="greedy")
    before = {n: t.clone() for n, t in step.model.state_dict().items()}
    with pytest.raises(FeedError, match="batch_norm 'bn': each channel has one value"):
        step(x=normal(1, 4))
    assert step.steps == 0 and all(torch.equal(t, before[n]) for n, t in step.model.state_dict().items())
    step(x=normal(2, 4))


def test_evaluation_without_running_statistics_needs_more_than_one_value_too() -> None:
    g = declared(lambda x: tn.batch_norm(x, track_running_stats=False), (BATCH, 4))
    model = compiled(g)
    with pytest.raises(FeedError, match="one value"):
        model(x=normal(1, 4))
    assert model(x=normal(2, 4))["y"].shape == (2, 4)
