"""What a step remembers of its weights, slots, numbers and feeds from batch to batch: a change of any kind is noticed
after many steps as it is before the first, and a step does the same work however many tensors there are."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from counted_work import lines_run
from devices import on_the_cpu
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.native.errors import NativeError
from tritonnotes.native.run import watch
from tritonnotes.runtime import held

STEPS = 100


def net(layers: int = 2) -> tn.Graph:
    g = tn.Graph("net")
    batch = tn.Dim("batch")
    x, y = g.input("x", (batch, 8)), g.input("y", (batch,), "int64")
    h = x
    for layer in range(layers):
        h = tn.tanh(tn.linear(h, 8, name=f"fc{layer}"))
    logits = tn.linear(tn.batch_norm(h, name="bn"), 8, name="head")
    g.output(loss=tn.cross_entropy(logits, y), logits=logits)
    return g


def fed(rows: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(rows, 8, generator=generator), "y": torch.randint(8, (rows,), generator=generator)}


@pytest.fixture(scope="module")
def compiled() -> tn.TrainingStep:
    return tn.compile_step(net(), optimizer=tn.adam(lr=1e-3))


def no_machine_code(*given: object) -> None:
    raise NativeError("there is no llvmlite")


@pytest.fixture(params=["by machine code", "by torch's guards", "by Python"])
def step(request: Any, compiled: tn.TrainingStep, monkeypatch: pytest.MonkeyPatch) -> Iterator[tn.TrainingStep]:
    """A step after many batches of one size, which has nothing left to find out."""
    if request.param != "by machine code":  # as for a torch that keeps what a tensor is elsewhere
        monkeypatch.setattr(watch, "same_tensors", lambda tensors: None)
    if request.param == "by Python":  # as where torch has no guards, and llvmlite is not installed
        monkeypatch.setattr(held, "TensorGuards", None)
        monkeypatch.setattr(watch, "same_items", no_machine_code)
        monkeypatch.setattr(watch, "same_addresses", no_machine_code)
    made = deepcopy(compiled)
    feeds = fed()
    for _ in range(STEPS):
        made(**feeds)
    yield made


def weight(step: tn.TrainingStep, name: str = "fc0.weight") -> nn.Parameter:
    return step.model.get_parameter(name)


def spread(tensor: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
    made = torch.empty(2 * tensor.numel()).as_strided(tensor.shape, [2 * s for s in tensor.stride()])
    return made.copy_(tensor)


def share(step: tn.TrainingStep) -> None:
    weight(step).data = weight(step, "fc1.weight").data


def overlap(step: tn.TrainingStep) -> None:
    memory = torch.rand(72)
    weight(step).data, weight(step, "fc1.weight").data = memory[:64].view(8, 8), memory[8:].view(8, 8)


def free(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def set_data(change: Callable[[Tensor], Tensor], name: str = "fc0.weight") -> Callable[[tn.TrainingStep], None]:
    def changed(step: tn.TrainingStep) -> None:
        weight(step, name).data = change(weight(step, name).data)

    return changed


REFUSED: dict[str, Callable[[tn.TrainingStep], Any]] = {
    "turned": set_data(Tensor.t),
    "negated when read": set_data(Tensor._neg_view),
    "with gaps": set_data(spread),
    "of another dtype": set_data(Tensor.double),
    "of another shape": set_data(lambda t: t[:4].clone()),
    "freed": lambda step: free(weight(step).data),
    "cut short": lambda step: weight(step).data.untyped_storage().resize_(16),
    "a weight in another's memory": share,
    "a weight in a part of another's memory": overlap,
    "a weight that is gone": lambda step: step.model.get_submodule("fc0")._parameters.pop("weight"),
    "a layer that is gone": lambda step: step.model._modules.pop("fc0"),
    "a buffer of another dtype": lambda step: step.model.get_submodule("bn")._buffers.update(
        running_mean=torch.zeros(8, dtype=torch.float64)
    ),
    "a slot that is gone": lambda step: step.slots.pop("fc0.weight.exp_avg"),
    "a slot of another shape": lambda step: step.slots.update({"fc0.weight.exp_avg": torch.zeros(4)}),
    "a slot in a weight": lambda step: step.slots.update({"fc0.weight.exp_avg": weight(step).detach()}),
    "a slot that was freed": lambda step: free(step.slots["fc0.weight.exp_avg"]),
    "a rate that is no number": lambda step: step.hyperparameters.update(lr=float("nan")),
    "a rate below 0": lambda step: step.hyperparameters.update(lr=-1.0),
    "a number that is gone": lambda step: step.hyperparameters.pop("beta1"),
    "a term that was compiled away": lambda step: step.hyperparameters.update(weight_decay=0.1),
}


@on_the_cpu
@pytest.mark.parametrize("change", REFUSED)
def test_a_change_that_kernels_cannot_take_is_refused(change: str, step: tn.TrainingStep) -> None:
    REFUSED[change](step)
    for _ in range(2):  # and what was refused once is not taken for known
        with pytest.raises((FeedError, DeclarationError)):
            step(**fed())
    assert step.steps == STEPS


def bad_feeds() -> dict[str, Callable[[], dict[str, Any]]]:
    def outside() -> dict[str, Any]:
        """The very tensor that was fed before, written to where torch does not see it."""
        feeds = fed()
        feeds["y"].numpy()[3] = 8
        return feeds

    def freed() -> dict[str, Any]:
        feeds = fed()
        free(feeds["x"])
        return feeds

    return {
        "a class outside": outside,
        "a negative class": lambda: {**fed(), "y": torch.full((6,), -1)},
        "memory that is gone": freed,
        "another dtype": lambda: {**fed(), "x": fed()["x"].double()},
        "another width": lambda: {**fed(), "x": torch.zeros(6, 9)},
        "too few targets": lambda: {**fed(), "y": fed()["y"][:5]},
        "a sparse tensor": lambda: {**fed(), "x": fed()["x"].to_sparse()},
        "no tensor": lambda: {**fed(), "x": [1.0]},
        "one input": lambda: {"x": fed()["x"]},
        "another input": lambda: {**fed(), "z": fed()["x"]},
        "another name": lambda: {"x": fed()["x"], "z": fed()["y"]},
    }


@on_the_cpu
@pytest.mark.parametrize("bad", bad_feeds())
def test_a_bad_feed_is_refused(bad: str, step: tn.TrainingStep) -> None:
    before = {n: t.clone() for n, t in step.model.state_dict().items()}
    with pytest.raises(FeedError):
        step(**bad_feeds()[bad]())
    assert all(torch.equal(t, before[n]) for n, t in step.model.state_dict().items())


def replace_parameter(step: tn.TrainingStep) -> None:
    step.model.get_submodule("fc0")._parameters["weight"] = nn.Parameter(torch.randn(8, 8))


def replace_layer(step: tn.TrainingStep) -> None:
    step.model._modules["fc0"] = nn.Linear(8, 8)


def replace_dict(step: tn.TrainingStep) -> None:
    module = step.model.get_submodule("fc0")
    module.__dict__["_parameters"] = {n: nn.Parameter(p * 2) for n, p in module._parameters.items() if p is not None}


def replace_attributes(step: tn.TrainingStep) -> None:
    module = step.model.get_submodule("fc0")
    doubled = {n: nn.Parameter(p * 2) for n, p in module._parameters.items() if p is not None}
    module.__dict__ = {**module.__dict__, "_parameters": doubled}


def write_past_torch(step: tn.TrainingStep) -> None:
    weight(step).detach().numpy()[:] = 0.5


FOLLOWED: dict[str, Callable[[tn.TrainingStep], Any]] = {
    "a parameter in place of another": replace_parameter,
    "a layer in place of another": replace_layer,
    "another dict of parameters": replace_dict,
    "other attributes of a layer": replace_attributes,
    "other memory": set_data(Tensor.clone),
    "written in place": lambda step: weight(step).data.mul_(0.5),
    "written past torch": write_past_torch,
    "a parameter of a subclass": lambda step: setattr(weight(step), "__class__", type("Mine", (nn.Parameter,), {})),
    "another buffer": lambda step: step.model.get_submodule("bn")._buffers.update(running_mean=torch.ones(8)),
    "another dict of slots": lambda step: setattr(
        step, "slots", {**step.slots, "fc0.weight.exp_avg": torch.ones(8, 8)}
    ),
    "another slot": lambda step: step.slots.update({"fc0.weight.exp_avg": torch.ones(8, 8)}),
    "slots in another order": lambda step: setattr(step, "slots", dict(reversed(step.slots.items()))),
    "another rate": lambda step: step.hyperparameters.update(lr=0.1),
    "a frozen weight": lambda step: weight(step).requires_grad_(False),
    "a state": lambda step: step.load_state_dict({**step.state_dict(), "steps": 7}),
}


@on_the_cpu
@pytest.mark.parametrize("change", FOLLOWED)
def test_a_change_is_followed(change: str, step: tn.TrainingStep) -> None:
    """As by a copy of the step, which remembers nothing."""
    FOLLOWED[change](step)
    fresh = deepcopy(step)
    for turn in range(2):
        found, wanted = step(**fed(seed=turn)), fresh(**fed(seed=turn))
        assert all(torch.equal(found[n], wanted[n]) for n in wanted), turn
    left = {**fresh.model.state_dict(), **fresh.slots}
    assert all(torch.equal(t, left[n]) for n, t in {**step.model.state_dict(), **step.slots}.items())


@on_the_cpu
@pytest.mark.parametrize("change", [*REFUSED, *FOLLOWED])
def test_a_model_that_remembers_does_as_one_that_looks_anew(change: str, step: tn.TrainingStep) -> None:
    model = step.model
    for _ in range(3):
        model(**fed())
    places = model._places[model.training]
    assert places.checked(model) is not None
    {**REFUSED, **FOLLOWED}[change](step)

    def done(seed: int) -> Any:
        buffers = {n: b.clone() for n, b in model.named_buffers() if b.untyped_storage().nbytes()}
        try:
            return {n: t.detach().clone() for n, t in model(**fed(seed=seed)).items()}
        except FeedError as error:
            return str(error)
        finally:  # the running statistics are as they were
            with torch.no_grad():
                for name, before in buffers.items():
                    model.get_buffer(name).copy_(before)

    for seed in range(2):
        found = done(seed)
        places._checked = None
        wanted = done(seed)
        assert found == wanted if isinstance(wanted, str) else all(torch.equal(found[n], wanted[n]) for n in wanted)


@on_the_cpu
def test_a_frozen_weight_stays_and_trains_again_when_it_is_let_go(step: tn.TrainingStep) -> None:
    weight(step).requires_grad_(False)
    before = weight(step).detach().clone()
    step(**fed())
    assert torch.equal(weight(step), before)
    weight(step).requires_grad_()
    step(**fed())
    assert not torch.equal(weight(step), before)


@on_the_cpu
def test_a_feed_that_lies_in_a_weight_is_read_as_it_was(step: tn.TrainingStep) -> None:
    fresh = deepcopy(step)
    y = fed(8)["y"]
    wanted = fresh(x=weight(fresh).detach().clone(), y=y)
    found = step(x=weight(step).detach(), y=y)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert torch.equal(weight(step), weight(fresh))


@on_the_cpu
def test_backward_through_weights_that_a_later_step_changed_raises(step: tn.TrainingStep) -> None:
    loss = (weight(step) ** 2).sum()
    step(**fed())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@on_the_cpu
def test_weights_that_were_replaced_are_let_go_by_the_next_step(step: tn.TrainingStep) -> None:
    old = weakref.ref(weight(step))
    replace_parameter(step)
    step(**fed())
    gc.collect()
    assert old() is None


@on_the_cpu
def test_what_is_remembered_does_not_keep_a_model(step: tn.TrainingStep) -> None:
    made = deepcopy(step.model)
    made(**fed())
    made(**fed())
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


@on_the_cpu
def test_a_step_does_the_same_work_however_many_tensors_there_are() -> None:
    found = []
    for layers in (1, 9):
        step = tn.compile_step(net(layers), optimizer=tn.adam(), fusion="greedy")
        feeds = fed()
        for _ in range(3):
            step(**feeds)
        found.append(lines_run(partial(step, **feeds)))
    few, many = found
    assert few == many, "lines of Python"
