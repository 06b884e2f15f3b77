"""Tensors that a model computes with in place of first values of its own: those of the module it was imported from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Shared:
    """`tensors` by the names of parameters and buffers in a graph. `keys` are the names that state dicts have for those
    whose own is no name of a graph. `aliases` are further names of them, by which state dicts know them too: those of
    tied weights. `transient` are the names, as state dicts would have them, of buffers that state dicts leave out."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    transient: frozenset[str] = frozenset()
