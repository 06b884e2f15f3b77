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


def _part(name: str) -> Callable[..., Any]:
    if name not in DONE_BY:
        for bind in BIND:
            bind()
    return DONE_BY[name]


@torch.library.custom_op("tritonnotes::forward", mutates_args=())
def forward(leaves: Sequence[Tensor], seed: Tensor | None, spec: str, wanted: Sequence[bool]) -> list[Tensor]:
    """One run of a form. `wanted` says of each leaf whether it wants a gradient. No leaf is changed: updated buffers
    are new tensors."""
    results: list[Tensor] = _part("forward")(leaves, seed, spec, wanted)
    return results


@forward.register_fake
def _(leaves: Sequence[Tensor], seed: Tensor | None, spec: str, wanted: Sequence[bool]) -> list[Tensor]:
    results: list[Tensor] = _part("results of forward")(leaves, seed, spec, wanted)
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
    results: list[Tensor] = _part("backward")(kept, cotangents, sizes, seed, spec, wanted)
    return results


@backward.register_fake
def _(
    kept: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    sizes: Sequence[int],
    seed: Tensor | None,
    spec: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    results: list[Tensor] = _part("results of backward")(kept, cotangents, sizes, seed, spec, wanted)
    return results


def _keep(ctx: Any, inputs: Any, output: Sequence[Tensor]) -> None:
    _part("keep for gradients")(ctx, inputs, output)


def _gradients(ctx: Any, gradients: Sequence[Tensor]) -> Any:
    return _part("gradients of forward")(ctx, gradients)


forward.register_autograd(_gradients, setup_context=_keep)
