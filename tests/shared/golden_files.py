"""A file that holds what a test made, byte for byte; `pytest --update-goldens` rewrites it."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

SHOWN = 60
"""Lines of a difference that a failure shows."""


def hold(path: Path, text: str, update: bool) -> None:
    """The file holds the text, byte for byte; with `update` it is made to."""
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    before = path.read_bytes().decode("utf-8") if path.exists() else ""
    if before != text:
        diff = list(difflib.unified_diff(before.splitlines(), text.splitlines(), "golden", "now", lineterm=""))
        more = [f"… and {len(diff) - SHOWN} lines more"] * (len(diff) > SHOWN)
        said = f"{path.name} has changed; accept it with --update-goldens, then read the whole diff"
        pytest.fail("\n".join([said, *diff[:SHOWN], *more]), pytrace=False)
