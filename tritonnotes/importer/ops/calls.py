"""An exported call as arguments by name: values, sizes, dtypes and numbers of ours for torch's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ...ir.core.errors import DeclarationError
from ...ir.core.types import as_dtype

REDUCTIONS = ("none", "mean", "sum")
"""torch's numbers of reductions."""

SPARSE = ("sparse", "sparse_grad")
"""Arguments that ask for sparse gradients, which ours never are."""

UNREAD = frozenset(
    ("cudnn_enable", "cudnn_enabled", "non_blocking", "copy", "memory_format", "layout", "device", "pin_memory",
     "implicit", *SPARSE)
)  # fmt: skip
"""Arguments that change no number, also of a gradient, or that say where and how a tensor lies in memory."""


@dataclass(frozen=True)
class Row:
    """How a call of torch becomes one of ours: `make` is given the arguments `order` of torch's schema by position, and
    those of `named` under our names. With `takes_name` it is told what to call its result, too.

    An argument of torch that is given to nobody must have its default.
    """

    make: Callable[..., Any]
    order: tuple[str, ...]
    named: Mapping[str, str]
    takes_name: bool = False


def row(make: Callable[..., Any], *order: str, takes_name: bool = False, **named: str) -> Row:
    return Row(make, order, named, takes_name)


def apply_row(found: Row, arguments: Mapping[str, Any], defaults: Mapping[str, Any], name: str | None) -> Any:
    """Our call. Raises `DeclarationError` for an argument that we have no counterpart of."""
    used = {*found.order, *found.named.values(), *UNREAD}
    for key, value in arguments.items():
        if key not in used and not (key in defaults and _same(value, defaults[key])):
            raise DeclarationError(f"{key}={value!r} is not supported; leave it at {defaults.get(key)!r}")
    by_name = {ours: arguments[theirs] for ours, theirs in found.named.items()}
    called = {"name": name} if found.takes_name else {}
    with warnings.catch_warnings():
        # What ours warns of, torch's function has warned of where it is called.
        warnings.simplefilter("ignore", UserWarning)
        return found.make(*(arguments[key] for key in found.order), **by_name, **called)


def _same(value: object, default: object) -> bool:
    return value is default or (isinstance(value, bool | int | float | str | list | tuple) and value == default)


def arguments_of(node: Node, convert: Callable[[Any], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All arguments of a call by the names of its schema, and the defaults."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    defaults: dict[str, Any] = {a.name: a.default_value for a in schema if a.has_default_value()}
    given = {a.name: value for a, value in zip(schema, node.args, strict=False)} | node.kwargs
    found: dict[str, Any] = {}
    for argument in schema:
        value = convert(given[argument.name]) if argument.name in given else defaults[argument.name]
        found[argument.name] = value
    for named in (found, defaults):
        if isinstance(named.get("reduction"), int):  # some ops take it as a word
            named["reduction"] = REDUCTIONS[named["reduction"]]
    return found, defaults


def plain(value: Any) -> Any:
    """An argument that is no tensor and no size, as ours take it."""
    return as_dtype(value) if isinstance(value, torch.dtype) else value
