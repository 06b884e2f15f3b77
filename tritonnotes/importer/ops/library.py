"""Calls that stay torch's: what has no formula here is a library op, one for each result that is read."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from ...ir.core.errors import DeclarationError
from ...ir.core.graph import Graph, Value
from ...ir.core.types import Dim, DimProduct, DType, Size, as_dtype
from ...ir.primitives import library
from ...ir.primitives.library import DEVICE, NONE, OF_TORCH, TENSOR, TEXT
from ...tensors.library_calls import is_random, overload
from .calls import SPARSE

Convert = Callable[[Any], Any]


def library_results(graph: Graph, node: Node, convert: Convert, size: Callable[[Any], Size], name: str | None) -> Any:
    """What a call gives, as values in the place of tensors; None in the place of what nobody reads. `convert` makes
    values and sizes of arguments."""
    target = _functional(node)
    schema = target._schema.arguments
    given = {a.name: value for a, value in zip(schema, node.args, strict=False)} | node.kwargs
    given |= {name: False for name in SPARSE if name in given}
    _refuse_random(target, given)
    values: list[Value] = []
    arguments: list[object] = []
    options: list[object] = []
    positional = [a.name for a in schema if not a.kwarg_only]
    known = {a.name: a.default_value for a in schema if a.has_default_value()}
    last = max((positional.index(key) for key in given if key in positional), default=-1)
    for key in positional[: last + 1]:
        arguments.append(said(convert(given.get(key, known.get(key))), values))
    options = [(a.name, said(convert(given[a.name]), values)) for a in schema if a.kwarg_only and a.name in given]
    leaves, spec = pytree.tree_flatten(node.meta["val"], is_leaf=lambda part: part is None)
    read = _read(node, len(leaves))
    made: list[Value | None] = []
    for which, leaf in enumerate(leaves):
        if which not in read or not isinstance(leaf, Tensor):
            made.append(None)
            continue
        shape, dtype = tuple(map(size, leaf.shape)), as_dtype(leaf.dtype)
        first = all(value is None for value in made)
        called = name if first or name is None else graph.fresh_name(name)
        call = str(target), tuple(arguments), tuple(options)
        made.append(library(graph, values, *call, which, shape, dtype, called))
    return pytree.tree_unflatten(made, spec)


def _functional(node: Node) -> Any:
    """The overload that a call is, or of one that writes into its first argument the one that gives a new tensor."""
    target: Any = node.target
    if target._schema.is_mutable:
        namespace, name, which = str(target).split(".")
        target = overload(f"{namespace}.{name.rstrip('_')}.{which}")
    return overload(str(target))


def _refuse_random(target: Any, given: Any) -> None:
    if is_random(target, given):
        raise DeclarationError(
            "draws random numbers, which a call of torch in a graph may not: its gradient would draw others. Set its "
            "dropout to 0, and use torch.nn.Dropout around it"
        )


def said(given: Any, values: list[Value]) -> object:
    """An argument as a library op keeps it. Values are noted."""
    match given:
        case Value():
            values.append(given)
            return f"{TENSOR}{len(values) - 1}"
        case None:
            return NONE
        case list() | tuple():
            return tuple(said(part, values) for part in given)
        case str():
            return TEXT + given
        case torch.device():
            return DEVICE
        case torch.dtype() | torch.layout() | torch.memory_format():
            return str(given)
        case bool() | int() | float() | Dim() | DimProduct():
            return given
    if isinstance(given, DType):
        return f"{OF_TORCH}{given.name}"
    raise DeclarationError(f"is given {given!r}, a {type(given).__name__}; a graph keeps numbers, texts and tensors")


def _read(node: Node, count: int) -> set[int]:
    """The numbers of the results that somebody reads."""
    users = [user for user in node.users if user.users or user.target is not operator.getitem]
    picked = [user.args[1] for user in users if user.target is operator.getitem]
    if len(picked) < len(users) or not isinstance(node.meta["val"], list | tuple):
        return set(range(count))
    starts, found = [0], set[int]()
    for part in node.meta["val"]:
        starts.append(starts[-1] + len(pytree.tree_leaves(part, is_leaf=lambda leaf: leaf is None)))
    for index in picked:
        assert isinstance(index, int)
        place = index % len(node.meta["val"])
        found |= set(range(starts[place], starts[place + 1]))
    return found
