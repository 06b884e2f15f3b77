"""A parameter behind steps alone has a gradient of zeros, as in torch: it decays, and has optimizer state."""

from __future__ import annotations

import pytest
import torch

import tritonnotes as tn
from tritonnotes.ir.core.graph import Value

STEPS = {
    "sign": (lambda w: tn.sign(w), torch.sign),
    "floor": (lambda w: tn.floor(w), torch.floor),
    "behind more": (lambda w: 2 * tn.floor(tn.tanh(3 * w)), lambda w: 2 * torch.floor(torch.tanh(3 * w))),
}


def graph(step: object, dtype: str) -> tn.Graph:
    g = tn.Graph("steps")
    w, v = g.parameter("w", (3,), dtype=dtype), g.parameter("v", (3,), dtype=dtype)
    y: Value = step(w) * v  # type: ignore[operator]
    g.output(y=y, loss=tn.mean(y * y))
    return g


@pytest.mark.parametrize("fusion", ["optimal", "off"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STEPS)
def test_what_is_behind_steps_has_zeros_for_a_gradient(name: str, dtype: str, fusion: str) -> None:
    declared, plain = STEPS[name]
    state = {n: torch.tensor([1.5, -0.4, 2.5]).to(getattr(torch, dtype)) for n in ("w", "v")}

    model = tn.compile(graph(declared, dtype), fusion=fusion, strict=True)
    model.load_state_dict(state)
    model()["loss"].backward()
    assert torch.equal(model.get_parameter("w").grad, torch.zeros_like(state["w"]))

    step = tn.compile_step(
        graph(declared, dtype), optimizer=tn.sgd(lr=0.1, momentum=0.9, weight_decay=0.5), fusion=fusion, strict=True
    )
    step.model.load_state_dict(state)
    held = {n: t.clone().requires_grad_() for n, t in state.items()}
    optimizer = torch.optim.SGD(list(held.values()), lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        step()
        optimizer.zero_grad()
        (plain(held["w"]) * held["v"]).square().mean().backward()
        optimizer.step()
    for n, t in held.items():
        torch.testing.assert_close(step.model.get_parameter(n), t)
        torch.testing.assert_close(step.slots[f"{n}.momentum_buffer"], optimizer.state[t]["momentum_buffer"])
