"""Training as people do it: each habit beside the loop of plain torch that it stands for."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.utils.data import DataLoader, TensorDataset

import tritonnotes as tn
from tritonnotes.codegen import pipeline
from tritonnotes.ir.core.errors import DeclarationError, FeedError


class Net(nn.Module):
    """A classifier whose batch norm an average of weights must not forget."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.first(x))))


def data(rows: int = 23) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(rows, 4, generator=generator), torch.randint(0, 3, (rows,), generator=generator))


def loader(size: int = 8) -> DataLoader[Any]:
    return DataLoader(data(), size, shuffle=True, generator=torch.Generator().manual_seed(2))


def step_of(module: nn.Module, optimizer: Any, **options: Any) -> tn.TrainingStep:
    return tn.compile_step(module, data()[:8][0], loss=nn.functional.cross_entropy, optimizer=optimizer, **options)


def loss_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda t, n=name: f"{n}: {t}")


def test_a_loop_over_a_data_loader_with_a_ragged_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = Net(), Net()
    step = step_of(mine, tn.sgd(lr=0.1, momentum=0.9))
    monkeypatch.setattr(pipeline, "finish", lambda *given: pytest.fail("a batch size compiles nothing"))
    sizes = []
    for x, y in [*loader(), *loader()]:
        step(x, y)
        sizes.append(len(x))
    assert set(sizes) == {8, 7}
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for x, y in [*loader(), *loader()]:
        optimizer.zero_grad()
        loss_of(theirs, x, y).backward()
        optimizer.step()
    assert_same(mine, theirs)


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_clipping_is_clip_grad_norm(max_norm: float) -> None:
    mine, theirs = Net(), Net()
    step = step_of(mine, tn.clip(tn.sgd(lr=0.5), max_norm=max_norm))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    for x, y in loader():
        step(x, y)
        optimizer.zero_grad()
        loss_of(theirs, x, y).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        optimizer.step()
    assert_same(mine, theirs)


def with_scaler(module: nn.Module, scaler: torch.amp.GradScaler, optimizer: Any, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    scaler.scale(loss_of(module, x, y)).backward()
    scaler.step(optimizer)
    scaler.update()


def test_a_scaler_of_torch_is_gone_on_from_and_back() -> None:
    """Scale, tracker and skipped updates are torch's, with a batch whose gradients are not finite."""
    mine, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    mine.load_state_dict(theirs.state_dict())
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    batches = [*loader()]
    with_scaler(theirs, scaler, optimizer, *batches[0])
    mine.load_state_dict(theirs.state_dict())
    step = step_of(mine, tn.adam(lr=0.1), scaler=scaler)
    step.optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert step.scaler_state_dict() == scaler.state_dict()
    overflow = batches[1][0].clone()
    overflow[0, 0] = float("inf")
    for x, y in [batches[1], (overflow, batches[1][1]), batches[2]]:
        with_scaler(theirs, scaler, optimizer, x, y)
        step(x, y)
        assert step.scaler_state_dict() == scaler.state_dict()
        assert_same(mine, theirs)
    again = torch.amp.GradScaler("cpu", growth_interval=2)
    again.load_state_dict(step.scaler_state_dict())
    optimizer.load_state_dict(step.optimizer.state_dict())
    with_scaler(theirs, again, optimizer, *batches[0])
    step(*batches[0])
    assert_same(mine, theirs)
    with pytest.raises(FeedError, match=r"growth_interval is 5, and the step was compiled with 2"):
        step.load_scaler_state_dict({**scaler.state_dict(), "growth_interval": 5})
    with pytest.raises(FeedError, match=r"holds \[\], wanted \['_growth_tracker'"):
        step.load_scaler_state_dict({})


def test_a_scaler_that_is_disabled_is_none() -> None:
    step = step_of(nn.Linear(4, 3), tn.sgd(lr=0.1), scaler=torch.amp.GradScaler("cpu", enabled=False))
    assert step.scaler is None and step.scaler_state_dict() == {}
    step.load_scaler_state_dict(torch.amp.GradScaler("cpu", enabled=False).state_dict())
    with pytest.raises(DeclarationError, match=r"scaler is 3; pass a tn.GradScaler\(\)"):
        step_of(nn.Linear(4, 3), tn.sgd(lr=0.1), scaler=3)


def test_an_average_in_the_step_is_that_of_averaged_model() -> None:
    mine, theirs = Net(), Net()
    step = step_of(mine, tn.ema(tn.sgd(lr=0.1), 0.8))
    averaged = swa_utils.AveragedModel(theirs, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.8))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for x, y in loader():
        step(x, y)
        optimizer.zero_grad()
        loss_of(theirs, x, y).backward()
        optimizer.step()
        averaged.update_parameters(theirs)
    for name, parameter in averaged.module.named_parameters():
        torch.testing.assert_close(step.slots[f"{name}.ema"], parameter.detach())


def test_stochastic_weight_averaging_with_torchs_own_tools() -> None:
    found = []
    for is_step in (True, False):
        module = Net()
        averaged = swa_utils.AveragedModel(module)
        if is_step:
            step = step_of(module, tn.sgd(lr=0.1))
            optimizer: Any = step.optimizer
        else:
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        schedule = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
        for _ in range(3):
            for x, y in loader():
                if is_step:
                    step(x, y)
                else:
                    optimizer.zero_grad()
                    loss_of(module, x, y).backward()
                    optimizer.step()
            averaged.update_parameters(module)
            schedule.step()
        swa_utils.update_bn(loader(), averaged)
        averaged.eval()
        found.append(averaged)
    assert_same(*found)
    x = data()[:5][0]
    torch.testing.assert_close(tn.compile(found[0], x)(x), found[1](x))


def test_the_model_of_a_step_can_be_averaged() -> None:
    g = tn.Graph("small")
    x, y = g.input("x", (tn.Dim("batch"), 4)), g.input("y", (tn.Dim("batch"),), "int64")
    scores = tn.linear(x, 3, name="fc")
    g.output(scores=scores, loss=tn.cross_entropy(scores, y))
    step = tn.compile_step(g, optimizer=tn.sgd(lr=0.5), device="cpu")
    averaged = swa_utils.AveragedModel(step.model)
    weights = []
    for fed in loader():
        step(*fed)
        averaged.update_parameters(step.model)
        weights.append(step.model.get_parameter("fc.weight").detach().clone())
    mean = torch.stack(weights).mean(0)
    torch.testing.assert_close(averaged.module.get_parameter("fc.weight").detach(), mean)
    rows, targets = data()[:5]
    shown = averaged(x=rows, y=targets)["scores"]
    torch.testing.assert_close(shown, rows @ mean.t() + averaged.module.get_parameter("fc.bias"))


def test_the_examples_of_the_document_run() -> None:
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    section = text[text.index("## As with torch.optim") : text.index("## Several processes")]
    shared: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "docs/training.md", "exec"), shared)
