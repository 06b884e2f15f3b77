"""Tiles and warps by timing, where there is a GPU to time on: what is faster than the rules' choice takes its place. So
does a library call for every matrix product, where the whole program is faster that way.

Nothing needs it. What was chosen stands in the launcher, beside the kernel, with both times, and is kept in the kernel
cache for the GPU, the sizes and the source that it was found for: asked again, it is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import triton.testing
from rich.progress import track
from torch import Tensor

from ..codegen.emit.launcher import Launcher
from ..codegen.lower.index_math import Indexing
from ..codegen.lower.lower import GeneratedKernel
from ..codegen.lower.tile_ir import Kernel, TunedTile
from ..codegen.pipeline import make_program
from ..codegen.program.program import Program
from ..codegen.support.text import counted
from ..codegen.target.cache import KernelCache, key_of
from ..codegen.target.compile import triton_version
from ..ir.core.errors import DeclarationError
from ..ir.core.graph import is_seed
from ..ir.core.types import dims_in, element_count
from ..tensors.dtypes import torch_dtype
from .executors.executor import Launch
from .runner import Runner

Timer = Callable[[Callable[[], None]], float]
"""Microseconds that a launch takes."""

WORTH = 0.98
"""A choice takes the place of the rules' where it takes less than this share of the time: less is noise."""

MOST_WARPS = 16

REFUSALS = (triton.errors.TritonError, RuntimeError)
"""What compiling or launching a choice may raise: it takes too many registers or too much shared memory, ptxas or a
pass of Triton fails, the driver refuses it."""


class _Refused(Exception):
    """A kernel cannot be compiled or launched as it was chosen."""

    def __init__(self, kernel: str) -> None:
        super().__init__(kernel)
        self.kernel = kernel


def tuned(
    program: Program,
    device: torch.device,
    sizes: Mapping[str, int],
    *,
    timer: Timer | None = None,
    cache: KernelCache | None = None,
    progress: bool = True,
) -> Program:
    """The program with tiles and warps that are fastest at these sizes of the `Dim`s; made-up tensors are timed. Where
    kernels compute matrix products, it is timed beside the one that leaves all of them to the library.

    Raises `DeclarationError` where there is no GPU, unless another `timer` is given.
    """
    if timer is None:
        if device.type != "cuda":
            raise DeclarationError(
                f"tune: {device} is no GPU, and only there a kernel's time means anything; leave it out"
            )
        timer = partial(_on_gpu, device)
    cache = cache or KernelCache()
    found = _with_tiles(program, device, sizes, timer, cache, progress)
    if not any(k.products for k in program.plan.launches):
        return found
    apart = make_program(program.graph, replace(program.fusion, products=False), program.declared)
    other = _with_tiles(apart, device, sizes, timer, cache, progress)
    key = key_of(one=found.source, other=other.source, sizes=dict(sizes), where=_where(device))
    known = cache.get("tuned", key)
    if known is None:
        mine, library = timer(_whole(found, device, sizes)), float("inf")
        try:
            library = timer(_whole(other, device, sizes))
        except REFUSALS:
            _check_answers(device)
        known = json.dumps([mine, library]).encode()
        cache.put("tuned", key, known)
    mine, library = json.loads(known)
    return other if library < WORTH * mine else found


def _whole(program: Program, device: torch.device, sizes: Mapping[str, int]) -> Callable[[], None]:
    """One run of a program on made-up tensors."""
    runner = Runner(program, device)
    known = {dim: sizes[dim] for dim in _dims(program)}
    leaves = dict(_made_up(program, known, device))

    def once() -> None:
        runner.run(leaves, known, _scalars(program))

    return once


