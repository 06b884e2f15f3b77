"""A module as it is exported: with its loss where a training step wants one, in its training or its evaluation form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .arguments import Arguments

MODULE, LOSS = "module", "loss"
"""The attributes of `Wrapped`, which stand in front of the names of all modules, parameters and buffers."""


class Wrapped(torch.nn.Module):
    """A module as a function of the tensors of its `arguments`; or with a `loss`, the module and the loss of its result
    and of the tensors behind them."""

    def __init__(self, module: torch.nn.Module, loss: Callable[..., Any] | None, arguments: Arguments) -> None:
        super().__init__()
        self.module, self.arguments = module, arguments
        self.loss = loss

    def forward(self, *tensors: Any) -> Any:
        count = len(self.arguments.form.names)
        args, kwargs = self.arguments.rebuilt(tensors[:count])
        result = self.module(*args, **kwargs)
        return result if self.loss is None else (result, self.loss(result, *tensors[count:]))


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
