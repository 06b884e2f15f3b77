"""`tn.compile` as a torch module: names, autograd in all its uses, and tensors that nobody shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import assert_within_policy, judge
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import FeedError
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")


def model_graph() -> tn.Graph:
    g = tn.Graph("small")
    x, y = g.input("x", (BATCH, 8)), g.input("y", (BATCH,), "int64")
    h = tn.relu(tn.layer_norm(tn.linear(x, 16, name="fc1"), name="norms.ln"))
    logits = tn.linear(tn.sigmoid(h) * h, 5, name="fc2")
    g.output(logits=logits, loss=tn.cross_entropy(logits, y), guess=tn.argmax(logits, -1))
    return g


def feeds(batch: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 8, generator=generator)
    return {"x": x.to(DEVICE), "y": torch.randint(0, 5, (batch,), generator=generator).to(DEVICE)}


@pytest.fixture
def model() -> tn.Model:
    return tn.compile(model_graph(), seed=1)


def gradients(model: tn.Model) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


# -- a torch module ----------------------------------------------------------------------------------------------------


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norms, self.fc2 = nn.Linear(8, 16), nn.Module(), nn.Linear(16, 5)
        self.norms.ln = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norms.ln(self.fc1(x)))
        return self.fc2(torch.sigmoid(h) * h)


def test_names_shapes_and_first_values_are_a_torch_modules(model: tn.Model) -> None:
    torch.manual_seed(1)
    by_hand = ByHand()
    state = model.state_dict()
    assert list(state) == list(by_hand.state_dict())
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(state[name].cpu(), tensor), name
    assert [n for n, _ in model.named_children()] == ["fc1", "norms", "fc2"]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())


def test_state_goes_to_a_torch_module_and_comes_back(model: tn.Model) -> None:
    by_hand = ByHand().to(DEVICE)
    by_hand.load_state_dict(tn.compile(model_graph(), seed=7).state_dict())
    model.load_state_dict(by_hand.state_dict())
    torch.testing.assert_close(model(**feeds())["logits"], by_hand(feeds()["x"]))


def test_state_of_another_model_is_refused_as_torch_refuses_it(model: tn.Model) -> None:
    state = model.state_dict()
    with pytest.raises(RuntimeError, match="Missing key.*fc1.bias"):
        model.load_state_dict({n: t for n, t in state.items() if n != "fc1.bias"})
    with pytest.raises(RuntimeError, match="size mismatch for fc1.bias"):
        model.load_state_dict({**state, "fc1.bias": torch.ones(17)})


def test_a_name_that_torch_modules_keep_is_a_parameters_name() -> None:
    g = tn.Graph("taken")
    g.output(y=g.input("x", (3,)) * g.parameter("forward", (3,), init=2.0))
    model = tn.compile(g)
    assert list(model.state_dict()) == ["forward"]
    assert model(x=torch.ones(3))["y"].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("change", [
    lambda m: m.half(), lambda m: m.double(), lambda m: setattr(m.norms.ln, "bias", nn.Parameter(torch.ones(17))),
    lambda m: setattr(m.fc1.weight, "data", m.fc1.weight.data.T.contiguous().T), lambda m: delattr(m.fc1, "bias"),
], ids=["half", "double", "longer", "turned", "gone"])  # fmt: skip
def test_weights_that_are_not_what_was_compiled_for_are_refused(change: Callable[[Any], object], model: Any) -> None:
    change(model)
    with pytest.raises(FeedError, match="parameter '.*': (declared|its strides)"):
        model(**feeds())


def test_one_weight_in_two_places_gets_both_gradients(model: Any) -> None:
    """Tied weights, as torch users write them."""
    model.norms.ln.weight = model.norms.ln.bias
    tied = model.norms.ln.bias
    model(**feeds())["loss"].backward()
    by_hand = ByHand().to(DEVICE)
    by_hand.load_state_dict({**model.state_dict(), "norms.ln.weight": tied.detach()})
    by_hand.norms.ln.weight = by_hand.norms.ln.bias
    nn.functional.cross_entropy(by_hand(feeds()["x"]), feeds()["y"]).backward()
    torch.testing.assert_close(tied.grad, by_hand.norms.ln.bias.grad)


# -- gradients ---------------------------------------------------------------------------------------------------------

STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda d: d,
    "transposed": lambda d: d.T.contiguous().T,
    "every other": lambda d: torch.stack([d, d + 1], -1)[..., 0],
    "rows backwards in memory": lambda d: torch.cat([d, d])[len(d) :],
    "one number for all": lambda d: d[:1, :1].expand(d.shape),
    "one row for all": lambda d: d[:1].expand(d.shape),
}


@pytest.mark.parametrize("strides", STRIDES)
def test_upstream_gradient_may_have_any_strides(strides: str, model: tn.Model) -> None:
    given = STRIDES[strides](torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).to(DEVICE))
    found = []
    for upstream in (given, given.contiguous().clone()):
        model.zero_grad()
        x = feeds()["x"].requires_grad_()
        model(x=x, y=feeds()["y"])["logits"].backward(upstream)
        found.append({"x": x.grad, **gradients(model)})
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[1])  # type: ignore[arg-type]


def test_gradients_hold_the_policy() -> None:
    for batch in (1, 6, 33):
        for ones in (False, True):
            assert_within_policy(judge(model_graph(), feeds(batch), ones=ones, noisy=2))


def test_outputs_may_be_used_one_at_a_time_or_together(model: tn.Model) -> None:
    """An output that nobody goes on from has an upstream gradient of zero."""
    found = []
    for use in (lambda o: o["loss"], lambda o: o["logits"].sum(), lambda o: o["loss"] + o["logits"].sum()):
        model.zero_grad()
        use(model(**feeds())).backward()
        found.append(gradients(model))
    for name, both in found[2].items():
        torch.testing.assert_close(both, found[0][name] + found[1][name])  # type: ignore[operator]


def test_gradients_add_up_as_in_torch(model: tn.Model) -> None:
    model(**feeds())["loss"].backward()
    once = gradients(model)
    model(**feeds())["loss"].backward()
    assert all(torch.equal(p.grad, 2 * once[n]) for n, p in model.named_parameters())  # type: ignore[operator]


def test_retained_graph_runs_backward_again_with_the_same_bits(model: tn.Model) -> None:
    loss = model(**feeds())["loss"]
    parameters = list(model.parameters())
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    torch.autograd.grad(loss, parameters)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, parameters)


def test_another_forward_run_between_changes_nothing(model: tn.Model) -> None:
    """What backward needs of a run belongs to that run."""
    loss = model(**feeds())["loss"]
    with torch.no_grad():
        model(**feeds(seed=5))
    model(**feeds(seed=6))["loss"].backward()
    model.zero_grad()
    loss.backward()
    late = gradients(model)
    model.zero_grad()
    model(**feeds())["loss"].backward()
    assert all(torch.equal(late[n], g) for n, g in gradients(model).items())  # type: ignore[arg-type]


def test_a_penalty_on_the_gradient_is_what_eager_pytorch_makes_of_it(model: tn.Model) -> None:
    by_hand = ByHand().to(DEVICE)
    by_hand.load_state_dict(model.state_dict())
    found = []
    for run in (lambda x: model(x=x, y=feeds()["y"])["logits"], by_hand):
        x = feeds()["x"].requires_grad_()
        loss = nn.functional.cross_entropy(run(x), feeds()["y"])
        (d_x,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + d_x.norm()).backward()
        found.append({"x": x.grad, **gradients(model if run is not by_hand else by_hand)})
    for name, mine in found[0].items():
        torch.testing.assert_close(mine, found[1][name])


def test_create_graph_without_a_second_derivative_is_no_error(model: tn.Model) -> None:
    loss, parameters = model(**feeds())["loss"], list(model.parameters())
    watched = torch.autograd.grad(loss, parameters, create_graph=True)
    assert all(map(torch.equal, watched, torch.autograd.grad(loss, parameters)))


@pytest.mark.parametrize("how", [{}, {"strict": True}, {"sanitize": True}], ids=["", "strict", "sanitized"])
@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("then", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_may_change_between_calls(
    first: Callable[[], Any], then: Callable[[], Any], how: dict[str, bool]
) -> None:
    """What is kept from call to call is used in all modes: memory, and views of it that library calls take."""
    g = tn.Graph("library")
    g.output(y=tn.linear(tn.tanh(tn.linear(g.input("x", (BATCH, 24)), 16, name="a")), 8, name="b"))
    model = tn.compile(g, products="library", device="cpu", **how)
    x = torch.rand(6, 24)
    with first():
        expected = model(x=x)["y"].clone()
    for _ in range(2):
        with then():
            assert torch.equal(model(x=x)["y"], expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_autograd_the_outputs_are_the_same_bits_and_carry_no_graph(mode: Any, model: tn.Model) -> None:
    watched = model(**feeds())
    with mode():
        plain = model(**feeds())
    assert not any(t.requires_grad for t in plain.values())
    assert watched["loss"].requires_grad and watched["logits"].requires_grad and not watched["guess"].requires_grad
    assert all(torch.equal(plain[n], t) for n, t in watched.items())


@pytest.mark.parametrize("frozen", [("fc1.weight",), ("norms.ln.weight", "fc2.bias"), ("fc1.weight", "fc1.bias")])
def test_frozen_parameters_get_no_gradient_and_the_others_the_same(frozen: tuple[str, ...], model: tn.Model) -> None:
    model(**feeds())["loss"].backward()
    whole = gradients(model)
    model.zero_grad()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    model(**feeds())["loss"].backward()
    for name, gradient in gradients(model).items():
        if name in frozen:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, whole[name])
    for name in frozen:  # thawed
        model.get_parameter(name).requires_grad_()
    model.zero_grad()
    model(**feeds())["loss"].backward()
    assert all(torch.equal(g, whole[n]) for n, g in gradients(model).items())  # type: ignore[arg-type]


def test_nothing_to_differentiate_leaves_no_graph(model: tn.Model) -> None:
    model.requires_grad_(False)
    assert not any(t.requires_grad for t in model(**feeds()).values())
    assert model(x=feeds()["x"].requires_grad_(), y=feeds()["y"])["loss"].requires_grad


def test_gradient_reaches_what_feeds_the_model_and_leaves_from_what_reads_it(model: tn.Model) -> None:
    before, after = nn.Linear(3, 8).to(DEVICE), nn.Linear(5, 2).to(DEVICE)
    by_hand = ByHand().to(DEVICE)
    by_hand.load_state_dict(model.state_dict())
    raw = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    after(model(x=before(raw), y=feeds()["y"])["logits"]).square().mean().backward()
    mine = [before.weight.grad.clone(), model.fc1.weight.grad, after.weight.grad.clone()]  # type: ignore[union-attr]
    before.zero_grad(), after.zero_grad()
    after(by_hand(before(raw))).square().mean().backward()
    for got, want in zip(mine, [before.weight.grad, by_hand.fc1.weight.grad, after.weight.grad], strict=True):
        torch.testing.assert_close(got, want)


def test_changed_weights_are_noticed_by_backward(model: tn.Model) -> None:
    loss = model(**feeds())["loss"]
    with torch.no_grad():
        model.get_parameter("fc1.weight").mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_torch_optimizer_trains_a_compiled_model(model: tn.Model) -> None:
    by_hand = ByHand().to(DEVICE)
    by_hand.load_state_dict(model.state_dict())
    for module, loss_of in (
        (model, lambda f: model(**f)["loss"]),
        (by_hand, lambda f: nn.functional.cross_entropy(by_hand(f["x"]), f["y"])),
    ):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for seed in range(5):
            optimizer.zero_grad()
            loss_of(feeds(16, seed)).backward()
            optimizer.step()
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


# -- memory ------------------------------------------------------------------------------------------------------------


def aliases() -> tn.Graph:
    """Outputs that show an input or a parameter, as they are and turned."""
    g = tn.Graph("aliases")
    x, w = g.input("x", (BATCH, 4)), g.parameter("w", (2, 4), "normal", mean=0.0, std=1.0)
    part = x[:, 1:3]
    g.output(x=x, turned=tn.transpose(x, 0, 1), part=part, w=w, flat=tn.reshape(w, (8,)), twice=2 * x, again=x)
    return g


def test_outputs_never_share_memory_with_inputs_weights_or_each_other() -> None:
    model = tn.compile(aliases())
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        outputs = model(x=x)
    want = tn.eager(aliases(), {"x": x}, model.state_dict())
    assert all(torch.equal(outputs[n], t) for n, t in want.items())
    kept = x.clone(), model.get_parameter("w").detach().clone()
    for name in outputs:
        others = {n: t.clone() for n, t in outputs.items() if n != name}
        outputs[name].fill_(7)
        assert torch.equal(x, kept[0]) and torch.equal(model.get_parameter("w"), kept[1]), name
        assert all(torch.equal(outputs[n], t) for n, t in others.items()), name


def test_gradients_go_through_outputs_that_show_inputs() -> None:
    for ones in (True, False):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        assert_within_policy(judge(aliases(), {"x": x}, ones=ones))


def test_inputs_are_left_as_they_were_and_so_are_earlier_outputs(model: tn.Model) -> None:
    given = feeds()
    before = {n: t.clone() for n, t in given.items()}
    first = model(**given)
    kept = {n: t.detach().clone() for n, t in first.items()}
    model(**feeds(seed=9))
    assert all(torch.equal(given[n], t) for n, t in before.items())
    assert all(torch.equal(first[n], t) for n, t in kept.items())


def test_input_of_any_strides_gives_the_same_bits(model: tn.Model) -> None:
    x, y = feeds()["x"], feeds()["y"]
    want = model(x=x, y=y)["logits"]
    for layout in (x.T.contiguous().T, torch.stack([x, x], -1)[..., 1], torch.cat([x, x])[6:]):
        assert torch.equal(model(x=layout, y=y)["logits"], want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_declared_and_not_guessed(dtype: str, model: tn.Model) -> None:
    wrong = feeds()["x"].to(getattr(torch, dtype))
    with pytest.raises(FeedError, match=f"'x'.*float32.*got {dtype}.*convert it"):
        model(x=wrong, y=feeds()["y"])
