"""Optimizer steps against torch's: foreach, fused, compiled and captured, in one process, interleaved.

    python benchmarks/optimizers.py --json optimizers.json            # on a GPU: everything
    python benchmarks/optimizers.py --rules Adam --sizes 1x2**24      # a part
    python benchmarks/optimizers.py --device cpu --sizes 3x64 --rounds 1   # that it runs; the times mean nothing

It is the family `optimizers` of `python -m benchmarks`, with rules and sizes of one's choice. Every peer is held to
torch's plain loop in float64 before it is timed. The bytes of a step are those that the rule must move at least, for
every peer the same, so a fraction of copy bandwidth above 1 means that something was cached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, only its own folder is known

from benchmarks.measure import Case, Outcome, Subject, measure
from benchmarks.peers import GPU_ALONE, OURS, PEERS
from benchmarks.report import lines, not_run
from benchmarks.results import NO_GPU, Results, device_name, versions
from benchmarks.shapes import PARAMETERS, TINY_PARAMETERS, Shape
from benchmarks.timing import Call, captured, clock_of, copy_bandwidth
from tritonnotes import optim
from tritonnotes.judge.tolerance import compare

FAMILY = "optimizers"

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {},
    "Adam": {},
    "AdamW": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
}
STATES = {"SGD": 1, "Adagrad": 1, "RMSprop": 1}
"""Tensors of state that a step reads and writes; 2 where nothing is said."""

FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
"""Those that torch has a fused step of."""

NOT_CAPTURABLE = ("SGD", "Adagrad")

Maker = Callable[[list[Tensor]], Callable[[], Any]]
"""Makes a peer's step on parameters."""

JUDGED_SHAPES: list[Shape] = [(5,), (64, 33), ()]
"""Parameters with which a peer is judged: what it does to an element does not depend on how many there are."""

JUDGED_STEPS = 3


def table_of_cases(tiny: bool, dtypes: Sequence[str]) -> list[Case]:
    """Every rule at every size of `shapes.PARAMETERS`."""
    sizes = TINY_PARAMETERS if tiny else tuple(PARAMETERS)
    return [case(rule, size, dtype) for rule in RULES for size in sizes for dtype in dtypes]


def case(rule: str, size: str, dtype: str) -> Case:
    """One rule on the parameters of one size."""
    elements = sum(torch.Size(shape).numel() for shape in shapes_of(size))
    moved = elements * getattr(torch, dtype).itemsize * (3 + 2 * STATES.get(rule, 2))
    return Case(FAMILY, f"{rule} {size}", dtype, "step", moved, partial(make_subject, rule, size, dtype))


def make_subject(rule: str, size: str, dtype: str, device: torch.device) -> Subject:
    """Every peer's step on the same parameters, each with state of its own; and why others are not among them."""
    kind = getattr(torch, dtype)
    params = [torch.randn(s, dtype=kind, device=device).requires_grad_() for s in shapes_of(size)]
    for p in params:
        p.grad = torch.randn_like(p)
    makers, missing = _steps(rule, device)
    calls: dict[str, Callable[[], Call]] = {}
    for peer, make in makers.items():
        calls[peer] = partial(_call, make, params)
    graphs = ("tritonnotes captured", "captured foreach")
    if device.type != "cuda":
        missing |= dict.fromkeys(graphs, GPU_ALONE)
    elif rule in NOT_CAPTURABLE:
        missing |= dict.fromkeys(graphs, f"torch's {_listed(NOT_CAPTURABLE)} cannot be captured")
    else:
        how = {"capturable": True, **RULES[rule]}
        calls["tritonnotes captured"] = lambda: _captured(getattr(optim, rule)(params, **how))
        calls["captured foreach"] = lambda: _captured(getattr(torch.optim, rule)(params, foreach=True, **how))
    judge = Judge(rule, kind, device, makers)
    return Subject(calls, missing, judge)


def _steps(rule: str, device: torch.device) -> tuple[dict[str, Maker], dict[str, str]]:
    """For each peer what makes its step on given parameters; and why others have none."""
    how, theirs, ours = RULES[rule], getattr(torch.optim, rule), getattr(optim, rule)

    def compiled(params: list[Tensor]) -> Callable[[], Any]:
        rate = torch.tensor(1e-3, device=device)  # a number would be compiled in, and each new one compiled anew
        capturable = {} if rule in NOT_CAPTURABLE else {"capturable": True}
        step: Callable[[], Any] = torch.compile(theirs(params, lr=rate, foreach=True, **capturable, **how).step)
        return step

    makers: dict[str, Maker] = {
        OURS: lambda params: ours(params, **how).step,
        "foreach": lambda params: theirs(params, foreach=True, **how).step,
    }
    missing: dict[str, str] = {}
    if rule in FUSED:
        makers["fused"] = lambda params: theirs(params, fused=True, **how).step
    else:
        missing["fused"] = f"torch has none of {_listed(r for r in RULES if r not in FUSED)}"
    if device.type == "cuda":
        makers["compiled"] = compiled
    else:
        missing["compiled"] = GPU_ALONE
    return makers, missing


