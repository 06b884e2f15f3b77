"""Checks that are compiled in on request. A stub for now."""

from __future__ import annotations

from .lowering import Lowering
from .strips import Lanes
from .ttir import Function, Op


class Guard:
    def __init__(self) -> None:
        self.accesses: list[tuple[str, int | None]] = []

    def prologue(self, function: Function) -> list[str]:
        return []

    def epilogue(self) -> list[str]:
        return []

    def before(self, low: Lowering, op: Op, pointer: Lanes, mask: Lanes | None, width: int, stores: bool) -> None:
        pass

    def loaded(self, low: Lowering, op: Op, value: Lanes, mask: Lanes | None, width: int) -> Lanes:
        return value

    def stored(self, low: Lowering, op: Op, value: Lanes, mask: Lanes | None, width: int) -> None:
        pass
