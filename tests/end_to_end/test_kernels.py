"""Every op of the catalogue as kernels, forward and backward, against eager PyTorch and a float64 oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import DTYPES, assert_within_policy, draw, judge
from op_graphs import OPS, QUICK_SHAPES, op_graph, shapes_for
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.passes.evaluation import evaluation_form
from tritonnotes.runtime.runner import pick_device


def check(
    graph: Graph, *, seed: int = 0, extremes: bool = False, ones: bool = False, strict: bool | None = None, **sizes: int
) -> None:
    """The graph holds the policy in evaluation, and in training where that is another thing."""

    def redraw(seed: int) -> dict[str, Tensor]:
        return draw(graph, seed, extremes, **sizes)

    for training in (False, True) if evaluation_form(graph) is not graph else (False,):
        # The second form is planned greedily: a search at every size would take most of the time.
        model = tn.compile(graph, fusion="greedy" if training else "optimal", strict=strict)
        judged = judge(graph, redraw(seed), model=model, seed=seed, ones=ones, redraw=redraw, training=training)
        assert_within_policy(judged, f"{graph}{'in training' if training else ''}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_op_agrees_with_eager_at_awkward_sizes(name: str, dtype: str) -> None:
    # One symbolic graph serves all rows, so a mask that hangs on the batch is tried at every size of it.
    for rows, cols in QUICK_SHAPES:
        check(op_graph(name, (tn.Dim("batch"), cols), dtype), batch=rows, seed=rows + cols, extremes=rows % 2 == 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_op_keeps_to_its_memory_and_to_the_policy_under_the_strict_interpreter(name: str, dtype: str) -> None:
    check(op_graph(name, (tn.Dim("batch"), 33), dtype), batch=7, seed=1, strict=True)


@pytest.mark.interpreted
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_op_agrees_with_eager_at_every_size(name: str, dtype: str) -> None:
    for rows, cols in shapes_for(dtype):
        check(op_graph(name, (tn.Dim("batch"), cols), dtype), batch=rows, seed=rows + cols, extremes=True)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", OPS)
def test_op_agrees_with_eager_where_every_size_is_static(name: str) -> None:
    for shape in ((0, 7), (33, 7), (64, 64), (1, 1)):
        check(op_graph(name, shape, "float32"))


@pytest.mark.interpreted
@pytest.mark.parametrize("name", [n for n in OPS if n != "accuracy"])
def test_op_takes_the_gradient_of_a_sum_whose_stride_is_0(name: str) -> None:
    for dtype in ("float32", "bfloat16"):
        check(op_graph(name, (tn.Dim("batch"), 33), dtype), batch=7, ones=True)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", OPS)
def test_op_works_on_more_and_fewer_axes(name: str) -> None:
    shapes: list[tuple[Any, ...]] = [(3, tn.Dim("length"), 5), (2, 3, 4, 5)]
    if name != "accuracy":
        shapes.append((7,))
    for shape in shapes:
        check(op_graph(name, shape, "float32"), length=4)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.T.contiguous().T if x.ndim == 2 else x,
    "sliced": lambda x: torch.stack([x, -x], dim=-1)[..., 0] if x.is_floating_point() else x,
    "offset": lambda x: torch.cat([x, x])[x.shape[0] :] if x.ndim else x,
    "stride 0": lambda x: x[:1].expand(x.shape) if x.ndim else x,
}


@pytest.mark.interpreted
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPS)
def test_op_takes_inputs_of_any_layout(name: str, layout: str) -> None:
    graph = op_graph(name, (tn.Dim("batch"), 33), "float32")

    def redraw(seed: int) -> dict[str, Tensor]:
        return {n: LAYOUTS[layout](t) for n, t in draw(graph, seed, batch=7).items()}

    assert_within_policy(judge(graph, redraw(0), redraw=redraw))


# -- where numbers are hard --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm_keeps_its_digits_where_the_mean_dwarfs_the_deviation(dtype: str) -> None:
    graph = op_graph("layer_norm", (tn.Dim("batch"), 200), dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((33, 200), generator=generator, dtype=getattr(torch, dtype)) + 1e4
    assert_within_policy(judge(graph, {"x": x.to(pick_device())}))


def test_layer_norm_of_a_constant_row_is_its_bias() -> None:
    graph = op_graph("layer_norm", (tn.Dim("batch"), 33), "float32")
    x = torch.full((3, 33), 7.0, device=pick_device())
    assert torch.equal(tn.compile(graph)(x=x)["y"], torch.zeros_like(x))


@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("name", ["cross_entropy", "layer_norm", "mse_loss", "tanh", "sigmoid"])
def test_op_holds_at_any_magnitude(name: str, magnitude: float) -> None:
    graph = op_graph(name, (tn.Dim("batch"), 33), "float32")
    feeds = {n: t * magnitude if t.is_floating_point() else t for n, t in draw(graph, batch=64).items()}
    assert_within_policy(judge(graph, feeds))


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_curve_keeps_its_digits_everywhere(name: str) -> None:
    """Few points hide a helper's worst one: 200,000 do not."""
    graph = op_graph(name, (tn.Dim("batch"), 8), "float32")
    for reach in (1e-3, 0.5, 3.0, 20.0):
        x = torch.linspace(-reach, reach, 200_000, dtype=torch.float64).float().reshape(-1, 8)
        assert_within_policy(judge(graph, {"x": x.to(pick_device())}), f"within ±{reach}")


