"""A module as it is exported: with its loss where a training step wants one, in its training or its evaluation form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

MODULE, LOSS = "module", "loss"
"""The attributes of `Wrapped`, which stand in front of the names of all modules, parameters and buffers."""


class Wrapped(torch.nn.Module):
    """A module, or with a `loss` a module and the loss of its result and of the inputs behind the first `count`."""

    def __init__(self, module: torch.nn.Module, loss: Callable[..., Any] | None, count: int) -> None:
        super().__init__()
        self.module, self.count = module, count
        self.loss = loss

    def forward(self, *inputs: Any) -> Any:
        result = self.module(*inputs[: self.count])
        return result if self.loss is None else (result, self.loss(result, *inputs[self.count :]))


def own_path(path: str) -> str:
    """The name of a module, parameter or buffer of `Wrapped` as its owner calls it: those of the module as they are,
    those of a loss with `loss.` in front."""
    if path == MODULE:
        return ""
    return path.removeprefix(f"{MODULE}.")


@contextmanager
def in_form(module: torch.nn.Module, training: bool) -> Iterator[None]:
    """The module in its training form (as it is, where it is in training: some parts of it may be frozen) or in its
    evaluation form, and afterwards as it was."""
    before = {part: part.training for part in module.modules()}
    if training != module.training:
        module.train(training)
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was


def reads_training(module: torch.nn.Module) -> bool:
    """Whether code outside of torch asks for `training`, so that the two forms may differ in more than their ops."""
    kinds = {kind for part in module.modules() for kind in type(part).__mro__}
    own = [kind for kind in kinds if kind is not object and not kind.__module__.startswith("torch.")]
    functions = [f for kind in own for f in vars(kind).values() if hasattr(f, "__code__")]
    return any("training" in function.__code__.co_names for function in functions)
