"""Kind 10 of faults: parameter groups of a step, as torch.optim has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.training.param_groups import with_groups

Groups = Any
NO_DECAY: Groups = [{"params": ["*.bias", "ln*"], "weight_decay": 0.0}]


def graph(dtype: str = "float32") -> tn.Graph:
    g = tn.Graph("small")
    x, y = g.input("x", (tn.Dim("batch"), 6), dtype), g.input("y", (tn.Dim("batch"),), "int64")
    h = tn.gelu(tn.layer_norm(tn.linear(x, 8, name="fc1"), name="ln"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 3, name="fc2"), y))
    return g


def batch(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"x": torch.randn(5, 6, generator=generator), "y": torch.randint(0, 3, (5,), generator=generator)}


class InTorch:
    """The same model trained by torch.optim with the same groups."""

    def __init__(self, step: tn.TrainingStep, make: Callable[..., Any], clip: float | None = None) -> None:
        self.graph, self.clip = step.graph, clip
        self.held = {n: t.detach().clone().requires_grad_() for n, t in step.model.state_dict().items()}
        groups = [{**g, "params": [self.held[n] for n in g["params"]]} for g in map(torchs, step.param_groups)]
        self.optimizer = make(groups)

    def step(self, **feeds: Tensor) -> None:
        self.optimizer.zero_grad()
        tn.eager(self.graph, feeds, self.held)["loss"].backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.held.values()), self.clip)
        self.optimizer.step()


def torchs(group: Any) -> dict[str, Any]:
    """A group with torch's names."""
    made = dict(group)
    if "beta1" in made:
        made["betas"] = (made.pop("beta1"), made.pop("beta2"))
    return {n: v for n, v in made.items() if n != "max_norm"}


