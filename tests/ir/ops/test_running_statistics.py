"""Batch norm over many batches: running statistics, evaluation, state shared with torch, and a whole training run."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from compiled import assert_within_policy, judge
from torch import Tensor
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.evaluation import evaluation_form
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.judge.executor import eager_updates
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime.runner import pick_device

BATCH = tn.Dim("batch")
DEVICE = pick_device()
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

MODULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "batch_norm of vectors": (torch.nn.BatchNorm1d, (5,)),
    "batch_norm of sequences": (torch.nn.BatchNorm1d, (5, 7)),
    "batch_norm of images": (torch.nn.BatchNorm2d, (5, 6, 3)),
    "instance_norm of images": (torch.nn.InstanceNorm2d, (5, 6, 3)),
}


def compiled(graph: tn.Graph, **how: Any) -> tn.Model:
    """Planned greedily: what is tested is the numbers, and the search for the best plan takes most of a second."""
    return tn.compile(graph, fusion="greedy", **how)


def graph_of(kind: str, dtype: str = "float32", **how: Any) -> tn.Graph:
    """One norm called `bn` on x, its result `y`."""
    g = tn.Graph("running")
    x = g.input("x", (BATCH, *MODULES[kind][1]), dtype)
    if kind.startswith("instance"):
        g.output(y=tn.instance_norm(x, affine=True, track_running_stats=True, name="bn", **how))
    else:
        g.output(y=tn.batch_norm(x, name="bn", **how))
    return g


def module_of(kind: str, dtype: torch.dtype, **how: Any) -> torch.nn.Module:
    kind_of_module, (channels, *_) = MODULES[kind]
    more = {"affine": True, "track_running_stats": True} if kind.startswith("instance") else {}
    return kind_of_module(channels, **more, **how, device=DEVICE, dtype=dtype)


def batches(kind: str, dtype: torch.dtype, count: int = 6) -> list[Tensor]:
    """Batches of several sizes, each channel about a mean and deviation of its own."""
    generator = torch.Generator().manual_seed(0)
    sizes = MODULES[kind][1]
    about = torch.arange(sizes[0], dtype=torch.float64).reshape(-1, *(1 for _ in sizes[1:]))
    made = []
    for step in range(count):
        drawn = torch.randn((7 + 13 * (step % 3), *sizes), generator=generator, dtype=torch.float64)
        made.append((drawn * (0.5 + about) + 2 * about - 3).to(DEVICE, dtype))
    return made


def assert_near(what: str, got: Tensor, module: Tensor, exact: Tensor) -> None:
    """As near to the float64 module as torch's own in the same dtype, twice over."""
    compared = compare(got.detach(), module.detach(), exact.detach())
    assert compared.ok, f"{what}: {compared}"


# -- against torch's modules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, 0.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", MODULES)
def test_running_statistics_are_those_of_torchs_module(kind: str, dtype: torch.dtype, momentum: float | None) -> None:
    graph = graph_of(kind, str(dtype).removeprefix("torch."), momentum=momentum)
    model = compiled(graph, training=True)
    module = module_of(kind, dtype, momentum=momentum)
    exact = module_of(kind, torch.float64, momentum=momentum)
    for step, x in enumerate(batches(kind, dtype), 1):
        # 16-bit statistics that are rounded after each step drift apart, so each step starts from the same ones.
        state = {n.removeprefix("bn."): t.clone() for n, t in model.state_dict().items()}
        module.load_state_dict(state)
        exact.load_state_dict(state)
        wanted, truth = module(x), exact(x.double())
        assert_near(f"y at step {step}", model(x=x)["y"], wanted, truth)
        for name in STATISTICS:
            got = model.get_buffer(f"bn.{name}")
            assert_near(f"{name} at step {step}", got, module.get_buffer(name), exact.get_buffer(name))
    tracked = 0 if kind.startswith("instance") else step
    assert model.get_buffer("bn.num_batches_tracked").item() == tracked
    model.eval()
    module.eval()
    exact.eval()
    for each in (module, exact):
        each.load_state_dict({n.removeprefix("bn."): t for n, t in model.state_dict().items()})
    x = batches(kind, dtype)[0]
    assert_near("y in evaluation", model(x=x)["y"], module(x), exact(x.double()))


