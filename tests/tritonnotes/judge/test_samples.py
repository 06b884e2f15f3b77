"""Random feeds stay where the ops that take them are meant to work."""

from __future__ import annotations

import pytest
import torch

from tritonnotes.ir import Dim, Graph
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import FeedError
from tritonnotes.ir.core.op import OPS
from tritonnotes.ir.ops.activations import relu
from tritonnotes.ir.ops.linear import linear
from tritonnotes.ir.ops.losses import cross_entropy
from tritonnotes.ir.ops.regression import mse_loss
from tritonnotes.judge.samples import DEFAULT_RANGE, draw_feeds

BATCH = Dim("batch")


def test_values_stay_in_the_domain_of_every_op_that_takes_them() -> None:
    graph = Graph("domains")
    x = graph.input("x", (BATCH, 40))
    relu(x)  # (−20, 20)
    mse_loss(x, graph.input("y", (BATCH, 40)))  # (−10, 10)
    P.div(graph.input("a", (BATCH,)), graph.input("b", (BATCH,)))  # b from 0.5
    drawn = draw_feeds(graph, {"batch": 100})
    assert drawn["x"].shape == (100, 40) and 9 < float(drawn["x"].abs().max()) <= 10
    assert float(drawn["b"].min()) >= 0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_extremes_are_planted(dtype: str) -> None:
    graph = Graph("extremes")
    relu(graph.input("x", (BATCH,), dtype))
    x = draw_feeds(graph, {"batch": 50}, extremes=True)["x"]
    assert x.dtype == getattr(torch, dtype)
    for value in (-20.0, 20.0, 0.0, 1.0, torch.finfo(x.dtype).tiny):
        assert (x == value).any(), value
    assert x.abs().max() <= 20


def test_input_that_no_op_restricts_is_near_normal() -> None:
    graph = Graph("free")
    graph.input("x", (1000,))
    graph.input("n", (1000,), "int64")
    graph.input("c", (1000,), "bool")
    drawn = draw_feeds(graph)
    assert DEFAULT_RANGE[0] <= float(drawn["x"].min()) < -2 and 2 < float(drawn["x"].max()) <= DEFAULT_RANGE[1]
    assert set(drawn["n"].tolist()) == set(range(-3, 4)) and set(drawn["c"].tolist()) == {True, False}


@pytest.mark.parametrize("shape", [(BATCH, 4), (4,), (BATCH, 4, 6), (4, 4, 4), (7, BATCH)], ids=str)
def test_class_indices_lie_in_the_classes(shape: tuple[int | Dim, ...]) -> None:
    graph = Graph("classes")
    target = shape[:1] + shape[2:] if len(shape) > 1 else ()
    cross_entropy(graph.input("x", shape), graph.input("t", target, "int64"))
    drawn = [draw_feeds(graph, {"batch": 4}, seed)["t"] for seed in range(30)]
    assert {int(v) for t in drawn for v in t.flatten()} == {0, 1, 2, 3}


def test_same_seed_draws_the_same_and_the_global_generator_stays() -> None:
    graph = Graph("seeded")
    relu(graph.input("x", (BATCH, 3)))
    before = torch.get_rng_state()
    first, again, other = (draw_feeds(graph, {"batch": 4}, seed)["x"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_are_drawn_where_asked() -> None:
    graph = Graph("parameters")
    linear(graph.input("x", (BATCH, 3)), 50, name="fc")
    assert draw_feeds(graph, {"batch": 2}).keys() == {"x"}
    drawn = draw_feeds(graph, {"batch": 2}, kinds=("input", "parameter"))
    assert drawn.keys() == {"x", "fc.weight", "fc.bias"} and drawn["fc.weight"].abs().max() <= 1


def test_empty_batch_is_drawn() -> None:
    graph = Graph("empty")
    relu(graph.input("x", (BATCH, 3)))
    assert draw_feeds(graph, {"batch": 0}, extremes=True)["x"].shape == (0, 3)


def test_size_that_is_not_given_is_an_error() -> None:
    graph = Graph("sizes")
    graph.input("x", (BATCH, 3))
    with pytest.raises(FeedError, match="'x': no size for Dim 'batch'; pass sizes="):
        draw_feeds(graph)


def test_domains_that_share_no_number_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPS["relu"], "domain", {"x": (30, 40)})
    graph = Graph("apart")
    P.tanh(x := graph.input("x", (3,)))  # (−20, 20)
    relu(x)
    with pytest.raises(FeedError, match="'x': the ops that take it are meant for .* which share no number"):
        draw_feeds(graph)
