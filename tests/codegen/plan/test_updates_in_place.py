"""What a run leaves in a leaf, in whatever order it reads that leaf, or does not read it at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import MODES
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.runtime.runner import Runner

LEFT: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "not read": (lambda p, x: x + 1, lambda p, x: x + 1),
    "not read, turned round": (lambda p, x: tn.transpose(x, 0, 1), lambda p, x: x.T),
    "not read, in another shape": (
        lambda p, x: tn.reshape(tn.exp(tn.reshape(x, (9, 4))), (6, 6)),
        lambda p, x: x.exp(),
    ),
    "read in its own order": (lambda p, x: p + x, lambda p, x: p + x),
    "read in another shape": (lambda p, x: tn.reshape(tn.reshape(p, (9, 4)) * 2, (6, 6)), lambda p, x: p * 2),
    "turned round": (lambda p, x: tn.transpose(p, 0, 1) * 2, lambda p, x: p.T * 2),
    "turned round, and added to": (lambda p, x: tn.transpose(p, 0, 1) * 2 + x, lambda p, x: p.T * 2 + x),
    "read in part": (lambda p, x: x + tn.narrow(p, 0, 1, 1), lambda p, x: x + p[1:2]),
    "read in both orders": (lambda p, x: tn.transpose(p, 0, 1) + p, lambda p, x: p.T + p),
}


@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize("name", LEFT)
def test_a_leaf_holds_its_new_value_in_order(name: str, fusion: str) -> None:
    build, wanted = LEFT[name]
    graph = Graph("left")
    x, p = graph.input("x", (6, 6)), graph.buffer("p", (6, 6))
    graph.output(y=x * 2)
    graph.update(p, build(p, x))
    generator = torch.Generator().manual_seed(0)
    before, given = (torch.rand(6, 6, generator=generator) for _ in range(2))
    held = before.clone()
    Runner(make_program(optimize(decompose(graph)), fusion), torch.device("cpu")).run({"x": given, "p": held}, {})
    torch.testing.assert_close(held, wanted(before, given), rtol=1e-6, atol=0)


def test_a_rule_may_forget_the_old_parameter() -> None:
    @tn.update_rule(reference=lambda p, g, *, lr: -lr * g)
    def forgetful(p: Any, g: Any, *, lr: float) -> Any:
        """Only the last gradient counts."""
        return (-lr * g,)

    graph = tn.Graph("forgetful")
    x = graph.input("x", (5, 3))
    y = tn.linear(x, 4, name="fc")
    graph.output(loss=tn.mean(y * y))
    for fusion in MODES:
        step = tn.compile_step(graph, loss="loss", optimizer=forgetful(lr=0.5), fusion=fusion, device="cpu")
        given = torch.rand(5, 3)
        weight, bias = (t.detach().clone().requires_grad_() for t in step.model.state_dict().values())
        torch.nn.functional.linear(given, weight, bias).square().mean().backward()
        step(x=given)
        for left, parameter in zip(step.model.state_dict().values(), (weight, bias), strict=True):
            torch.testing.assert_close(left, -0.5 * parameter.grad, rtol=1e-5, atol=1e-7)
