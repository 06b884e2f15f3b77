"""Several batches that share an update, against torch's usual loop and against the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")


def graph(dtype: str = "float64", drops: bool = False) -> tn.Graph:
    g = tn.Graph("accumulated")
    x, y = g.input("x", (BATCH, 6), dtype), g.input("y", (BATCH,), "int64")
    h = tn.relu(tn.layer_norm(tn.linear(x, 16, name="fc1"), name="ln"))
    h = tn.dropout(h, 0.3) if drops else h
    logits = tn.linear(h, 4, name="fc2")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y))
    return g


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.ln, self.fc2 = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.ln(self.fc1(x))))


def feeds(number: int, rows: int = 12, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64).to(dtype)
    return {"x": x.to(DEVICE), "y": torch.randint(0, 4, (rows,), generator=generator).to(DEVICE)}


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(dict(mine), dict(theirs), rtol=1e-10, atol=1e-12)


RULES = {
    "adam": (tn.adam(lr=1e-2), lambda p: torch.optim.Adam(p, lr=1e-2), None),
    "momentum": (tn.sgd(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), None),
    "clipped": (tn.clip(tn.sgd(lr=0.5), max_norm=0.1), lambda p: torch.optim.SGD(p, lr=0.5), 0.1),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_update_is_that_of_torchs_loop(rule: str) -> None:
    optimizer, make, max_norm = RULES[rule]
    step = tn.compile_step(graph(), optimizer=optimizer, accumulate=3, seed=2)
    by_hand = ByHand().to(DEVICE, torch.float64)
    by_hand.load_state_dict(step.model.state_dict())
    torch_optimizer = make(by_hand.parameters())
    for number, rows in enumerate((12, 5, 1, 7, 12, 12, 3, 4, 9)):
        fed = feeds(number, rows)
        before = {n: t.clone() for n, t in step.model.state_dict().items()}
        loss = nn.functional.cross_entropy(by_hand(fed["x"]), fed["y"])
        (loss / 3).backward()
        close({"loss": step(**fed)["loss"]}, {"loss": loss.detach()})
        if number % 3 == 2:
            if max_norm is not None:
                nn.utils.clip_grad_norm_(by_hand.parameters(), max_norm)
            torch_optimizer.step()
            torch_optimizer.zero_grad()
            close(step.model.state_dict(), by_hand.state_dict())
        else:
            assert all(torch.equal(t, before[n]) for n, t in step.model.state_dict().items())
            gathered = {n: step.slots[f"{n}.grad"] for n, _ in by_hand.named_parameters()}
            close(gathered, {n: p.grad for n, p in by_hand.named_parameters()})
        assert (step.steps, step.gathered) == divmod(number + 1, 3)


@pytest.mark.parametrize("parts", [2, 4])
def test_equal_parts_are_the_whole_batch(parts: int) -> None:
    split = tn.compile_step(graph(), optimizer=tn.adam(lr=1e-2), accumulate=parts, seed=1)
    whole = tn.compile_step(graph(), optimizer=tn.adam(lr=1e-2), seed=1)
    for number in range(3):
        fed = feeds(number)
        whole(**fed)
        for x, y in zip(fed["x"].chunk(parts), fed["y"].chunk(parts), strict=True):
            split(x=x, y=y)
        close(split.model.state_dict(), whole.model.state_dict())


def test_what_an_earlier_update_gathered_is_forgotten_even_where_it_is_nan() -> None:
    step = tn.compile_step(graph(), optimizer=tn.sgd(lr=0.0), accumulate=2)
    step.model.load_state_dict({n: t.clone() for n, t in step.model.state_dict().items()})
    weights = step.state_dict()["model"]
    for name in step.slots:
        step.slots[name].fill_(float("nan"))
    step(**feeds(0))
    assert all(bool(t.isfinite().all()) for t in step.slots.values())
    step(**feeds(1))
    assert all(torch.equal(t, weights[n]) for n, t in step.model.state_dict().items())


def test_adding_up_costs_no_launch() -> None:
    step = tn.compile_step(graph("float32"), optimizer=tn.adam(), accumulate=2)
    alone = tn.compile_step(graph("float32"), optimizer=tn.adam())
    assert len(step.plan.launches) == len(alone.plan.launches)
    assert step.gathering is not None and len(step.gathering.plan.launches) <= len(alone.plan.launches)
    assert alone.gathering is None and not [n for n in alone.slots if n.endswith(".grad")]


@pytest.mark.parametrize("where", [1, 2, 3, 4])
def test_a_resumed_run_goes_on_to_the_same_bits(where: int, tmp_path: Path) -> None:
    """Saved between updates and in the middle of one, with dropout drawing."""

    def made() -> tn.TrainingStep:
        return tn.compile_step(graph("float32", drops=True), optimizer=tn.adam(lr=1e-2), accumulate=3, seed=5)

    whole, first, second = made(), made(), made()
    losses = [float(whole(**feeds(n, dtype=torch.float32))["loss"]) for n in range(7)]
    for number in range(where):
        first(**feeds(number, dtype=torch.float32))
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    assert (second.steps, second.gathered) == divmod(where, 3)
    resumed = [float(second(**feeds(n, dtype=torch.float32))["loss"]) for n in range(where, 7)]
    assert resumed == losses[where:]
    for mine, theirs in ((second.slots, whole.slots), (second.model.state_dict(), whole.model.state_dict())):
        assert all(torch.equal(mine[n], t) for n, t in theirs.items())
    assert len(set(losses)) == 7


def test_batches_of_an_update_draw_apart() -> None:
    step = tn.compile_step(graph(drops=True), optimizer=tn.sgd(lr=0.0), accumulate=3)
    losses = {float(step(**feeds(0))["loss"]) for _ in range(6)}
    assert len(losses) == 6


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, "2"])
def test_a_count_that_is_none_is_refused(accumulate: Any) -> None:
    with pytest.raises(DeclarationError, match="compile_step: accumulate is .*int ≥ 1"):
        tn.compile_step(graph(), optimizer=tn.sgd(lr=0.1), accumulate=accumulate)


def test_state_of_more_batches_than_share_an_update_is_refused() -> None:
    step = tn.compile_step(graph(), optimizer=tn.sgd(lr=0.1), accumulate=2)
    with pytest.raises(FeedError, match="gathered is 2 of 2 batches.*accumulate="):
        step.load_state_dict({**step.state_dict(), "gathered": 2})
