"""Symbolic sizes of 0, rows and columns: what torch makes of nothing."""

from __future__ import annotations

import pytest
import torch
from compiled import draw
from op_graphs import OPS, op_graph

import tritonnotes as tn

ROWS, COLS = tn.Dim("rows"), tn.Dim("cols")
EMPTY = ((0, 3), (3, 0), (0, 0))
KNOWN_WIDTH = frozenset(
    ("cat", "embedding", "geglu", "glu", "layer_norm", "linear", "narrow", "reglu", "rms_norm", "swiglu")
)
"""Ops whose columns are no `Dim`."""

NEED_CLASSES = frozenset(
    ("accuracy", "argmax", "confusion_matrix", "cross_entropy", "error_rate", "f1", "max", "min", "multi_margin_loss")
    + ("nll_loss", "precision", "recall", "specificity")
)
"""Ops for which torch raises where there are no columns."""

OTHERWISE = {"cross_entropy_of_probabilities": ((3, 0),)}
"""torch alone gives NaN for rows without classes: here their loss is the sum of nothing."""


@pytest.mark.parametrize("name", OPS)
def test_op_of_nothing_is_torchs(name: str) -> None:
    graph = op_graph(name, (ROWS, 7 if name in KNOWN_WIDTH else COLS), "float32")
    model = tn.compile(graph)
    for rows, cols in EMPTY:
        if (name in NEED_CLASSES and not cols) or (rows, cols) in OTHERWISE.get(name, ()):
            continue
        feeds = draw(graph, rows=rows, cols=cols)
        mine, theirs = model(**feeds)["y"], tn.eager(graph, feeds, model.state_dict())["y"]
        torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
@pytest.mark.parametrize("op", ["var", "std", "mean", "sum"])
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_reduction_over_an_axis_of_0_is_torchs(op: str, axis: int | tuple[int, ...]) -> None:
    g = tn.Graph("reduction")
    g.output(y=getattr(tn, op)(g.input("x", (ROWS, COLS)), axis))
    model = tn.compile(g)
    for rows, cols in EMPTY:
        x = torch.zeros(rows, cols)
        torch.testing.assert_close(model(x=x)["y"], getattr(torch, op)(x, axis), equal_nan=True)
