"""Modules that hold parameters, buffers and other modules by any name: a user's names are not bound by torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from .held import Seen, same_items

NOT_A_KEYWORD = "self."
"""What an input called `self` is fed as where torch passes keywords on: no name ends in a dot."""


NO_NAMES: dict[str, Tensor] = {}
"""The tensors of a module are known in a list."""


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


class TensorPlaces:
    """Where a module keeps its tensors of some names, which it may know by other `keys`: found by a walk over it, and
    known as long as nothing on the way to them has changed. A copy finds its own."""

    def __init__(self, names: Sequence[str], keys: Mapping[str, str]) -> None:
        self._names, self._keys = names, keys
        self._module = 0
        self._found: list[Tensor] = []
        self._stay: Callable[[], int] | None = None
        self._checked: Seen | None = None

    def tensors(self, module: torch.nn.Module) -> dict[str, Tensor]:
        """The tensors by name, in order; those that are gone are left out."""
        found = self.known(module)
        if found is not None:
            return dict(zip(self._names, found, strict=True))
        walked = tensors_by_name(module, self._names, self._keys)
        self._module, self._found = id(module), [*walked.values()]
        self._stay = self._places(module, walked)
        return walked

    def known(self, module: torch.nn.Module) -> list[Tensor] | None:
        """The tensors of all names, in order, in the same list as long as they are the same; None where they have to be
        looked for."""
        return self._found if self._stay is not None and id(module) == self._module and self._stay() else None

    def checked(self, module: torch.nn.Module) -> dict[str, Tensor] | None:
        """The tensors by name, in order, where all are as they were when somebody found that they fit; else None."""
        known = self.known(module)
        if known is None or self._checked is None or not self._checked.are(known, NO_NAMES):
            return None
        return dict(zip(self._names, known, strict=True))

    def note_checked(self, module: torch.nn.Module) -> None:
        """The tensors fit as they are now."""
        known = self.known(module)
        self._checked = None if known is None else Seen(known, NO_NAMES)

    def _places(self, module: torch.nn.Module, walked: Mapping[str, Tensor]) -> Callable[[], int] | None:
        """Says later whether the way to each tensor is the same, and leads to it; None where a name is no way that
        does. The module itself is not held."""
        modules: dict[tuple[str, ...], torch.nn.Module] = {(): module}
        items: list[Any] = []
        for name in self._names:
            *path, leaf = self._keys.get(name, name).split(".")
            for depth in range(len(path)):
                way = (*path[: depth + 1],)
                if way not in modules:
                    children = modules[way[:-1]]._modules
                    child = children.get(way[-1])
                    if child is None:
                        return None
                    modules[way] = child
                    items.append((children, way[-1], child))
            owner = modules[(*path,)]
            held = next((h for h in (owner._buffers, owner._parameters) if leaf in h), {})
            if name not in walked or held.get(leaf) is not walked[name]:
                return None
            items.append((held, leaf, walked[name]))
        attributes = [(m, vars(m)) for m in modules.values()]
        kept = ("_modules", "_parameters", "_buffers")
        return same_items([(held, name, held[name]) for _, held in attributes for name in kept] + items, attributes)

    def __deepcopy__(self, memo: Any) -> Self:
        return type(self)(self._names, self._keys)

    def __reduce__(self) -> Any:
        return type(self), (self._names, self._keys)


def tensors_by_name(module: torch.nn.Module, names: Sequence[str], keys: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of some names that a walk over a module finds, which knows them by `keys` where these are others."""
    held = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    found = {name: tensor for named in held for name, tensor in named}
    return {name: found[keys.get(name, name)] for name in names if keys.get(name, name) in found}
