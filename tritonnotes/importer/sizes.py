"""Sizes that `torch.export` leaves symbolic, as `Dim`s and products of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import torch

from ..ir.core.errors import ModelImportError
from ..ir.core.types import Dim, Size, product_of, quotient

Axes = Mapping[int, str]
"""The names of the axes of a tensor whose size is symbolic."""


TRIED = (2, 3, 4, 7, 16, 1000)
"""Sizes that conditions on sizes are tried with."""


class Sizes:
    """What the symbols of an exported program are called."""

    def __init__(self) -> None:
        self._dims: dict[Any, Dim] = {}
        self._same: dict[Any, Any] = {}
        self._environments: list[Any] = []

    def name_axes(self, shape: Iterable[int | torch.SymInt], axes: Axes) -> None:
        """Call the symbols of an input as its axes are named; a symbol keeps the first name, and symbols of one name
        are one size."""
        for axis, size in enumerate(shape):
            expression = self._expression(size)
            if axis in axes and getattr(expression, "is_Symbol", False) and expression not in self._dims:
                dim = Dim(axes[axis])
                first = next((symbol for symbol, known in self._dims.items() if known == dim), None)
                if first is None:
                    self._dims[expression] = dim
                else:
                    self._same[expression] = first
            if isinstance(size, torch.SymInt):
                self._environments.append(size.node.shape_env)

    def call(self, given: int | torch.SymInt, name: str) -> None:
        """Call a symbolic size, of whatever form, as a `Dim`; it keeps its first name."""
        expression = self._expression(given)
        if not isinstance(expression, int) and not expression.is_Integer:
            self._dims.setdefault(expression, Dim(name))

    def size(self, given: int | torch.SymInt) -> Size:
        """An int or a symbolic size. Raises `ModelImportError` for what is no product of `Dim`s."""
        return self._of(self._expression(given))

    def check_guards(self) -> None:
        """Raise `ModelImportError` where an export holds for some sizes alone, as where `forward` asks whether one is
        above 10: the symbols of a graph take all sizes."""
        environments = {id(env): env for env in self._environments}
        for env in environments.values():
            for guard in env.guards:
                expression = env.replace(guard.expr).xreplace(self._same)
                if self._fails(expression):
                    raise ModelImportError(
                        f"it computes this only where {self._shown(expression)}; let forward compute the same for all "
                        "sizes, or fix that size with dynamic={} or batch=None"
                    )

    def _expression(self, size: int | torch.SymInt) -> Any:
        """A size as an int, or as torch's expression of it over symbols of which no two have one name."""
        expression = symbolic(size)
        return expression if isinstance(expression, int) else expression.xreplace(self._same)

    def _fails(self, expression: Any) -> bool:
        """Whether a condition is known to be false for some sizes."""
        symbols = sorted(getattr(expression, "free_symbols", ()), key=str)
        if not symbols or not all(symbol in self._dims for symbol in symbols):
            return False
        tried = product(TRIED, repeat=len(symbols)) if len(symbols) <= 3 else ((size,) * len(symbols) for size in TRIED)
        return any(expression.subs(dict(zip(symbols, sizes, strict=True))) == False for sizes in tried)  # noqa: E712

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
