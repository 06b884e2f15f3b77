"""What was seen in memory: faults that the strict interpreter or the sanitizer of machine code stopped, and what no one
looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..codegen.support.text import counted

_WHERE = re.compile(r"^kernel (?P<kernel>[^,: (]+)(?: \(|, ).*?line (?P<line>\d+)")

KINDS = tuple(
    map(
        re.compile,
        (
            "out.of.bounds", "between the elements", "misaligned", "nothing was stored to", "masked lane's poison",
            "lanes of one program", "data race",
        ),
    )
)  # fmt: skip
"""What messages of faults say, the most telling first: what is out of bounds in one case may race in another."""


@dataclass
class Findings:
    """Faults by kind, kernel and line, each with the cases that show it."""

    _found: dict[tuple[int, str, str], dict[str, str]] = field(default_factory=dict)

    def add(self, case: str, shapes: str, said: str) -> None:
        """A fault of one case, on tensors of these `shapes`."""
        where = _WHERE.match(said)
        kernel, line = where.group("kernel", "line") if where else (said, "")
        kind = next((rank for rank, words in enumerate(KINDS) if words.search(said)), len(KINDS))
        self._found.setdefault((kind, kernel, line), {}).setdefault(case, f"{case}, {shapes}: {said}")

    def lines(self) -> tuple[str, ...]:
        """Each fault once, with the first case that shows it, the most telling kind first."""
        ranked = sorted(self._found.items(), key=lambda item: item[0][0])
        return tuple(f"{next(iter(shown.values()))}{_more(len(shown) - 1)}" for _, shown in ranked)


def is_fault(said: str) -> bool:
    """Whether a message tells a fault in memory."""
    return any(words.search(said) for words in KINDS)


def is_race(said: str) -> bool:
    return "data race" in said


@dataclass(frozen=True)
class Watched:
    """Of how many runs the strict interpreter saw all programs (`seen`), how many launched no program (`idle`), and how
    many it did not see (`missed`)."""

    seen: int = 0
    idle: int = 0
    missed: int = 0

    @property
    def runs(self) -> int:
        return self.seen + self.idle + self.missed

    def line(self, findings: int) -> str:
        """What to print of bounds, masked lanes and races."""
        idle = f", {self.idle} launched no program" if self.idle else ""
        how = f"strict interpreter: {self.seen} of {counted(self.runs, 'run')}{idle}"
        if findings:
            held = counted(findings, "finding")
        elif not self.seen:
            held = "not judged"
        else:
            held = "right" if not self.missed else "right in what was seen"
        return f"bounds, masked lanes and races: {held} ({how})"


def folded(reasons: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Pairs of a case and why it was not seen, one line for each reason. Numbers of programs do not tell reasons
    apart."""
    found: dict[str, list[tuple[str, str]]] = {}
    for case, reason in reasons:
        found.setdefault(re.sub(r"of [\d,]+ programs", "", reason), []).append((case, reason))
    return tuple(
        f"strict interpreter on {counted(len(of), 'run')} ({of[0][0]}{', ...' if len(of) > 1 else ''}): {of[0][1]}"
        for of in found.values()
    )


def _more(cases: int) -> str:
    return f" (and in {counted(cases, 'more case')})" if cases else ""
