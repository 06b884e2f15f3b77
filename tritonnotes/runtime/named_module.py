"""Modules that hold parameters, buffers and other modules by any name: a user's names are not bound by torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NOT_A_KEYWORD = "self."
"""What an input called `self` is fed as where torch passes keywords on: no name ends in a dot."""


class NamedModule(torch.nn.Module):
    """A torch module whose tensors may be called as an attribute of torch's modules is: `forward.weight`, `train`, `0`.

    `state_dict`, `named_parameters`, `get_parameter` and their like know each tensor by its name. As an attribute it is
    there as well, unless torch's modules have one of that name: that stays theirs.
    """

    def hold(self, name: str, tensor: Tensor, is_parameter: bool) -> None:
        """Put `fc1.weight` where torch would: as `weight` of a submodule `fc1`."""
        *path, leaf = name.split(".")
        module: torch.nn.Module = self
        for part in path:
            if part not in module._modules:
                module._modules[part] = NamedModule()
            module = module._modules[part]  # type: ignore[assignment]
        if is_parameter:
            module._parameters[leaf] = torch.nn.Parameter(tensor)
        else:
            module._buffers[leaf] = tensor

    def __call__(self, /, *inputs: Any, **feeds: Any) -> Any:
        return super().__call__(*inputs, **{NOT_A_KEYWORD if n == "self" else n: t for n, t in feeds.items()})

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__
        for kind, tensors in ((torch.nn.Parameter, "_parameters"), (Tensor, "_buffers"), (torch.nn.Module, "_modules")):
            if isinstance(value, kind) and name in held.get(tensors, ()):
                held[tensors][name] = value
                return
        if name in held or hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def get_submodule(self, target: str) -> torch.nn.Module:
        module: torch.nn.Module | None = self
        for part in target.split(".") if target else ():
            module = None if module is None else module._modules.get(part)
        return super().get_submodule(target) if module is None else module

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        path, _, leaf = target.rpartition(".")
        found = self.get_submodule(path)._parameters.get(leaf)
        return super().get_parameter(target) if found is None else found

    def get_buffer(self, target: str) -> Tensor:
        path, _, leaf = target.rpartition(".")
        found = self.get_submodule(path)._buffers.get(leaf)
        return super().get_buffer(target) if found is None else found
