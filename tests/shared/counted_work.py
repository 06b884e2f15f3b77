"""How much work a call does, counted: a time depends on what else the machine does, a count does not."""

from __future__ import annotations

import cProfile
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python `work` runs, those of what it calls included. What it raises passes through."""
    return counted(work)[1]


def counted(work: Callable[[], object]) -> tuple[Any, int]:
    """What `work` returns, and how many lines of Python it ran."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = work()
    finally:
        sys.settrace(before)
    return result, lines


def calls_made(work: Callable[[], object]) -> int:
    """How many functions `work` calls, built-in ones and those of what it calls included."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        work()
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats())
