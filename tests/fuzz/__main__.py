"""`python tests/fuzz --graphs 20000`: random graphs against plain torch, over several processes.

With `--results FOLDER` a run that was broken off is taken up again. `--seed 17` tries one graph and prints it as a
script, cut down where it fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from case_maker import random_case
from case_script import script
from fuzz_runs import one_of_each, report, run_all, shrunk, tried, work

from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--graphs", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--results", type=Path, help="a folder for results, which a later run takes up again")
    parser.add_argument("--shrink", type=int, default=10, help="how many kinds of failure to cut down")
    parser.add_argument("--seed", type=int, help="try this graph alone")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as kernels:
        os.environ[CACHE_DIR_VARIABLE] = kernels
        if given.work:
            work(*given.work, given.results)
            return 0
        if given.seed is not None:
            return _one(given.seed)
        return _all(given)


def _one(seed: int) -> int:
    found = tried(seed)
    print(shrunk(seed) if found.complaints else script(random_case(seed)))
    return bool(found.complaints)


def _all(given: argparse.Namespace) -> int:
    folder = given.results or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    found = run_all(given.first, given.graphs, given.jobs, folder)
    print(report(found, time.perf_counter() - begun), f"results: {folder}", sep="\n", flush=True)
    for seed in one_of_each(found)[: given.shrink]:
        path = folder / f"seed_{seed}.py"
        path.write_text(shrunk(seed))
        print(f"\n{path}:\n{path.read_text()}", flush=True)
    return any(r.complaints for r in found)


if __name__ == "__main__":
    sys.exit(main())
