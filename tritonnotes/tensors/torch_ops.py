"""The two ops by which torch knows a run of a program, `tritonnotes::forward` and `tritonnotes::backward`.

They are declared apart from what they do, with torch alone, and as soon as both torch and this package are there: so an
exported program can be loaded before anything of this package is used. What they do is in `runtime/traced.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

DONE_BY: dict[str, Callable[..., Any]] = {}
"""What each part of the ops does, bound from above."""

BIND: list[Callable[[], object]] = []
"""What is called before the first run where nothing is bound yet: the package says how it is found."""


def _done_by(name: str) -> Callable[..., Any]:
    """The function of a part, which is looked for when it is called."""

    def do(*given: Any, **named: Any) -> Any:
        if name not in DONE_BY:
            for bind in BIND:
                bind()
        return DONE_BY[name](*given, **named)

    return do


@torch.library.custom_op("tritonnotes::forward", mutates_args=())
def forward(leaves: Sequence[Tensor], seed: Tensor | None, spec: str, wanted: Sequence[bool]) -> list[Tensor]:
    """One run of a form. `wanted` says of each leaf whether it wants a gradient. No leaf is changed: updated buffers
    are new tensors."""
    results: list[Tensor] = _done_by("forward")(leaves, seed, spec, wanted)
    return results


@torch.library.custom_op("tritonnotes::backward", mutates_args=())
def backward(
    kept: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    sizes: Sequence[int],
    seed: Tensor | None,
    spec: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The gradients of the leaves that are reached, from what `forward` took and kept and the outputs' gradients."""
    results: list[Tensor] = _done_by("backward")(kept, cotangents, sizes, seed, spec, wanted)
    return results


forward.register_fake(_done_by("results of forward"))
backward.register_fake(_done_by("results of backward"))
forward.register_autograd(_done_by("gradients of forward"), setup_context=_done_by("keep for gradients"))
