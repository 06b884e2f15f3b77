"""What an independent judge was asked, and what it was not, with the reason: told at the end of every test run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

KEY = "tally"


@dataclass
class Tally:
    """Cases of one `judge` about one `subject`: how many ran, and why each other did not."""

    judge: str
    subject: str
    ran: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] += 1

    def record(self, record_property: Callable[[str, object], None]) -> None:
        """Give the tally to pytest, as text: it may come from another process."""
        told = {"judge": self.judge, "subject": self.subject, "ran": self.ran, "left_out": dict(self.left_out)}
        record_property(KEY, json.dumps(told))


def told(properties: Iterable[tuple[str, Any]]) -> list[Tally]:
    """The tallies among the properties of tests."""
    found = (json.loads(value) for name, value in properties if name == KEY)
    return [Tally(t["judge"], t["subject"], t["ran"], Counter(t["left_out"])) for t in found]


def lines(tallies: Iterable[Tally]) -> list[str]:
    """A line for each judge with its counts, and under it one for each reason, with the subjects it holds for."""
    listed = list(tallies)
    shown = []
    for judge in dict.fromkeys(t.judge for t in listed):
        own = [t for t in listed if t.judge == judge]
        left = sum(sum(t.left_out.values()) for t in own)
        shown.append(f"{judge}: {sum(t.ran for t in own)} ran, {left} left out")
        reasons = dict.fromkeys(reason for t in own for reason in t.left_out)
        for reason in sorted(reasons):
            where: Counter[str] = Counter()
            for t in own:
                where.update({t.subject: t.left_out[reason]} if t.left_out[reason] else {})
            subjects = ", ".join(f"{s} × {n}" if n > 1 else s for s, n in sorted(where.items()))
            shown.append(f"  {where.total()} left out, {reason}: {subjects}")
    return shown


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """pytest's hook, for `conftest.py` to import: the lines of all tallies, at the end of the run."""
    reports = [r for status in ("passed", "failed") for r in terminalreporter.getreports(status) if r.when == "call"]
    shown = lines(told(p for report in reports for p in report.user_properties))
    if shown:
        terminalreporter.write_sep("=", "independent judges")
        for line in shown:
            terminalreporter.write_line(line)