def _call(make: Maker, params: list[Tensor]) -> Call:
    step = make(params)
    return Call(lambda _: step(), why_not="a step has one set of parameters, which it reads where it left them")


def _captured(optimizer: torch.optim.Optimizer) -> Call:
    """The replay of a step in a CUDA graph: what it costs once the host has nothing to say."""
    replay = captured([Call(lambda _: optimizer.step())])
    return Call(lambda _: replay(), why_not="it is a graph already")


class Judge:
    """Holds some steps of a peer, on small parameters, to torch's plain loop and to the same in float64.

    All parameters are compared as one tensor, as a rule treats each element alike. A scalar alone would be no judge:
    where its steps nearly cancel it, torch's error on this one number may be 0 by luck, and that allows nothing.
    """

    def __init__(
        self,
        rule: str,
        dtype: torch.dtype,
        device: torch.device,
        makers: dict[str, Maker],
        seed: int = 0,
    ) -> None:
        self.makers = makers
        generator = torch.Generator(device).manual_seed(seed)

        def draw() -> list[Tensor]:
            return [torch.randn(s, device=device, generator=generator).to(dtype) for s in JUDGED_SHAPES]

        self.start, self.grads = draw(), [draw() for _ in range(JUDGED_STEPS)]

        def plain(params: list[Tensor], **how: Any) -> Callable[[], Any]:
            step: Callable[[], Any] = getattr(torch.optim, rule)(params, foreach=False, **RULES[rule]).step
            return step

        self.eager = self._after(plain, dtype)
        self.exact = self._after(plain, torch.float64)

    def __call__(self, peer: str, call: Call) -> str | None:
        """What is wrong with a peer's parameters, or None. A replay is of a step that is judged by itself."""
        if peer not in self.makers:
            return None
        comparison = compare(self._after(self.makers[peer], self.start[0].dtype), self.eager, self.exact)
        return None if comparison.ok else f"parameters are farther from float64 than torch's loop allows: {comparison}"

    def _after(self, make: Maker, dtype: torch.dtype) -> Tensor:
        """The parameters after the judged steps, one after the other in one tensor."""
        params = [p.to(dtype, copy=True).requires_grad_() for p in self.start]
        step = make(params)
        for grads in self.grads:
            for p, g in zip(params, grads, strict=True):
                p.grad = g.to(dtype, copy=True)
            step()
        return torch.cat([p.detach().flatten() for p in params])


def _listed(rules: Iterable[str]) -> str:
    return ", ".join(rules)


def shapes_of(size: str) -> list[Shape]:
    """A named list of shapes, or `COUNTxELEMENTS`."""
    if size in PARAMETERS:
        return PARAMETERS[size]
    count, _, elements = size.partition("x")
    if not (count.isdigit() and elements.isdigit()):
        raise SystemExit(f"--sizes {size}: use one of {', '.join(PARAMETERS)}, or COUNTxELEMENTS, as in 3x64")
    return [(int(elements),)] * int(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, print it as it comes, and write it as JSON where asked."""
    asked = _parse(arguments)
    device = torch.device(asked.device)
    clock = clock_of(device)
    results = Results(device_name(device), clock.is_gpu, clock.name, versions())
    if not clock.is_gpu:
        print(f"{NO_GPU}; the times below mean nothing.", file=sys.stderr)
    cases = [case(rule, size, asked.dtype) for rule in asked.rules for size in asked.sizes]
    results.copy_bandwidth[FAMILY] = [copy_bandwidth(clock, device, asked.copy_bytes)]
    total = Outcome()
    for each in cases:
        outcome = measure(each, clock, device, asked.rounds, PEERS)
        total |= outcome
        print("\n".join(lines(results, outcome.rows)), flush=True)
    results.rows, results.missing, results.refused = total.rows, total.missing, total.refused
    results.copy_bandwidth[FAMILY].append(copy_bandwidth(clock, device, asked.copy_bytes))
    for line in not_run(results):
        print(f"not run: {line.removeprefix('- ')}")
    for what, why in results.refused.items():
        print(f"refused: {what}: {why}")
    if asked.json:
        results.write(asked.json)
    return 0 if total.ok else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=tuple(RULES), default=list(RULES))
    known = f"of {', '.join(PARAMETERS)}, or COUNTxELEMENTS"
    parser.add_argument("--sizes", nargs="+", default=list(PARAMETERS), help=known)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer has its turn")
    parser.add_argument("--copy-bytes", type=int, default=2**28, help="of the copy that bandwidth is measured with")
    parser.add_argument("--json", help="write all timings here")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