def entropy(reduction: str = "mean", classes: int = 33) -> Graph:
    graph = Graph("entropy")
    batch = tn.Dim("batch")
    x, target = graph.input("x", (batch, classes)), graph.input("target", (batch,), "int64")
    graph.output(y=tn.cross_entropy(x, target, reduction=reduction))
    return graph


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_targets_ignored_gives_what_eager_gives(reduction: str) -> None:
    device = pick_device()
    feeds = {"x": torch.randn(7, 33, device=device), "target": torch.full((7,), -100, device=device)}
    judged = judge(entropy(reduction), feeds)
    assert_within_policy(judged)
    gradient = next(j for j in judged if j.what == "gradient x")
    assert not gradient.result.any()
    if reduction == "mean":
        assert math.isnan(judged[0].result.item())


@pytest.mark.parametrize("target", [33, -1, 2**40])
def test_target_outside_the_classes_raises_on_the_cpu(target: int) -> None:
    model = tn.compile(entropy(), device="cpu")
    feeds = {"x": torch.randn(3, 33), "target": torch.tensor([0, target, 1])}
    with pytest.raises(IndexError, match=rf"target {target} .*'target'.*33 classes.*0 to 32"):
        model(**feeds)


def test_infinities_and_nan_go_where_eager_sends_them() -> None:
    device = pick_device()
    special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 1e38, -1e38, 1.0], device=device)
    for name in OPS:
        if {"class", "row"} & {d for d in catalogue()[name].domain.values() if isinstance(d, str)}:
            continue
        if name in ("binary_cross_entropy", "gaussian_nll_loss"):  # eager raises for what is no probability or variance
            continue
        graph = op_graph(name, (tn.Dim("batch"), 8), "float32")
        feeds = {n: special[torch.arange(t.numel(), device=device) % 8].reshape(t.shape) if t.is_floating_point() else t
                 for n, t in draw(graph, batch=3).items()}  # fmt: skip
        assert_within_policy(judge(graph, feeds, gradients=False), name)


@pytest.mark.parametrize("row", [[-math.inf] * 3, [math.inf, 0.0, 0.0], [math.nan, 0.0, 0.0], [-math.inf, 1.0, 2.0]])
def test_logits_without_a_distribution_give_what_eager_gives(row: list[float]) -> None:
    device = pick_device()
    feeds = {"x": torch.tensor([row, [1.0, 2.0, 3.0]], device=device), "target": torch.tensor([1, 0], device=device)}
    for reduction in ("mean", "sum", "none"):
        assert_within_policy(judge(entropy(reduction, 3), feeds))


