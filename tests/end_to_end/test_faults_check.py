"""Faults of the border with torch: `tn.check` judges what a compiled model or step really runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError

B = tn.Dim("batch")


def graph(scale: float = 1.0, classes: int = 5, name: str = "net") -> tn.Graph:
    g = tn.Graph(name)
    x, y = g.input("x", (B, 4)), g.input("y", (B,), "int64")
    h = tn.dropout(tn.batch_norm(tn.linear(x, 6, name="fc"), name="bn"), 0.2)
    loss = tn.cross_entropy(tn.linear(tn.relu(h), classes, name="head"), y)
    g.output(loss=loss if scale == 1 else loss * scale)
    return g


STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped and averaged": {"optimizer": tn.ema(tn.clip(tn.adamw(lr=0.01), max_norm=0.5), 0.9)},
    "gathered": {"accumulate": 2, "fusion": "off"},
    "in chunks": {"logits_budget": 2048, "classes": 300},
    "in little memory": {"memory_budget": 2000},
}


def make(how: str) -> Any:
    options = {"optimizer": tn.adam(lr=0.01), **STEPS[how]}
    return tn.compile_step(graph(classes=options.pop("classes", 5)), **options)


@pytest.mark.parametrize("how", STEPS)
def test_a_step_is_judged_as_it_runs_and_left_as_it_is(how: str) -> None:
    step = make(how)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    step(x=x, y=torch.arange(7) % 3)
    before = step.state_dict()
    certificate = tn.check(step)
    assert certificate.ok, certificate
    whats = {row.what for row in certificate.rows}
    assert whats == {"output", "buffer", "update"}
    assert {r.name for r in certificate.rows if r.what == "update"} >= {"fc.weight", "head.bias", "head.weight.exp_avg"}
    after = step.state_dict()
    assert all(torch.equal(t, after["model"][n]) for n, t in before["model"].items())
    assert (after["steps"], after["gathered"]) == (before["steps"], before["gathered"])


@pytest.mark.parametrize("how", ["plain", "in chunks"])
def test_a_step_that_runs_another_program_than_it_should_fails(how: str) -> None:
    step = make(how)
    options = {"optimizer": tn.adam(lr=0.01), **STEPS[how]}
    wrong = tn.compile_step(graph(1.001, options.pop("classes", 5)), **options)
    step._runner.programs_of_frozen[frozenset()] = wrong._programs
    certificate = tn.check(step)
    assert not certificate.ok
    assert {r.name for r in certificate.rows if not r.comparison.ok} >= {"loss", "head.weight.exp_avg"}
    assert tn.check(step.graph).ok, "the graph itself is right"


@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_judged_with_its_weights_and_both_its_programs(training: bool) -> None:
    model: Any = tn.compile(graph(classes=300), training=training, logits_budget=2048)
    with torch.no_grad():
        model.fc.weight.mul_(3)
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    certificate = tn.check(model)
    assert certificate.ok, certificate
    whats = {row.what for row in certificate.rows}
    assert whats == {"output without autograd", "output", "gradient"} | ({"buffer"} if training else set())
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    wrong = tn.compile(graph(1.001, 300), training=training, logits_budget=2048)
    model._forms[training] = model._form.tuned(wrong.program)
    failed = [row.what for row in tn.check(model).rows if not row.comparison.ok]
    assert failed == ["output without autograd"], "only the run without autograd is wrong"


GROUPS = [{"params": ["*.bias"], "weight_decay": 0.0}, {"params": ["head.weight"], "lr": 0.001}]
SCALERS = {
    "grows": tn.GradScaler(init_scale=4.0, growth_interval=1),
    "stays": tn.GradScaler(init_scale=4.0),
    "overflows": tn.GradScaler(init_scale=3e38),
}


@pytest.mark.parametrize("how", SCALERS)
def test_a_step_with_a_scaler_is_judged_as_it_scales_or_skips(how: str) -> None:
    options = {
        "optimizer": tn.clip(tn.nadam(lr=0.01), max_norm=1e6),
        "param_groups": [{"params": ["*.bias"], "lr": 0.1}],
    }
    step, wrong = (
        tn.compile_step(tn.autocast(graph(scale), "float16"), scaler=SCALERS[how], **options)
        for scale in (300.0, 330.0)
    )
    certificate = tn.check(step)
    assert certificate.ok, certificate
    rows = {(r.what, r.name): r.comparison for r in certificate.rows}
    assert {name for what, name in rows if what == "scaler"} == {"scale", "growth_tracker", "step"}
    assert rows["update", "head.weight"].dtype == ("bool" if how == "overflows" else "float32")
    step._runner.programs_of_frozen[frozenset()] = wrong._programs
    failed = {(r.what, r.name) for r in tn.check(step).rows if not r.comparison.ok}
    assert ("output", "loss") in failed
    assert (("update", "head.weight.exp_avg") in failed) == (how != "overflows")


@pytest.mark.parametrize(
    "options", [{}, {"scaler": tn.GradScaler()}, {"accumulate": 2}], ids=["plain", "scaled", "gathered"]
)
def test_hyperparameters_are_judged_as_they_are_by_now(options: dict[str, Any]) -> None:
    optimizer = tn.clip(tn.adamw(lr=0.01, weight_decay=0.1), max_norm=10.0)
    step = tn.compile_step(graph(), optimizer=optimizer, param_groups=GROUPS, **options)
    step.hyperparameters |= {"lr": 0.5, "max_norm": 0.01}
    step.param_groups[1]["lr"] = 0.25
    step.param_groups[2]["weight_decay"] = 0.75
    certificate = tn.check(step)
    assert certificate.ok, certificate
    step.param_groups[1]["max_norm"] = 0.5
    with pytest.raises(DeclarationError, match=r"all groups are clipped alike; set hyperparameters\['max_norm'\]"):
        step(x=torch.zeros(3, 4), y=torch.arange(3))


@pytest.mark.parametrize("seed", range(4))
def test_no_seed_decides_whether_a_step_is_right(seed: int) -> None:
    g = tn.Graph("few")
    x = g.input("x", (B, 3))
    h = tn.batch_norm(tn.linear(x, 1, name="fc"), name="bn")
    g.output(loss=tn.mean(tn.square(tn.linear(h, 1, name="head") - 0.5)))
    step = tn.compile_step(tn.autocast(g, "bfloat16"), optimizer=tn.adam(lr=0.1))
    certificate = tn.check(step, seed=seed)
    assert certificate.ok, certificate


def test_what_is_compiled_is_not_checked_otherwise() -> None:
    model = tn.compile(graph())
    for options in ({"fusion": "off"}, {"optimizer": tn.sgd()}, {"state": {}}, {"device": "cpu"}):
        with pytest.raises(DeclarationError, match="is settled in what is compiled; check its .graph"):
            tn.check(model, **options)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="wanted a tn.Graph, got Linear"):
        tn.check(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


class _Results(torch.nn.Module):
    """A module whose result has a form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.fc = form, torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> Any:
        h = torch.relu(self.fc(x))
        return {"tensor": h, "tuple": (h, h.sum(-1)), "dict": {"h": h}, "nested": {"a": [h, h.mean(-1)]}}[self.form]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "nested"])
def test_a_compiled_module_is_checked_whatever_it_returns(form: str, training: bool) -> None:
    certificate = tn.check(tn.compile(_Results(form), torch.rand(5, 6), training=training))
    assert certificate.ok
    assert {row.what for row in certificate.rows} >= {"output", "output without autograd", "gradient"}
