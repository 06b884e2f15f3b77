"""Time tritonnotes beside other implementations, in one process and in turns.

    python -m benchmarks --json all.json                       # on a GPU: every family, every peer
    python -m benchmarks softmax steps --peers tritonnotes eager
    python -m benchmarks --tiny                                # anywhere: that it runs to its end; no timings of a GPU
    python -m benchmarks first --json first.json               # the first six minutes on a GPU: see `first --help`

Every result is held to float64 before it is timed. `python -m benchmarks.report all.json` draws what was found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .families import FAMILIES, Wanted, cases
from .first import command as first
from .kernels import DIRECTIONS, DTYPES
from .measure import Outcome, measure
from .peers import OURS, PEERS
from .report import lines, tables
from .results import NO_GPU, Results, device_name, versions
from .timing import clock_of, copy_bandwidth

COPY_BYTES = 2**30
TINY_COPY_BYTES = 2**20
ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 where a result of ours failed or was wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["first"]:
        return first.main(given[1:])
    asked = _parse(given)
    device = torch.device(asked.device)
    if device.type != "cuda" and not asked.tiny:
        print(f"{NO_GPU}; pass --tiny to see that everything runs", file=sys.stderr)
        return 2
    if device.type != "cuda":
        print(f"{NO_GPU}.", file=sys.stderr)
    choice = Wanted(asked.tiny, tuple(asked.dtypes), tuple(asked.directions))
    results, ok = run(asked.families or list(FAMILIES), choice, device, asked.rounds, asked.peers, asked.json)
    print("\n".join(tables(results)))
    return 0 if ok else 1


def run(
    families: Sequence[str],
    choice: Wanted,
    device: torch.device,
    rounds: int,
    peers: Sequence[str],
    path: str | None = None,
) -> tuple[Results, bool]:
    """Measure families one after the other, each between two looks at copy bandwidth, and write what is there after
    each case, so that a run that is cut short leaves its part. Also whether all of ours was right."""
    clock = clock_of(device)
    results = Results(device_name(device), clock.is_gpu, clock.name, versions())
    chosen = {name: cases(name, choice) for name in families}
    total = Outcome()
    size = COPY_BYTES if clock.is_gpu else TINY_COPY_BYTES
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=sum(map(len, chosen.values())))
        for name, found in chosen.items():
            results.copy_bandwidth[name] = [copy_bandwidth(clock, device, size)]
            for case in found:
                progress.update(task, description=case.name)
                outcome = measure(case, clock, device, rounds, peers)
                total |= outcome
                results.rows, results.missing, results.refused = total.rows, total.missing, total.refused
                for line in lines(results, outcome.rows):
                    progress.console.out(line, highlight=False)
                progress.advance(task)
                if path:
                    results.write(path)
            results.copy_bandwidth[name].append(copy_bandwidth(clock, device, size))
            if path:
                results.write(path)
    return results, total.ok


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="family", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=_listed(PEERS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[])
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=[], help="of the kernels")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each peer has its turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, also without a GPU")
    parser.add_argument("--json", metavar="FILE", help="write all timings here")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.families if name not in FAMILIES]
    if unknown:
        parser.error(f"no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    if asked.rounds < 1:
        parser.error(f"--rounds {asked.rounds}: each peer needs at least one turn")
    return asked


def _listed(peers: Sequence[str]) -> str:
    return f"of {', '.join(map(repr, peers))}; all by default. {OURS} itself may be left out too"


if __name__ == "__main__":
    sys.exit(main())