def test_prediction_takes_nan_first_then_the_lowest_of_ties() -> None:
    graph = Graph("ties")
    x, target = graph.input("x", (tn.Dim("batch"), 3)), graph.input("target", (tn.Dim("batch"),), "int64")
    graph.output(right=tn.accuracy(x, target), index=tn.argmax(x, -1))
    rows = [[1.0, 3, 3], [1, math.nan, 3], [math.nan, 1, math.nan], [-math.inf] * 3, [math.inf, math.inf, 0]]
    device = pick_device()
    fed = {"x": torch.tensor(rows, device=device), "target": torch.tensor([1, 1, 0, 0, 0], device=device)}
    result = tn.compile(graph)(**fed)
    assert result["index"].tolist() == [1, 1, 0, 0, 0] and result["right"].item() == 1


# -- shapes that need another kernel -----------------------------------------------------------------------------------


def test_rows_longer_than_one_program_holds() -> None:
    graph = Graph("long")
    x = graph.input("x", (3, 70_001))
    graph.output(total=tn.sum(x, -1), largest=tn.max(x, -1), smallest=tn.min(x, -1), mean=tn.mean(x))
    assert_within_policy(judge(graph, draw(graph)))


def test_softmax_over_a_row_longer_than_one_program_holds() -> None:
    graph = Graph("long")
    x = graph.input("x", (2, 66_000))
    exponentials = tn.exp(x - tn.max(x, -1, keepdim=True))
    graph.output(y=exponentials / tn.sum(exponentials, -1, keepdim=True))
    assert_within_policy(judge(graph, draw(graph), noisy=2))


@pytest.mark.parametrize("axes", [0, 1, 2, 3, (0, 2), (1, 3), (0, 1), (2, 3), (0, 2, 3), None], ids=str)
def test_reduction_over_any_axes(axes: Any) -> None:
    graph = Graph("reduced")
    x = graph.input("x", (3, tn.Dim("channels"), 5, 7))
    graph.output(total=tn.sum(x, axes), mean=tn.mean(x, axes, keepdim=True))
    assert_within_policy(judge(graph, draw(graph, channels=4), noisy=2))


@pytest.mark.parametrize("shapes", [
    ((5, 3, 4, 6), (3, 1, 1)), ((7, 1), (1, 9)), ((4, 1, 6), (5, 1)), ((), (3, 4)), ((1,), (5, 1)),
    ((2, 3, 4), (2, 1, 4)),
], ids=str)  # fmt: skip
def test_broadcast_arguments_get_gradients_of_their_own_shape(shapes: Any) -> None:
    for build in (tn.add, tn.sub, tn.mul, tn.div):
        graph = Graph("broadcast")
        a, b = graph.input("a", shapes[0]), graph.input("b", shapes[1])
        graph.output(y=build(a, b * b + 1))
        assert_within_policy(judge(graph, draw(graph), noisy=2))


def test_value_met_with_its_own_transpose() -> None:
    """One axis is then two axes of one value, which no kernel can walk over."""
    graph = Graph("twice")
    x = graph.input("x", (7, 7))
    row = graph.input("row", (tn.Dim("batch"),))
    outer = tn.reshape(row, (tn.Dim("batch"), 1)) - tn.reshape(row, (1, tn.Dim("batch")))
    graph.output(symmetric=x + tn.transpose(x, 0, 1), outer=outer * outer)
    assert_within_policy(judge(graph, draw(graph, batch=5), noisy=2))


def test_numbers_alone_need_no_tensor() -> None:
    graph = Graph("numbers")
    x = graph.input("x", (5,))
    base = 2**x
    graph.output(power=base, cube=tn.tanh(x) ** 3, one=tn.exp(graph.constant(0.5)) * x)
    assert_within_policy(judge(graph, draw(graph), noisy=2))
