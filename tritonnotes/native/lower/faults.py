"""What the sanitizer says of a fault: what is known when a kernel is compiled, with what a launch finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Found(NamedTuple):
    """The first fault of a launch: its number from 1, its program, and the lowest and the highest byte offset of lanes
    that lie outside of their tensor. Where offsets are not known, the lowest is above the highest."""

    number: int
    program: tuple[int, int, int]
    lowest: int
    highest: int


class Fault(NamedTuple):
    """A fault that a kernel may have. `where` is " (file, line N)" or empty, `tensor` the number of the tensor argument
    that the access belongs to, where that is known, and `size` the bytes of an element."""

    kernel: str
    where: str
    what: str
    tensor: int | None
    size: int
    remedy: str

    def said(self, found: Found, tensors: Sequence[tuple[str, Tensor]]) -> str:
        """The message about a launch on these named tensor arguments."""
        at = ""
        if self.tensor is not None:
            name, tensor = tensors[self.tensor]
            at = f" of {name}"
            if found.lowest <= found.highest:
                first, last = found.lowest // self.size, found.highest // self.size
                at = f" at element offsets {first} to {last}{at}, which has [0, {_reach(tensor)})"
        return f"kernel {self.kernel}, program {found.program}{self.where}: {self.what}{at}{self.remedy}"


def _reach(tensor: Tensor) -> int:
    """Elements from a tensor's first to its last one, those between its own included."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
