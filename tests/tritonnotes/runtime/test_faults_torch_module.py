"""Faults of the border with torch: what a compiled model is to autograd, to copies, to pickles and to tracers."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.runtime import traced
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
B = tn.Dim("batch")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def targets(batch: int) -> Tensor:
    return (torch.arange(batch) % 3).to(DEVICE)


def net_graph() -> tn.Graph:
    """What is hard for a tracer: buffers that are updated, random numbers, outputs without a gradient."""
    g = tn.Graph("net")
    x, y = g.input("x", (B, 4)), g.input("y", (B,), "int64")
    h = tn.dropout(tn.batch_norm(tn.linear(x, 8, name="fc"), name="bn"), 0.3)
    logits = tn.linear(tn.gelu(h), 3, name="head")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    g.output(again=logits, positive=tn.cast(logits > 0, "float32"), guess=tn.argmax(logits, -1))
    return g


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.model = tn.compile(net_graph(), seed=1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return self.model(x=torch.tanh(self.before(x)), y=y)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().to(DEVICE)


# -- derivatives of derivatives ----------------------------------------------------------------------------------------


def scalar_functions() -> dict[str, Callable[[Any, Any], Any]]:
    return {
        "cube": lambda tools, x: (x * x * x).sum(),
        "tanh": lambda tools, x: tools.tanh(x * 2).sum(),
        "logsumexp": lambda tools, x: tools.logsumexp(x * x, -1),
        "straight": lambda tools, x: (x * 3).sum(),
        "quotient": lambda tools, x: (x / (x * x + 1)).mean(),
    }


@pytest.mark.parametrize("name", scalar_functions())
def test_hessians_and_third_derivatives_are_torchs(name: str) -> None:
    function = scalar_functions()[name]
    g = tn.Graph(name)
    g.output(y=function(tn, g.input("x", (4,), "float64")))
    model, x = tn.compile(g), numbers(4).double()
    hessian = torch.autograd.functional.hessian
    mine = hessian(lambda x: model(x)["y"], x)
    theirs = hessian(lambda x: function(torch, x), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)

    def third(run: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.autograd.functional.hessian(
            lambda x: torch.autograd.grad(run(x), x, create_graph=True)[0].sum(), x
        )

    if name not in ("straight", "cube"):
        torch.testing.assert_close(third(lambda x: model(x)["y"]), third(lambda x: function(torch, x)))


@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives_reach_weights_inputs_and_upstream_gradients(training: bool) -> None:
    """As a penalty on gradients does, through batch statistics and dropout."""
    model = tn.compile(net_graph(), training=training, seed=1)
    model.seed = 5
    found = []
    for run in (lambda x: model(x, targets(6)), lambda x: by_eager(model, x)):
        model.zero_grad()
        x, scale = numbers(6, 4).requires_grad_(), torch.tensor(0.7, requires_grad=True, device=DEVICE)
        (first,) = torch.autograd.grad(run(x)["loss"] * scale, x, create_graph=True)
        first.square().sum().backward()
        found.append([x.grad, scale.grad, *(p.grad for p in model.parameters())])
    for mine, theirs in zip(*found, strict=True):
        if theirs is None or mine is None:
            assert theirs is mine or not (theirs if mine is None else mine).any()
        else:
            torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=1e-6)


def by_eager(model: Any, x: Tensor) -> dict[str, Tensor]:
    return tn.eager(model.graph, {"x": x, "y": targets(6)}, model.tensors(), training=model.training, seed=model.seed)


def test_second_derivatives_of_a_buffer_that_was_overwritten_are_refused() -> None:
    g = tn.Graph("held")
    x, b = g.input("x", (3,)), g.buffer("b", (3,), init=2.0)
    g.output(y=tn.sum(x * x * b))
    g.update(b, b * 0.5)
    model, x = tn.compile(g, training=True), numbers(3).requires_grad_()
    (first,) = torch.autograd.grad(model(x)["y"], x, create_graph=True)
    torch.testing.assert_close(first.detach(), 4 * x.detach())
    with pytest.raises(DeclarationError, match="buffer 'b', which the run has overwritten; .*tn.eager"):
        torch.autograd.grad(first.sum(), x, allow_unused=True)


def test_outputs_without_a_gradient_in_torch_have_none_here(net: Net) -> None:
    outputs = net(numbers(6, 4), targets(6))
    assert {n for n, t in outputs.items() if t.requires_grad} == {"logits", "loss", "again"}
    g = tn.Graph("casts")
    x, w = g.input("x", (3,)), g.input("w", (3,))
    whole = tn.cast(tn.cast(x, "int64"), "float32")
    g.output(whole=whole, mixed=whole * w, sign=tn.sign(x), other=x * 2, held=x.detach() + 1, both=x.detach() * x)
    made = tn.compile(g)(numbers(3).requires_grad_(), numbers(3))
    assert {n for n, t in made.items() if t.requires_grad} == {"sign", "other", "both"}
    made = tn.compile(g)(numbers(3), numbers(3).requires_grad_())
    assert {n for n, t in made.items() if t.requires_grad} == {"mixed"}


# -- copies, pickles, files --------------------------------------------------------------------------------------------


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def saved(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_graph_is_the_same_graph_and_grows_alone(how: str) -> None:
    graph = net_graph()
    made, value = COPIES[how]((graph, graph["head.weight"]))
    assert type(made) is tn.Graph and str(made) == str(graph) and made.to_json() == graph.to_json()
    assert value is made["head.weight"] and value.graph is made
    made.output(more=value * 2)
    assert "more" not in graph.outputs and len(graph.values) < len(made.values)
    shallow = copy.copy(graph)
    shallow.output(more=shallow.outputs["logits"] * 2)
    assert "more" not in graph.outputs
    assert tn.compile(made).source != tn.compile(graph).source == tn.compile(COPIES[how](graph)).source


@pytest.mark.parametrize("how", [*COPIES, "AveragedModel"])
def test_a_copy_of_a_model_gives_the_same_bits_and_has_weights_of_its_own(how: str, net: Net) -> None:
    net.train()
    made = AveragedModel(net).module if how == "AveragedModel" else COPIES[how](net)
    assert made.model.training and made.model.plan.launch_count() == net.model.plan.launch_count()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    torch.manual_seed(3)
    mine = made(numbers(5, 4), targets(5))
    mine["loss"].backward()
    with torch.no_grad():
        for p in made.parameters():
            p.sub_(p.grad)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    net.zero_grad()
    torch.manual_seed(3)
    theirs = net(numbers(5, 4), targets(5))
    assert all(torch.equal(mine[n], t) for n, t in theirs.items())
    assert not torch.equal(made.model.head.weight, net.model.head.weight)
    assert torch.equal(made.model.bn.running_mean, net.model.bn.running_mean)


def test_an_averaged_model_averages() -> None:
    model = tn.compile(net_graph(), seed=1)
    average = AveragedModel(model)
    first = model.fc.weight.detach().clone()
    average.update_parameters(model)
    with torch.no_grad():
        model.fc.weight.add_(2.0)
    average.update_parameters(model)
    torch.testing.assert_close(average.module.fc.weight.detach(), first + 1)
    assert torch.equal(
        average(numbers(3, 4), targets(3))["logits"], average.module(numbers(3, 4), targets(3))["logits"]
    )


def test_a_pickle_of_a_graph_with_an_op_that_is_not_declared_is_refused() -> None:
    held = pickle.dumps(net_graph())
    assert b"\x04gelu" in held  # a name of four letters, as a pickle has it
    with pytest.raises(tn.TritonNotesError, match="unknown op 'gulp'"):
        pickle.loads(held.replace(b"\x04gelu", b"\x04gulp"))


# -- by position -------------------------------------------------------------------------------------------------------


def test_inputs_may_be_fed_by_position(net: Net) -> None:
    model, x, y = net.model.eval(), numbers(3, 4), targets(3)
    wanted = model(x=x, y=y)["logits"]
    assert torch.equal(model(x, y)["logits"], wanted) and torch.equal(model(x, y=y)["logits"], wanted)
    with pytest.raises(FeedError, match="3 tensors are fed; by position feed, in this order, x, y"):
        model(x, y, y)
    with pytest.raises(FeedError, match="input 'x' is fed by position and by name"):
        model(x, x=x)
    with pytest.raises(FeedError, match="'y' is not fed"):
        model(x)


# -- tracers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_a_module_that_holds_a_model_is_compiled_as_one_graph(training: bool, net: Net) -> None:
    found = []
    for run in (lambda made: made, lambda made: torch.compile(made, fullgraph=True, backend="aot_eager")):
        made = copy.deepcopy(net).train(training)
        torch.manual_seed(7)
        for batch in (5, 7, 6):
            outputs = run(made)(numbers(batch, 4, seed=batch), targets(batch))
            outputs["loss"].backward()
        with torch.no_grad():
            outputs = {**outputs, **{f"plain {n}": t for n, t in run(made)(numbers(5, 4), targets(5)).items()}}
        found.append((outputs, [p.grad for p in made.parameters()], list(made.buffers())))
    (mine, *rest), (theirs, *others) = found
    assert list(mine) == list(theirs)
    assert [t.requires_grad for t in mine.values()] == [t.requires_grad for t in theirs.values()]
    for one, other in zip(
        [*mine.values(), *rest[0], *rest[1]], [*theirs.values(), *others[0], *others[1]], strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_a_model_is_compiled_by_inductor() -> None:
    g = tn.Graph("small")
    g.output(y=tn.tanh(g.input("x", (B, 3)) * g.parameter("w", (3,), init=2.0)))
    model = tn.compile(g)
    fast = torch.compile(lambda x: model(x + 1)["y"] * 2, fullgraph=True)
    x = numbers(4, 3).requires_grad_()
    torch.testing.assert_close(fast(x), torch.tanh((x + 1) * 2) * 2)


@pytest.mark.parametrize("strict", [False, True])
def test_a_module_that_holds_a_model_is_exported_for_every_batch(strict: bool, net: Net, tmp_path: Any) -> None:
    net.eval()
    every = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(net, (numbers(5, 4), targets(5)), dynamic_shapes=(every, every), strict=strict)
    for batch in (5, 7, 2):
        wanted = net(numbers(batch, 4), targets(batch))
        made = program.module()(numbers(batch, 4), targets(batch))
        assert all(torch.equal(made[n], t) for n, t in wanted.items())
    if strict or DEVICE.type != "cpu":
        return
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    torch.save(wanted, tmp_path / "wanted.pt")
    script = (
        "made = torch.export.load(sys.argv[1]).module()\n"
        "x = torch.randn((2, 4), generator=torch.Generator().manual_seed(0))\n"
        "got, wanted = made(x, torch.arange(2) % 3), torch.load(sys.argv[2])\n"
        "assert all(torch.equal(got[n], t) for n, t in wanted.items())\n"
    )
    for first, second in (("torch", "tritonnotes"), ("tritonnotes", "torch")):
        begin = f"import sys, {first}, {second}\nassert 'tritonnotes.face' not in sys.modules\n"
        subprocess.run([sys.executable, "-c", begin + script, path, tmp_path / "wanted.pt"], check=True, cwd=ROOT)


@pytest.mark.parametrize("training", [False, True])
def test_the_ops_that_tracers_see_pass_torchs_own_checks(training: bool, net: Net) -> None:
    model = net.model.train(training)
    form = model._form
    given = {"x": numbers(5, 4).requires_grad_(), "y": targets(5), **model.tensors()}
    leaves = [given[n] for n in form.leaves]
    seed = torch.tensor(3) if form.seeds else None
    for wanted in ([t.requires_grad for t in leaves], [False] * len(leaves)):
        tensors = [t.detach().requires_grad_(w) for t, w in zip(leaves, wanted, strict=True)]
        torch.library.opcheck(traced.forward, (tensors, seed, form.spec, wanted))


def test_shapes_that_do_not_fit_are_refused_while_tracing(net: Net) -> None:
    traced_net = torch.compile(net, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"(?s)declared with shape .*got .*4.* while batch=5"):
        traced_net(numbers(5, 4), targets(4))
