"""Faults of the border with torch: every kind of tensor at every entry is read rightly, or refused with a remedy."""

from __future__ import annotations

import cProfile
import itertools
import pstats
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.runtime import vetting
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
B = tn.Dim("batch")


def graph() -> tn.Graph:
    g = tn.Graph("small")
    x, w = g.input("x", (B, 4)), g.parameter("w", (4,), init=2.0)
    y = tn.tanh(x * w)
    g.output(y=y, loss=tn.mean(y))
    return g


@pytest.fixture(scope="module")
def model() -> tn.Model:
    return tn.compile(graph())


@pytest.fixture(scope="module")
def step() -> Any:
    return tn.compile_step(graph(), optimizer=tn.sgd(lr=0.1))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


# -- every kind of tensor at every entry -------------------------------------------------------------------------------


class Plain(Tensor):
    """A subclass without a meaning of its own."""


class Doubled(Tensor):
    """A subclass whose functions mean something else."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def freed(x: Tensor) -> Tensor:
    made = x.clone()
    made.untyped_storage().resize_(0)
    return made


def faked(x: Tensor) -> Tensor:
    return FakeTensorMode().from_tensor(x)


READ: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "negated when read": lambda x: torch._neg_view(-x),
    "the imaginary part of a conjugate": lambda x: torch.complex(x, -x).conj().imag,
    "zeros without memory": lambda x: torch._efficientzerotensor(x.shape, device=x.device),
    "a plain subclass": lambda x: x.as_subclass(Plain),
    "a buffer": lambda x: nn.Buffer(x),
    "a parameter": lambda x: nn.Parameter(x),
    "transposed": lambda x: x.mT.contiguous().mT,
    "every other": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "expanded": lambda x: x.flatten()[:1].expand(x.shape),
}
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "sparse": (lambda x: x.to_sparse(), r"torch.sparse_coo; .*\.to_dense\(\)"),
    "csr": (lambda x: x.reshape(1, -1).to_sparse_csr(), r"torch.sparse_csr; .*\.to_dense\(\)"),
    "mkldnn": (lambda x: x.cpu().to_mkldnn(), r"torch._mkldnn; .*\.to_dense\(\)"),
    "nested": (lambda x: torch.nested.nested_tensor([x, x]), "nested tensor; pass .*to_padded_tensor"),
    "jagged": (lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged), "torch.jagged; .*to_padded"),
    "meta": (lambda x: x.to("meta"), "meta device; make it on a real device"),
    "fake": (faked, "FakeTensor.*; feed a real tensor"),
    "functional": (torch._to_functional_tensor, "functional tensor; feed a real tensor"),
    "quantized": (lambda x: torch.quantize_per_tensor(x.cpu(), 0.1, 0, torch.quint8), r"quantized.*\.dequantize\(\)"),
    "masked": (lambda x: torch.masked.masked_tensor(x, x > 0), "MaskedTensor, a wrapper.*; pass the tensor"),
    "a class of another meaning": (lambda x: x.as_subclass(Doubled), r"Doubled.*; pass .as_subclass\(torch.Tensor\)"),
    "without a shape": (lambda x: nn.UninitializedParameter(), "without a shape yet; run the lazy module"),
    "freed": (freed, "its storage holds 0 bytes.*; it was freed or resized"),
    "no tensor": (lambda x: x.tolist(), "got list; "),
}  # fmt: skip


def by_model(model: Any, step: Any, given: Any) -> tuple[Tensor, Tensor]:
    plain = torch.as_tensor(given).clone()
    return model(x=given)["y"].detach(), torch.tanh(plain.as_subclass(Tensor) * 2)


def by_autograd(model: Any, step: Any, given: Any) -> tuple[Tensor, Tensor]:
    found = []
    for run in (lambda x: model(x=x)["y"], lambda x: torch.tanh(x * 2)):
        x = given.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(run(x), x, torch.ones(6, 4, device=DEVICE))
        found.append(gradient)
    return found[0], found[1]


def by_upstream_gradient(model: Any, step: Any, given: Any) -> tuple[Tensor, Tensor]:
    found = []
    for run in (lambda x: model(x=x)["y"], lambda x: torch.tanh(x * 2)):
        x = numbers(6, 4).requires_grad_()
        (gradient,) = torch.autograd.grad(run(x), x, given.detach())
        found.append(gradient)
    return found[0], found[1]


def by_step(model: Any, step: Any, given: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        step.model.w.fill_(2)
    return step(x=given)["y"], torch.tanh(given.detach().clone().as_subclass(Tensor) * 2)


def by_gradient(model: Any, step: Any, given: Any) -> tuple[Tensor, Tensor]:
    found = []
    for kind in (tn.optim.SGD, torch.optim.SGD):
        p = nn.Parameter(numbers(6, 4))
        p.grad = given.detach()
        kind([p], lr=0.5, momentum=0.5).step()
        found.append(p.detach())
    return found[0], found[1]


ENTRIES = {f.__name__.removeprefix("by_"): f for f in (by_model, by_step, by_autograd, by_gradient)}


@pytest.mark.parametrize("entry", [*ENTRIES, "upstream_gradient"])
@pytest.mark.parametrize("kind", READ)
def test_a_tensor_is_read_as_torch_reads_it(kind: str, entry: str, model: Any, step: Any) -> None:
    run = by_upstream_gradient if entry == "upstream_gradient" else ENTRIES[entry]
    mine, by_torch = run(model, step, READ[kind](numbers(6, 4)))
    torch.testing.assert_close(mine, by_torch.as_subclass(Tensor))


@pytest.mark.parametrize("entry", ["model", "step"])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_tensor_that_kernels_cannot_read_is_refused_(kind: str, entry: str, model: Any, step: Any) -> None:
    make, message = REFUSED[kind]
    before = step.state_dict()
    with pytest.raises(FeedError, match=f"input 'x': .*{message}"):
        (model if entry == "model" else step)(x=make(numbers(6, 4)))
    assert step.state_dict()["steps"] == before["steps"]
    assert torch.equal(step.state_dict()["model"]["w"], before["model"]["w"])


@pytest.mark.parametrize("kind", ["freed", "masked", "a class of another meaning"])
def test_a_gradient_that_kernels_cannot_read_is_refused_with_the_remedy(kind: str) -> None:
    make, message = REFUSED[kind]
    p = nn.Parameter(numbers(1, 24))
    optimizer = tn.optim.AdamW([p])
    p.grad = make(numbers(1, 24))
    with pytest.raises(FeedError, match=message):
        optimizer.step()
    assert torch.equal(p, numbers(1, 24))


@pytest.mark.parametrize("how", [{"zero_grads": True}, {"max_norm": 1.0}, {"max_value": 0.1}, {}], ids=str)
def test_a_gradient_that_is_negated_when_it_is_read_is_one_like_any_other(how: dict[str, Any]) -> None:
    found = []
    for make in (lambda g: g, lambda g: torch._neg_view(-g)):
        p = nn.Parameter(numbers(5))
        optimizer = tn.optim.AdamW([p], **how)
        for _ in range(2):
            p.grad = make(numbers(5))
            optimizer.step()
        found.append((p.detach(), p.grad.clone()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", ["negated when read", "the imaginary part of a conjugate"])
def test_a_parameter_that_is_negated_when_it_is_read_is_refused(kind: str) -> None:
    made = READ[kind](numbers(5)).detach().requires_grad_()
    made.grad = numbers(5)
    with pytest.raises(FeedError, match=r"negated or conjugated when it is read; pass its \.clone\(\)"):
        tn.optim.SGD([made], lr=0.1).step()


def test_transforms_of_torch_func_and_forward_mode_are_refused_with_the_remedy(model: Any) -> None:
    def loss(x: Tensor) -> Tensor:
        return model(x=x)["loss"]

    for transform in (torch.func.grad(loss), torch.func.vmap(loss)):
        with pytest.raises(FeedError, match=r"torch.func.*; use torch.autograd.grad"):
            transform(numbers(6, 4))
    with forward_ad.dual_level(), pytest.raises(FeedError, match="forward-mode.*; use backward-mode"):
        model(x=forward_ad.make_dual(numbers(6, 4), numbers(6, 4)))


def test_real_tensors_under_a_fake_mode_are_refused(model: Any, step: Any) -> None:
    x = numbers(6, 4)
    for run in (model, step):
        with FakeTensorMode(), pytest.raises(FeedError, match="under a FakeTensorMode.*leave the mode"):
            run(x=x)


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu", 0), "cpu"], ids=str)
def test_the_cpu_has_one_name(device: Any) -> None:
    assert torch.equal(tn.compile(graph(), device=device)(x=torch.ones(2, 4))["y"], torch.tanh(torch.full((2, 4), 2.0)))


@pytest.mark.parametrize("device", ["meta", "nowhere", "cuda:99", "xla", 3.5], ids=str)
def test_a_device_that_kernels_cannot_run_on_is_refused(device: Any) -> None:
    with pytest.raises(DeclarationError, match="^device: "):
        tn.compile(graph(), device=device)


@pytest.mark.parametrize("elsewhere", ["meta device", "float64"])
def test_torchs_defaults_change_nothing(elsewhere: str) -> None:
    def train() -> list[Tensor]:
        g = tn.Graph("defaults")
        x = g.input("x", (B, 4))
        h = tn.dropout(tn.batch_norm(tn.linear(x, 3, name="fc")), 0.5)
        g.output(loss=tn.mean(tn.square(h)))
        step = tn.compile_step(g, optimizer=tn.adamw(lr=0.1), device=DEVICE)
        for _ in range(2):
            step(x=x_fed)
        if elsewhere == "meta device":  # eager PyTorch, which is compared with, may round less in float64
            assert tn.check(g, device=DEVICE).ok
        p.grad = gradient
        tn.optim.AdamW([p], max_norm=1.0).step()
        return [*step.state_dict()["model"].values(), *step.state_dict()["slots"].values(), p.detach().clone()]

    x_fed, gradient, found = numbers(6, 4), numbers(5), []
    p = nn.Parameter(numbers(5))
    found.append(train())
    p = nn.Parameter(numbers(5))
    if elsewhere == "float64":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    try:
        found.append(train())
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_more_numbers_than_there_is_memory_for_are_an_error_of_both_families() -> None:
    g = tn.Graph("huge")
    g.output(y=g.parameter("w", (2**45,)) * 2)
    with pytest.raises(FeedError, match="parameter 'w' of shape .35184372088832.: does not fit the memory"):
        tn.compile(g)
    g = tn.Graph("huge")
    g.output(y=g.input("x", (B,)) * 2)
    with pytest.raises(torch.OutOfMemoryError, match="input 'x': does not fit the memory"):
        tn.compile(g)(x=torch.ones(1, device=DEVICE).expand(2**45))
    g = tn.Graph("huge")
    x, y = g.input("x", (B, 1)), g.input("y", (1, tn.Dim("columns")))
    g.output(y=x + y)
    with pytest.raises(FeedError, match="does not fit the memory"):
        tn.compile(g)(x=torch.ones(2**22, 1, device=DEVICE), y=torch.ones(1, 2**23, device=DEVICE))


def overlapping() -> tuple[tn.Graph, Tensor]:
    g = tn.Graph("two")
    x = g.input("x", (B, 4))
    g.output(loss=tn.mean(x * g.parameter("a", (4,), init=1.0) * g.parameter("b", (4,), init=2.0)))
    return g, torch.ones(8, device=DEVICE)


@pytest.mark.parametrize("first", range(5))
def test_weights_whose_memory_overlaps_are_refused_and_neighbours_are_not(first: int) -> None:
    g, memory = overlapping()
    step: Any = tn.compile_step(g, optimizer=tn.sgd(lr=0.1), device=DEVICE)
    step.model.a.data, step.model.b.data = memory[:4], memory[first : first + 4]
    if first == 4:
        step(x=numbers(2, 4))
        return
    with pytest.raises(FeedError, match="'a' and 'b' share memory, and both are updated; "):
        step(x=numbers(2, 4))
    assert torch.equal(memory, torch.ones(8, device=DEVICE))
    p, q = nn.Parameter(memory[:4]), nn.Parameter(memory[first : first + 4])
    p.grad, q.grad = numbers(4), numbers(4)
    with pytest.raises(FeedError, match="parameter 0 and .*parameter 1 share memory"):
        tn.optim.SGD([p, q], lr=0.1).step()


def test_weights_that_lie_interleaved_are_told_from_weights_that_overlap() -> None:
    memory = torch.zeros(4, 4)
    views = {"even": memory[::2], "odd": memory[1::2], "left": memory[:, :2], "right": memory[:, 2:], "all": memory}
    overlap = {frozenset(pair) for pair in itertools.combinations(views, 2)}
    overlap -= {frozenset({"even", "odd"}), frozenset({"left", "right"})}
    for pair in itertools.combinations(views, 2):
        assert vetting.share_memory(*(views[n] for n in pair)) == (frozenset(pair) in overlap), pair


def test_a_feed_that_lies_in_a_weight_is_read_as_it_was() -> None:
    """Torch reads all of a batch before it updates anything."""
    found = []
    for feed in (lambda w: w.detach()[:2], lambda w: w.detach()[:2].clone()):
        g = tn.Graph("fed")
        x = g.input("x", (B, 4))
        h = tn.linear(tn.linear(x, 4, name="fc"), 4, name="fc2")
        g.output(loss=tn.mean(tn.square(h)))
        step: Any = tn.compile_step(g, optimizer=tn.sgd(lr=0.5), device=DEVICE)
        outputs = step(x=feed(step.model.fc.weight))
        found.append([outputs["loss"], *step.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# -- profilers ---------------------------------------------------------------------------------------------------------


def test_a_profiler_written_in_c_may_watch_a_compile() -> None:
    plain = tn.compile(graph()).source
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        watched = tn.compile(graph()).source
    finally:
        profiler.disable()
    assert watched == plain
    seen = {name for _, _, name in pstats.Stats(profiler).stats}  # type: ignore[attr-defined]
    assert {"compile", "run_formula", "greedy"} <= seen
