"""Many cases over several processes, with their results in files: what is known is not run again."""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from case_maker import random_case
from case_script import script
from case_shrinker import shrink
from graph_cases import Case
from trials import Verdict, try_case

BATCH = 250
"""Graphs of one process: each leaves its generated modules in memory."""

HANGS = 600
"""Seconds after which a graph counts as hanging."""


@dataclass(frozen=True)
class Result:
    seed: int
    kind: str
    complaints: tuple[str, ...]
    undecided: bool = False


def verdict_of(case: Case) -> Verdict:
    """`try_case`, with what torch refuses as a complaint: a random case is made so that torch takes it."""
    try:
        return try_case(case)
    except Exception as error:
        return Verdict((f"torch raised {type(error).__name__}: {error}",))


def tried(seed: int) -> Result:
    try:
        verdict = verdict_of(random_case(seed))
    except Exception as error:
        verdict = Verdict((f"generator raised {type(error).__name__}: {error}",))
    return Result(seed, verdict.kind, verdict.complaints, verdict.undecided)


def shrunk(seed: int) -> str:
    """The script of a failing seed, as small as it gets."""
    case = random_case(seed)
    kind = verdict_of(case).kind

    def fails_alike(smaller: Case) -> bool:
        return verdict_of(smaller).kind == kind

    case = shrink(case, fails_alike)
    return script(case, verdict_of(case).complaints)


# -- one process -------------------------------------------------------------------------------------------------------


def work(first: int, stop: int, folder: Path) -> None:
    """Try the seeds of a range that have no result yet, and write down each before and after."""
    known = {r.seed for r in results(folder)}
    with (folder / f"{first:08}.jsonl").open("a") as file:
        for seed in range(first, stop):
            if seed in known:
                continue
            print(json.dumps({"begun": seed}), file=file, flush=True)
            faulthandler.dump_traceback_later(HANGS, exit=True)
            found = tried(seed)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(found.__dict__), file=file, flush=True)


def results(folder: Path) -> Iterator[Result]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            made = json.loads(line)
            if "begun" not in made:
                yield Result(made["seed"], made["kind"], tuple(made["complaints"]), made["undecided"])


# -- all of them -------------------------------------------------------------------------------------------------------


def run_all(first: int, count: int, jobs: int, folder: Path) -> list[Result]:
    """Every seed's result. A process that dies is begun again behind the seed that it died at."""
    waiting = deque((a, min(a + BATCH, first + count)) for a in range(first, first + count, BATCH))
    running: dict[subprocess.Popen[bytes], tuple[int, int]] = {}
    begun, said = time.perf_counter(), 0.0
    while waiting or running:
        while waiting and len(running) < jobs:
            a, b = waiting.popleft()
            command = [sys.executable, str(Path(__file__).parent), "--work", str(a), str(b), "--results", str(folder)]
            running[subprocess.Popen(command)] = (a, b)
        time.sleep(0.5)
        for process in [p for p in running if p.poll() is not None]:
            a, b = running.pop(process)
            if process.returncode:
                _died(a, process.returncode, folder)
                waiting.append((a, b))
        if time.perf_counter() - begun > said + 20:
            said = time.perf_counter() - begun
            _say(list(results(folder)), count, said)
    wanted = range(first, first + count)
    return [r for r in results(folder) if r.seed in wanted]


def _died(first: int, code: int, folder: Path) -> None:
    path = folder / f"{first:08}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not lines or "begun" not in lines[-1]:
        raise RuntimeError(f"a process that runs graphs from {first} ended with {code} before the first of them")
    made = Result(lines[-1]["begun"], "crashed", (f"crashed: the process ended with {code}",))
    with path.open("a") as file:
        print(json.dumps(made.__dict__), file=file)


def _say(found: list[Result], count: int, seconds: float) -> None:
    failed = sum(bool(r.complaints) for r in found)
    print(f"{len(found):,} of {count:,} graphs, {failed} failed, {seconds:,.0f} s", flush=True)


def report(found: list[Result], seconds: float) -> str:
    """What came of it, in lines."""
    failed = [r for r in found if r.complaints]
    undecided = sum(r.undecided for r in found)
    lines = [
        f"{len(found):,} graphs in {seconds:,.0f} s: {len(failed)} failed, {undecided} undecided (rounding may decide "
        "a jump: only NaN, infinity and errors were judged)"
    ]
    for kind, count in Counter(r.kind for r in failed).most_common():
        seeds = [str(r.seed) for r in failed if r.kind == kind]
        lines.append(f"  {count} × {kind}: seeds {', '.join(seeds[:12])}")
    return "\n".join(lines)


def one_of_each(found: Iterable[Result]) -> list[int]:
    """A seed of each kind of failure."""
    seeds: dict[str, int] = {}
    for result in found:
        if result.complaints and result.kind != "crashed":
            seeds.setdefault(result.kind, result.seed)
    return list(seeds.values())
