"""Tensors that a model computes with in place of first values of its own: those of the module it was imported from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class Source:
    """The module that tensors are shared with, and the name in the graph of what it holds at each of its `paths`. A
    copy and a pickle have tensors of their own, and so no module."""

    def __init__(self, module: torch.nn.Module | None = None, paths: Mapping[str, str] | None = None) -> None:
        self.module, self.paths = module, paths or {}

    def __deepcopy__(self, memo: Any) -> Source:
        return Source()

    def __reduce__(self) -> Any:
        return Source, ()


@dataclass(frozen=True)
class Shared:
    """`tensors` by the names of parameters and buffers in a graph. `keys` are the names that state dicts have for those
    whose own is no name of a graph. `aliases` are further names of them, by which state dicts know them too: those of
    tied weights. `transient` are the names, as state dicts would have them, of buffers that state dicts leave out.
    `source` is the module."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    transient: frozenset[str] = frozenset()
    source: Source = field(default_factory=Source)
