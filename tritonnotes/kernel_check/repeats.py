"""Runs on the same tensors, which must give the same bits: repeated, on one thread, and with other memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codegen.support.text import counted
from .running import Filled, Ran, Results, different, same_bits, threads

REPEATS = 3
"""Runs on all threads beside the first, whose bits are compared."""

FILLS = ((float("nan"), 99, True), (3.0, 77, False))
"""What memory of floats, integers and bools holds before a run that does not set it."""

RUNS = REPEATS + 2 + len(FILLS)


@dataclass(frozen=True)
class Repeats:
    """What differs, and what could not be judged because of it."""

    differences: tuple[str, ...]
    left_out: tuple[str, ...]
    runs: int


def repeats(
    once: Callable[[], Ran],
    looked_at: frozenset[int],
    *,
    why: str = "",
    judged: Callable[[Ran], list[str]] | None = None,
) -> Repeats:
    """Run `once` again and again, and compare what it returns and the arguments `looked_at`.

    Runs that differ by the order of threads are told with the reason `why`. Given `judged`, they may differ, and it
    says what is wrong with each.

    Memory is judged on one thread, where programs run in one order: sums by atomic operations then have the same bits.
    Where runs on one thread differ all the same, nothing is said of memory but which elements keep what it held.
    """
    ran: list[Ran] = []

    def made() -> Results:
        ran.append(once())
        return ran[-1].results(looked_at)

    first = made()
    others = [made() for _ in range(REPEATS)]
    with threads(1):
        alone = made()
    in_any_order = list(enumerate(ran, 1))
    with threads(1):
        is_steady = all(_is_same(first, run) for run in (*others, alone))
        again = alone if is_steady else made()
        filled = []
        for fill in FILLS:
            with Filled(*fill):
                filled.append(made())
    unwritten = {name: _kept(*(run[name] for run in filled)) for name in first if all(name in run for run in filled)}
    found = [f"{name}: {_said_of_unwritten(held)}" for name, held in unwritten.items() if held.any()]
    if judged is not None:
        found += [f"run {count}: {said}" for count, one in in_any_order for said in judged(one)]
    else:
        apart = [
            line
            for count, other in enumerate(others, 2)
            for line in _apart(first, other, unwritten, f"run {count} differs from run 1")
        ]
        apart += _apart(first, alone, unwritten, "a run on one thread differs from run 1 on all")
        found += [f"{line}{why}" for line in apart]
    left_out = []
    if _apart(alone, again, unwritten, ""):
        left_out.append("whether results depend on what torch.empty's memory held: runs on one thread differ as it is")
    else:
        for (number, *_), run in zip(FILLS, filled, strict=True):
            what = f"it depends on what memory held that torch.empty gave it ({number})"
            found += _apart(alone, run, unwritten, what)
    return Repeats(tuple(dict.fromkeys(found)), tuple(left_out), RUNS + (not is_steady))


def _is_same(one: Results, other: Results) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)


def _kept(*runs: Tensor) -> Tensor:
    """Which elements hold in each run what memory was filled with before it."""
    if len({run.shape for run in runs}) > 1:
        return torch.zeros(runs[0].shape, dtype=torch.bool, device=runs[0].device)
    held = torch.ones(runs[0].shape, dtype=torch.bool, device=runs[0].device)
    for run, (number, integer, truth) in zip(runs, FILLS, strict=True):
        if run.is_floating_point():
            held &= run.isnan() if number != number else run == number
        else:
            held &= run == (truth if run.dtype is torch.bool else integer)
    return held


def _said_of_unwritten(held: Tensor) -> str:
    first, count = place_of(held), int(held.sum())
    return (
        f"no program writes {counted(count, 'element')} of {held.numel():,}, the first at {list(first)}: there stands "
        "what torch.empty's memory held"
    )


def _apart(one: Results, other: Results, unwritten: dict[str, Tensor], what: str) -> list[str]:
    found = []
    for name, held in one.items():
        if name not in other or held.shape != other[name].shape or held.dtype != other[name].dtype:
            found.append(f"{name}: {what}")
            continue
        apart = different(held, other[name])
        if name in unwritten and unwritten[name].shape == apart.shape:
            apart &= ~unwritten[name]
        if apart.any():
            at = place_of(apart)
            now, before = other[name][at].item(), held[at].item()
            found.append(f"{name}: {what}, first at {list(at)}: {now!r}, not {before!r}")
    return found


def place_of(held: Tensor) -> tuple[int, ...]:
    """The index of the first element that is true."""
    return tuple(map(int, held.nonzero()[0]))
