"""Tensors of a generated module as its text has them: by name in a dict, and seen through views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.types import Shape
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..analysis.views import memory_of
from ..support.arguments import SizeText


@dataclass(frozen=True)
class Memories:
    """The tensors that lie in the dict of this name. A value of `destinations` lies in the leaf that is updated with
    it."""

    destinations: Mapping[Value, Value]
    sizes: SizeText
    tensors: str = "t"

    def operand(self, value: Value) -> str:
        """A library operand: its memory, seen through the views between."""
        if value.op.name == "transpose":
            return f"{self.operand(value.inputs[0])}.permute{value.attrs['axes']}"
        if value.op.name == "broadcast_to":
            return f"{self.operand(value.inputs[0])}.expand({self.sizes.shape(value.shape)})"
        if value.op.name == "reshape":
            return f"{self.operand(value.inputs[0])}.reshape({self.sizes.shape(value.shape)})"
        if value.op.name == "narrow":
            part = ", ".join(str(value.attrs[k]) for k in ("axis", "start", "length"))
            return f"{self.operand(value.inputs[0])}.narrow({part})"
        return self.memory(memory_of(value))

    def memory(self, value: Value) -> str:
        """The tensor that a value lies in: its own, or the one that is updated with it."""
        return self.tensor(self.destinations.get(value, value).name)

    def tensor(self, name: str) -> str:
        """A tensor by its name."""
        return f'{self.tensors}["{name}"]'

    def rows_and_columns(self, value: Value) -> str:
        """The shape of a value as a matrix: all axes but the last are its rows."""
        return f"{self.sizes.product(value.shape[:-1])}, {self.sizes.size(value.shape[-1])}"


def flat(text: str, value: Value, shape: str) -> str:
    """A tensor as a matrix of this shape."""
    return text if len(value.shape) == 2 else f"{text}.reshape({shape})"


def if_rows(shape: Shape, part: str) -> str:
    """The part of a tensor that a chunk takes, where rows come first. Of others the chunk uses what it needs."""
    return part if shape[:1] == (CHUNK_ROWS,) else ""
