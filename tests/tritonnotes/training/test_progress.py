"""Losses and metrics while a step trains: in order, complete, and without waiting for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.training import progress
from tritonnotes.training.progress import Progress, Report


@pytest.fixture(scope="module")
def step() -> tn.TrainingStep:
    g = tn.Graph("small")
    x, y = g.input("x", (tn.Dim("batch"), 4)), g.input("y", (tn.Dim("batch"),), "int64")
    logits = tn.linear(x, 3, name="fc")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    return tn.compile_step(g, optimizer=tn.sgd(lr=0.1))


def run(step: tn.TrainingStep, batches: int) -> list[dict[str, Any]]:
    made = []
    for number in range(batches):
        generator = torch.Generator().manual_seed(number)
        x, y = torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator)
        made.append(step(x=x.to(step.device), y=y.to(step.device)))
    return made


def test_every_third_batch_is_reported_with_its_own_numbers(step: tn.TrainingStep) -> None:
    step._runner.batches, step._runner.progress = 0, []
    reports: list[Report] = []
    losses: list[dict[str, float]] = []
    every = step.on_progress(reports.append, every=3)
    step.on_progress(lambda report: losses.append(dict(report.values)), names=["loss"])
    outputs = run(step, 7)
    every.finish()
    assert [r.batch for r in reports] == [3, 6]
    for report in reports:
        given = outputs[report.batch - 1]
        assert report.values == {n: given[n].item() for n in ("loss", "accuracy")}
    assert losses == [{"loss": o["loss"].item()} for o in outputs]


class LateEvent:
    """An event of a device that is behind."""

    done = False
    waited = 0

    def query(self) -> bool:
        return LateEvent.done

    def synchronize(self) -> None:
        LateEvent.waited += 1


def test_a_device_that_is_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, with events in its place: numbers are read once their event is done, in order."""

    def sent(batch: int, values: Any) -> Any:
        return progress._Pending(batch, values, LateEvent())  # type: ignore[arg-type]

    monkeypatch.setattr(progress, "_sent", sent)
    monkeypatch.setattr(LateEvent, "done", False)
    reports: list[int] = []
    seen = Progress(lambda report: reports.append(report.batch))
    for batch in (1, 2, 3):
        seen.update(batch, {"loss": torch.tensor(float(batch))})
        assert reports == []
    LateEvent.done = True
    seen.update(4, {"loss": torch.tensor(4.0)})
    assert reports == [1, 2, 3, 4] and LateEvent.waited == 0
    LateEvent.done = False
    seen.update(5, {"loss": torch.tensor(5.0)})
    seen.finish()
    assert reports == [1, 2, 3, 4, 5] and LateEvent.waited == 1


def test_names_that_are_no_numbers_are_refused(step: tn.TrainingStep) -> None:
    with pytest.raises(DeclarationError, match=r"on_progress: 'logits' is no output of shape \(\).*'loss', 'accuracy'"):
        step.on_progress(print, names=["logits"])
    with pytest.raises(DeclarationError, match="on_progress: every is 0"):
        step.on_progress(print, every=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to read from")
def test_numbers_of_a_gpu_arrive(step: tn.TrainingStep) -> None:
    step._runner.batches, step._runner.progress = 0, []
    reports: list[Report] = []
    seen = step.on_progress(reports.append)
    outputs = run(step, 20)
    seen.finish()
    assert [r.values["loss"] for r in reports] == [o["loss"].item() for o in outputs]
