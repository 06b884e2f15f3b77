"""Launches and bytes of a plan, beside those of TorchInductor, for a few models.

usage: python benchmarks/plans.py                 # every case
       python benchmarks/plans.py step softmax    # cases whose names begin so
       python benchmarks/plans.py --no-inductor

Float32, forward and backward. A launch is a generated kernel or a call of a library; bytes are those of device memory,
read and written, by the plan's own count and by Inductor's. Partial sums, one row for each program of a kernel, stand
apart: they are counted for 132 programs, the multiprocessors of an H100. Nothing is run, so nothing here is a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import MODES
from tritonnotes.codegen.optimizer.kinds import make_multi_tensor_update
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import float32
from tritonnotes.ir.optim.update import Kind
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph, joint_graph, loss_gradient_graph
from tritonnotes.ir.passes.split import split_gradient

PROGRAMS = 132


@dataclass(frozen=True)
class Count:
    """What is launched and moved; `partial` are the bytes of partial sums, None where nobody counts them apart."""

    launches: int
    bytes: int
    partial: int | None = None

    def __str__(self) -> str:
        partial = f" + {self.partial / 1e6:.1f}" if self.partial else ""
        return f"{self.launches}, {self.bytes / 1e6:,.2f}{partial} MB"


def counted(*plans: FusionPlan) -> Count:
    launches = [k for plan in plans for k in plan.launches]
    moved = sum(k.bytes_moved() for k in launches)
    return Count(len(launches), moved, sum(k.traffic(programs=PROGRAMS).total for k in launches) - moved)


def forward_and_backward(graph: Graph) -> list[Graph]:
    """What the two programs that autograd runs are planned from."""
    wanted = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    cotangents = [*cotangent_names(graph, graph.outputs).values()]
    split = split_gradient(gradient_graph(graph, wanted), list(graph.outputs), cotangents)
    return [split.forward, split.backward]


def one_input(build: Callable[[Value], Value], *shape: int) -> Callable[[], list[Graph]]:
    def graphs() -> list[Graph]:
        graph = Graph("case")
        graph.output(y=build(graph.input("x", shape)))
        return forward_and_backward(graph)

    return graphs


def step() -> list[Graph]:
    g = Graph("step")
    x, y = g.input("x", (256, 64)), g.input("y", (256,), dtype="int64")
    h = tn.prelu(tn.batch_norm(tn.linear(x, 128, name="fc1"), name="bn1"), name="act1")
    h = tn.elu(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc3"), y))
    return [joint_graph(g, "loss", tn.adam())]


def cross_entropy() -> list[Graph]:
    g = Graph("cross_entropy")
    logits, y = g.input("logits", (4096, 32000)), g.input("y", (4096,), dtype="int64")
    g.output(loss=tn.cross_entropy(logits, y), accuracy=tn.accuracy(logits, y))
    return [loss_gradient_graph(g, "loss", ["logits"])]


def softmax_to_rms_norm() -> list[Graph]:
    g = Graph("softmax")
    x, residual = g.input("x", (4096, 1024)), g.input("residual", (4096, 1024))
    g.output(y=tn.rms_norm(tn.dropout(tn.softmax(x, -1), 0.1) + residual, name="norm"))
    return forward_and_backward(g)


GRAPHS: dict[str, Callable[[], list[Graph]]] = {
    "step": step,
    "ln_gelu": one_input(lambda x: tn.gelu(tn.layer_norm(x)) + x, 4096, 1024),
    "cross_entropy": cross_entropy,
    "batch_norm": one_input(lambda x: tn.relu(tn.batch_norm(x)), 32, 64, 28, 28),
    "softmax": softmax_to_rms_norm,
    "swiglu": one_input(tn.swiglu, 4096, 2 * 11008),
}
"""What is planned in each case: declared anew by each call, as graphs of primitives."""


def of_graphs(name: str) -> Callable[[str], Count]:
    return lambda mode: counted(*(make_plan(graph, mode) for graph in GRAPHS[name]()))


def adam(mode: str) -> Count | None:
    """One kernel over a table of addresses, whatever the mode."""
    if mode != "optimal":
        return None
    kind = Kind(float32, float32, (float32, float32), False)
    update = make_multi_tensor_update(tn.adam(), [kind])
    elements = sum((64 + i) * 64 for i in range(64))
    return Count(1, elements * update.bytes_moved(update.kinds[0]))


CASES: dict[str, tuple[str, Callable[[str], Count | None]]] = {
    "step": ("training step 64→128 BN PReLU →128 LN ELU →10 CE, batch 256, Adam", of_graphs("step")),
    "ln_gelu": ("gelu(LN(x)) + x, 4096×1024", of_graphs("ln_gelu")),
    "cross_entropy": ("cross entropy with accuracy, 4096×32000", of_graphs("cross_entropy")),
    "batch_norm": ("relu(BN(x)), 32×64×28×28", of_graphs("batch_norm")),
    "softmax": ("softmax → dropout → residual → RMS norm, 4096×1024", of_graphs("softmax")),
    "swiglu": ("SwiGLU, 4096×11008", of_graphs("swiglu")),
    "adam": ("Adam on 64 small parameters", adam),
}


def inductor(name: str) -> Count | str:
    """What TorchInductor plans, in a process of its own: it takes over Triton's driver."""
    script = Path(__file__).parent / "inductor.py"
    done = subprocess.run([sys.executable, script, name], capture_output=True, text=True)
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no word'])[-1][:60]}"
    found = json.loads(done.stdout.splitlines()[-1])
    return Count(found["launches"], found["bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"beginnings of names: {', '.join(CASES)}")
    parser.add_argument("--no-inductor", action="store_true", help="plan with tritonnotes alone")
    arguments = parser.parse_args()
    chosen = [n for n in CASES if not arguments.case or any(n.startswith(given) for given in arguments.case)]
    for name in chosen:
        title, count = CASES[name]
        print(title)
        for mode in MODES[::-1]:
            found = count(mode)
            if found is not None:
                print(f"    {mode:<10} {found}")
        if not arguments.no_inductor:
            print(f"    {'Inductor':<10} {inductor(name)}", flush=True)


if __name__ == "__main__":
    main()
