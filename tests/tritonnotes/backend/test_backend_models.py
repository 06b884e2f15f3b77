"""Models compiled by torch.compile(backend="tritonnotes") beside eager PyTorch and float64."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from models_to_compile import MODELS, Compiled
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import tritonnotes as tn
from tritonnotes.judge.tolerance import compare


class Trained:
    """A module that torch trains, called by `run`."""

    def __init__(self, module: nn.Module, run: Callable[..., Any], case: Compiled, dtype: torch.dtype) -> None:
        self.module, self.call, self.loss, self.dtype = module, run, case.loss, dtype
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    def step(self, example: tuple[Any, ...]) -> dict[str, Tensor]:
        """The results and gradients of a training step, and what is held after it."""
        self.optimizer.zero_grad()
        result = self.call(*self.inputs(example))
        self.loss(result).backward()
        found = {f"result {i}": t for i, t in enumerate(pytree.tree_leaves(result)) if isinstance(t, Tensor)}
        found |= {f"gradient of {n}": p.grad for n, p in self.module.named_parameters() if p.grad is not None}
        self.optimizer.step()
        return {n: t.detach().clone() for n, t in (found | self.module.state_dict()).items()}

    def inputs(self, example: tuple[Any, ...]) -> list[Any]:
        return [x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in example]


def trained(case: Compiled) -> list[Trained]:
    """The model compiled, eager, and in float64."""
    torch.manual_seed(0)
    net = case.module()
    eager, exact = deepcopy(net), deepcopy(net).double()
    compiled = torch.compile(net, backend="tritonnotes", fullgraph=case.whole)
    return [
        Trained(net, compiled, case, torch.float32),
        Trained(eager, eager, case, torch.float32),
        Trained(exact, exact, case, torch.float64),
    ]


def assert_close(got: dict[str, Tensor], eager: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    assert got.keys() == eager.keys()
    for name, tensor in got.items():
        found = compare(tensor, eager[name], exact[name])
        assert found.ok, f"{name}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_model_computes_and_learns_as_in_eager(name: str) -> None:
    case = MODELS[name]
    models = trained(case)
    for count in (8, 5, 3):
        example = case.example(count)
        assert_close(*(model.step(example) for model in models))
    report = tn.torch_compile_report()
    assert report.fused > 0 and "report this" not in str(report), str(report)
    for model in models:
        model.module.eval()
    with torch.no_grad():
        assert_close(*({"result": pytree.tree_leaves(m.call(*m.inputs(example)))[0]} for m in models))


def test_inference_mode_is_that_of_eager() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.GELU(), nn.LayerNorm(8)).eval()
    compiled = torch.compile(net, backend="tritonnotes", fullgraph=True)
    with torch.inference_mode():
        for count in (4, 6, 3):
            x = torch.randn(count, 8)
            result = compiled(x)
            assert result.is_inference() and not result.requires_grad
            torch.testing.assert_close(result, net(x))
    assert tn.torch_compile_report().fused > 0
    inside = torch.compile(lambda x: torch.tanh(entered(x)) * 2 + x, backend="tritonnotes")
    x = torch.randn(4, 8, requires_grad=True)
    torch.testing.assert_close(inside(x), torch.tanh(entered(x)) * 2 + x)


@torch.inference_mode()
def entered(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * 3 + 1


def adversaries() -> list[nn.Module]:
    """What makes pictures of noise, and what tells them from others."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
    return [generator, nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))]


def adversarial_steps(
    generator: nn.Module, judge: nn.Module, calls: list[Any], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Three steps of both, each with an optimizer of its own, and what both hold then."""
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, judge)]
    make, tell = calls
    drawn = torch.Generator().manual_seed(1)
    loss = nn.BCEWithLogitsLoss()
    found: dict[str, Tensor] = {}
    for step in range(3):
        noise = torch.randn(5, 4, generator=drawn).to(dtype)
        real = torch.randn(5, 6, generator=drawn).to(dtype)
        made = make(noise)
        ones, zeros = torch.ones(5, 1, dtype=dtype), torch.zeros(5, 1, dtype=dtype)
        optimizers[1].zero_grad()
        told = loss(tell(real), ones) + loss(tell(made.detach()), zeros)
        told.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        fooled = loss(tell(made), ones)
        fooled.backward()
        optimizers[0].step()
        found |= {f"step {step}, judge": told.detach(), f"step {step}, generator": fooled.detach()}
    for name, net in (("generator", generator), ("judge", judge)):
        found |= {f"{name}.{n}": t.detach() for n, t in net.state_dict().items()}
    return found


def test_two_models_with_two_optimizers_learn_as_in_eager() -> None:
    found = []
    for dtype, compiled in ((torch.float32, True), (torch.float32, False), (torch.float64, False)):
        nets = [net.to(dtype) for net in adversaries()]
        calls = [torch.compile(net, backend="tritonnotes", fullgraph=True) if compiled else net for net in nets]
        found.append(adversarial_steps(*nets, calls, dtype))
    assert_close(*found)
    assert tn.torch_compile_report().fused > 0
