"""A failure, told in one line on stderr."""

from __future__ import annotations

import sys


def fail(message: str, code: int = 1) -> int:
    """Say what went wrong; the result is the exit code."""
    print(f"tritonnotes: error: {one_line(message)}", file=sys.stderr)
    return code


def one_line(message: str) -> str:
    return " ".join(message.split())
