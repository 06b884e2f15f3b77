"""Training steps of whole torch modules: launches and bytes beside TorchInductor's, and times on the CPU beside eager.

    python benchmarks/whole_models.py --json benchmarks/whole_models.json   # every model, every peer
    python benchmarks/whole_models.py LeNet GPT --peers tritonnotes eager
    python benchmarks/whole_models.py --report benchmarks/whole_models.json # the table of an earlier run, as Markdown
    python benchmarks/whole_models.py --tiny                                # that it runs to its end

The models are those of the tests (tests/shared/whole_models.py), imported as they are: forward, backward and AdamW. A
launch is a generated kernel or a call of torch; bytes are those of device memory, read and written, by the plan's own
count and by Inductor's, for an H100. Nothing of that is run. Times are those of whole steps on the CPU, one thread, all
peers in turns, each of a plan for the CPU; before a peer is timed its first losses are held to float64. JAX has the
graph of each module that calls nothing of torch's (on_cpu/jax_graphs.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only its own folder is known
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "shared"))

from whole_models import MODELS, ROWS, made

import tritonnotes as tn
from benchmarks.measure import Case, Subject, measure
from benchmarks.on_cpu import machine
from benchmarks.on_cpu.clock import CpuClock
from benchmarks.on_cpu.peers import COMPILED, EAGER, JAX, forget_compiled, missing
from benchmarks.peers import OURS
from benchmarks.results import versions
from benchmarks.timing import Call
from tritonnotes.codegen.plan.torch_calls import torch_calls
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose

BACKEND = "our backend"
PEERS = (OURS, BACKEND, EAGER, COMPILED, JAX)
LR = 1e-3
BATCH, ROUNDS = 64, 5
JUDGED_STEPS = 3
SAME = 1e-5
"""How far losses may be from float64."""

Example = tuple[Tensor, ...]


@dataclass
class Found:
    """What is known of one model: launches and bytes of each side (None where Inductor failed), how many of our
    launches are calls of torch that the graph names, and the seconds of each peer's steps."""

    launches: dict[str, int | None] = field(default_factory=dict)
    bytes: dict[str, int | None] = field(default_factory=dict)
    calls: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """Our least time over a peer's."""
        if OURS not in self.seconds or peer not in self.seconds:
            return None
        return min(self.seconds[OURS]) / min(self.seconds[peer])


# -- launches and bytes ------------------------------------------------------------------------------------------------


def planned(name: str, rows: int) -> Found:
    """Launches and bytes of the plan of our step."""
    net, example = made(name, count=rows)
    plan = tn.compile_step(net, *example, optimizer=tn.adamw(lr=LR), target="gpu").plan
    moved = sum(launch.bytes_moved(rows) for launch in plan.launches)
    return Found({OURS: len(plan.launches)}, {OURS: moved}, len(torch_calls(plan.launches)))


def inductors(names: Sequence[str], rows: int) -> Iterator[tuple[str, dict[str, int]]]:
    """What TorchInductor plans, in a process of its own: it takes over Triton's driver."""
    given = [sys.executable, __file__, "--inductor", *names, "--rows", str(rows)]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            name, found = json.loads(line)
            yield name, found


def print_inductors(names: Sequence[str], rows: int) -> None:
    """The same in this process, a line for each model. The update is compiled apart from the rest, as a step in eager
    Python has it."""
    from benchmarks.inductor import count

    for name in names:
        torch._dynamo.reset()
        net, example = made(name, count=rows)
        parts = [count(lambda net=net, example=example: torch.compile(net)(*example)["loss"].backward())]
        for parameter in trained(net):
            parameter.grad = torch.zeros_like(parameter)
        parts.append(count(torch.compile(torch.optim.AdamW(trained(net), lr=LR, foreach=True).step)))
        print(json.dumps([name, {key: sum(part[key] for part in parts) for key in parts[0]}]), flush=True)


# -- times -------------------------------------------------------------------------------------------------------------