def _where(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "another timer"


def _scalars(program: Program) -> dict[str, float]:
    return {v.name: 0 if is_seed(v) else 0.5 for v in program.plan.graph.leaves("scalar")}


def _with_tiles(
    program: Program,
    device: torch.device,
    sizes: Mapping[str, int],
    timer: Timer,
    cache: KernelCache,
    progress: bool,
) -> Program:
    where = _where(device)
    sizes = {dim: sizes[dim] for dim in _dims(program)}
    key = key_of(source=program.source, where=where, sizes=sizes, triton=triton_version(), torch=str(torch.__version__))
    known = cache.get("tuned", key)
    if known is None:
        times = _timed(program, device, sizes, timer, progress)
        known = json.dumps({name: _chosen(found, where) for name, found in times.items()}).encode()
        cache.put("tuned", key, known)
    choices = {name: TunedTile(*fields) for name, fields in json.loads(known).items() if fields}
    return _with(program, choices)


def candidates(kernel: GeneratedKernel) -> list[TunedTile]:
    """The rules' choice, then half and twice its rows and warps. None where a kernel only finalizes sums, or runs
    updates or products side by side: its tiles are few whatever they are."""
    if not isinstance(kernel, Kernel) or kernel.layout.finalizes or not kernel.layout.rows:
        return []
    layout = kernel.layout
    warps = Launcher(kernel, Indexing(kernel), set()).num_warps()
    most_rows = 1 if layout.traversal.is_one_row else layout.row_block * 2 if layout.masks_rows else layout.exact_rows
    # Programs that share sums count themselves tile by tile, and there is no room for more tiles.
    fewest = layout.row_block if layout.split_k else 1
    rows = [r for r in (layout.row_block, layout.row_block // 2, layout.row_block * 2) if fewest <= r <= most_rows]
    pairs = [(r, w) for r in rows for w in (warps, warps // 2, warps * 2) if 1 <= w <= max(MOST_WARPS, warps)]
    return [TunedTile(r, w) for r, w in pairs]


def _timed(
    program: Program, device: torch.device, sizes: Mapping[str, int], timer: Timer, progress: bool
) -> dict[str, dict[TunedTile, float]]:
    """Microseconds of each candidate of each kernel by its function, the rules' first. Each round gives each kernel its
    next one. Where one is refused the others begin anew without it, as they would read what it has not written."""
    wanted = {name: candidates(kernels[0]) for name, kernels in program.launches_of.items()}
    times: dict[str, dict[TunedTile, float]] = {name: {} for name, found in wanted.items() if found}
    rounds = range(max((len(found) for found in wanted.values()), default=0))
    for number in track(rounds, "timing tiles and warps", disable=not progress):
        turn = {name: found[number] for name, found in wanted.items() if number < len(found)}
        while turn:
            try:
                _time_round(program, turn, times, device, sizes, timer)
                break
            except _Refused as refused:
                if number == 0 and refused.__cause__ is not None:  # the rules' choice must run
                    raise refused.__cause__ from None
                _check_answers(device)
                times[refused.kernel][turn.pop(refused.kernel)] = float("inf")
    return times


def _time_round(
    program: Program,
    turn: Mapping[str, TunedTile],
    times: Mapping[str, dict[TunedTile, float]],
    device: torch.device,
    sizes: Mapping[str, int],
    timer: Timer,
) -> None:
    """Time one choice of each kernel in `turn`. Raises `_Refused` for the first that is refused."""
    runner = Runner(_with(program, turn), device)
    runner.around = lambda launch: _watched(launch, turn, times, timer)
    runner.run(dict(_made_up(program, sizes, device)), sizes, _scalars(program))


def _watched(
    launch: Launch, turn: Mapping[str, TunedTile], times: Mapping[str, dict[TunedTile, float]], timer: Timer
) -> Launch:
    def timing(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        def once() -> None:
            launch(kernel, grid, *arguments, **options)

        choice = turn.get(kernel.__name__)
        if choice is None or choice in times[kernel.__name__]:  # the first of those that share a kernel stands for all
            once()
            return
        try:
            times[kernel.__name__][choice] = timer(once)
        except REFUSALS as error:
            raise _Refused(kernel.__name__) from error

    return timing


def _chosen(times: Mapping[TunedTile, float], where: str) -> tuple[int, int, str] | None:
    """The fastest, with the reason; None where that is the rules' choice, or as good as that."""
    usual, *_ = times
    best = min(times, key=times.__getitem__)
    if times[best] > WORTH * times[usual]:
        return None
    reason = (
        f"{counted(best.rows, 'row')} and {counted(best.num_warps, 'warp')}, by timing on {where}: "
        f"{times[best]:.1f} µs, where the rules' {usual.rows} and {usual.num_warps} take {times[usual]:.1f}."
    )
    return best.rows, best.num_warps, reason


def _with(program: Program, choices: Mapping[str, TunedTile]) -> Program:
    def tuned(kernel: GeneratedKernel) -> GeneratedKernel:
        choice = choices.get(program.written[kernel.name].name)
        if choice is None or not isinstance(kernel, Kernel):
            return kernel
        return replace(kernel, layout=replace(kernel.layout, tuned=choice))

    return replace(program, kernels=tuple(map(tuned, program.kernels)))


def _made_up(program: Program, sizes: Mapping[str, int], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator("cpu").manual_seed(0)
    for buffer in program.buffers:
        if buffer.role == "leaf":
            shape = [element_count((s,), sizes) for s in buffer.shape]
            made = torch.zeros(shape, device="cpu")
            if buffer.dtype.is_float:
                made.uniform_(generator=generator)
            yield buffer.name, made.to(device, torch_dtype(buffer.dtype))


def _dims(program: Program) -> list[str]:
    return sorted({dim.name for v in program.plan.graph.values for dim in dims_in(v.shape)})


def _check_answers(device: torch.device) -> None:
    """Raise what the GPU raises from now on, if a refusal was a fault of a kernel that ran: no other is timed then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _on_gpu(device: torch.device, once: Callable[[], None]) -> float:
    with torch.cuda.device(device):  # whose events tell the time
        return 1000 * float(triton.testing.do_bench(once, return_mode="median"))
