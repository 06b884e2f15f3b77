"""Row numbers and class indices that views and arithmetic make of inputs: refused exactly where eager torch raises."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir import Graph
from tritonnotes.ir.core.errors import FeedError, TritonNotesError
from tritonnotes.ir.core.graph import Value
from tritonnotes.judge.indices import IndexCheck
from tritonnotes.judge.samples import draw_feeds

BATCH, ROWS, PADDING = tn.Dim("batch"), 7, -100

Step = Callable[[Any, Any], Any]
"""What stands between an input and the op that reads it: of `tn` and a Value, or of `torch` and a tensor."""

VIEWS: dict[str, Step] = {
    "all but the first": lambda lib, x: x[:, 1:],
    "all but the last": lambda lib, x: x[..., :-1],
    "one column": lambda lib, x: x[:, 2],
    "the middle": lambda lib, x: x[..., 1:3],
    "flat": lambda lib, x: x.flatten(),
    "transposed": lambda lib, x: x.transpose(0, 1),
    "one axis more": lambda lib, x: x.unsqueeze(0),
    "repeated": lambda lib, x: x.unsqueeze(-1).expand(*(-1 for _ in x.shape), 2),
    "repeated no times": lambda lib, x: x.unsqueeze(-1).expand(*(-1 for _ in x.shape), 0),
    "without axes of size 1": lambda lib, x: x[..., :1].squeeze(-1),
    "beside itself": lambda lib, x: lib.cat([x[..., 1:], x], -1),
    "int32 and back": lambda lib, x: x.to(lib.int32).to(lib.int64),
}
ARITHMETIC: dict[str, Step] = {
    "from 1": lambda lib, x: x + 1,
    "downwards": lambda lib, x: 4 - x,
    "less 2": lambda lib, x: x - 2,
    "twice": lambda lib, x: x * 2,
    "limited": lambda lib, x: x.clamp(0, 4),
    "limited below": lambda lib, x: x.clamp(min=1),
    "absolute": lambda lib, x: abs(x),
    "the larger moved": lambda lib, x: lib.where(x > 2, x - 2, x),
    "the larger moved up": lambda lib, x: lib.where(x < 2, x, x + 2),
    "beside the next": lambda lib, x: lib.cat([x, x + 1], -1),
    "half": lambda lib, x: lib.floor(x / 2).to(lib.int64),
    "remainder of 7": lambda lib, x: x - (lib.floor(x / 7.0) * 7).to(lib.int64),
    "sum of neighbours": lambda lib, x: x[..., 1:] + x[..., :-1],
}
ODD = (-1, ROWS - 1, ROWS, 50, 3 - ROWS, PADDING, 2**31, 2**32 + 1, -(2**40))


class Names:
    """`tn`, with the dtypes called as torch calls them."""

    int32, int64 = "int32", "int64"
    cat, where, floor = staticmethod(tn.cat), staticmethod(tn.where), staticmethod(tn.floor)


@dataclass
class Case:
    graph: Graph
    steps: list[Step]
    is_target: bool

    def torch_raises(self, fed: Tensor) -> bool:
        """Whether eager torch refuses these numbers."""
        for step in self.steps:
            fed = step(torch, fed)
        try:
            if self.is_target:
                F.cross_entropy(torch.zeros(fed.numel(), ROWS), fed.flatten())
            else:
                F.embedding(fed, torch.zeros(ROWS, 1))
        except IndexError:
            return True
        return False

    def is_refused(self, fed: Tensor) -> bool:
        return IndexCheck(self.graph).first_outside({"c": fed}, {"batch": fed.shape[0]}) is not None


def case(*names: str, is_target: bool = False, is_symbolic: bool = True) -> Case | None:
    """A graph whose op reads an input through these steps; None where one does not fit the shape before it."""
    graph = Graph("indices")
    index: Value = graph.input("c", (BATCH if is_symbolic and not is_target else 5, 6), "int64")
    steps = [{**VIEWS, **ARITHMETIC}[name] for name in names]
    try:
        for step in steps:
            index = step(Names, index)
        if is_target:
            index = index.flatten()
            graph.output(y=tn.cross_entropy(graph.input("x", (index.shape[0], ROWS)), index))
        else:
            graph.output(y=tn.embedding(index, ROWS, 3))
    except TritonNotesError:
        return None
    return Case(graph, steps, is_target)


def fed(chooser: random.Random) -> Tensor:
    """Numbers of which a few may be no index."""
    numbers = torch.tensor([[chooser.randrange(3) for _ in range(6)] for _ in range(5)])
    for _ in range(chooser.choice((0, 0, 1, 2))):
        numbers[chooser.randrange(5), chooser.randrange(6)] = chooser.choice(ODD)
    return numbers


def chains(count: int) -> list[Case]:
    chooser, found = random.Random(0), list[Case]()
    names = [*VIEWS, *ARITHMETIC]
    while len(found) < count:
        chosen = [chooser.choice(names) for _ in range(chooser.randrange(1, 5))]
        made = case(*chosen, is_target=chooser.random() < 0.5, is_symbolic=chooser.random() < 0.5)
        found += [] if made is None else [made]
    return found


def test_numbers_are_refused_exactly_where_torch_raises() -> None:
    chooser, refused = random.Random(1), 0
    for made in chains(150):
        for numbers in (fed(chooser) for _ in range(6)):
            wanted = made.torch_raises(numbers)
            refused += wanted
            assert made.is_refused(numbers) == wanted, f"{made.graph}\n{numbers}"
    assert 150 < refused < 750


def test_drawn_numbers_are_right_or_it_is_said_that_none_are_known() -> None:
    unknown = 0
    for i, made in enumerate(chains(150)):
        try:
            drawn = draw_feeds(made.graph, {"batch": 5}, seed=i)["c"]
        except FeedError as error:
            assert "pass feeds={'c': ...}" in str(error)
            unknown += 1
        else:
            assert not made.torch_raises(drawn), f"{made.graph}\n{drawn}"
    assert unknown < 15


@pytest.mark.parametrize("name", [*VIEWS, *ARITHMETIC])
def test_each_step_alone_is_drawn_and_varies(name: str) -> None:
    for is_target in (False, True):
        made = case(name, is_target=is_target)
        assert made is not None
        drawn = draw_feeds(made.graph, {"batch": 5})["c"]
        assert not made.torch_raises(drawn) and len(drawn.unique()) > 2


def test_columns_of_different_tables_are_drawn_and_fed_apart() -> None:
    graph = Graph("table")
    c = graph.input("c", (BATCH, 2), "int64")
    graph.output(a=tn.embedding(c[:, 0], 7, 4, name="a"), b=tn.embedding(c[:, 1], 1000, 4, name="b"))
    assert draw_feeds(graph, {"batch": 50})["c"].max() < 7
    check = IndexCheck(graph)
    assert check.first_outside({"c": torch.tensor([[6, 999]])}, {"batch": 1}) is None
    found = check.first_outside({"c": torch.tensor([[0, 0], [7, 999]])}, {"batch": 2})
    assert found is not None and (found.number, found.place, found.use.user.name) == (7, (1, 0), "a")


def test_shifts_that_a_buffer_holds_are_known() -> None:
    graph = Graph("fields")
    rows = graph.input("c", (BATCH, 3), "int64") + graph.buffer("first_rows", (3,), 0, "int64")
    graph.output(y=tn.embedding(rows, 24, 4))
    held = {"first_rows": torch.tensor([0, 10, 17])}
    drawn = draw_feeds(graph, {"batch": 50}, state=held)["c"]
    assert drawn.min() == 0 and drawn.max() == 6
    check = IndexCheck(graph)
    assert check.first_outside({"c": drawn, **held}, {"batch": 50}) is None
    found = check.first_outside({"c": torch.tensor([[0, 0, 7]]), **held}, {"batch": 1})
    assert found is not None and found.number == 24 and [leaf.name for leaf in found.leaves] == ["c", "first_rows"]


def test_where_no_range_is_known_feeds_are_asked_for() -> None:
    graph = Graph("unknown")
    c = graph.input("c", (BATCH,), "int64")
    graph.output(y=tn.embedding(c * c + 5, ROWS, 3, name="e"))
    with pytest.raises(
        FeedError, match=r"'c': no range is known .* 7 rows of embedding 'e'; pass feeds=\{'c': \.\.\.\}"
    ):
        draw_feeds(graph, {"batch": 50})


def test_positions_beyond_the_table_are_found_by_the_sizes_alone() -> None:
    graph = Graph("positions")
    x = graph.input("x", (BATCH, 3))
    position = tn.ir.primitives.leaves.index_along(x, 0).flatten()
    graph.output(y=x + tn.embedding(position, ROWS, 3))
    check = IndexCheck(graph)
    for batch in (1, 7, 8, 7, 9, 1):
        assert (check.first_outside({}, {"batch": batch}) is None) == (batch <= ROWS)


def test_what_an_op_computes_of_floats_is_passed_over() -> None:
    graph = Graph("activations")
    x = graph.input("x", (BATCH, 30))
    graph.output(y=tn.embedding(tn.linear(x, 30).argmax(-1), ROWS, 3))
    assert not IndexCheck(graph)