def trained(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


def torch_step(net: nn.Module, example: Example, peer: str) -> Callable[[Any], Tensor]:
    """Forward, backward and AdamW: eager, or compiled with our backend, or both parts with Inductor."""
    optimizer = torch.optim.AdamW(trained(net), lr=LR, foreach=True)
    run: Callable[..., dict[str, Tensor]] = net
    update: Callable[[], Any] = optimizer.step
    if peer == COMPILED:
        run, update = torch.compile(net, dynamic=False), torch.compile(optimizer.step, dynamic=False)
    if peer == BACKEND:
        run = torch.compile(net, backend="tritonnotes")

    def step(_: Any) -> Tensor:
        loss = run(*example)["loss"]
        loss.backward()
        update()
        optimizer.zero_grad()
        return loss.detach()

    return step


def our_step(net: nn.Module, example: Example) -> Callable[[Any], Tensor]:
    step = tn.compile_step(net, *example, optimizer=tn.adamw(lr=LR))
    return lambda _: step(*example)["loss"]


def jax_step(graph: Graph, net: nn.Module, example: Example) -> Callable[[Any], Tensor]:
    """What the graph of the module computes, in JAX."""
    from benchmarks.on_cpu import jax_graphs, jax_peers

    feeds = dict(zip((v.name for v in graph.inputs), example, strict=True))
    run = jax_graphs.step(graph, "loss", feeds, net.state_dict(keep_vars=True), LR)
    return lambda _: jax_peers.tensor(run())


def not_in_jax(graph: Graph) -> str:
    """Why JAX has no step of a graph; empty where it has one."""
    from benchmarks.on_cpu import jax_graphs

    found = jax_graphs.unknown(graph)
    return f"no counterpart of {', '.join(found)}" if found else ""


def subject(name: str, rows: int) -> Subject:
    """All peers of one model."""
    net, example = made(name, count=rows)
    double = tuple(x.double() if x.is_floating_point() else x for x in example)
    exact = torch_step(deepcopy(net).double(), double, EAGER)
    wanted = torch.stack([exact(None).clone() for _ in range(JUDGED_STEPS)])

    def judge(peer: str, call: Call) -> str | None:
        losses = torch.stack([call.run(None).clone() for _ in range(JUDGED_STEPS)])
        if torch.allclose(losses.double(), wanted, rtol=SAME, atol=SAME):
            return None
        return f"its first losses are {losses.tolist()}, in float64 {wanted.tolist()}"

    makers: dict[str, Callable[[], Call]] = {OURS: lambda: Call(our_step(deepcopy(net), example))}
    for peer in (BACKEND, EAGER, COMPILED):
        makers[peer] = lambda peer=peer: Call(torch_step(deepcopy(net), example, peer))
    absent = {peer: why for peer, why in missing().items() if peer in PEERS}
    if JAX not in absent:
        graph = optimize(decompose(tn.from_torch(net, *example)))
        makers[JAX] = lambda: Call(jax_step(graph, net, example))
        if why := not_in_jax(graph):
            absent[JAX] = why
    return Subject({peer: make for peer, make in makers.items() if peer not in absent}, absent, judge)


# -- all of it ---------------------------------------------------------------------------------------------------------


def run(
    names: Sequence[str], peers: Sequence[str], rows: int, rounds: int, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Everything, as what is written as JSON; `keep` is given what there is after each model."""
    results: dict[str, Any] = {"machine": machine.described(), "versions": versions(), "rows": rows}
    results |= {"models": {}, "missing": {}, "refused": {}}
    others = dict(inductors(names, rows)) if COMPILED in peers else {}
    clock = CpuClock()
    for name in names:
        forget_compiled()
        print(name, file=sys.stderr, flush=True)
        found = planned(name, rows)
        if COMPILED in peers:
            told = others.get(name, {})
            found.launches[COMPILED], found.bytes[COMPILED] = told.get("launches"), told.get("bytes")
        case = Case("whole models", name, "float32", "step", 0, lambda _, name=name: subject(name, rows))
        outcome = measure(case, clock, torch.device("cpu"), rounds, peers)
        found.seconds = {row.peer: [round(t, 7) for t in row.seconds] for row in outcome.rows}
        results["models"][name] = asdict(found)
        results["missing"] |= outcome.missing
        results["refused"] |= outcome.refused
        keep(results)
    return results


def markdown(results: Mapping[str, Any]) -> Iterator[str]:
    """The results as a table."""
    peers = [p for p in PEERS[1:] if any(p in m["seconds"] for m in results["models"].values())]
    heads = ["model", "launches (calls of torch)", "Inductor's", "bytes", "Inductor's", "step"]
    yield f"| {' | '.join([*heads, *(f'of {p}' for p in peers)])} |"
    yield "|---" * (len(heads) + len(peers)) + "|"
    for name, told in results["models"].items():
        found = Found(**told)
        launches, moved = found.launches, found.bytes
        cells = [name, f"{launches[OURS]} ({found.calls})", _shown(launches.get(COMPILED))]
        cells += [_kilobytes(moved[OURS]), _kilobytes(moved.get(COMPILED))]
        cells.append(f"{min(found.seconds[OURS]) * 1e6:,.0f} µs" if OURS in found.seconds else "")
        cells += ["" if (ratio := found.ratio(peer)) is None else f"{ratio:.2f}" for peer in peers]
        yield f"| {' | '.join(cells)} |"
    yield from (f"\n{where}: {why}" for where, why in (results["missing"] | results["refused"]).items())


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)


def _kilobytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e3:,.0f} kB"


def write(results: Mapping[str, Any], path: str) -> None:
    """As JSON, a line for each model."""
    models = ",\n  ".join(f"{json.dumps(n)}: {json.dumps(told)}" for n, told in results["models"].items())
    head = json.dumps({key: value for key, value in results.items() if key != "models"}, indent=1)[:-2]
    Path(path).write_text(f'{head},\n "models": {{\n  {models}\n }}\n}}\n', encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 where something of ours failed or was wrong."""
    asked = _parse(arguments)
    if asked.inductor:
        print_inductors(asked.models, asked.rows)
        return 0
    if asked.report:
        results = json.loads(Path(asked.report).read_text(encoding="utf-8"))
    else:
        torch.set_num_threads(1)
        keep = (lambda found: write(found, asked.json)) if asked.json else lambda found: None
        results = run(asked.models, asked.peers, asked.rows, asked.rounds, keep)
    print("\n".join(markdown(results)))
    return 1 if any(where.startswith((OURS, BACKEND)) for where in results["refused"]) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="model", help="all by default")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--rows", type=int, default=BATCH, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each peer has its turn")
    parser.add_argument("--tiny", action="store_true", help="one model, one round, without Inductor")
    parser.add_argument("--json", metavar="FILE", help="write everything here, after each model")
    parser.add_argument("--report", metavar="FILE", help="show an earlier run instead")
    parser.add_argument("--inductor", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.models if name not in MODELS]
    if unknown:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    if asked.tiny:
        asked.models, asked.peers = asked.models or ["autoencoder"], [OURS, BACKEND, EAGER]
        asked.rows, asked.rounds = ROWS, 1
    asked.models = asked.models or list(MODELS)
    return asked


if __name__ == "__main__":
    machine.hold_to(1)
    sys.exit(main())
