"""Sizes that `torch.export` leaves symbolic, as `Dim`s and products of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..ir.core.errors import ModelImportError
from ..ir.core.types import Dim, Size, product_of, quotient

Axes = Mapping[int, str]
"""The names of the axes of a tensor whose size is symbolic."""


class Sizes:
    """What the symbols of an exported program are called."""

    def __init__(self) -> None:
        self._dims: dict[Any, Dim] = {}

    def name_axes(self, shape: Iterable[int | torch.SymInt], axes: Axes) -> None:
        """Call the symbols of an input as its axes are named; a symbol keeps the first name."""
        for axis, size in enumerate(shape):
            expression = symbolic(size)
            if axis in axes and getattr(expression, "is_Symbol", False):
                self._dims.setdefault(expression, Dim(axes[axis]))

    def size(self, given: int | torch.SymInt) -> Size:
        """An int or a symbolic size. Raises `ModelImportError` for what is no product of `Dim`s."""
        return self._of(symbolic(given))

    def names(self) -> dict[Any, Dim]:
        return dict(self._dims)

    def _of(self, expression: Any) -> Size:
        if isinstance(expression, int):
            return expression
        if expression.is_Integer:
            return int(expression)
        if expression in self._dims:
            return self._dims[expression]
        if expression.is_Mul:
            return product_of(map(self._of, expression.args))
        if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
            return product_of([self._of(expression.base)] * int(expression.exp))
        if type(expression).__name__ in ("FloorDiv", "CleanDiv"):
            whole = quotient(*map(self._of, expression.args))
            if whole is not None:
                return whole
        raise ModelImportError(
            f"a size of {self._shown(expression)} is no product of Dims; give that axis a known size: leave it out of "
            "dynamic=, or batch=None"
        )

    def _shown(self, expression: Any) -> str:
        known = {symbol: str(dim) for symbol, dim in self._dims.items()}
        return str(expression.subs(known))


def symbolic(size: int | torch.SymInt) -> Any:
    """A size as an int or as torch's expression of it."""
    return size.node.expr if isinstance(size, torch.SymInt) else size
