"""Rows that a part tells the process that started it, one line each on its standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

MARK = "ROW "
"""What a line with a row begins with; other lines are what libraries print."""

Row = dict[str, Any]
"""`what` was done; `ok` is None where it was not run; `why` says what is wrong or missing; and figures."""


def row(what: str, ok: bool | None, why: str = "", **figures: Any) -> Row:
    return {"what": what, "ok": ok, "why": why, **figures}


def tell(found: Row) -> None:
    # On a line of its own, whatever a library printed before without ending its line.
    print(f"\n{MARK}{json.dumps(found)}", flush=True)


def tell_all(rows: Iterable[Row]) -> int:
    """Tell each row as soon as it is there. Gives the exit code of a part that came to its end."""
    for found in rows:
        tell(found)
    return 0


def told(line: str) -> Row | None:
    """The row of a line, if it has one."""
    return json.loads(line[len(MARK) :]) if line.startswith(MARK) else None