RULES: dict[str, tuple[Any, Callable[..., Any], list[dict[str, Any]]]] = {
    "adamw": (
        tn.adamw(lr=0.1, weight_decay=0.5), torch.optim.AdamW,
        [*NO_DECAY, {"params": "fc2.weight", "lr": 0.01, "betas": (0.5, 0.9)}],
    ),
    "sgd": (tn.sgd(lr=0.1, momentum=0.9), torch.optim.SGD, [{"params": ["fc1.*"], "lr": 0.2, "weight_decay": 0.3}]),
    "nadam": (tn.nadam(lr=0.1), torch.optim.NAdam, [{"params": "*.bias", "momentum_decay": 0.1, "lr": 0.03}]),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("fusion", ["optimal", "off"])
def test_groups_train_as_torch_trains_them(name: str, fusion: str) -> None:
    optimizer, make, groups = RULES[name]
    step = tn.compile_step(graph(), optimizer=optimizer, param_groups=groups, fusion=fusion, device="cpu")
    theirs = InTorch(step, make)
    for number in range(3):
        step(**batch(number))
        theirs.step(**batch(number))
        for parameter, value in step.model.state_dict().items():
            torch.testing.assert_close(value, theirs.held[parameter].detach(), msg=lambda t, p=parameter: f"{p}: {t}")


def test_numbers_of_a_group_are_set_between_steps() -> None:
    optimizer = tn.clip(tn.adamw(lr=0.1), max_norm=0.5)
    step = tn.compile_step(graph(), optimizer=optimizer, param_groups=NO_DECAY, device="cpu")
    theirs = InTorch(step, torch.optim.AdamW, clip=0.5)
    for number, rates in enumerate([(0.1, 0.1), (0.0, 0.3), (0.2, 0.0)]):
        for mine, other, rate in zip(step.param_groups, theirs.optimizer.param_groups, rates, strict=True):
            mine["lr"] = other["lr"] = rate
        step(**batch(number))
        theirs.step(**batch(number))
    assert step.hyperparameters["lr"] == 0.2
    for parameter, value in step.model.state_dict().items():
        torch.testing.assert_close(value, theirs.held[parameter].detach())


@settings(max_examples=12)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_any_partition_of_the_parameters_trains_as_in_torch(places: list[int]) -> None:
    """Property of the kind: whichever parameters share numbers, each has its own."""
    numbers = [{"lr": 0.1, "weight_decay": 0.2}, {"lr": 0.02}, {"weight_decay": 0.0}, {"lr": 0.3, "eps": 1e-2}]
    names = [v.name for v in graph().parameters]
    groups = [
        {"params": chosen, **options}
        for place, options in enumerate(numbers[1:], 1)
        if (chosen := [n for n, p in zip(names, places, strict=True) if p == place])
    ]
    optimizer = tn.adamw(**numbers[0])
    step = tn.compile_step(graph(), optimizer=optimizer, param_groups=groups, fusion="greedy", device="cpu")
    assert sorted(n for g in step.param_groups for n in g["params"]) == sorted(names)
    theirs = InTorch(step, torch.optim.AdamW)
    for number in range(2):
        step(**batch(number))
        theirs.step(**batch(number))
    for parameter, value in step.model.state_dict().items():
        torch.testing.assert_close(value, theirs.held[parameter].detach())


@pytest.mark.parametrize("layers", [2, 12])
def test_each_group_is_at_most_one_launch_more(layers: int) -> None:
    def launches(groups: Groups) -> list[str]:
        g = tn.Graph("deep")
        h = g.input("x", (tn.Dim("batch"), 16))
        for number in range(layers):
            h = tn.relu(tn.linear(h, 16, name=f"fc{number}"))
        g.output(loss=tn.mean(h))
        step = tn.compile_step(g, optimizer=tn.adamw(lr=0.1), param_groups=groups, fusion="greedy", device="cpu")
        return [k.name for k in step.plan.launches if "adamw" in k.name]

    assert len(launches([{"params": "*.bias", "weight_decay": 0.0}])) <= len(launches(None)) + 1


def test_function_of_a_name_makes_groups() -> None:
    def groups(name: str) -> dict[str, float] | None:
        return {"weight_decay": 0.0} if name.endswith("bias") else {"lr": 0.2} if "fc2" in name else None

    optimizer = tn.adamw(lr=0.1)
    step = tn.compile_step(graph(), optimizer=optimizer, param_groups=groups, fusion="greedy", device="cpu")
    assert [g["params"] for g in step.param_groups] == [
        ["fc1.weight", "ln.weight"], ["fc1.bias", "ln.bias", "fc2.bias"], ["fc2.weight"]
    ]  # fmt: skip
    assert [(g["lr"], g["weight_decay"]) for g in step.param_groups] == [(0.1, 0.01), (0.1, 0.0), (0.2, 0.01)]


def test_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def made(groups: Groups = NO_DECAY) -> tn.TrainingStep:
        return tn.compile_step(graph(), optimizer=tn.nadam(lr=0.1), param_groups=groups, device="cpu", fusion="greedy")

    first, whole = made(), made()
    for number in range(4):
        if number == 2:
            first.param_groups[1]["lr"] = whole.param_groups[1]["lr"] = 0.05
            first.save(tmp_path / "state")
            first = made()
            first.load(tmp_path / "state")
            assert first.param_groups[1]["lr"] == 0.05
        first(**batch(number))
        whole(**batch(number))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(first.model.state_dict()[name], value)
    with pytest.raises(FeedError, match="param_groups"):
        made([{"params": "*.weight", "lr": 0.3}]).load_state_dict(whole.state_dict())
    with pytest.raises(FeedError, match="param_groups"):
        made(None).load_state_dict(whole.state_dict())


def test_groups_work_with_a_scaler_and_gathered_gradients() -> None:
    options: dict[str, Any] = {"param_groups": NO_DECAY, "device": "cpu", "fusion": "greedy"}
    options["optimizer"] = tn.nadam(lr=0.1)
    plain = tn.compile_step(graph(), **options)
    scaled = tn.compile_step(graph(), scaler=tn.GradScaler(init_scale=1024.0), **options)
    gathered = tn.compile_step(graph(), accumulate=2, **options)
    for number in range(2):
        fed = batch(number)
        plain(**fed)
        scaled(**fed)
        gathered(**fed)
        gathered(**fed)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(scaled.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gathered.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"params": ["fc9.weight"], "lr": 1.0}], r"'fc9.weight' names no parameter of the graph; it has fc1.weight"),
        ([{"lr": 1.0}], "lacks 'params'"),
        ([{"params": "fc1.*"}, {"params": ["fc1.bias"], "lr": 2.0}], "'fc1.bias' is in the groups 1 and 2"),
        ([{"params": "*", "momentum": 0.9}], "adamw does not take momentum for a group; it takes beta1"),
        ([{"params": "*", "lr": "high"}], "lr is 'high'.*is a number"),
        ({"params": "*"}, "give a list of dicts"),
        ([{"params": 3}], "params is 3; give names"),
        (lambda name: 0.5, "gives 0.5 for 'fc1.weight'"),
    ],
)  # fmt: skip
def test_mistaken_group_says_what_is_wanted(groups: Groups, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        with_groups(tn.adamw(lr=0.1), groups, [v.name for v in graph().parameters])


def test_groups_hold_parameters_of_the_module_as_in_torch() -> None:
    def trained(as_torch: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        x, y = torch.randn(5, 4), torch.arange(5) % 3
        biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
        groups: list[dict[str, Any]] = [
            {"params": [*net[0].named_parameters()][:1], "lr": 0.2},
            {"params": biases, "weight_decay": 0.0},
            {"params": net[2].weight, "weight_decay": 0.5},
        ]
        options = {"lr": 0.1, "weight_decay": 0.3}
        loss_of = torch.nn.functional.cross_entropy
        if as_torch:
            groups[0]["params"] = [net[0].weight]
            optimizer = torch.optim.AdamW(groups, **options)
            for _ in range(3):
                optimizer.zero_grad()
                loss_of(net(x), y).backward()
                optimizer.step()
        else:
            step = tn.compile_step(net, x, loss=loss_of, optimizer=tn.adamw(**options), param_groups=groups)
            for _ in range(3):
                step(x, y)
        return net.state_dict()

    torch.testing.assert_close(trained(False), trained(True), rtol=1e-5, atol=1e-6)


def test_a_parameter_of_another_module_is_refused() -> None:
    net, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    groups = [{"params": [other.weight]}]
    loss = torch.nn.functional.cross_entropy
    with pytest.raises(DeclarationError, match=r"shape \(3, 4\) is no parameter of the module that is trained"):
        tn.compile_step(net, torch.randn(5, 4), loss=loss, optimizer=tn.adamw(lr=0.1), param_groups=groups)


def test_an_optimizer_of_torch_is_refused_with_its_rule() -> None:
    optimizer = torch.optim.AdamW(torch.nn.Linear(4, 3).parameters())
    with pytest.raises(DeclarationError, match="AdamW, which updates parameters by itself; pass the update rule"):
        tn.compile_step(graph(), optimizer=optimizer)


def test_what_is_compiled_of_a_group_is_not_set() -> None:
    step = tn.compile_step(graph(), optimizer=tn.adamw(lr=0.1), param_groups=NO_DECAY, device="cpu", fusion="greedy")
    with pytest.raises(DeclarationError, match="no number 'params' to set"):
        step.param_groups[1]["params"] = ["fc1.weight"]
    with pytest.raises(DeclarationError, match="is compiled"):
        del step.param_groups[1]["lr"]
    step.param_groups[1]["weight_decay"] = 0.5
    with pytest.raises(DeclarationError, match="weight_decay was 0.0 when the step was compiled"):
        step(**batch(0))
