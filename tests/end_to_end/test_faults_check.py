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


def test_what_is_compiled_is_not_checked_otherwise() -> None:
    model = tn.compile(graph())
    for options in ({"fusion": "off"}, {"optimizer": tn.sgd()}, {"state": {}}, {"device": "cpu"}):
        with pytest.raises(DeclarationError, match="is settled in what is compiled; check its .graph"):
            tn.check(model, **options)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="wanted a tn.Graph, got Linear"):
        tn.check(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
