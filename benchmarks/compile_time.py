"""How long compiling takes, beside TorchInductor, on any machine: processor seconds, imports not counted.

    python benchmarks/compile_time.py                       # every model
    python benchmarks/compile_time.py step digits           # models whose names begin so
    python benchmarks/compile_time.py --no-inductor --json times.json

From the declaration of a model to the source of all its kernels, forward, backward and update; then to machine code for
sm_90. Each number is of a process of its own, the best of several: `first` in a process with empty caches on disk,
`again` the same once more in that process, without caches; `cached` in another process that finds the first one's
machine code on disk. Inductor is stopped at its source too, as its kernels cannot be compiled under the stand-in for a
GPU that `inductor.py` gives it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonnotes.codegen.program.program import Program

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "examples"))

MODELS = {
    "step": "training step 64→128 BN PReLU →128 LN ELU →10 CE, batch 256, Adam",
    "digits": "tn.compile_step of examples/digits.py, evaluation form included, Adam",
    "ln_gelu": "gelu(LN(x)) + x, 4096×1024",
    "cross_entropy": "cross entropy with accuracy, 4096×32000",
    "batch_norm": "relu(BN(x)), 32×64×28×28",
    "softmax": "softmax → dropout → residual → RMS norm, 4096×1024",
    "swiglu": "SwiGLU, 4096×11008",
    **{f"net{ops}": f"training step of a residual net of about {ops} ops, Adam" for ops in (10, 30, 100, 300, 1000)},
}

ARCH = 90

INDUCTOR_LARGEST = 100
"""Larger nets than of so many ops take Inductor minutes; `--inductor-largest` asks for them."""

COMPILED_LARGEST = 100
"""Larger nets have so many kernels that compiling them to machine code takes minutes."""


@dataclass(frozen=True)
class Times:
    """Processor seconds, those of child processes included. `source` is from the declaration to all source; `again` the
    same once more; `machine` from there to machine code, None where that was not asked for."""

    source: float
    again: float
    machine: float | None = None
    kernels: int = 0


def processor_seconds() -> float:
    """Of this process and its children: ptxas is one."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(name: str, to_machine: bool) -> Times:
    """Compile a model in this process."""
    from tritonnotes.codegen.program.compile import compile_program

    to_source = _maker(name)
    start = processor_seconds()
    programs = to_source()
    middle = processor_seconds()
    reports = [report for p in programs for report in compile_program(p, ARCH)] if to_machine else []
    end = processor_seconds()
    to_source()
    again = processor_seconds() - end
    return Times(middle - start, again, end - middle if to_machine else None, len(reports))


def _maker(name: str) -> Callable[[], list[Program]]:
    """What declares a model and compiles it to source."""
    import tritonnotes as tn
    from benchmarks.nets import residual_net
    from benchmarks.plans import GRAPHS
    from tritonnotes.codegen.pipeline import make_program
    from tritonnotes.ir.core.graph import Graph
    from tritonnotes.ir.passes.joint import joint_graph

    def written(graphs: list[Graph]) -> list[Program]:
        programs = [make_program(graph) for graph in graphs]
        assert all(program.source for program in programs)
        return programs

    if name.startswith("net"):
        return lambda: written([joint_graph(residual_net(int(name[3:])), "loss", tn.adam())])
    if name == "digits":
        from digits import graph

        # All that a user waits for: weights, slots, the evaluation form, and the modules loaded.
        return lambda: [tn.compile_step(graph(), loss="loss", optimizer=tn.adam()).program]
    return lambda: written(GRAPHS[name]())


