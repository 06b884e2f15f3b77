"""What tracers see of every op, by torch's own checks (`opcheck`) of the two ops that are registered with torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import tritonnotes as tn
from tritonnotes.ir.core.op import catalogue
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.runtime import traced
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()


def checked(name: str) -> tuple[tn.Model, list[Tensor]]:
    """A model of a sample of the op, and tensors for its leaves."""
    g = tn.Graph("g")
    g.output(y=catalogue()[name].sample(g, (tn.Dim("batch"), 6), "float32"))
    model = tn.compile(g, training=True)
    feeds = draw_feeds(g, {"batch": 4}, 0, kinds=("input", "parameter", "buffer"))
    return model, [feeds[n].to(DEVICE) for n in model._form.leaves]


@pytest.mark.slow
@pytest.mark.interpreted
@pytest.mark.parametrize("name", list(catalogue()))
def test_every_op_passes_torchs_own_checks(name: str) -> None:
    model, leaves = checked(name)
    form = model._form
    seed = torch.tensor(3) if form.seeds else None
    floats = [t.is_floating_point() for t in leaves]
    tensors = [t.clone().requires_grad_(w) for t, w in zip(leaves, floats, strict=True)]
    torch.library.opcheck(traced.forward, (tensors, seed, form.spec, floats))
    seen = CallsOfBackward()
    results = [t for t in traced.forward(tensors, seed, form.spec, floats) if t.requires_grad]
    with seen:
        for result in results[:1]:
            result.backward(torch.ones_like(result))
    assert bool(seen.arguments) is bool(results)
    for arguments in seen.arguments:
        torch.library.opcheck(traced.backward, tree_map_only(Tensor, Tensor.detach, arguments))


class CallsOfBackward(TorchDispatchMode):
    """Notes what the op that computes gradients is given."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.tritonnotes.backward.default:
            self.arguments.append(args)
        return func(*args, **(kwargs or {}))
