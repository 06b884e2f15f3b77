"""Call sites in machine code: of an instruction that a called function became, the line of the call too.

LLVM tells ptxas of each instruction the innermost line alone, as of `tl.sum` a line of Triton's own library. The calls
around it stand in a comment beside it. PTX has a directive for them (7.2, `.loc … inlined_at`), so they are said again
in that form before ptxas runs. It writes them into the table of lines; the code itself stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LOC = re.compile(r"^(?P<start>\s*\.loc\s+)(?P<file>\d+) (?P<line>\d+) (?P<col>\d+)\s+// (?P<places>.* @\[ .*)$", re.M)


_FILE = re.compile(r'^\s*\.file\s+(?P<number>\d+) "(?P<path>[^"]*)"', re.M)


_PLACE = re.compile(r"(?P<file>\S+):(?P<line>\d+):(?P<col>\d+)")


_CALLED = "$L__called"

_NAMES = f"""
\t.section\t.debug_str
\t{{
{_CALLED}:
\t.b8 0
\t}}
"""
"""The directive asks for a function's name in this section, which nothing here reads."""


_MISSING = object()
"""What a Triton has in the place of a hook that it does not know."""


def with_call_sites(ptx: str) -> str:
    """The same code, whose lines say from where they were called."""
    if ".debug_str" in ptx:
        return ptx  # an LLVM that names functions there says where they are called, too
    numbers = {found["path"].rpartition("/")[2]: found["number"] for found in _FILE.finditer(ptx)}

    def said(found: re.Match[str]) -> str:
        # The innermost place comes first, and each call around it behind; all around it must be known before it is.
        places = [(numbers.get(p["file"]), p["line"], p["col"]) for p in _PLACE.finditer(found["places"])]
        if any(number is None for number, *_ in places):
            return found[0]
        lines: list[str] = []
        around = ""
        for number, line, col in reversed(places):
            called = f", function_name {_CALLED}, inlined_at {around}" if around else ""
            around = f"{number} {line} {col}"
            lines.append(f"{found['start']}{around}{called}")
        return "\n".join(lines)

    made = _LOC.sub(said, ptx)
    return made if made == ptx else made + _NAMES


@contextmanager
def keeping_call_sites(runtime: Any) -> Iterator[None]:
    """What Triton compiles meanwhile keeps its call sites. `runtime` are its knobs of that name. Where somebody looks
    at the stages already, or a Triton lets nobody, what is compiled has innermost lines alone."""
    if getattr(runtime, "add_stages_inspection_hook", _MISSING) is not None:
        yield
        return
    runtime.add_stages_inspection_hook = _hook
    try:
        yield
    finally:
        runtime.add_stages_inspection_hook = None


def _hook(backend: Any = None, stages: dict[str, Callable[..., Any]] | None = None, *rest: Any) -> Any:
    """Triton asks for a key of what is changed, and then for the change."""
    if stages is None:
        return "call sites", "call sites"
    make = stages["ptx"]
    stages["ptx"] = lambda source, metadata: with_call_sites(make(source, metadata))
    return None
