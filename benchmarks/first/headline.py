"""The headline rows beside eager, Inductor, Liger, captured eager and JAX's jitted step, the most telling first."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import tritonnotes as tn

from .. import measure, optimizers, steps
from ..families import Wanted, cases
from ..measure import Case
from ..on_cpu.peers import JAX, missing
from ..peers import CAPTURED, EAGER, LIGER, OURS, REPLAYED, reason
from ..timing import Clock, clock_of, copy_bandwidth
from .part import asked
from .rows import Row, row, tell_all

PEERS = (OURS, REPLAYED, EAGER, "compile", CAPTURED, LIGER, "foreach", "fused", "captured foreach")

ROUNDS = 2

COPY_BYTES, TINY_COPY_BYTES = 2**30, 2**20

JAX_STEPS = 50


@dataclass(frozen=True)
class Headline:
    """One case of a family. With --tiny its family's first case of that dtype and direction stands for it."""

    family: str
    shape: str
    dtype: str
    direction: str

    def case(self, is_tiny: bool) -> Case:
        wanted = Wanted(is_tiny, (self.dtype,), () if self.direction == "step" else (self.direction,))
        return next(c for c in cases(self.family, wanted) if is_tiny or c.shape == self.shape)


HEADLINES = (
    Headline(steps.FAMILY, "784-512-512-10 batch 64", "float32", "step"),
    Headline("layer_norm", "32768x1024", "float32", "backward"),
    Headline("softmax", "8192x4096", "bfloat16", "forward"),
    Headline("cross_entropy", "8192x32000", "bfloat16", "both"),
    Headline("rms_norm", "8192x4096", "bfloat16", "backward"),
    Headline(optimizers.FAMILY, "Adam gpt2", "float32", "step"),
    Headline("batch_norm", "64x256x28x28", "float32", "both"),
    Headline("glu", "8192x11008", "bfloat16", "both"),
    Headline(steps.FAMILY, "784-512-512-10 batch 1024", "float32", "step"),
    Headline("layer_norm", "8192x4096", "bfloat16", "both"),
    Headline("gelu", "65536x1024", "bfloat16", "forward"),
    Headline("cross_entropy", "65536x10", "float32", "both"),
)


def rows(device: torch.device, is_tiny: bool, clock: Clock | None = None) -> Iterator[Row]:
    """A row for each peer of each case, with its share of copy bandwidth."""
    clock = clock or clock_of(device)
    bandwidth = copy_bandwidth(clock, device, TINY_COPY_BYTES if is_tiny else COPY_BYTES)
    yield row("copy bandwidth", True, bytes_per_second=bandwidth)
    told: set[str] = set()
    for headline in HEADLINES:
        case = headline.case(is_tiny)
        if case.name in told:
            continue
        told.add(case.name)
        outcome = measure.measure(case, clock, device, 1 if is_tiny else ROUNDS, PEERS)
        for found in outcome.rows:
            share = found.bytes / found.best_median / bandwidth if clock.is_gpu else None
            figures = {**asdict(found), "median": found.best_median, "of_copy_bandwidth": share}
            yield row(f"{case.name}, {found.peer}", True, _figures(found.best_median, share), **figures)
        for what, why in outcome.refused.items():
            # What is wrong with others is no fault of ours.
            yield row(what, None if _is_of_others(what) else False, why)
        for what, why in outcome.missing.items():
            yield row(f"{case.name}, {what.removesuffix(f' ({case.family})')}", None, why)
        if case.family == steps.FAMILY:
            layers, batch = _sizes(case.shape)
            yield from beside_jax(layers, batch, device, is_tiny)


def _is_of_others(what: str) -> bool:
    return not what.removeprefix("replay of ").startswith(OURS)


def _figures(seconds: float, share: float | None) -> str:
    return f"{seconds * 1e6:,.1f} µs" + (f", {share:.0%} of copy bandwidth" if share is not None else "")


def _sizes(shape: str) -> tuple[list[int], int]:
    layers, _, batch = shape.partition(" batch ")
    return [int(n) for n in layers.split("-")], int(batch)


def beside_jax(layers: list[int], batch: int, device: torch.device, is_tiny: bool) -> Iterator[Row]:
    """Whole steps by the host's clock, each until it is done: JAX's streams are none of torch's, whose events would not
    see its work."""
    shape = f"step {'-'.join(map(str, layers))} batch {batch}, host clock"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, layers[0], generator=generator)
    y = torch.randint(layers[-1], (batch,), generator=generator)
    for peer, make in ((OURS, _our_step), (JAX, _jax_step)):
        try:
            step = make(layers, x, y, device)
            seconds = _timed(step, 3 if is_tiny else JAX_STEPS)
        except _Missing as absent:
            yield row(f"{shape}, {peer}", None, str(absent))
        except Exception as error:
            yield row(f"{shape}, {peer}", False if peer == OURS else None, reason(error))
        else:
            median = statistics.median(seconds)
            yield row(f"{shape}, {peer}", True, _figures(median, None), peer=peer, median=median, seconds=seconds)


class _Missing(Exception):
    """Why a peer is not here."""


def _our_step(layers: list[int], x: torch.Tensor, y: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    graph = steps.classifier(layers, len(x))
    step = tn.compile_step(graph, loss="loss", optimizer=tn.adam(lr=steps.LR), device=device)
    feeds = {"x": x.to(device), "y": y.to(device)}
    if device.type != "cuda":
        return lambda: step(**feeds)
    step.capture()

    def run() -> None:
        step(**feeds)
        torch.cuda.synchronize(device)

    return run


def _jax_step(layers: list[int], x: torch.Tensor, y: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    if JAX in missing():
        raise _Missing(missing()[JAX])
    import jax

    from ..on_cpu import jax_peers

    if device.type == "cuda" and jax.default_backend() != "gpu":
        raise _Missing(f"this JAX sees no GPU (its backend is {jax.default_backend()}): pip install 'jax[cuda12]'")
    torch.manual_seed(0)
    weights = dict(steps.Classifier(layers).named_parameters())

    def loss(ops: Any, w: Any, x: Any, y: Any) -> Any:
        for i in range(len(layers) - 2):
            x = ops.linear(x, w[f"fc{i}.weight"], w[f"fc{i}.bias"])
            x = ops.gelu(ops.layer_norm(x, w[f"ln{i}.weight"], w[f"ln{i}.bias"]))
        return ops.cross_entropy(ops.linear(x, w["out.weight"], w["out.bias"]), y)

    step = jax_peers.step(loss, weights, [(x, y)], steps.LR)
    return lambda: step(0)


def _timed(step: Callable[[], Any], count: int) -> list[float]:
    for _ in range(3):
        step()
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> int:
    given = asked()
    return tell_all(rows(given.device, given.is_tiny))


if __name__ == "__main__":
    sys.exit(main())
