"""Results as a table and a plot: the fraction of copy bandwidth, and the time of each peer over ours.

python -m benchmarks.report all.json                # Markdown tables
python -m benchmarks.report all.json --plot all.png # and a plot, with matplotlib
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .measure import Row
from .peers import OURS, PEERS
from .results import Results, read

Key = tuple[str, str, str, str]


def lines(results: Results, rows: Iterable[Row]) -> Iterator[str]:
    """One line for each row, as a run prints them."""
    for row in rows:
        case = f"{row.family} {row.shape} {row.dtype} {row.direction}"
        yield f"{case:48} {row.peer:24} {_time(row.best_median):>12} ± {row.spread:4.0%}  {_share(results, row)}"


def tables(results: Results) -> Iterator[str]:
    """Markdown: how it was measured, then one table for each family, a line for each case, a column for each peer."""
    told = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    yield f"{results.device}; {told}; {results.clock}."
    if results.warning:
        yield f"\n**{results.warning[0].upper()}{results.warning[1:]}.**"
    for family, bandwidth in results.copy_bandwidth.items():
        yield f"\n## {family}\n"
        yield f"Copy bandwidth {' and '.join(f'{b / 1e9:,.1f} GB/s' for b in bandwidth)}, before and after.\n"
        yield from _table(results, [r for r in results.rows if r.family == family])
    if results.missing:
        yield "\n## Not run\n"
        yield from not_run(results)
    if results.refused:
        yield "\n## Failed or wrong, so not timed\n"
        yield from (f"- {what}: {why}" for what, why in results.refused.items())


def not_run(results: Results) -> Iterator[str]:
    """One line for each peer and reason, with the families that lack it."""
    families: dict[tuple[str, str], list[str]] = {}
    for what, why in results.missing.items():
        peer, _, family = what.removesuffix(")").partition(" (")
        families.setdefault((peer, why), []).append(family)
    for (peer, why), lacking in families.items():
        yield f"- {peer}: {why} ({', '.join(lacking)})"


def _table(results: Results, rows: Sequence[Row]) -> Iterator[str]:
    peers = [p for p in PEERS if p != OURS and any(r.peer == p for r in rows)]
    whole = any(r.launches is not None or r.peak_bytes is not None for r in rows)
    yield f"| case | {OURS} | of copy bandwidth | " + " | ".join(f"{p} ×" for p in peers) + " |"
    yield "|---" * (3 + len(peers)) + "|"
    by_case: dict[Key, dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault(_key(row), {})[row.peer] = row
    for key, found in by_case.items():
        ours = found.get(OURS)
        cells = [" ".join(key[1:])]
        cells += [_told(ours, whole), _share(results, ours)] if ours else ["", ""]
        cells += [_versus(found.get(p), ours, whole) for p in peers]
        yield f"| {' | '.join(cells)} |"


def _key(row: Row) -> Key:
    return row.family, row.shape, row.dtype, row.direction


def _told(row: Row, whole: bool) -> str:
    parts = [f"{_time(row.best_median)} ± {row.spread:.0%}"]
    if whole and row.launches is not None:
        parts.append(f"{row.launches} launches")
    if whole and row.peak_bytes is not None:
        parts.append(f"{row.peak_bytes / 2**20:,.1f} MiB")
    return ", ".join(parts)


def _versus(row: Row | None, ours: Row | None, whole: bool) -> str:
    """How many times as long a peer takes as we do."""
    if row is None:
        return ""
    ratio = f"{row.best_median / ours.best_median:.2f}" if ours else _time(row.best_median)
    return f"{ratio} ({_told(row, whole)})" if whole else ratio


def _share(results: Results, row: Row) -> str:
    if not results.is_gpu:
        return "no GPU"
    share = results.share(row)
    return f"{share:.1%}" + (" (above 100 %: cache error)" if share > 1 else "")


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} µs"


def plot(results: Results, path: str) -> None:
    """For each family the fraction of copy bandwidth of every peer, case by case, on a logarithmic scale."""
    from matplotlib.figure import Figure

    families = list(results.copy_bandwidth)
    figure = Figure(figsize=(12, 3.2 * len(families)), layout="constrained")
    axes: Any = figure.subplots(len(families), 1, squeeze=False)[:, 0]
    for axis, family in zip(axes, families, strict=True):
        rows = [r for r in results.rows if r.family == family]
        keys = list(dict.fromkeys(map(_key, rows)))
        for peer in (p for p in PEERS if any(r.peer == p for r in rows)):
            mine = [r for r in rows if r.peer == peer]
            places = [keys.index(_key(r)) for r in mine]
            style = {"marker": "o", "zorder": 3} if peer == OURS else {"marker": "x"}
            axis.plot(places, [results.share(r) for r in mine], linestyle="none", label=peer, **style)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_ylabel("of copy bandwidth")
        axis.set_title(family)
        axis.set_xticks(range(len(keys)), [" ".join(k[1:]) for k in keys], rotation=60, ha="right", fontsize=6)
        if rows:
            axis.legend(fontsize=7, ncols=2)
    figure.suptitle(results.device + (f"\n{results.warning}" if results.warning else ""))
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", help="JSON that `python -m benchmarks --json` wrote")
    parser.add_argument("--plot", metavar="FILE", help="draw a plot here; the suffix says how: .png, .svg or .pdf")
    asked = parser.parse_args(arguments)
    results = read(asked.results)
    print("\n".join(tables(results)))
    if asked.plot:
        plot(results, asked.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
