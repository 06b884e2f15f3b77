"""All modules of tn.nn under torch.compile(fullgraph=True) and torch.export, none left out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from nn_modules import DEVICE, NAMES, fed, pair, results
from torch import Tensor, nn

import tritonnotes as tn

GATED = ("SwiGLU", "GEGLU", "ReGLU")
ALL = (*NAMES, *GATED, "LinearCrossEntropy")


def made(name: str) -> tuple[nn.Module, list[Tensor]]:
    """A module and its inputs."""
    if name in NAMES:
        return pair(name)[1], fed(name)
    torch.manual_seed(0)
    if name in GATED:
        return getattr(tn.nn, name)(), fed("GLU")
    return tn.nn.LinearCrossEntropy(6, 3, device=DEVICE), [fed("GLU")[0], (torch.arange(4) % 3).to(DEVICE)]


def test_all_modules_are_here() -> None:
    assert sorted(ALL) == sorted(name for name in tn.nn.__all__ if name not in ("replace", "Replacement"))


class Compiled(nn.Module):
    """A module that is called as one graph."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        torch._dynamo.reset()
        run: Callable[..., Tensor] = torch.compile(self.module, fullgraph=True, backend="aot_eager")
        return run(*inputs)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ALL)
def test_a_module_is_one_graph_of_a_tracer(name: str) -> None:
    module, inputs = made(name)
    for one, other in zip(results(Compiled(module), inputs), results(module, inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ALL)
def test_a_module_is_exported_in_both_forms_for_every_batch(name: str) -> None:
    module, inputs = made(name)
    for training in (False, True):
        module.train(training)
        every = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
        program = torch.export.export(deepcopy(module), tuple(inputs), dynamic_shapes=every)
        called = [node for node in program.graph.nodes if node.target is torch.ops.tritonnotes.forward.default]
        assert len(called) == 1
        loaded, reference = program.module(), deepcopy(module)
        for batch in (inputs, [t[:3] for t in inputs]):
            torch.testing.assert_close(loaded(*batch), reference(*batch))
        for buffer, moved in reference.named_buffers():
            torch.testing.assert_close(dict(loaded.named_buffers())[buffer], moved)
