"""Maxima that skip NaN, where nothing can be told of it from outside."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.analysis.covered_nans import KEEPS_NAN
from tritonnotes.judge.references import REFERENCES

COVERED: dict[str, tuple[Callable[[tn.Value], tn.Value], Callable[[Tensor], Tensor]]] = {
    "softmax": (lambda x: tn.softmax(x, -1), lambda x: F.softmax(x, -1)),
    "log_softmax": (lambda x: tn.log_softmax(x, -1), lambda x: F.log_softmax(x, -1)),
    "logsumexp": (lambda x: tn.logsumexp(x, -1), lambda x: torch.logsumexp(x, -1)),
    "softmax twice": (
        lambda x: tn.softmax(tn.softmax(x, -1) * 3.0, -1),
        lambda x: F.softmax(F.softmax(x, -1) * 3.0, -1),
    ),
}
OBSERVED: dict[str, tuple[Callable[[tn.Value], tn.Value], Callable[[Tensor], Tensor]]] = {
    "max": (lambda x: tn.amax(x, -1, keepdim=True), lambda x: torch.amax(x, -1, keepdim=True)),
    "shifted": (lambda x: x - tn.amax(x, -1, keepdim=True), lambda x: x - torch.amax(x, -1, keepdim=True)),
    "exponentials": (
        lambda x: tn.exp(x - tn.amax(x, -1, keepdim=True)),
        lambda x: torch.exp(x - torch.amax(x, -1, keepdim=True)),
    ),
    "compared": (
        lambda x: tn.where(x < tn.amax(x, -1, keepdim=True), 1.0, 2.0),
        lambda x: torch.where(x < torch.amax(x, -1, keepdim=True), 1.0, 2.0),
    ),
    "summed alone": (
        lambda x: tn.sum(tn.abs(tn.relu(x)) * 0.0 + tn.amax(x, -1, keepdim=True), -1),
        lambda x: torch.sum(torch.abs(torch.relu(x)) * 0.0 + torch.amax(x, -1, keepdim=True), -1),
    ),
}
COLUMNS = (5, 1000, 40_000)
"""A few, a tile of them, and more than registers hold."""


def graph_of(op: Callable[[tn.Value], tn.Value], columns: int) -> tn.Graph:
    g = tn.Graph("row")
    g.output(y=op(g.input("x", (tn.Dim("rows"), columns))))
    return g


def rows_with_nan(columns: int) -> Tensor:
    """Rows with NaN nowhere, in the first, a middle and the last column, and everywhere; ±∞ beside NaN."""
    x = torch.randn(8, columns, generator=torch.Generator().manual_seed(0))
    x[1, 0] = x[2, columns // 2] = x[3, -1] = math.nan
    x[4] = math.nan
    x[5], x[5, columns // 3] = -math.inf, math.nan
    x[6, 0], x[6, -1] = math.inf, math.nan
    x[7, 1], x[7, -1] = math.nan, 1e30
    return x


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", [*COVERED, *OBSERVED])
def test_results_are_nan_where_those_of_torch_are(name: str, columns: int) -> None:
    ours, theirs = (COVERED | OBSERVED)[name]
    x = rows_with_nan(columns)
    (y,) = tn.compile(graph_of(ours, columns))(x=x).values()
    torch.testing.assert_close(y, theirs(x), equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("columns", COLUMNS)
def test_gradients_and_losses_are_nan_where_those_of_torch_are(columns: int) -> None:
    x, target = rows_with_nan(columns), torch.arange(8) % columns
    given, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = tn.cross_entropy(given, target, reduction="none")
    theirs = F.cross_entropy(expected, target, reduction="none")
    torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(given.grad, expected.grad, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", COVERED)
def test_a_softmax_takes_one_reduction_for_its_maximum(name: str) -> None:
    source = tn.compile(graph_of(COVERED[name][0], 1000), target="gpu").source
    assert "tl.max(" in source
    assert "max_or_nan" not in source


@pytest.mark.parametrize("name", OBSERVED)
def test_a_maximum_that_can_be_seen_keeps_nan(name: str) -> None:
    assert "max_or_nan(x" in tn.compile(graph_of(OBSERVED[name][0], 1000), target="gpu").source


@pytest.mark.parametrize("op", sorted(KEEPS_NAN - {"cast", "round_to", "copy"}))
def test_primitives_keep_the_nan_of_each_argument(op: str) -> None:
    arity = 2 if op in ("add", "sub", "mul", "div") else 1
    for place in range(arity):
        for beside in (0.0, 1.0, math.inf, -math.inf, math.nan):
            args = [torch.tensor(math.nan if i == place else beside) for i in range(arity)]
            assert REFERENCES[op](*args).isnan(), (op, place, beside)