def test_cumulative_average_is_the_average_of_all_batches() -> None:
    model = compiled(graph_of("batch_norm of vectors", momentum=None), training=True)
    seen = batches("batch_norm of vectors", torch.float32)
    for x in seen:
        model(x=x)
    mean = torch.stack([x.double().mean(0) for x in seen]).mean(0)
    var = torch.stack([x.double().var(0) for x in seen]).mean(0)
    torch.testing.assert_close(model.get_buffer("bn.running_mean").double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.get_buffer("bn.running_var").double(), var, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", MODULES)
def test_state_goes_to_torchs_module_and_back(kind: str) -> None:
    model = compiled(graph_of(kind), training=True)
    module = torch.nn.Sequential()
    module.add_module("bn", module_of(kind, torch.float32))
    assert list(model.state_dict()) == list(module.state_dict())
    assert all(torch.equal(t, module.state_dict()[n]) for n, t in model.state_dict().items())
    for x in batches(kind, torch.float32):
        module(x)
    model.load_state_dict(module.state_dict(), strict=True)
    x = batches(kind, torch.float32)[1]
    module.eval()
    torch.testing.assert_close(model.eval()(x=x)["y"], module(x))
    model.train()(x=x)
    module.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(module.get_buffer("bn.running_var"), model.get_buffer("bn.running_var"))


@pytest.mark.parametrize("training", [True, False])
def test_without_running_statistics_the_batch_decides_in_both_forms(training: bool) -> None:
    g = graph_of("batch_norm of images", track_running_stats=False)
    assert not g.updates and [v.name for v in g.leaves("buffer")] == []
    x = batches("batch_norm of images", torch.float32)[0]
    assert_within_policy(judge(g, {"x": x}, model=compiled(g), training=training))
    want = torch.nn.BatchNorm2d(5, track_running_stats=False, device=DEVICE).train(training)(x)
    torch.testing.assert_close(compiled(g, training=training)(x=x)["y"], want)


def test_frozen_statistics_stay_in_training_too() -> None:
    g = graph_of("batch_norm of images", training=False)
    assert not g.updates and g["bn"].attrs["training"] is False
    model = compiled(g, training=True)
    before = {n: t.clone() for n, t in model.named_buffers()}
    x = batches("batch_norm of images", torch.float32)[0]
    want = F.batch_norm(x, before["bn.running_mean"], before["bn.running_var"])
    torch.testing.assert_close(model(x=x)["y"], want)
    assert all(torch.equal(t, before[n]) for n, t in model.named_buffers())


@pytest.mark.parametrize("kind", MODULES)
def test_best_plan_that_a_search_finds_trains_alike(kind: str) -> None:
    g = graph_of(kind)
    x = batches(kind, torch.float32)[1]
    assert_within_policy(judge(g, {"x": x}, model=tn.compile(g, fusion="optimal"), training=True))


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_statistics_that_two_norms_share_move_twice(momentum: float) -> None:
    g = tn.Graph("shared")
    x = g.input("x", (BATCH, 5))
    mean, var = g.buffer("mean", (5,)), g.buffer("var", (5,), init=1.0)
    first = tn.batch_norm(x, mean, var, momentum=momentum, name="first")
    second = tn.batch_norm(2 * x + 1, mean, var, momentum=momentum, name="second")
    g.output(y=first + second)
    model = compiled(g, training=True)
    for x in batches("batch_norm of vectors", torch.float32):
        want = [model.mean.clone(), model.var.clone()]
        for each in (x, 2 * x + 1):
            F.batch_norm(each, *want, training=True, momentum=momentum)
        model(x=x)
        torch.testing.assert_close([model.mean, model.var], want)


def test_empty_batch_counts_and_moves_nothing() -> None:
    for momentum in (0.1, None):
        model = compiled(graph_of("batch_norm of images", momentum=momentum), training=True)
        x = batches("batch_norm of images", torch.float32)[0]
        model(x=x)
        before = {n: t.clone() for n, t in model.named_buffers()}
        assert model(x=x[:0])["y"].shape == (0, 5, 6, 3)
        for name in ("bn.running_mean", "bn.running_var"):
            assert torch.equal(model.get_buffer(name), before[name])
        assert model.get_buffer("bn.num_batches_tracked").item() == 2


# -- the forms as graphs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", MODULES)
def test_every_stage_verifies_and_survives_text_and_json(kind: str, momentum: float | None) -> None:
    g = graph_of(kind, momentum=momentum)
    g.output(loss=tn.mean(g.outputs["y"] * g.outputs["y"]))
    training = [g, decompose(g), optimize(decompose(g)), joint_graph(g, "loss", tn.sgd(lr=0.1))]
    evaluation = [evaluation_form(g), decompose(evaluation_form(g))]
    for stage in (*training, *evaluation):
        verify(stage)
        for read in (type(stage).from_text(str(stage)), type(stage).from_json(stage.to_json())):
            assert same_graph(read, stage)
    moved = {f"bn.{n}" for n in STATISTICS[: 2 if kind.startswith("instance") else 3]}
    assert all(moved <= stage.updates.keys() for stage in training)
    assert not any(stage.updates for stage in evaluation)


def test_graph_read_from_text_trains_as_the_one_written() -> None:
    g = graph_of("batch_norm of images", momentum=None)
    read = tn.Graph.from_text(str(g))
    models = [compiled(each, training=True) for each in (g, read)]
    for x in batches("batch_norm of images", torch.float32, 2):
        results = [{**model(x=x), **dict(model.named_buffers())} for model in models]
        assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_evaluation_reads_the_running_statistics_alone() -> None:
    model = compiled(graph_of("batch_norm of images"))
    assert len(model.plan.kernels) == 1 and model.plan.kernels[0].kind == "elementwise"
    assert {v.name for v in model.plan.kernels[0].loads} == {
        "x", "bn.running_mean", "bn.running_var", "bn.weight", "bn.bias",
    }  # fmt: skip


def test_training_reads_x_three_times_and_shares_the_sums() -> None:
    plan = compiled(graph_of("batch_norm of images"), training=True).plan
    readers = [k.name for k in plan.kernels if any(v.name == "x" for v in k.loads)]
    assert len(readers) == 3, f"a sum, centred sums, the result; more means sums are taken twice: {readers}"


# -- a whole model -----------------------------------------------------------------------------------------------------


def small_classifier() -> tn.Graph:
    """A classifier with batch norm, PReLU, layer norm, ELU and a residual connection."""
    g = tn.Graph("classifier")
    batch = tn.Dim("batch")
    x = g.input("x", (batch, 16))
    y = g.input("y", (batch,), dtype="int64")
    h = tn.linear(x, 24, name="fc1")
    h = tn.prelu(tn.batch_norm(h, name="bn1"), name="act1")
    h = tn.elu(tn.layer_norm(tn.linear(h, 24, name="fc2"), name="ln2")) + h
    logits = tn.linear(h, 4, name="fc3")
    loss = tn.cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=tn.accuracy(logits, y))
    return g


