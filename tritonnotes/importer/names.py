"""What values are called: the last op of a layer of torch bears the name of its module, as a declared layer does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from torch.fx import Node

from ..ir.core.types import MAX_NAME, is_name
from .places import Place, op_name, place_of

_OTHERS = re.compile(r"[^A-Za-z0-9_]+")
_LONGEST = MAX_NAME - 16
"""What follows a name is a count, or the name of an op."""


def local_name(key: str, taken: Collection[str]) -> str:
    """What a graph calls a tensor or a module of this name: the same where that is a name, else what is left of it
    without other characters, apart from the `taken` ones."""
    if is_name(key) and len(key) <= MAX_NAME:
        return key
    stem = ".".join(_OTHERS.sub("_", part) or "_" for part in key.split("."))[:_LONGEST].rstrip(".")
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name


class Names:
    """Names for the calls of an exported graph; `taken` are those of inputs, parameters and buffers."""

    def __init__(self, nodes: Iterable[Node], taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self.places: dict[Node, Place] = {node: place_of(node) for node in nodes}
        self._last = {place.module: node for node, place in self.places.items() if _is_layer(place)}

    def name(self, node: Node) -> str | None:
        """A free name for the result of a call; None for what the module itself does beside its layers, which has the
        name of its op."""
        place = self.places[node]
        if not place.module:
            return None
        op = op_name(node.target).split(".")[1].strip("_") if "." in op_name(node.target) else op_name(node.target)
        path = local_name(place.module[:_LONGEST].rstrip("."), ())
        return self._free(path if self._last.get(place.module) is node else f"{path}.{op}")

    def _free(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def _is_layer(place: Place) -> bool:
    return bool(place.module) and place.kind.startswith("torch.nn.")
