"""Results as tables, in a terminal or as Markdown, and as a plot of our time over each peer's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table

from ..peers import OURS
from .peers import PEERS, PYTHON
from .results import CpuResults, Line


def head(results: CpuResults) -> str:
    """Machine and versions on one line."""
    told = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    machine = results.machine
    bandwidth = ", ".join(f"{b / 1e9:.1f} GB/s with {t}" for t, b in sorted(results.copy_bandwidth.items()))
    busy = ", ".join(map(str, machine.get("load", [])))
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['vector']}; {told}; "
        f"copies reach {bandwidth} threads; load when it began: {busy}."
    )


def tables(results: CpuResults) -> Iterator[Table]:
    """One table for each family."""
    for family, lines in _by_family(results.lines()):
        peers = _peers(lines)
        table = Table(title=family)
        for name in ("case", "threads", f"{OURS}: least (median)", *map(_header, peers), "goal", ""):
            table.add_column(name, justify="left" if name in ("case", "goal") else "right")
        for line in lines:
            table.add_row(*_cells(line, peers))
        yield table


def markdown(results: CpuResults) -> Iterator[str]:
    """The same as text."""
    yield head(results)
    for family, lines in _by_family(results.lines()):
        peers = _peers(lines)
        yield f"\n## {family}\n"
        yield f"| case | threads | {OURS}: least (median) | {' | '.join(map(_header, peers))} | goal | met |"
        yield "|---" * (5 + len(peers)) + "|"
        for line in lines:
            yield f"| {' | '.join(_cells(line, peers))} |"
    yield from absent(results)


def absent(results: CpuResults) -> Iterator[str]:
    """Who was not run or was wrong, with the reason."""
    if results.missing:
        yield "\nNot run:\n"
        yield from (f"- {what}: {why}" for what, why in results.missing.items())
    if results.refused:
        yield "\nFailed or wrong, so not timed:\n"
        yield from (f"- {what}: {why}" for what, why in results.refused.items())


def summary(results: CpuResults) -> str:
    """How many goals were met."""
    judged = [line.is_met for line in results.lines() if line.is_met is not None]
    return f"{sum(judged)} of {len(judged)} goals met"


def _by_family(lines: Iterable[Line]) -> Iterator[tuple[str, list[Line]]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.family, []).append(line)
    for family, some in found.items():
        yield family, sorted(some, key=lambda line: [other.shape for other in some].index(line.shape))


def _peers(lines: Iterable[Line]) -> list[str]:
    there = {p for line in lines for p in line.least}
    return [p for p in PEERS if p in there and p != OURS]


def _header(peer: str) -> str:
    return peer if peer == PYTHON else f"of {peer}"


def _cells(line: Line, peers: Iterable[str]) -> list[str]:
    ours = f"{_time(line.least[OURS])} ({_time(line.median[OURS])})" if OURS in line.least else ""
    ratios = line.ratios
    cells = [f"{ratios[p]:.2f}" if p in ratios else _time(line.least[p]) if p in line.least else "" for p in peers]
    met = {True: "yes", False: "no", None: ""}[line.is_met]
    return [line.shape, str(line.threads), ours, *cells, str(line.goal or ""), met]


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def plot(results: CpuResults, path: str) -> None:
    """Our time over that of each peer, case by case, on a logarithmic scale: below 1 we are faster."""
    from matplotlib.figure import Figure

    families = list(_by_family(results.lines()))
    figure = Figure(figsize=(12, 3.2 * len(families)), layout="constrained")
    axes: Any = figure.subplots(len(families), 1, squeeze=False)[:, 0]
    for axis, (family, lines) in zip(axes, families, strict=True):
        for peer in _peers(lines):
            shown = [(i, line.ratios[peer]) for i, line in enumerate(lines) if peer in line.ratios]
            axis.plot([i for i, _ in shown], [r for _, r in shown], "o", label=peer)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_ylabel(f"{OURS} over the peer")
        axis.set_title(family)
        names = [f"{line.shape}, {line.threads}" for line in lines]
        axis.set_xticks(range(len(lines)), names, rotation=60, ha="right", fontsize=6)
        if axis.lines:
            axis.legend(fontsize=7, ncols=2)
    figure.suptitle(f"{results.machine['processor']}, {results.machine['cores']} cores")
    figure.savefig(path, dpi=150)
