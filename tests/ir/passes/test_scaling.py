"""Loss scaling on the device, beside torch.amp.GradScaler and torch.autocast, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from autocast_by_hand import ByHand, feeds, hold, mlp
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.judge.tolerance import Comparison, compare
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")
OVERFLOWS = (1, 2, 7)
"""The steps whose batch overflows in float16."""

Make = Callable[[Any], torch.optim.Optimizer]
RULES: dict[str, tuple[Any, Make]] = {
    "sgd": (tn.sgd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "adam": (tn.adam(lr=1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
}


EXACT: dict[str, tuple[Any, Make]] = {
    "nadam": (tn.nadam(lr=1e-2), lambda p: torch.optim.NAdam(p, lr=1e-2)),
    "radam": (tn.radam(lr=1e-2), lambda p: torch.optim.RAdam(p, lr=1e-2)),
    "nesterov": (
        tn.sgd(lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
}
"""Rules that ask which step it is, and one that keeps a number of its own."""


def one_layer(dtype: str = "float32") -> tn.Graph:
    g = tn.Graph("one_layer")
    x, y = g.input("x", (BATCH, 12), dtype), g.input("y", (BATCH,), "int64")
    g.output(loss=tn.cross_entropy(tn.linear(x, 7, name="fc"), y))
    return g


def batch(number: int, overflows: bool) -> dict[str, Tensor]:
    fed = feeds(number)
    return {**fed, "x": fed["x"] * (1e6 if overflows else 1.0)}


class TorchSide:
    """The usual loop: autocast, GradScaler, an optimizer; and the same steps in float64, skipped where it skips."""

    def __init__(self, step: tn.TrainingStep, make: Make, scaler: tn.GradScaler, max_norm: float | None = None) -> None:
        self.module, self.exact = ByHand().to(DEVICE), ByHand().to(DEVICE, torch.float64)
        for module in (self.module, self.exact):
            module.load_state_dict(step.model.state_dict())
        self.optimizer, self.exact_optimizer = make(self.module.parameters()), make(self.exact.parameters())
        self.max_norm = max_norm
        self.found: dict[str, list[Comparison]] = {}
        self.scaler = torch.amp.GradScaler(
            DEVICE.type, scaler.init_scale, scaler.growth_factor, scaler.backoff_factor, scaler.growth_interval
        )

    def backward(self, fed: dict[str, Tensor], parts: int = 1) -> None:
        with torch.autocast(DEVICE.type, torch.float16):
            loss = nn.functional.cross_entropy(self.module(fed["x"]), fed["y"])
        self.scaler.scale(loss / parts).backward()
        (nn.functional.cross_entropy(self.exact(fed["x"].double()), fed["y"]) / parts).backward()

    def update(self) -> bool:
        """Whether the step was taken."""
        self.scaler.unscale_(self.optimizer)
        if self.max_norm is not None:
            for module in (self.module, self.exact):
                nn.utils.clip_grad_norm_(module.parameters(), self.max_norm)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        taken = self.scaler.get_scale() >= before
        if taken:
            self.exact_optimizer.step()
        self.optimizer.zero_grad()
        self.exact_optimizer.zero_grad()
        return taken

    def hold(self, step: tn.TrainingStep, note: str) -> None:
        assert float(step.slots["scaler.scale"]) == self.scaler.get_scale(), note
        assert int(step.slots["scaler.growth_tracker"]) == self.scaler._get_growth_tracker(), note
        truth = dict(self.exact.named_parameters())
        for name, parameter in self.module.named_parameters():
            mine = step.model.state_dict()[name]
            self.found.setdefault(name, []).append(compare(mine, parameter.detach(), truth[name].detach()))
            steps = self.optimizer.state[parameter].get("step")
            assert steps is None or float(step.slots["scaler.step"]) == float(steps), note

    def hold_all(self) -> None:
        assert len(self.found) == 6
        for name, comparisons in self.found.items():
            hold(name, comparisons)


def bits(step: tn.TrainingStep) -> dict[str, Tensor]:
    kept = {n: t for n, t in step.slots.items() if n not in ("scaler.scale", "scaler.growth_tracker")}
    return {n: t.clone() for n, t in {**step.model.state_dict(), **kept}.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(t, b[n]) for n, t in a.items())


@pytest.mark.parametrize("rule", RULES)
def test_an_overflow_skips_the_step_as_gradscaler_does(rule: str) -> None:
    optimizer, make = RULES[rule]
    scaler = tn.GradScaler(init_scale=2.0**12, growth_interval=2)
    step = tn.compile_step(tn.autocast(mlp(), "float16"), optimizer=optimizer, scaler=scaler, seed=4)
    torch_side = TorchSide(step, make, scaler)
    scales = []
    for number in range(9):
        before = bits(step)
        fed = batch(number, number in OVERFLOWS)
        step(**fed)
        torch_side.backward(fed)
        taken = torch_side.update()
        assert taken == (number not in OVERFLOWS)
        assert same(bits(step), before) != taken, f"step {number}"
        torch_side.hold(step, f"step {number}")
        scales.append(float(step.slots["scaler.scale"]))
    assert len({*scales}) >= 3 and step.steps == 9
    assert float(step.slots["scaler.step"]) == 9 - len(OVERFLOWS)
    torch_side.hold_all()


@pytest.mark.parametrize("rule", EXACT)
def test_steps_are_counted_on_the_device_as_torch_counts_them(rule: str) -> None:
    """In float64, where a step of another number would show: skipped ones do not count, first ones are first."""
    optimizer, make = EXACT[rule]
    step = tn.compile_step(one_layer("float64"), optimizer=optimizer, scaler=tn.GradScaler(), seed=4)
    atol = 1e-9 if rule == "nadam" else 1e-12  # torch keeps NAdam's product of momenta in float32
    module = nn.Linear(12, 7).to(DEVICE, torch.float64)
    module.load_state_dict({n.removeprefix("fc."): t for n, t in step.model.state_dict().items()})
    torch_optimizer = make(module.parameters())
    for number in range(9):
        fed = feeds(number)
        x = fed["x"].double()
        if number in (0, 3):
            x[0, 0] = float("inf")
        step(x=x, y=fed["y"])
        torch_optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), fed["y"]).backward()
        if number not in (0, 3):
            torch_optimizer.step()
        for name, parameter in module.named_parameters():
            mine = step.model.state_dict()[f"fc.{name}"]
            torch.testing.assert_close(mine, parameter.detach(), rtol=1e-9, atol=atol)


@pytest.mark.slow
def test_a_scale_that_is_too_large_falls_until_gradients_fit() -> None:
    """At the margin torch may skip once more: what stays inside a kernel here is float32, and does not overflow."""
    scaler = tn.GradScaler(init_scale=2.0**24)
    step = tn.compile_step(tn.autocast(mlp(), "float16"), optimizer=tn.sgd(lr=0.1), scaler=scaler, seed=4)
    torch_side = TorchSide(step, RULES["sgd"][1], scaler)
    scales = [2.0**24]
    for number in range(9):
        before = bits(step)
        step(**feeds(number))
        torch_side.backward(feeds(number))
        torch_side.update()
        scales.append(float(step.slots["scaler.scale"]))
        skipped = scales[-1] < scales[-2]
        assert skipped == same(bits(step), before)
        assert scales[-1] == scales[-2] * (0.5 if skipped else 1.0)
    assert scales[1] < scales[0] and scales[-1] == scales[-2]
    assert torch_side.scaler.get_scale() <= scales[-1] <= 2 * torch_side.scaler.get_scale()


@pytest.mark.slow
def test_clipping_sees_the_gradients_of_the_loss_itself() -> None:
    scaler = tn.GradScaler(init_scale=2.0**10)
    optimizer = tn.clip(tn.sgd(lr=1.0), max_norm=0.1)
    step = tn.compile_step(tn.autocast(mlp(), "float16"), optimizer=optimizer, scaler=scaler, seed=4)
    torch_side = TorchSide(step, lambda p: torch.optim.SGD(p, lr=1.0), scaler, max_norm=0.1)
    for number in range(5):
        fed = batch(number, number == 2)
        step(**fed)
        torch_side.backward(fed)
        torch_side.update()
        torch_side.hold(step, f"step {number}")
    torch_side.hold_all()


@pytest.mark.slow
def test_an_overflow_in_any_batch_of_an_update_skips_it() -> None:
    scaler = tn.GradScaler(init_scale=2.0**10)
    step = tn.compile_step(
        tn.autocast(mlp(), "float16"), optimizer=tn.adam(lr=1e-2), scaler=scaler, accumulate=2, seed=4
    )
    torch_side = TorchSide(step, RULES["adam"][1], scaler)
    taken = []
    for number in range(8):
        fed = batch(number, number in (2, 7))
        step(**fed)
        torch_side.backward(fed, parts=2)
        if number % 2:
            taken.append(torch_side.update())
            torch_side.hold(step, f"batch {number}")
    assert taken == [True, False, True, False]
    torch_side.hold_all()


def test_a_resumed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def made() -> tn.TrainingStep:
        scaler = tn.GradScaler(init_scale=2.0**12, growth_interval=3)
        return tn.compile_step(tn.autocast(one_layer(), "float16"), optimizer=tn.nadam(lr=1e-2), scaler=scaler, seed=4)

    whole, first, second = made(), made(), made()
    for number in range(8):
        whole(**batch(number, number in (2, 3)))
        if number < 5:
            first(**batch(number, number in (2, 3)))
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    for number in range(5, 8):
        second(**batch(number, False))
    assert all(torch.equal(t, whole.slots[n]) for n, t in second.slots.items())
    assert same(second.model.state_dict(), whole.model.state_dict())


def test_running_statistics_move_in_a_skipped_step_as_torchs_do() -> None:
    g = tn.Graph("normed")
    x, y = g.input("x", (BATCH, 12)), g.input("y", (BATCH,), "int64")
    logits = tn.linear(tn.batch_norm(tn.linear(x, 8, name="fc1"), name="bn"), 7, name="fc2")
    g.output(loss=tn.cross_entropy(logits, y))
    scaler = tn.GradScaler(init_scale=2.0**40)
    step = tn.compile_step(tn.autocast(g, "float16"), optimizer=tn.sgd(lr=0.1), scaler=scaler)
    before = {n: t.clone() for n, t in step.model.state_dict().items()}
    step(**feeds(0))
    moved = {n for n, t in step.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved >= {"bn.running_mean", "bn.running_var"} and not moved & {n for n, _ in step.model.named_parameters()}


@pytest.mark.slow
def test_updates_share_a_launch_though_they_may_be_skipped() -> None:
    step = tn.compile_step(tn.autocast(mlp(), "float16"), optimizer=tn.adam(), scaler=tn.GradScaler())
    last = step.plan.launches[-1]
    assert last.kind == "foreach"
    weights = {v.name for v in step.graph.parameters if len(v.shape) == 2}
    assert weights <= {leaf for block in step.program.kernels[-1].blocks for leaf in block.updated}  # type: ignore[attr-defined]


def test_nothing_waits_for_the_device() -> None:
    """No number comes back to the host: the step's source reads none, and copies none over."""
    step = tn.compile_step(tn.autocast(one_layer(), "float16"), optimizer=tn.adam(), scaler=tn.GradScaler())
    run = step.source[step.source.index("def run(") : step.source.index("def main(")]
    assert not [word for word in (".item", ".cpu", ".tolist", "torch.tensor(") if word in run]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"growth_factor": 1.0}, "growth_factor is 1.0; it must be a finite number above 1, such as 2.0"),
        ({"growth_factor": float("inf")}, "growth_factor is inf; it must be a finite number above 1, such as 2.0"),
        ({"growth_factor": "2"}, "growth_factor is '2'; it must be a finite number above 1, such as 2.0"),
        ({"backoff_factor": 1.0}, "backoff_factor is 1.0; it must be a number between 0 and 1, such as 0.5"),
        ({"backoff_factor": None}, "backoff_factor is None; it must be a number between 0 and 1, such as 0.5"),
        ({"growth_interval": 0}, "growth_interval is 0; it must be an int ≥ 1, such as 2000"),
        ({"growth_interval": True}, "growth_interval is True; it must be an int ≥ 1, such as 2000"),
        ({"init_scale": float("inf")}, "init_scale is inf; it must be a finite number above 0, such as 65536.0"),
        ({"init_scale": float("nan")}, "init_scale is nan; it must be a finite number above 0, such as 65536.0"),
        ({"init_scale": True}, "init_scale is True; it must be a finite number above 0, such as 65536.0"),
        ({"init_scale": "1"}, "init_scale is '1'; it must be a finite number above 0, such as 65536.0"),
    ],
)
def test_a_scaler_that_cannot_work_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=f"GradScaler: {said}"):
        tn.GradScaler(**given)


def test_something_else_as_a_scaler_is_refused() -> None:
    scale: Any = 2.0**16
    with pytest.raises(DeclarationError, match=r"compile_step: scaler is .*; pass a tn.GradScaler\(\)"):
        tn.compile_step(mlp(), optimizer=tn.sgd(lr=0.1), scaler=scale)
