"""Time tritonnotes on the CPU, as machine code, beside eager PyTorch, torch.compile and JAX with optax.

    python benchmarks/cpu.py --json benchmarks/cpu.json --plot cpu.png   # everything, one and two threads
    python benchmarks/cpu.py --quick                                    # a few cases
    python benchmarks/cpu.py steps --threads 1 --peers tritonnotes JAX
    python benchmarks/cpu.py --report benchmarks/cpu.json               # tables of an earlier run

Each family runs in a process of its own for each number of threads, which is held to so many processors. Within it all
peers take turns, on fresh batches. Before a peer is timed its results are held to eager PyTorch and to float64. Ratios
are of the least times: on a machine that others use the median says more of them than of the code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only its own folder is known

from benchmarks.measure import Case, measure
from benchmarks.on_cpu import cold, kernels, machine, optimizers, report, steps
from benchmarks.on_cpu.clock import CpuClock
from benchmarks.on_cpu.peers import JAX, PEERS
from benchmarks.on_cpu.results import CpuResults, read
from benchmarks.results import versions

FAMILIES: dict[str, Callable[[bool], list[Case]]] = {
    steps.STEPS: steps.cases,
    kernels.FAMILY: kernels.cases,
    optimizers.FAMILY: optimizers.cases,
    steps.AROUND: steps.around,
}
KNOWN = (*FAMILIES, cold.FAMILY)
ROUNDS, QUICK_ROUNDS = 5, 2
WIDTH = 140
"""Characters of a line of the tables."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 where a result of ours failed or was wrong."""
    asked = _parse(arguments)
    if asked.cold:
        print(json.dumps(cold.first_step(asked.cold)))
        return 0
    if asked.report:
        results = read(asked.report)
    elif asked.child:
        machine.hold_to(asked.threads[0])
        results = one_family(asked.child, asked.threads[0], asked.quick, asked.rounds, asked.peers)
        results.write(asked.json)
        return 0
    else:
        results = everything(asked)
    console = Console(width=WIDTH)
    console.print(report.head(results))
    for table in report.tables(results):
        console.print(table)
    for line in report.absent(results):
        console.print(line, highlight=False)
    console.print(report.summary(results))
    if asked.plot:
        report.plot(results, asked.plot)
    return 0 if results.ok else 1


def everything(asked: argparse.Namespace) -> CpuResults:
    """Every family with every number of threads, each in a process of its own. What is there is written after each, so
    that a run that is cut short leaves its part."""
    clock = CpuClock()
    results = CpuResults(machine.described(), versions(), clock.name)
    console = Console(stderr=True)
    for family in asked.families or KNOWN:
        for threads in asked.threads:
            console.print(f"{family}, {threads} threads")
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "part.json"
                given = ["--child", family, "--threads", str(threads), "--rounds", str(asked.rounds)]
                given += ["--peers", *asked.peers, "--json", str(file), *(["--quick"] if asked.quick else [])]
                done = subprocess.run([sys.executable, __file__, *given])
                if done.returncode or not file.exists():
                    results.refused[f"tritonnotes: {family}, {threads} threads"] = "the process failed"
                    continue
                results.merge(read(file))
            if asked.json:
                results.write(asked.json)
    return results


def one_family(family: str, threads: int, quick: bool, rounds: int, peers: Sequence[str]) -> CpuResults:
    """One family in this process, all peers in turns."""
    clock = CpuClock()
    results = CpuResults(machine.described(), _versions(), clock.name)
    results.copy_bandwidth[str(threads)] = machine.copy_bandwidth()
    rows = results.rows.setdefault(str(threads), [])
    if family == cold.FAMILY:
        found, absent = cold.rows(list(peers), quick)
        rows += found
        results.missing |= {f"{peer} ({family})": why for peer, why in absent.items()}
        return results
    for case in FAMILIES[family](quick):
        outcome = measure(case, clock, torch.device("cpu"), rounds, peers)
        rows += outcome.rows
        results.missing |= outcome.missing
        results.refused |= {f"{what}, {threads} threads": why for what, why in outcome.refused.items()}
        for row in outcome.rows:
            print(f"  {case.name:44} {row.peer:16} {min(row.seconds) * 1e6:12,.0f} µs", file=sys.stderr, flush=True)
    return results


def _versions() -> dict[str, str]:
    from benchmarks.on_cpu.peers import missing

    if JAX in missing():
        return versions()
    from benchmarks.on_cpu import jax_peers

    return {**versions(), **jax_peers.VERSIONS}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="family", help=f"of {', '.join(KNOWN)}; all by default")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument(
        "--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads, one after the other"
    )
    parser.add_argument("--rounds", type=int, help="how often each peer has its turn")
    parser.add_argument("--quick", action="store_true", help="a few cases, few rounds")
    parser.add_argument("--json", metavar="FILE", help="write all timings here")
    parser.add_argument("--plot", metavar="FILE", help="draw a plot here; the suffix says how: .png, .svg or .pdf")
    parser.add_argument("--report", metavar="FILE", help="show an earlier run instead")
    parser.add_argument("--child", choices=KNOWN, help=argparse.SUPPRESS)
    parser.add_argument("--cold", choices=PEERS, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.families if name not in KNOWN]
    if unknown:
        parser.error(f"no family {unknown[0]!r}; there are {', '.join(KNOWN)}")
    if min(asked.threads) < 1:
        parser.error("--threads: at least 1")
    asked.rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    return asked


if __name__ == "__main__":
    sys.exit(main())
