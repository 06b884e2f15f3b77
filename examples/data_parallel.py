"""The digits on several processes: each takes its part of every batch, and all hold the same weights.

Run it with `torchrun --nproc-per-node=2 examples/data_parallel.py`: over gloo on the CPU, over NCCL with a GPU for each
process. Rank 0 trains beside it on whole batches alone, and shows how far the two
are apart.
"""

import os
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist

import tritonnotes as tn
from tritonnotes.cli.arguments import epochs_of
from tritonnotes.cli.demo import digits
from tritonnotes.datasets import load_digits

BATCH, LIMIT = 128, 1e-4


def train(epochs: int = 2, seed: int = 0) -> tuple[list[float], list[float]]:
    """On rank 0 the loss of every batch, as the mean over processes and of the same training alone; elsewhere the first
    of these only. The process group must be there."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if BATCH % world_size:
        raise SystemExit(f"{world_size} processes do not share {BATCH} rows evenly; use a power of two")
    step = tn.compile_step(digits(), optimizer=tn.adam(lr=2e-3), data_parallel=True, seed=seed)
    alone = tn.compile_step(digits(), optimizer=tn.adam(lr=2e-3), seed=seed) if rank == 0 else None
    losses, alone_losses = [], []
    for _, x, y in load_digits(seed).batches(BATCH, epochs, seed):
        if len(x) < BATCH:
            continue  # a mean of means is the mean of all only over equal parts
        x, y = x.to(step.device), y.to(step.device)
        loss = step(x=x.chunk(world_size)[rank], y=y.chunk(world_size)[rank])["loss"]
        dist.all_reduce(loss)
        losses.append(float(loss) / world_size)
        if alone is not None:
            alone_losses.append(float(alone(x=x, y=y)["loss"]))
    return losses, alone_losses


def main(argv: Sequence[str] | None = None) -> None:
    epochs = epochs_of(__doc__, 2, argv)
    if "RANK" not in os.environ:
        sys.exit("start it with torchrun --nproc-per-node=2 examples/data_parallel.py")
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpus else "gloo")
    losses, alone = train(epochs)
    apart = max((abs(a - b) / b for a, b in zip(losses, alone, strict=False)), default=0.0)
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes: loss {losses[0]:.4f} to {losses[-1]:.4f} over {len(losses)} batches")
        print(f"one process on the whole batches: at most {apart:.1e} apart, relative; allowed {LIMIT:.0e}")
    dist.destroy_process_group()
    raise SystemExit(0 if apart <= LIMIT else 1)


if __name__ == "__main__":
    main()
