"""What each of two processes does for `test_parallel.py`, and one alone does: `torchrun parallel_run.py OUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError

BATCH = tn.Dim("batch")
ROWS, STEPS = 16, 4
SYNCED = {"synced": (8, 16), "uneven": (11, 16), "one_row": (1, 2)}
"""Where the rows of rank 0 end, and those of rank 1, in the cases whose batch norm sees the rows of both."""


def graph(dtype: str = "float32", extra: str = "", width: int = 24) -> tn.Graph:
    g = tn.Graph("parallel")
    x, y = g.input("x", (BATCH, 12), dtype), g.input("y", (BATCH,), "int64")
    h = tn.linear(x, width, name="fc1")
    h = tn.batch_norm(h, name="bn") if extra in ("batch_norm", *SYNCED) else tn.layer_norm(h, name="ln")
    h = tn.dropout(tn.relu(h), 0.5) if extra == "dropout" else tn.relu(h)
    logits = tn.linear(h, 5, name="fc2")
    # A sum is that of all rows, however they are shared out.
    g.output(loss=tn.cross_entropy(logits, y, reduction="sum" if extra in SYNCED else "mean"))
    return tn.autocast(g, "float16") if extra == "float16" else g


def batch(number: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(ROWS, 12, generator=generator, dtype=torch.float64).to(dtype)
    return {"x": x, "y": torch.randint(0, 5, (ROWS,), generator=generator)}


def half(fed: dict[str, Tensor], part: int) -> dict[str, Tensor]:
    return {n: t[part * ROWS // 2 : (part + 1) * ROWS // 2] for n, t in fed.items()}


def synced_part(number: int, case: str, rank: int) -> dict[str, Tensor]:
    """The rows of a rank in one of the cases of `SYNCED`."""
    first, last = SYNCED[case]
    part = slice(0, first) if rank == 0 else slice(first, last)
    return {n: t[part] for n, t in batch(number, torch.float64).items()}


def compiled(case: str, **options: Any) -> tn.TrainingStep:
    """The step of one case, alone unless `options` say otherwise."""
    case = case.removeprefix("sharded_")
    dtype = "float64" if case in ("float64", "clipped", *SYNCED) else "float32"
    made = graph(dtype, case if case in ("batch_norm", "dropout", "float16", *SYNCED) else "")
    optimizer = tn.clip(tn.sgd(lr=1.0), max_norm=0.05) if case == "clipped" else tn.adam(lr=1e-2)
    if case in SYNCED:
        optimizer = tn.sgd(lr=SYNCED_LR)
    if dtype == "float32":
        # Bits are compared between programs: a library may add up a product otherwise where another calls it.
        options["products"] = "generated"
    if case == "float16":
        options["scaler"] = tn.GradScaler(init_scale=2.0**10)
    return tn.compile_step(made, optimizer=optimizer, device="cpu", **options)


def overflowing(fed: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**fed, "x": fed["x"] * 1e6}


SYNCED_LR = 0.05
CASES = ("float64", "float32", "clipped", "accumulated", "float16", "batch_norm", "dropout", *SYNCED)
SHARDED = ("sharded_float32", "sharded_clipped", "sharded_float16")


def run(case: str, rank: int) -> dict[str, Any]:
    options: dict[str, Any] = {"data_parallel": tn.DataParallel(bucket_cap_mb=4e-4)}
    if case in SYNCED:
        options = {"data_parallel": tn.DataParallel(sync_batch_norm=True, broadcast_buffers=False)}
    if case in SHARDED:
        options = {"data_parallel": tn.DataParallel(bucket_cap_mb=4e-4, shard=True)}
        case = case.removeprefix("sharded_")
    if case == "accumulated":
        options["accumulate"] = 2
    # Other weights on rank 1 at first: those of rank 0 are what counts.
    step = compiled(case, seed=7 + rank, **options)
    losses = []
    for number in range(STEPS):
        fed = half(batch(number, torch.float64 if case in ("float64", "clipped") else torch.float32), rank)
        if case == "float16" and number == 1 and rank == 1:
            fed = overflowing(fed)
        if case == "dropout":
            fed = half(batch(0), 0)
        if case in SYNCED:
            fed = synced_part(number, case, rank)
        losses.append(float(step(**fed)["loss"]))
    buckets = step._runner.reducer.buckets if step._runner.reducer is not None else []
    held = {"model": step.model.state_dict(), "slots": dict(step.slots), "losses": losses, "buckets": len(buckets)}
    return {**held, "state": step.state_dict()["slots"], "explained": step.explain()}


def resumed(rank: int, out: Path, first_shards: bool) -> dict[str, Any]:
    """Half of the steps with state shared out and half without, or the other way round, by a file in between."""
    for half_of, shard in enumerate((first_shards, not first_shards)):
        step = compiled("float32", seed=rank, data_parallel=tn.DataParallel(bucket_cap_mb=4e-4, shard=shard))
        path = out / f"half{first_shards}{rank}"
        if half_of == 0:
            step.model.load_state_dict(compiled("float32", seed=7).model.state_dict())
        else:
            step.load(path)
        for number in range(half_of * STEPS // 2, (half_of + 1) * STEPS // 2):
            step(**half(batch(number), rank))
        step.save(path)
    return {"model": step.model.state_dict(), "state": step.state_dict()["slots"]}


def refused(rank: int) -> str:
    try:
        tn.compile_step(graph(width=24 + rank), optimizer=tn.sgd(lr=0.1), device="cpu", data_parallel=True)
    except DeclarationError as error:
        return str(error)
    return ""


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found: dict[str, Any] = {case: run(case, rank) for case in (*CASES, *SHARDED)}
    found["resumed"] = [resumed(rank, out, first_shards) for first_shards in (True, False)]
    found["refused"] = refused(rank)
    torch.save(found, out / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
