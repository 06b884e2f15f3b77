"""Data parallel training over torch.distributed: gradients in flat buckets, added up across processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..codegen.program.program import Program
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import Value
from ..runtime.executors.executor import Launch
from ..tensors.dtypes import torch_dtype

ALIGNMENT = 64
"""Elements at whose multiples gradients begin in a bucket, so that kernels may access them as widely as alone."""

DIGEST = "sha256:"
"""What stands for a source, of which only the digest travels."""


@dataclass(frozen=True)
class DataParallel:
    """How processes share a step, for `compile_step(..., data_parallel=)`; the defaults are those of
    torch.nn.parallel.DistributedDataParallel.

    Gradients are exchanged in buckets of at least `bucket_cap_mb` MiB, starting with those of the last layers. With
    `broadcast_buffers` all processes have the running statistics of rank 0 after each batch. `group` is a process
    group, None for the default. With `sync_batch_norm` batch norm uses the statistics of the rows of all processes, as
    torch.nn.SyncBatchNorm does; numbers of rows may differ. With `shard` each process has the optimizer state of only
    some parameters, updates these and sends them to the others, as
    torch.distributed.optim.ZeroRedundancyOptimizer does. Raises
    `DeclarationError` for a `bucket_cap_mb` that is no number above 0, and where one of the last two is no bool.
    """

    bucket_cap_mb: float = 25.0
    broadcast_buffers: bool = True
    group: Any = None
    sync_batch_norm: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        size = self.bucket_cap_mb
        if isinstance(size, bool) or not isinstance(size, int | float) or not size > 0:
            raise DeclarationError(
                f"DataParallel: bucket_cap_mb is {size!r}; it must be a number above 0, such as 25, in MiB"
            )
        if not isinstance(self.sync_batch_norm, bool):
            raise DeclarationError(
                f"DataParallel: sync_batch_norm is {self.sync_batch_norm!r}; pass True, for statistics over the rows "
                "of all processes, or False"
            )
        if not isinstance(self.shard, bool):
            raise DeclarationError(
                f"DataParallel: shard is {self.shard!r}; pass True, for optimizer state shared out over processes, "
                "or False"
            )


class Reducer:
    """The gradients of one process in flat buckets, of which each is reduced as soon as no launch to come touches it.

    `slots` are those that gradients are left in by `program`, in the order of their parameters; `update` is the text of
    what runs once they are reduced, and `settings` what else the processes must have alike, as "another scaler". Raises
    `DeclarationError` without a process group, and where processes declare different things.
    """

    def __init__(
        self,
        options: DataParallel,
        program: Program,
        slots: Sequence[Value],
        device: torch.device,
        *,
        update: str,
        settings: Mapping[str, object],
    ) -> None:
        self.rank, self.world_size = rank_of(options)
        self.options, self.group = options, options.group
        travel = {
            "bucket_cap_mb": options.bucket_cap_mb,
            "broadcast_buffers": options.broadcast_buffers,
            "sync_batch_norm": options.sync_batch_norm,
            "shard": options.shard,
        }
        declared = {
            "another graph": _digest(program.source),
            "another update": _digest(update),
            **{what: str(value) for what, value in settings.items()},
            "other options": ", ".join(f"{n}={v}" for n, v in travel.items()),
        }
        _check_alike(declared, program.declared.name, self.group, self.world_size)
        self._places = {
            name: [program.places[k.name] for k in kernels] for name, kernels in program.launches_of.items()
        }
        self.tensors: dict[str, Tensor] = {}
        self.buckets: list[Tensor] = []
        self._last_uses: list[int] = []
        for names in _bucketed(slots, options.bucket_cap_mb * 2**20):
            held = [v for v in slots if v.name in names]
            self._fill(held, device)
            self._last_uses.append(max(_last_use(program, v.name) for v in held))
        self._next = 0
        self._works: list[Any] = []

    def _fill(self, slots: Sequence[Value], device: torch.device) -> None:
        counts = [_elements(v) for v in slots]
        starts = [0]
        for count in counts:
            starts.append(-(-(starts[-1] + count) // ALIGNMENT) * ALIGNMENT)
        bucket = torch.zeros(starts[-1], dtype=torch_dtype(slots[0].dtype), device=device)
        for slot, start, count in zip(slots, starts, counts, strict=False):
            self.tensors[slot.name] = bucket[start : start + count].view(slot.shape)  # type: ignore[arg-type]
        self.buckets.append(bucket)

    def around(self, launch: Launch) -> Launch:
        """A launch before which the buckets go out that no launch from here on touches: they travel beside the rest."""

        places = {name: cycle(shared) for name, shared in self._places.items()}

        def overlapped(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
            self._send(next(places[kernel.__name__]))
            launch(kernel, grid, *arguments, **options)

        return overlapped

    def begin(self) -> None:
        """Before the run whose gradients are to be reduced."""
        self._next, self._works = 0, []

    def finish(self) -> None:
        """Send what is left, and let the device (with gloo the host) wait for the sums."""
        self._send(None)
        for work in self._works:
            work.wait()

    def _send(self, before: int | None) -> None:
        # In one order on all processes, as collectives must be.
        while self._next < len(self.buckets) and (before is None or self._last_uses[self._next] < before):
            bucket = self.buckets[self._next]
            self._works.append(dist.all_reduce(bucket, group=self.group, async_op=True))
            self._next += 1

    def all_reduce(self, x: Tensor, total: Tensor) -> None:
        """Leave in `total` the sum of what all processes have in `x`, for the launch that comes next."""
        total.copy_(x)
        dist.all_reduce(total, group=self.group)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes what rank 0 holds."""
        self.share((tensor, 0) for tensor in tensors)

    def share(self, owned: Iterable[tuple[Tensor, int]]) -> None:
        """Give all processes what the owner of each tensor, a rank, holds; in one order on all of them."""
        works = []
        for tensor, owner in owned:
            source = dist.get_global_rank(self.group, owner) if self.group is not None else owner
            works.append(dist.broadcast(tensor, source, group=self.group, async_op=True))
        for work in works:
            work.wait()