def inductor(name: str) -> Times:
    """Have Inductor compile the same model in this process, to its source."""
    import torch

    from benchmarks import inductor as stand_in
    from benchmarks.nets import residual_blocks

    def run() -> None:
        if name.startswith("net"):
            stand_in.train(stand_in.ResidualNet(residual_blocks(int(name[3:]))))
        elif name == "digits":
            stand_in.train(stand_in.Digits())
        else:
            stand_in.CASES[name]()

    torch.manual_seed(0)
    spent = []
    for _ in range(2):
        torch._dynamo.reset()
        start = processor_seconds()
        found = stand_in.count(run)
        spent.append(processor_seconds() - start)
        assert found["launches"], f"Inductor compiled nothing of {name}"
    first, again = spent
    return Times(first, again)


def in_a_process(who: str, name: str, to_machine: bool, cache: str) -> Times:
    """The same in a fresh process that keeps its caches in a folder."""
    environment = {**os.environ, "TRITONNOTES_CACHE_DIR": f"{cache}/ours", "TRITON_CACHE_DIR": f"{cache}/triton"}
    given = [sys.executable, __file__, "--child", who, name, *(["--machine"] if to_machine else [])]
    done = subprocess.run(given, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{who} on {name} failed:\n{done.stderr}")
    return Times(**json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, with_inductor: bool, to_machine: bool, best_of: int) -> dict[str, Times]:
    """`first` and `cached` of ours, and `inductor`: each the best of several processes, in turns."""
    found: dict[str, list[Times]] = {}
    for _ in range(best_of):
        with tempfile.TemporaryDirectory() as cache:
            for what in ("first", "cached") if to_machine else ("first",):
                found.setdefault(what, []).append(in_a_process("ours", name, to_machine, cache))
        if with_inductor:
            with tempfile.TemporaryDirectory() as cache:
                found.setdefault("inductor", []).append(in_a_process("inductor", name, False, cache))
    return {what: _best(runs) for what, runs in found.items()}


def _best(runs: list[Times]) -> Times:
    """The least of each stage."""
    machine = [r.machine for r in runs if r.machine is not None]
    source, again = min(r.source for r in runs), min(r.again for r in runs)
    return Times(source, again, min(machine, default=None), runs[0].kernels)


def lines(name: str, found: dict[str, Times]) -> Iterator[str]:
    """What a run prints of one model."""
    yield MODELS[name]
    first = found["first"]
    yield f"    tritonnotes  to source {first.source:8.3f} s, again {first.again:8.3f} s"
    if first.machine is not None:
        cold, cached = first.source + first.machine, found["cached"].source + (found["cached"].machine or 0.0)
        yield f"                 to machine code, {first.kernels} kernels: {cold:.3f} s, from the cache {cached:.3f} s"
    if "inductor" in found:
        other = found["inductor"]
        yield f"    Inductor     to source {other.source:8.3f} s, again {other.again:8.3f} s"
        ratios = other.source / first.source, other.again / first.again
        yield f"                 {ratios[0]:.1f} times as long as ours, again {ratios[1]:.1f} times"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help=f"beginnings of names: {', '.join(MODELS)}")
    parser.add_argument("--no-inductor", action="store_true", help="time tritonnotes alone")
    parser.add_argument("--no-machine", action="store_true", help="stop at the source")
    parser.add_argument("--best-of", type=int, default=3, help="how many processes each number is the least of")
    parser.add_argument("--inductor-largest", type=int, default=INDUCTOR_LARGEST, help="the largest net for Inductor")
    parser.add_argument("--json", help="write all numbers here")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--machine", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        who, name = asked.child
        print(json.dumps(asdict(ours(name, asked.machine) if who == "ours" else inductor(name))))
        return
    written = {}
    for name in MODELS:
        if asked.model and not any(name.startswith(given) for given in asked.model):
            continue
        ops = int(name[3:]) if name.startswith("net") else 0
        with_inductor = not asked.no_inductor and ops <= asked.inductor_largest
        found = measure(name, with_inductor, not asked.no_machine and ops <= COMPILED_LARGEST, asked.best_of)
        written[name] = {what: asdict(times) for what, times in found.items()}
        print("\n".join(lines(name, found)), flush=True)
    if asked.json:
        Path(asked.json).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
