"""How exact results are, where that was checked: the error of each beside eager's, and what share of it is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .things import Things


class Compared(Protocol):
    """How far a result is from float64."""

    @property
    def ok(self) -> bool: ...
    @property
    def max_error(self) -> float: ...
    @property
    def eager_max_error(self) -> float: ...
    @property
    def max_allowed(self) -> float: ...


class Row(Protocol):
    """One result of a certificate: an output, a gradient, a buffer or an update, by name."""

    @property
    def what(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def comparison(self) -> Compared: ...


class Certificate(Protocol):
    """What `tn.check` gives."""

    @property
    def rows(self) -> Sequence[Row]: ...


@dataclass(frozen=True)
class Numeric:
    """A result with its errors, and as `heat` the share of what is allowed that its error takes, 1 at most."""

    what: str
    name: str
    ops: str
    error: str
    eager: str
    allowed: str
    ok: bool
    heat: float


def numerics(certificate: Certificate | None, things: Things, outputs: dict[str, str]) -> Iterator[Numeric]:
    """The results of a certificate; `outputs` are the values that outputs are, by the output's name."""
    for row in certificate.rows if certificate is not None else ():
        c = row.comparison
        value = outputs.get(row.name, row.name) if row.what == "output" else row.name
        error, eager, allowed = (f"{number:.2e}" for number in (c.max_error, c.eager_max_error, c.max_allowed))
        share = c.max_error / c.max_allowed if c.max_allowed else float(c.max_error > 0)
        heat = round(min(1.0, share), 3)
        yield Numeric(row.what, row.name, things.ops([value]), error, eager, allowed, c.ok, heat)


def hottest(rows: Sequence[Numeric]) -> dict[str, float]:
    """The largest heat of each op, by its number."""
    found: dict[str, float] = {}
    for row in rows:
        if row.ops:
            found[row.ops] = max(row.heat, found.get(row.ops, 0.0))
    return found
