"""Imported modules beside eager PyTorch and float64: results, gradients, two training steps, state dicts."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from modules_to_import import CASES, Case, example_of
from scripts import assert_declares
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.judge.tolerance import compare

LR, MOMENTUM = 0.1, 0.9


class Trained:
    """A module that torch trains."""

    def __init__(self, module: nn.Module, case: Case, dtype: torch.dtype) -> None:
        self.module, self.dtype = deepcopy(module).to(dtype), dtype
        self.loss = deepcopy(case.loss).to(dtype) if isinstance(case.loss, nn.Module) else case.loss
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=LR, momentum=MOMENTUM)

    def run(self, example: tuple[Tensor, ...], target: Tensor) -> dict[str, Tensor]:
        """The result, the loss, and gradients in the parameters."""
        inputs = [x.to(self.dtype) if x.is_floating_point() else x for x in (*example, target)]
        self.optimizer.zero_grad()
        output = self.module(*inputs[:-1])
        loss = self.loss(output, inputs[-1])
        loss.backward()
        return {"output": output, "loss": loss}

    def tensors(self) -> dict[str, Tensor]:
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad for n, p in self.module.named_parameters() if p.grad is not None}


def assert_close(got: dict[str, Tensor], eager: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """The policy: twice as far from float64 as eager PyTorch is, and two units in the last place."""
    assert got.keys() == eager.keys()
    for name, tensor in got.items():
        found = compare(tensor, eager[name], exact[name])
        assert found.ok, f"{name}: {found}"


@pytest.mark.parametrize("name", CASES)
def test_an_imported_graph_is_declared_again_by_its_script(name: str) -> None:
    case = CASES[name]
    net, example, target = example_of(case)
    assert_declares(tn.from_torch(net, *example))
    script = assert_declares(tn.from_torch(net, *example, loss=case.loss, target=target))
    assert "g.call" not in script


@pytest.mark.parametrize("name", CASES)
def test_a_module_computes_learns_and_is_stored_as_in_torch(name: str) -> None:
    case = CASES[name]
    net, example, target = example_of(case)
    eager, exact = (Trained(net, case, dtype) for dtype in (torch.float32, torch.float64))
    step = tn.compile_step(net, *example, loss=case.loss, optimizer=tn.sgd(lr=LR, momentum=MOMENTUM))
    assert step.model.state_dict().keys() == net.state_dict().keys()
    mine = dict(step.model.named_parameters(remove_duplicate=False))
    theirs = dict(net.named_parameters(remove_duplicate=False))
    assert mine.keys() == theirs.keys() and all(mine[n] is theirs[n] for n in mine)

    step.model.train()
    got = step.model(*example, target)
    got["loss"].backward()
    assert_close(got, eager.run(example, target), exact.run(example, target))
    gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert_close(gradients, eager.gradients(), exact.gradients())

    for _ in range(2):
        assert_close(step(*example, target), eager.run(example, target), exact.run(example, target))
        eager.optimizer.step()
        exact.optimizer.step()
    held = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert_close(held, eager.tensors(), exact.tensors())


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu", 0)])
def test_the_processor_may_be_called_by_its_number(device: torch.device | str) -> None:
    net, x = torch.nn.Linear(4, 2), torch.ones(3, 4)
    torch.testing.assert_close(tn.compile(net, x, device=device)(x), net(x))
