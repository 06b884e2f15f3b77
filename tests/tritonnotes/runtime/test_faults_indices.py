"""Numbers that are no index, in parts of inputs and in what is computed of them: an error, and nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.errors import FeedError

VOCABULARY, FIELDS = 50, (7, 1000)


class Language(nn.Module):
    """Each token from the one before it: the usual slices of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scores = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, t: Tensor) -> dict[str, Tensor]:
        scores = self.scores(self.words(t[:, :-1]))
        return {"loss": F.cross_entropy(scores.flatten(0, 1), t[:, 1:].flatten())}


class Table(nn.Module):
    """A column for each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.score = (*(nn.Embedding(rows, 4) for rows in FIELDS), nn.Linear(4, 3))

    def forward(self, c: Tensor) -> Tensor:
        result: Tensor = self.score(self.first(c[:, 0]) + self.second(c[:, 1]))
        return result


class Shifted(nn.Module):
    """Row 0 is kept for what is missing, as −1 says."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(7, 4)

    def forward(self, c: Tensor) -> Tensor:
        result: Tensor = self.rows(c + 1)
        return result


def test_wrong_token_leaves_the_weights_as_they_are() -> None:
    net, tokens = Language(), torch.randint(VOCABULARY, (4, 9))
    step = tn.compile_step(net, tokens, optimizer=tn.adam())
    step(tokens)
    before = {n: t.detach().clone() for n, t in net.state_dict().items()}
    for place, op in (((0, 3), "row 50"), ((3, 0), "row 50"), ((2, 8), "target 50")):
        wrong = tokens.clone()
        wrong[place] = VOCABULARY
        at = ", ".join(map(str, place))
        with pytest.raises(IndexError, match=rf"{op} in input 't' at \[{at}\] is out of bounds for 50 .*; use 0 to 49"):
            step(wrong)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    tokens[1, 8] = -100  # the last token is a target alone
    assert step(tokens)["loss"].isfinite()
    tokens[1, 8] = 0
    assert tn.check(step).ok
    with pytest.raises(IndexError, match="is out of bounds for 50 rows"):
        tn.check(step, feeds={"t": wrong.roll(1, 1)})


@pytest.mark.parametrize("how", [{}, {"sanitize": True}, {"strict": True}], ids=str)
def test_column_of_a_table(how: dict[str, Any]) -> None:
    module = Table()
    model = tn.compile(module, torch.tensor([[0, 0], [6, 999]]), device="cpu", **how)
    good = torch.tensor([[6, 999], [0, 7]])
    torch.testing.assert_close(model(good), module(good))
    with pytest.raises(
        IndexError, match=r"first: row 7 in input 'c' at \[1, 0\] is out of bounds for 7 rows; use 0 to 6"
    ):
        model(torch.tensor([[6, 999], [7, 7]]))
    with torch.no_grad(), pytest.raises(IndexError, match=r"second: row -1 in input 'c' at \[0, 1\] is out"):
        model(torch.tensor([[6, -1], [5, 7]]))
    assert tn.check(model).ok


def test_column_as_the_target_of_a_loss() -> None:
    x, t = torch.tensor([[0, 0], [6, 999]]), torch.tensor([[0, 9], [2, 9]])
    step = tn.compile_step(
        Table(), x, target_example=t, loss=lambda out, t: F.cross_entropy(out, t[:, 0]), optimizer=tn.sgd(0.1)
    )
    assert step(x, t)["loss"].isfinite()
    with pytest.raises(IndexError, match=r"target 3 in input '.*' at \[1, 0\] is out of bounds for 3 classes"):
        step(x, t + torch.tensor([1, 0]))


def test_rows_that_are_computed() -> None:
    module = Shifted()
    model = tn.compile(module, torch.tensor([[-1, 5]]), device="cpu")
    good = torch.tensor([[-1, 5], [0, 3]])
    torch.testing.assert_close(model(good), module(good))
    computed = r"rows: row 7 in 'add' at \[1, 0\], computed from input 'c', is out of bounds for 7 rows; give .* 0 to 6"
    with pytest.raises(IndexError, match=computed):
        model(torch.tensor([[-1, 5], [6, 0]]))
    assert tn.check(model).ok


def test_shifts_in_a_buffer() -> None:
    graph = tn.Graph("fields")
    rows = graph.input("c", (tn.Dim("batch"), 2), "int64") + graph.buffer("shifts", (2,), 0, "int64")
    graph.output(y=tn.embedding(rows, 10, 4, name="rows"))
    model = tn.compile(graph, device="cpu")
    model.load_state_dict({**model.state_dict(), "shifts": torch.tensor([0, 4])})
    assert model(torch.tensor([[3, 5]]))["y"].isfinite().all() and tn.check(model).ok
    with pytest.raises(
        IndexError, match=r"row 10 in 'rows_1' at \[0, 1\], computed from input 'c' and buffer 'shifts',"
    ):
        model(torch.tensor([[3, 6]]))


def test_check_asks_for_feeds_where_it_knows_none() -> None:
    graph = tn.Graph("unknown")
    c = graph.input("c", (tn.Dim("batch"),), "int64")
    graph.output(y=tn.embedding(c * c + 5, 7, 4))
    model = tn.compile(graph, device="cpu")
    with pytest.raises(FeedError, match=r"no range is known .* pass feeds=\{'c': \.\.\.\}"):
        tn.check(model)
    assert tn.check(model, feeds={"c": torch.tensor([0, 1, -1])}).ok
