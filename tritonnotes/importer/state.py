"""The parameters, buffers and constants of a module, declared in a graph under the names they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from ..ir.core.errors import ModelImportError
from ..ir.core.graph import Graph, Value
from ..tensors.shared import Shared, Source
from .initial import ZEROS, First
from .names import local_name
from .wrapped import LOSS, MODULE, Wrapped, own_path


class State:
    """What a graph holds of a module: each tensor once, by its first name."""

    def __init__(self, graph: Graph, wrapped: Wrapped, first: Mapping[str, First]) -> None:
        self.graph, self._wrapped = graph, wrapped
        self.tensors: dict[str, Tensor] = {}
        self.keys: dict[str, str] = {}
        self._taken = {own_path(path) for path, _ in _held(wrapped)}
        self.aliases: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._paths: dict[str, str] = {}
        kept = {name for name in wrapped.state_dict() if not name.startswith(f"{LOSS}.")}
        self.transient: set[str] = set()
        # A tied weight begins as the op has it that reads it first, under whichever of its names.
        firsts = {id(tensor): first[path] for path, tensor in _held(wrapped) if path in first}
        for path, tensor in _held(wrapped):
            name = own_path(path)
            if id(tensor) in self._names:
                self.aliases[name] = self._names[id(tensor)]
            else:
                self._declare(name, tensor, firsts.get(id(tensor), ZEROS))
            self._paths[path] = self._names[id(tensor)]
            if path not in kept and not isinstance(tensor, torch.nn.Parameter):
                self.transient.add(name)

    def value(self, spec: InputSpec, program: ExportedProgram, wrapped: Wrapped) -> Value:
        """The value that a placeholder of an exported graph stands for."""
        assert spec.target is not None
        if spec.kind is InputKind.CONSTANT_TENSOR:
            constant = program.constants[spec.target]
            if not isinstance(constant, Tensor):
                raise ModelImportError(f"{spec.target!r} is a {type(constant).__name__}, no tensor")
            if id(constant) not in self._names:
                name = own_path(spec.target)
                self._declare(name, constant, ZEROS)
                self.transient.add(name)
            return self.graph[self._names[id(constant)]]
        return self.graph[self._names[id(dict(_held(wrapped))[spec.target])]]

    def shared(self) -> Shared:
        return Shared(self.tensors, self.keys, self.aliases, frozenset(self.transient), self._source())

    def _source(self) -> Source:
        """The module and its loss, without the example that they were exported with."""
        parts = {MODULE: self._wrapped.module, LOSS: self._wrapped.loss}
        modules = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        return Source(torch.nn.ModuleDict(modules), self._paths)

    def _declare(self, key: str, tensor: Tensor, first: First) -> None:
        """Declare a tensor under the name that its module has for it, or one like it that a graph can have."""
        name = local_name(key, self._taken)
        if name != key:
            self.keys[name] = key
            self._taken.add(name)
        declare = self.graph.parameter if isinstance(tensor, torch.nn.Parameter) else self.graph.buffer
        declare(name, tuple(tensor.shape), dtype=tensor.dtype, **first)
        self.tensors[name] = tensor
        self._names[id(tensor)] = name


def _held(wrapped: Wrapped) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers by all their names, in torch's order."""
    yield from wrapped.named_parameters(remove_duplicate=False)
    yield from wrapped.named_buffers(remove_duplicate=False)
