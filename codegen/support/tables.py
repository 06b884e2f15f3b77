"""Tables in memory, by which one launch finds the tensors of many segments: the parameters of an optimizer, say."""

from __future__ import annotations

from dataclasses import dataclass

CELL = 8
"""Bytes of a cell of a table."""


@dataclass(frozen=True)
class Table:
    """A table with a row for each segment: `columns` of numbers, and behind them the addresses of its tensors. The
    first column has the segment's elements; `aligned` says whether all its addresses are multiples of 16."""

    columns: tuple[str, ...]

    def place(self, column: str) -> int:
        """Where a number stands in a row."""
        return self.columns.index(column)

    @property
    def addresses(self) -> int:
        """Where the addresses begin."""
        return len(self.columns)

    def width(self, tensors: int) -> int:
        """Cells of a row with the addresses of so many tensors."""
        return self.addresses + tensors

    def row_bytes(self, tensors: int) -> int:
        """Bytes that a program reads of such a row."""
        return CELL * self.width(tensors)

    def row(self, addresses: list[int], **numbers: int) -> list[int]:
        """The row of a segment."""
        return [*(numbers[column] for column in self.columns), *addresses]
