"""Calls of aten as a graph: what they are given from outside becomes its inputs."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..importer.ops.calls import apply_row, arguments_of, plain
from ..importer.ops.table import TABLE
from ..importer.places import op_name
from ..importer.sizes import Sizes, symbolic
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Graph, Value
from ..ir.core.types import MAX_NAME, as_dtype, is_name, show_shape
from .effects import running_statistics

UNNAMED = "value"


class Declaring:
    """Declares calls in a graph. `names` says what the result of a call of aten is called, where its author said so."""

    def __init__(self, name: str, aten: Sequence[Node], names: Callable[[Node], str]) -> None:
        self.graph = Graph(name)
        self.found: dict[Node, Any] = {}
        self.leaves: dict[Node, str] = {}
        self.sizes, self._sizes = Sizes(), 0
        self._names, self._inside = names, frozenset(aten)
        self._moved = {n for node in aten for n in running_statistics(node).values()}
        self.device: torch.device | None = None
        self._declare_leaves(aten)
        for node in aten:
            self._call(node)

    def _declare_leaves(self, aten: Iterable[Node]) -> None:
        given = [arg for node in aten for arg in node.all_input_nodes if arg not in self._inside]
        leaves = [arg for arg in dict.fromkeys(given) if isinstance(arg.meta.get("val"), Tensor)]
        self._name_sizes([size for leaf in leaves for size in leaf.meta["val"].shape])
        for leaf in leaves:
            tensor = leaf.meta["val"]
            self._check_device(tensor)
            declare = self.graph.buffer if leaf in self._moved else self.graph.input
            name = self._free(self._names(leaf))
            self.found[leaf] = declare(name, tuple(map(self.sizes.size, tensor.shape)), dtype=as_dtype(tensor.dtype))
            self.leaves[leaf] = name

    def _name_sizes(self, sizes: Sequence[int | torch.SymInt]) -> None:
        """Call torch's symbols as torch does. A size that is no product of those that are the size of an axis is known
        as a whole."""
        for size in sizes:
            if getattr(symbolic(size), "is_Symbol", False):
                self.sizes.call(size, str(symbolic(size)))
        for size in sizes:
            try:
                self.sizes.size(size)
            except DeclarationError:
                self._sizes += 1
                self.sizes.call(size, f"size_{self._sizes}")

    def _call(self, node: Node) -> None:
        if node.target is operator.getitem:
            self.found[node] = self.found[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        tensors = [t for t in _leaves(node.meta.get("val")) if isinstance(t, Tensor)]
        if not tensors:
            return  # a size, which is read from where it is used, or a check
        key = key_of(node)
        arguments, defaults = arguments_of(node, self._argument)
        start, name = len(self.graph.values), self._free(self._names(node))
        made = apply_row(TABLE[key], arguments, defaults, name)
        if not TABLE[key].takes_name and isinstance(made, Value) and made.index >= start and made._name is None:
            self.graph.keep_name(made, name)
        self._check(made, tensors)
        self.found[node] = made

    def _argument(self, given: Any) -> Any:
        if isinstance(given, Node):
            return self.found[given] if given in self.found else self._size(given.meta.get("val"))
        if isinstance(given, list | tuple):
            return [self._argument(part) for part in given]
        return self.sizes.size(given) if isinstance(given, torch.SymInt) else plain(given)

    def _size(self, given: Any) -> Any:
        if isinstance(given, torch.SymInt):
            return self.sizes.size(given)
        if isinstance(given, int | float):
            return given
        raise DeclarationError(f"is given a {type(given).__name__} that is known only when it runs")

    def _check(self, made: Any, tensors: Sequence[Tensor]) -> None:
        """Raise `DeclarationError` where a result is another than torch's."""
        values = [*made] if isinstance(made, list | tuple) else [made]
        for value, wanted in zip(values, tensors, strict=True):
            shape = tuple(map(self.sizes.size, wanted.shape))
            if value.shape != shape or value.dtype is not as_dtype(wanted.dtype):
                raise DeclarationError(
                    f"torch gives {as_dtype(wanted.dtype)}{show_shape(shape)}, tritonnotes "
                    f"{value.dtype}{show_shape(value.shape)}"
                )
            self._check_device(wanted)

    def _check_device(self, tensor: Tensor) -> None:
        self.device = tensor.device if self.device is None else self.device
        if tensor.device != self.device:
            raise DeclarationError(f"tensors lie on {self.device} and {tensor.device}; a program runs on one device")

    def _free(self, wanted: str) -> str:
        stem = wanted if is_name(wanted) and len(wanted) < MAX_NAME - 4 else UNNAMED
        taken = {v._name for v in self.graph.values} | self.graph.given_names
        return self.graph.fresh_name(stem) if stem in taken else stem


def key_of(node: Node) -> str:
    """The row of a call of aten; a call in place has that of the op of the same name."""
    key = op_name(node.target).removeprefix("aten.")
    schema: Any = getattr(node.target, "_schema", None)
    return key.replace("_.", ".", 1) if schema is not None and schema.is_mutable else key


def _leaves(value: Any) -> list[Any]:
    return [part for v in value for part in _leaves(v)] if isinstance(value, list | tuple) else [value]


def plain_name(node: Node) -> str:
    """What a node of Dynamo's graph is called: `fc1.weight` for `l_self_modules_fc1_parameters_weight_`."""
    if node.op != "placeholder":
        return node.name
    stem = re.sub(r"^[Ll]_", "", node.name).rstrip("_")
    parts = re.split(r"_?(?:modules|parameters|buffers)_", stem)
    path = [part.strip("_") for part in parts[1:]] if len(parts) > 1 else [stem]
    return ".".join(part for part in path if part)


def named_by(owners: Mapping[Node, Node]) -> Callable[[Node], str]:
    """Names for the results of calls of aten, of the nodes of Dynamo's graph that give them."""

    def name(node: Node) -> str:
        owner = owners.get(node)
        return plain_name(owner) if owner is not None else node.name

    return name
