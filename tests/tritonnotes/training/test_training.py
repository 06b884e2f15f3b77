"""`tn.compile_step` against plain torch: a module written by hand, autograd and torch.optim, on ragged batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from compiled import against_the_worst
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCHES = (33, 7, 1, 64, 0, 2, 33, 13, 5)
BATCH = tn.Dim("batch")
Feeds = dict[str, Tensor]


def model(dtype: str = "float32") -> tn.Graph:
    g = tn.Graph("small")
    x, y = g.input("x", (BATCH, 8), dtype), g.input("y", (BATCH,), "int64")
    h = tn.tanh(tn.layer_norm(tn.linear(x, 16, name="fc1"), name="ln"))
    logits = tn.linear(h + h * h, 5, name="fc2")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    return g


class ByHand(nn.Module):
    """The same model as anybody would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.ln, self.fc2 = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.ln(self.fc1(x)))
        return self.fc2(h + h * h)


def batch(size: int, seed: int, dtype: torch.dtype = torch.float32) -> Feeds:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 8, generator=generator, dtype=torch.float64).to(dtype)
    return {"x": x.to(DEVICE), "y": torch.randint(0, 5, (size,), generator=generator).to(DEVICE)}


Torch = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
RULES: dict[str, tuple[Any, Torch]] = {
    "sgd": (tn.sgd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd, decay": (tn.sgd(lr=0.1, weight_decay=0.05), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.05)),
    "momentum": (tn.sgd(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "damped": (
        tn.sgd(lr=0.1, momentum=0.9, dampening=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
    ),
    "nesterov": (
        tn.sgd(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
    ),
    "adam": (tn.adam(lr=1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
    "adam, decay": (
        tn.adam(lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
        lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
    ),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def torch_side(step: tn.TrainingStep, make: Torch, dtype: torch.dtype) -> tuple[ByHand, torch.optim.Optimizer]:
    """Plain torch with the step's present weights and optimizer state, in `dtype`."""
    by_hand = ByHand().to(DEVICE, dtype)
    by_hand.load_state_dict(step.model.state_dict())
    optimizer = make(list(by_hand.parameters()))
    for name, parameter in by_hand.named_parameters() if step.steps else ():
        held = {s.rpartition(".")[2]: t.to(dtype) for s, t in step.slots.items() if s.rpartition(".")[0] == name}
        counted = {"step": torch.tensor(float(step.steps))} if "exp_avg" in held else {}
        if held:
            optimizer.state[parameter] = {**{s: t.clone() for s, t in held.items()}, **counted}
    return by_hand, optimizer


def torch_step(by_hand: ByHand, optimizer: torch.optim.Optimizer, feeds: Feeds) -> dict[str, Tensor]:
    """One step; loss, weights and optimizer state by the names they have here."""
    optimizer.zero_grad()
    logits = by_hand(feeds["x"])
    loss = nn.functional.cross_entropy(logits, feeds["y"])
    loss.backward()
    optimizer.step()
    made = {"logits": logits.detach(), "loss": loss.detach()}
    for name, parameter in by_hand.named_parameters():
        made[name] = parameter.detach()
        state = optimizer.state[parameter]
        made |= {f"{name}.{s}": t for s, t in state.items() if s != "step" and isinstance(t, Tensor)}
    return made


def fused_step(step: tn.TrainingStep, feeds: Feeds) -> dict[str, Tensor]:
    outputs = step(**feeds)
    return {"logits": outputs["logits"], "loss": outputs["loss"], **step.model.state_dict(), **step.slots}


def test_the_model_of_a_step_is_compiled_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **options: object) -> None:
        raise AssertionError("compiled")

    with monkeypatch.context() as patch:
        patch.setattr("tritonnotes.runtime.form.make_program", refuse)
        step = tn.compile_step(model(), optimizer=tn.sgd(lr=0.1))
        step(**batch(3, 0))
        with pytest.raises(AssertionError, match="compiled"), torch.no_grad():
            step.model(**batch(3, 0))
        with pytest.raises(AssertionError, match="compiled"):
            tn.compile(model())
    with torch.no_grad():
        assert step.model(**batch(3, 0)).keys() == {"logits", "loss", "accuracy"}
    assert "fc1" in step.model.source


# -- the same training -------------------------------------------------------------------------------------------------


@every_rule
def test_nine_steps_in_float64_are_torchs(rule: str) -> None:
    """Free running: what differs by more than rounding does so more and more."""
    optimizer, make = RULES[rule]
    step = tn.compile_step(model("float64"), optimizer=optimizer, seed=3)
    by_hand, torch_optimizer = torch_side(step, make, torch.float64)
    for index, size in enumerate(BATCHES):
        if index == 5:
            step.hyperparameters["lr"] = torch_optimizer.param_groups[0]["lr"] = 0.05
        feeds = batch(size, index, torch.float64)
        mine, theirs = fused_step(step, feeds), torch_step(by_hand, torch_optimizer, feeds)
        assert mine.keys() == theirs.keys(), "the names differ"
        for name, tensor in theirs.items():
            note = f"step {index}, {name}"
            torch.testing.assert_close(
                mine[name], tensor, rtol=1e-9, atol=1e-11, equal_nan=True, msg=lambda m, n=note: f"{n}: {m}"
            )


@pytest.mark.parametrize("rule", ["sgd, decay", "nesterov", "adam", "adam, decay"])
def test_each_step_in_float32_errs_as_torch_does(rule: str) -> None:
    """Each step alone, from the step's own weights and state: against float64, as the policy has it."""
    optimizer, make = RULES[rule]
    step = tn.compile_step(model(), optimizer=optimizer, seed=3)
    for index, size in enumerate(s for s in BATCHES if s):
        before = step.state_dict()
        theirs, truth = _eager_and_exact(step, make, batch(size, index))
        mine = fused_step(step, batch(size, index))
        found = {name: compare(mine[name], theirs[name], truth[name]) for name in truth}
        if not all(c.ok for c in found.values()):
            # Of few numbers torch may have rounded some luckily: its error is then the worst of several batches.
            twin = tn.compile_step(model(), optimizer=optimizer)
            twin.load_state_dict(before)
            others = [_eager_and_exact(twin, make, batch(size, 1000 + i)) for i in range(16)]
            found = {n: against_the_worst(c, [compare(e[n], e[n], t[n]) for e, t in others]) for n, c in found.items()}
        wrong = {name: str(c) for name, c in found.items() if not c.ok}
        assert not wrong, f"step {index}, batch {size}: {wrong}"


def _eager_and_exact(step: tn.TrainingStep, make: Torch, feeds: Feeds) -> list[dict[str, Tensor]]:
    made = []
    for dtype in (torch.float32, torch.float64):
        by_hand, optimizer = torch_side(step, make, dtype)
        stepped = torch_step(by_hand, optimizer, {**feeds, "x": feeds["x"].to(dtype)})
        made.append({name: t.clone() for name, t in stepped.items()})
    return made


def test_a_wrong_rule_is_noticed_at_the_first_step() -> None:
    step = tn.compile_step(model("float64"), optimizer=tn.adam(lr=1e-2, eps=1e-6), seed=3)
    by_hand, optimizer = torch_side(step, lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-5), torch.float64)
    feeds = batch(33, 0, torch.float64)
    mine, theirs = fused_step(step, feeds), torch_step(by_hand, optimizer, feeds)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mine["fc1.weight"], theirs["fc1.weight"], rtol=1e-9, atol=1e-11)


def test_every_fusion_trains_alike() -> None:
    greedy, off = (tn.compile_step(model("float64"), optimizer=tn.adam(), fusion=f, seed=1) for f in ("greedy", "off"))
    for index, size in enumerate((33, 7)):
        mine, theirs = (fused_step(step, batch(size, index, torch.float64)) for step in (greedy, off))
        for name in theirs:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-10, atol=1e-12)


# -- one compilation ---------------------------------------------------------------------------------------------------


def test_other_batches_and_other_rates_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tn.compile_step(model(), optimizer=tn.adam(), seed=0)
    step(**batch(8, 0))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was compiled")

    for place in (
        "runtime.runner.load_source",
        "training.step_programs.make_program",
        "runtime.executors.recorded.load_source",
        "runtime.form.make_program",
        "runtime.autograd.make_program",
        "codegen.pipeline.make_plan",
    ):
        monkeypatch.setattr(f"tritonnotes.{place}", refuse)
    weights = {n: t.clone() for n, t in step.model.state_dict().items()}
    for size in (8, 3, 64, 1):
        for rate in (1e-2, 0.0):
            step.hyperparameters["lr"] = rate
            step(**batch(size, size))
            same = all(torch.equal(t, weights[n]) for n, t in step.model.state_dict().items())
            assert same == (rate == 0.0), "the new rate is not in force"
            weights = {n: t.clone() for n, t in step.model.state_dict().items()}


def test_term_that_was_compiled_away_cannot_be_switched_on() -> None:
    step = tn.compile_step(model(), optimizer=tn.sgd(lr=0.1))
    step.hyperparameters["weight_decay"] = 0.1
    assert_refused(step, lambda: step(**batch(4, 0)), DeclarationError, "weight_decay was 0.0 .* compile the step anew")


# -- stop and go on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["nesterov", "adam, decay"])
def test_resume_is_bit_for_bit(rule: str) -> None:
    optimizer, _ = RULES[rule]
    first = tn.compile_step(model(), optimizer=optimizer, seed=3)
    for index, size in enumerate(BATCHES[:3]):
        first(**batch(size, index))
    first.hyperparameters["lr"] = 0.02
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    kept = first.state_dict()
    second = tn.compile_step(model(), optimizer=optimizer, seed=9)
    second(**batch(5, 99))
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert second.steps == 3 and second.hyperparameters["lr"] == 0.02
    for index, size in enumerate(BATCHES[3:7]):
        outputs = [step(**batch(size, index)) for step in (first, second)]
        for tensors in (outputs, [s.model.state_dict() for s in (first, second)], [s.slots for s in (first, second)]):
            assert_same_bits(*tensors)
    # What was handed out is a snapshot.
    assert_same_bits(kept["model"], torch.load(io.BytesIO(file.getvalue()), weights_only=True)["model"])


def test_weights_of_a_torch_module_train_on_here() -> None:
    by_hand = ByHand().to(DEVICE)
    step = tn.compile_step(model(), optimizer=tn.sgd(lr=0.1))
    assert list(step.model.state_dict()) == list(by_hand.state_dict())
    step.model.load_state_dict(by_hand.state_dict())
    step(**batch(16, 0))
    by_hand.load_state_dict(step.model.state_dict())
    feeds = batch(7, 1)
    torch.testing.assert_close(step.model(**feeds)["logits"], by_hand(feeds["x"]))


def test_steps_with_the_same_seed_start_alike_and_others_do_not() -> None:
    a, b, c = (tn.compile_step(model(), optimizer=tn.adam(), seed=s).model.state_dict() for s in (5, 5, 6))
    assert_same_bits(a, b)
    assert not torch.equal(a["fc1.weight"], c["fc1.weight"])


# -- what is refused changes nothing -----------------------------------------------------------------------------------


def assert_same_bits(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype and mine[name].shape == tensor.shape
        assert torch.equal(bits(mine[name]), bits(tensor)), name


def bits(tensor: Tensor) -> Tensor:
    """The bytes, for NaN is not equal to itself."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor


def assert_refused(
    step: tn.TrainingStep, attempt: Callable[[], object], error: type[Exception] = FeedError, match: str = ""
) -> None:
    """The attempt raises, and weights, state, count and version counters are what they were."""
    tensors = {**step.model.tensors(), **step.slots}
    before = {n: (t.detach().clone(), t._version, t.data_ptr()) for n, t in tensors.items()}
    steps = step.steps
    with pytest.raises(error, match=match):
        attempt()
    assert step.steps == steps
    assert {n: (t._version, t.data_ptr()) for n, t in tensors.items()} == {n: b[1:] for n, b in before.items()}
    assert_same_bits(tensors, {n: b[0] for n, b in before.items()})


def trained() -> tn.TrainingStep:
    made = tn.compile_step(model(), optimizer=tn.adam(), seed=0)
    made(**batch(8, 0))
    return made


step = pytest.fixture(trained, name="step")
unchanged = pytest.fixture(trained, scope="module", name="unchanged")
"""One step for all the tests that leave it as it was."""


BAD_FEEDS: dict[str, tuple[Callable[[Feeds], dict[str, Any]], str]] = {
    "nothing": (lambda f: {}, "'x' is not fed"),
    "one missing": (lambda f: {"x": f["x"]}, "'y' is not fed"),
    "one too many": (lambda f: {**f, "z": f["x"]}, "no input 'z'"),
    "another dtype": (lambda f: {**f, "x": f["x"].double()}, "'x'.*float32.*float64"),
    "ints for classes": (lambda f: {**f, "y": f["y"].int()}, "'y'.*int64.*int32"),
    "another width": (lambda f: {**f, "x": f["x"][:, :7]}, "'x'"),
    "another rank": (lambda f: {**f, "x": f["x"][None]}, "'x'"),
    "two batch sizes": (lambda f: {**f, "y": f["y"][:-1]}, "'y'.*batch"),
    "a list": (lambda f: {**f, "x": f["x"].tolist()}, "'x'.*list"),
}


@pytest.mark.parametrize("bad", BAD_FEEDS)
def test_bad_feed_is_refused_and_changes_nothing(bad: str, unchanged: tn.TrainingStep) -> None:
    spoil, said = BAD_FEEDS[bad]
    assert_refused(unchanged, lambda: unchanged(**spoil(batch(8, 1))), match=said)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on a GPU the host does not wait to look at targets")
def test_target_out_of_range_is_refused_and_changes_nothing(unchanged: tn.TrainingStep) -> None:
    feeds = batch(8, 1)
    feeds["y"][3] = 5
    assert_refused(unchanged, lambda: unchanged(**feeds), match="target 5 .*out of bounds for 5 classes")


BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "nothing": (lambda s: None, "holds NoneType"),
    "a part missing": (lambda s: {n: v for n, v in s.items() if n != "slots"}, "holds .*'hyperparameters', 'model'"),
    "a part too many": (lambda s: {**s, "epoch": 3}, "epoch"),
    "no weights": (lambda s: {**s, "model": None}, "model is NoneType"),
    "a weight missing": (lambda s: {**s, "model": without(s["model"], "fc1.bias")}, "model lacks fc1.bias; load"),
    "an unknown weight": (lambda s: {**s, "model": {**s["model"], "fc9": torch.ones(1)}}, "has unknown fc9; load"),
    "a weight of another shape": (
        lambda s: {**s, "model": {**s["model"], "fc1.bias": torch.ones(17)}},
        "'fc1.bias' is torch.float32\\[17\\]",
    ),
    "a weight of another dtype": (
        lambda s: {**s, "model": {**s["model"], "fc1.bias": torch.ones(16).double()}},
        "'fc1.bias' is torch.float64",
    ),
    "a slot that is no tensor": (lambda s: {**s, "slots": {**s["slots"], "ln.bias.exp_avg": 0.0}}, "is float, wanted"),
    "slots of another rule": (lambda s: {**s, "slots": {}}, "slots lacks"),
    "a negative count": (lambda s: {**s, "steps": -1}, "steps is -1"),
    "a count that is a bool": (lambda s: {**s, "steps": True}, "steps is True"),
    "a count that is a float": (lambda s: {**s, "steps": 2.0}, "steps is 2.0"),
    "another rule's numbers": (lambda s: {**s, "hyperparameters": {"lr": 0.1}}, "hyperparameters are \\['lr'\\]"),
    "a rate that is text": (
        lambda s: {**s, "hyperparameters": {**s["hyperparameters"], "lr": "fast"}},
        "lr is 'fast'",
    ),
}


def without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {n: v for n, v in mapping.items() if n != name}


@pytest.mark.parametrize("bad", BAD_STATES)
def test_bad_state_is_refused_and_changes_nothing(bad: str, unchanged: tn.TrainingStep) -> None:
    spoil, said = BAD_STATES[bad]
    state: Any = spoil(unchanged.state_dict())
    assert_refused(unchanged, lambda: unchanged.load_state_dict(state), match=said)


@pytest.mark.parametrize(("numbers", "said"), [({"lr": "fast"}, "lr is 'fast'"), ({}, "they must be"), (None, "None")])
def test_hyperparameters_that_are_no_numbers_are_refused(numbers: Any, said: str, step: tn.TrainingStep) -> None:
    step.hyperparameters = numbers if numbers is None else {**without(step.hyperparameters, "lr"), **numbers}
    assert_refused(step, lambda: step(**batch(8, 1)), DeclarationError, said)


HELD: dict[str, tuple[Callable[[tn.TrainingStep], object], str]] = {
    "another shape": (lambda s: setattr(s.model.ln, "weight", nn.Parameter(torch.ones(17))), "float32.17"),
    "another dtype": (lambda s: s.model.half(), "is float16"),
    "turned in memory": (
        lambda s: setattr(s.model.fc1.weight, "data", s.model.fc1.weight.data.T.contiguous().T),
        "its strides are",
    ),
    "a slot of another dtype": (
        lambda s: s.slots.update({"ln.bias.exp_avg": s.slots["ln.bias.exp_avg"].double()}),
        "is float64",
    ),
    "a slot that is gone": (lambda s: s.slots.pop("ln.bias.exp_avg"), "'ln.bias.exp_avg': declared .* gone"),
    "two weights in one place": (
        lambda s: setattr(s.model.ln, "weight", s.model.ln.bias),
        "share memory, and both are updated",
    ),
    "two slots in one place": (
        lambda s: s.slots.update({"ln.bias.exp_avg": s.slots["ln.bias.exp_avg_sq"]}),
        "share memory, and both are updated",
    ),
}


@pytest.mark.parametrize("change", HELD)
def test_weights_that_are_not_what_was_compiled_for_are_refused(change: str, step: tn.TrainingStep) -> None:
    spoil, said = HELD[change]
    spoil(step)
    before = {n: t.detach().clone() for n, t in {**step.model.tensors(), **step.slots}.items()}
    with pytest.raises(FeedError, match=said):
        step(**batch(8, 1))
    assert_same_bits({**step.model.tensors(), **step.slots}, before)


# -- autograd, and memory ----------------------------------------------------------------------------------------------


def test_backward_through_weights_that_a_step_has_changed_raises(step: tn.TrainingStep) -> None:
    weight = step.model.fc1.weight
    kept = (weight * weight).sum()
    versions = {n: t._version for n, t in step.model.tensors().items()}
    step(**batch(8, 1))
    assert all(t._version > versions[n] for n, t in step.model.tensors().items())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_backward_of_the_model_after_a_step_raises(step: tn.TrainingStep) -> None:
    loss = step.model(**batch(8, 1))["loss"]
    step(**batch(8, 1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_step_trains_in_place_and_hands_out_tensors_of_its_own(step: tn.TrainingStep) -> None:
    places = {n: t.data_ptr() for n, t in {**step.model.tensors(), **step.slots}.items()}
    feeds = batch(8, 1)
    given = {n: t.clone() for n, t in feeds.items()}
    first = step(**feeds)
    kept = {n: t.clone() for n, t in first.items()}
    second = step(**feeds)
    assert_same_bits(first, kept)
    assert first["loss"] != second["loss"]
    assert_same_bits(feeds, given)
    assert {n: t.data_ptr() for n, t in {**step.model.tensors(), **step.slots}.items()} == places
    assert not any(t.requires_grad for t in (*first.values(), *step.slots.values()))


def test_gradients_that_lie_about_are_left_alone(step: tn.TrainingStep) -> None:
    step.model(**batch(8, 1))["loss"].backward()
    before = {n: p.grad.clone() for n, p in step.model.named_parameters()}
    step(**batch(8, 2))
    assert_same_bits({n: p.grad for n, p in step.model.named_parameters()}, before)
