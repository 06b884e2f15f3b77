"""What a module is called with: tensors, which are the inputs of its graph, and all else, which an import fixes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ir.core.errors import DeclarationError, FeedError

FIXED = (bool, int, float, str, torch.dtype, torch.device, type(None))
"""What may be given beside tensors: it is part of the program."""


class _Given:
    """Stands for a tensor."""


@dataclass(frozen=True)
class CallForm:
    """How a module is called. `names` are those of its tensors, in order: those of the parameters of forward, with what
    leads to a tensor inside a tuple or a dict behind it. `fixed` are the other values by name."""

    names: tuple[str, ...]
    fixed: Mapping[str, Any]
    signature: inspect.Signature

    @property
    def fixes_others(self) -> bool:
        """Whether a call that leaves out what is no tensor would be another one."""
        known = self.signature.parameters
        return any(name in known and not _is_same(value, known[name].default) for name, value in self.fixed.items())

    def tensors_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of another call, in order. Raises `FeedError` where it differs in more than its tensors."""
        try:
            leaves = named_leaves(bound_arguments(self.signature, args, kwargs))
        except TypeError as error:
            raise FeedError(f"forward: {error}; it takes {self.signature}") from None
        given = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
        for name, value in leaves.items():
            if name in given or name in self.fixed and _is_same(value, self.fixed[name]):
                continue
            known = f"{name!r} was {self.fixed[name]!r}" if name in self.fixed else f"{name!r} was a tensor"
            raise FeedError(
                f"forward: {name!r} is {value!r}, and where the module was imported {known}, which is part of the "
                "program; compile the module again for the other"
            )
        differs = [n for n in self.names if n not in given] + [n for n in given if n not in self.names]
        if differs:
            raise FeedError(
                f"forward: {differs[0]!r} is {'a' if differs[0] in given else 'no'} tensor here; the module was "
                f"imported with the tensors {', '.join(self.names)}: give these, or compile it again"
            )
        return [given[name] for name in self.names]


@dataclass(frozen=True)
class Arguments:
    """A call of a module's forward, with its tensors."""

    form: CallForm
    tensors: tuple[Tensor, ...]
    leaves: tuple[Any, ...]
    spec: Any

    def rebuilt(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the same call with these tensors, by position and by name."""
        given = iter(tensors)
        args, kwargs = pytree.tree_unflatten([next(given) if x is _Given else x for x in self.leaves], self.spec)
        return args, kwargs


def arguments_of_call(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """What a module is called with in an example. Raises `DeclarationError` for what its forward does not take, and for
    values that are neither tensors nor can be fixed."""
    signature = inspect.signature(module.forward)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    signature = inspect.Signature(plain)
    try:
        bound = bound_arguments(signature, args, kwargs)
    except TypeError as error:
        raise DeclarationError(f"{type(module).__name__}.forward: {error}; give an example of each input") from None
    leaves = named_leaves(bound)
    _, spec = pytree.tree_flatten((bound.args, bound.kwargs))
    names = tuple(name for name, leaf in leaves.items() if isinstance(leaf, Tensor))
    fixed = {name: leaf for name, leaf in leaves.items() if name not in names}
    for name, value in fixed.items():
        if not names:
            raise DeclarationError(f"{type(module).__name__}.forward: {name!r} is {value!r}, no tensor; give a tensor")
        if not isinstance(value, FIXED):
            raise DeclarationError(
                f"{type(module).__name__}.forward: {name!r} is {value!r}, no tensor; import a module that "
                "fixes it, whose forward(self, x) calls this one"
            )
    held = tuple(_Given if isinstance(leaf, Tensor) else leaf for leaf in leaves.values())
    return Arguments(CallForm(names, fixed, signature), tuple(leaves[name] for name in names), held, spec)


def bound_arguments(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """What a call gives to each parameter, defaults included. Raises `TypeError` for what it does not take."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound


def named_leaves(bound: inspect.BoundArguments) -> dict[str, Any]:
    """What a call gives, tuples and dicts opened; no two have one name."""
    found: dict[str, Any] = {}
    for name, given in bound.arguments.items():
        for path, leaf in pytree.tree_flatten_with_path(given)[0]:
            full = "_".join([name, *map(step_name, path)])
            while full in found:
                full += "_"
            found[full] = leaf
    return found


def step_name(key: Any) -> str:
    """What leads from a container to a part of it."""
    return str(getattr(key, "idx", getattr(key, "key", getattr(key, "name", key))))


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other
