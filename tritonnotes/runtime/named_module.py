"""Modules that hold parameters, buffers and other modules by any name: a user's names are not bound by torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import attrgetter, is_, is_not
from typing import Any, Self

import torch
from torch import Tensor

NOT_A_KEYWORD = "self."
"""What an input called `self` is fed as where torch passes keywords on: no name ends in a dot."""


class NamedModule(torch.nn.Module):
    """A torch module whose tensors may be called as an attribute of torch's modules is: `forward.weight`, `train`, `0`.

    `state_dict`, `named_parameters`, `get_parameter` and their like know each tensor by its name. As an attribute it is
    there as well, unless torch's modules have one of that name: that stays theirs.
    """

    def hold(self, name: str, tensor: Tensor, is_parameter: bool, *, persistent: bool = True) -> None:
        """Put `fc1.weight` where torch would: as `weight` of a submodule `fc1`. A `Parameter` stays the object that it
        is. A state dict leaves out what is not `persistent`."""
        *path, leaf = name.split(".")
        module: torch.nn.Module = self
        for part in path:
            if part not in module._modules:
                module._modules[part] = NamedModule()
            module = module._modules[part]  # type: ignore[assignment]
        if is_parameter:
            is_made = isinstance(tensor, torch.nn.Parameter)
            module._parameters[leaf] = tensor if is_made else torch.nn.Parameter(tensor)  # type: ignore[assignment]
        else:
            module._buffers[leaf] = tensor
            if not persistent:
                module._non_persistent_buffers_set.add(leaf)

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


_MODULES, _PARAMETERS, _BUFFERS = attrgetter("_modules"), attrgetter("_parameters"), attrgetter("_buffers")


class TensorPlaces:
    """Where a module keeps its tensors of some names, which it may know by other `keys`: found by a walk over it, and
    looked up while its submodules stay the same. A copy finds its own."""

    def __init__(self, names: Sequence[str], keys: Mapping[str, str]) -> None:
        self._names, self._given_keys = names, keys
        self._are_known = False
        self._parents: list[int] = []
        self._keys: list[str] = []
        self._children: list[Any] = []
        self._dicts: list[dict[str, Any]] = []
        self._leaves: list[str] = []
        self._parameters: list[Any] = []
        self._buffers: list[Any] = []

    def tensors(self, module: torch.nn.Module) -> dict[str, Tensor]:
        """The tensors by name, in order; those that are gone are left out."""
        found = self.known(module)
        if found is not None:
            return dict(zip(self._names, found, strict=True))
        walked = tensors_by_name(module, self._names, self._given_keys)
        self._are_known = len(walked) == len(self._names) and self._find(module)
        return walked

    def known(self, module: torch.nn.Module) -> list[Tensor] | None:
        """The tensors of all names, in order; None where they have to be looked for."""
        if not self._are_known or not self._stays(module):
            return None
        found: list[Any] = [*map(dict.get, self._dicts, self._leaves)]
        return found if all(map(is_not, found, repeat(None))) else None

    def _stays(self, module: torch.nn.Module) -> bool:
        """Whether every module on the way is the one that it was, and keeps its tensors where it did."""
        modules = [module, *self._children]
        parents = map(modules.__getitem__, self._parents)
        return (
            all(map(is_, map(dict.get, map(_MODULES, parents), self._keys), self._children))
            and all(map(is_, map(_PARAMETERS, modules), self._parameters))
            and all(map(is_, map(_BUFFERS, modules), self._buffers))
        )

    def _find(self, module: torch.nn.Module) -> bool:
        """Note the way to each tensor; False where a name is no way that leads there. The module itself is not held."""
        modules: list[Any] = [module]
        places: dict[tuple[str, ...], int] = {(): 0}
        self._parents, self._keys = [], []
        self._dicts, self._leaves = [], []
        for name in self._names:
            *path, leaf = self._given_keys.get(name, name).split(".")
            for depth in range(len(path)):
                way = (*path[: depth + 1],)
                if way in places:
                    continue
                parent = places[way[:-1]]
                child = modules[parent]._modules.get(way[-1])
                if child is None:
                    return False
                self._parents.append(parent)
                self._keys.append(way[-1])
                places[way] = len(modules)
                modules.append(child)
            owner = modules[places[(*path,)]]
            held = next((h for h in (owner._buffers, owner._parameters) if leaf in h), None)
            if held is None:
                return False
            self._dicts.append(held)
            self._leaves.append(leaf)
        self._children = modules[1:]
        self._parameters, self._buffers = [*map(_PARAMETERS, modules)], [*map(_BUFFERS, modules)]
        return True

    def __deepcopy__(self, memo: Any) -> Self:
        return type(self)(self._names, self._given_keys)

    def __reduce__(self) -> Any:
        return type(self), (self._names, self._given_keys)


def tensors_by_name(module: torch.nn.Module, names: Sequence[str], keys: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of some names that a walk over a module finds, which knows them by `keys` where these are others."""
    held = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    found = {name: tensor for named in held for name, tensor in named}
    return {name: found[keys.get(name, name)] for name in names if keys.get(name, name) in found}