def rank_of(options: DataParallel) -> tuple[int, int]:
    """The rank of this process and the number of all. Raises `DeclarationError` without a process group."""
    if not dist.is_available() or not dist.is_initialized():
        raise DeclarationError(
            "compile_step: data_parallel needs a process group; call torch.distributed.init_process_group() first, "
            "and start the script by torchrun"
        )
    return dist.get_rank(options.group), dist.get_world_size(options.group)


def owners(parameters: Sequence[Value], world_size: int) -> dict[str, int]:
    """The rank that updates each parameter: the largest first, each to the rank that has least. Raises
    `DeclarationError` for fewer parameters than processes."""
    if len(parameters) < world_size:
        raise DeclarationError(
            f"compile_step: shard=True shares out {len(parameters)} parameters over {world_size} processes, of which "
            "some would have none; start fewer of them, or leave shard out"
        )
    held = [(0, 0)] * world_size
    found = {}
    for parameter in sorted(parameters, key=lambda p: -_elements(p) * p.dtype.itemsize):
        rank = min(range(world_size), key=lambda r: held[r])
        found[parameter.name] = rank
        size, count = held[rank]
        held[rank] = (size + _elements(parameter) * parameter.dtype.itemsize, count + 1)
    return {p.name: found[p.name] for p in parameters}


def _check_alike(declared: Mapping[str, str], name: str, group: Any, world_size: int) -> None:
    """Raise `DeclarationError` on all processes where one of them has `declared` something else than rank 0."""
    found: list[Any] = [None] * world_size
    dist.all_gather_object(found, dict(declared), group=group)
    for rank, other in enumerate(found):
        for what, mine in found[0].items():
            if other[what] != mine:
                seen = "or plans it otherwise" if _is_digest(mine) else f"{other[what]} and not {mine}"
                raise DeclarationError(
                    f"compile_step: rank {rank} declares {what} than rank 0, {seen}; declare the same graph {name!r} "
                    "with the same options on all ranks"
                )


def _digest(text: str) -> str:
    return f"{DIGEST}{hashlib.sha256(text.encode()).hexdigest()}"


def _is_digest(text: str) -> bool:
    return text.startswith(DIGEST)


def _bucketed(slots: Sequence[Value], least: float) -> list[set[str]]:
    """Names in buckets of one dtype, from the last slot to the first, since backward runs that way."""
    buckets: list[set[str]] = []
    filled: dict[str, tuple[set[str], float]] = {}
    for slot in reversed(slots):
        names, size = filled.get(slot.dtype.name, (set(), least))
        if size >= least:
            names, size = set(), 0.0
            buckets.append(names)
        names.add(slot.name)
        filled[slot.dtype.name] = (names, size + _elements(slot) * slot.dtype.itemsize)
    return buckets


def _last_use(program: Program, slot: str) -> int:
    """The place of the last launch that reads or writes a slot: a sum in its place before that would be read as the
    gradient of this process."""
    return max(
        (place for place, used in enumerate(program.uses) if slot in used.reads | used.writes),
        default=len(program.uses),
    )


def _elements(value: Value) -> int:
    count = 1
    for size in value.shape:
        assert isinstance(size, int)
        count *= size
    return count