class Classifier(torch.nn.Module):
    """The same model, written by hand in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.act1 = torch.nn.Linear(16, 24), torch.nn.BatchNorm1d(24), torch.nn.PReLU()
        self.fc2, self.ln2, self.fc3 = torch.nn.Linear(24, 24), torch.nn.LayerNorm(24), torch.nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.bn1(self.fc1(x)))
        return self.fc3(F.elu(self.ln2(self.fc2(h))) + h)


def lessons(steps: int) -> list[tuple[Tensor, Tensor]]:
    """Four clouds of points, in batches whose size changes."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 16, generator=generator)
    made = []
    for step in range(steps):
        y = torch.randint(0, 4, (32 + step % 3,), generator=generator)
        made.append(((centres[y] + torch.randn(len(y), 16, generator=generator)).to(DEVICE), y.to(DEVICE)))
    return made


@pytest.mark.parametrize("fusion", ["greedy", "off"])
def test_training_follows_the_model_written_in_torch(fusion: str) -> None:
    step = tn.compile_step(small_classifier(), optimizer=tn.sgd(lr=0.1), fusion=fusion)
    torch.manual_seed(0)
    module = Classifier()
    assert all(torch.equal(t.cpu(), module.state_dict()[n]) for n, t in step.model.state_dict().items())
    module = module.to(DEVICE)
    exact = copy.deepcopy(module).double()
    losses = []
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (module, exact)]
    for x, y in lessons(20):
        row = [float(step(x=x, y=y)["loss"])]
        for each, optimizer, fed in zip((module, exact), optimizers, (x, x.double()), strict=True):
            loss = F.cross_entropy(each(fed), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            row.append(float(loss.detach()))
        losses.append(row)
    assert losses[-1][0] < 0.2 * losses[0][0]
    drift, torchs_drift = (max(abs(row[i] - row[2]) for row in losses) for i in (0, 1))
    assert drift <= 2 * torchs_drift + 2 * 2**-23 * losses[0][2]
    for name, tensor in step.model.state_dict().items():
        assert_near(name, tensor, module.state_dict()[name], exact.state_dict()[name])
    x, y = lessons(1)[0]
    module.eval()
    exact.eval()
    assert_near("logits", step.model(x=x, y=y)["logits"], module(x), exact(x.double()))


def test_a_step_moves_the_statistics_as_eager_says() -> None:
    g = small_classifier()
    step = tn.compile_step(g, optimizer=tn.adam(lr=1e-2), fusion="greedy")
    for x, y in lessons(3):
        before = {n: t.clone() for n, t in step.model.state_dict().items()}
        step(x=x, y=y)
        for name, want in eager_updates(g, {"x": x, "y": y}, before).items():
            torch.testing.assert_close(step.model.get_buffer(name), want)


def test_certificate_of_the_training_form_holds() -> None:
    certificate = tn.check(small_classifier(), optimizer=tn.adam(), fusion="greedy")
    assert certificate.ok, str(certificate)
    assert {r.name for r in certificate.rows if r.what == "buffer"} == {f"bn1.{n}" for n in STATISTICS}
    assert not math.isnan(max(r.comparison.max_error for r in certificate.rows))
