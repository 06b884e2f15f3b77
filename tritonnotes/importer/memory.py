"""Which results of an exported graph show the same memory: a write into one of them changes the others."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node


class Memory:
    """The nodes of a graph by the node whose memory they show."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._order = {node: place for place, node in enumerate(nodes)}
        self._root: dict[Node, Node] = {}
        self._base: dict[Node, Node] = {}
        for node in nodes:
            written = _written(node)
            self._base[node] = node if written is None else self._base[written]
            shown = _shown(node)
            self._root[node] = node if shown is None else self._root[shown]

    def base(self, node: Node) -> Node:
        """The tensor that a node is: of a write, what is written into, which is the same tensor before and after."""
        return self._base[node]

    def written(self, node: Node) -> Node | None:
        """The tensor that a call writes into; None where it makes a new one."""
        return None if _written(node) is None else self._base[node]

    def seen_elsewhere(self, written: Node, by: Node) -> Node | None:
        """Another node that shows the memory which `by` writes into, and is read later (a buffer by the next call).
        Views that are made later are made of what was written."""
        root, now = self._root[written], self._order[by]
        for node, its_root in self._root.items():
            is_read = node.op == "placeholder" or any(self._order[user] > now for user in node.users)
            if its_root is root and is_read and self._base[node] is not written and self._order[node] < now:
                return node
        return None


def _shown(node: Node) -> Node | None:
    """The node whose memory the result of a call shows."""
    if node.target is operator.getitem:
        (tensors, _) = node.args
        return tensors if isinstance(tensors, Node) else None
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    returned = [given.alias_info for given in node.target._schema.returns]
    if not any(alias is not None for alias in returned):
        return None
    return _first(node.args)


def _written(node: Node) -> Node | None:
    schema: Any = getattr(node.target, "_schema", None)
    return _first(node.args) if schema is not None and schema.is_mutable else None


def _first(arguments: Sequence[Any]) -> Node | None:
    return next((given for given in arguments if isinstance(given, Node)), None)
