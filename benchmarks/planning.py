"""How long planning takes, and what the search is worth.

usage: python benchmarks/planning.py            # both tables
       python benchmarks/planning.py --largest 300 --graphs 50

The first table plans training steps of 10 to 1,000 ops (linear, layer norm, GELU, residual; Adam); the second plans
random graphs of up to 12 ops, forward alone and with gradients, greedily and optimally. Times are of the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "shared"))

from random_graphs import random_graph, seeded

import tritonnotes as tn
from benchmarks.nets import SIZES, residual_net
from tritonnotes.codegen.fusion.cost import cost_of
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def by_size(largest: int) -> None:
    print(f"{'ops':>6} {'primitives':>11} {'joint graph':>12} {'greedy':>9} {'optimal':>9} {'launches':>9}  how")
    for size in (s for s in SIZES if s <= largest):
        graph = residual_net(size)
        ops = sum(not v.is_leaf for v in graph.values)
        making, joint = timed(lambda graph=graph: joint_graph(graph, "loss", tn.adam()))
        greedy, _ = timed(lambda joint=joint: make_plan(joint, "greedy"))
        optimal, plan = timed(lambda joint=joint: make_plan(joint, "optimal"))
        print(
            f"{ops:>6} {len(joint.values):>11,} {making:>10.2f} s {greedy:>7.3f} s {optimal:>7.3f} s "
            f"{len(plan.launches):>9}  {plan.fusion}"
        )


def total(plan: FusionPlan) -> int:
    return cost_of(plan.candidate).total


def against_greedy(count: int) -> None:
    graphs: list[Graph] = []
    for seed in range(count):
        graph, _ = random_graph(seeded(seed), 12)
        floats = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
        graphs += [optimize(decompose(graph)), gradient_graph(graph, floats)]
    plans = [(make_plan(g, "greedy"), make_plan(g, "optimal")) for g in graphs]
    better = [(a, b) for a, b in plans if total(b) < total(a)]
    fewer = [(a, b) for a, b in better if len(b.launches) < len(a.launches)]
    saved = [1 - b.bytes_moved() / a.bytes_moved() for a, b in better if len(a.launches) == len(b.launches)]
    print(f"{len(plans)} plans of {count} random graphs, forward alone and with gradients:")
    print(f"  proved optimal         {sum(b.fusion == 'optimal' for _, b in plans)}")
    print(
        f"  better than greedy     {len(better)}, by launches {len(fewer)}, by bytes alone {len(better) - len(fewer)}"
    )
    print(f"  worse than greedy      {sum(total(b) > total(a) for a, b in plans)}")
    if saved:
        print(
            f"  bytes saved by those   {min(saved):.1%} to {max(saved):.1%}, {sum(saved) / len(saved):.1%} on average"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="the largest training step, in ops")
    parser.add_argument("--graphs", type=int, default=200, help="how many random graphs")
    arguments = parser.parse_args()
    by_size(arguments.largest)
    print()
    against_greedy(arguments.graphs)


if __name__ == "__main__":
    main()
