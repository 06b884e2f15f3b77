"""One case, every peer: made, judged, then timed in turns. What is wrong, or not there, is named and not timed."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch

from .peers import OURS, reason
from .timing import SHORT, Call, Clock


@dataclass(frozen=True)
class Subject:
    """What a case is measured on: how each peer's call is made, who is missing and why, and a judge.

    `judge` says what is wrong with what the call of a peer computes; None where nothing is. `launches` are what is
    known of a peer, once it is made, without counting. A subject that `is_whole` is a program of its own: launches are
    counted too, and the most memory that a peer takes, with all that it holds.
    """

    makers: Mapping[str, Callable[[], Call]]
    missing: Mapping[str, str]
    judge: Callable[[str, Call], str | None]
    launches: Mapping[str, int] = field(default_factory=dict)
    is_whole: bool = False


@dataclass(frozen=True)
class Case:
    """One row of a table: a family at one shape (of an optimizer the rule and its parameters), one dtype, one direction
    ('forward', 'backward', 'both'; 'step'). `bytes` are the least that any peer has to move."""

    family: str
    shape: str
    dtype: str
    direction: str
    bytes: int
    subject: Callable[[torch.device], Subject] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.family} {self.shape} {self.dtype} {self.direction}"


@dataclass(frozen=True)
class Row:
    """One peer on one case: seconds of every run, cold; and of every replay over rotating inputs, where there were."""

    family: str
    shape: str
    dtype: str
    direction: str
    peer: str
    bytes: int
    seconds: list[float]
    replayed: list[float] = field(default_factory=list)
    launches: int | None = None
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best_median(self) -> float:
        """The median of the replays where there are some: of a short run the others show the launch."""
        return statistics.median(self.replayed or self.seconds)

    @property
    def spread(self) -> float:
        """The distance of the quartiles, as a fraction of the median."""
        times = self.replayed or self.seconds
        if len(times) < 2:
            return 0.0
        low, middle, high = statistics.quantiles(times, n=4)
        return (high - low) / middle


@dataclass
class Outcome:
    """What measuring came to: rows, peers that are missing, peers that were wrong or failed (with the case)."""

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def __ior__(self, other: Outcome) -> Outcome:
        self.rows += other.rows
        self.missing |= other.missing
        self.refused |= other.refused
        return self

    @property
    def ok(self) -> bool:
        """Whether nothing of ours was refused."""
        return not any(where.startswith(OURS) for where in self.refused)


def measure(case: Case, clock: Clock, device: torch.device, rounds: int, wanted: Collection[str]) -> Outcome:
    """Every wanted peer of a case, in turns, so that a GPU that warms up or slows down does so for all of them."""
    if clock.is_gpu:
        # Compiled code of earlier cases counts towards a limit, past which torch.compile silently runs eager code.
        torch.compiler.reset()
    subject = case.subject(device)
    missing = {peer: why for peer, why in subject.missing.items() if peer in wanted}
    calls: dict[str, Call] = {}
    outcome = Outcome(missing={f"{peer} ({case.family})": why for peer, why in missing.items()})
    peaks: dict[str, int | None] = {}
    for peer, make in subject.makers.items():
        if peer not in wanted:
            continue
        before = clock.allocated()
        try:
            call = make()
            wrong = subject.judge(peer, call)
            if wrong is None and subject.is_whole:
                peak = clock.peak_bytes(call)
                peaks[peer] = None if peak is None else peak - before
        except Exception as error:
            wrong = reason(error)
        if wrong is None:
            calls[peer] = call
        else:
            outcome.refused[f"{peer}: {case.name}"] = wrong
    for call in calls.values():
        clock.samples(call)  # everything has been compiled and allocated by now
    seconds: dict[str, list[float]] = {peer: [] for peer in calls}
    for _ in range(rounds):
        for peer, call in calls.items():
            seconds[peer] += clock.samples(call)
    for peer, call in calls.items():
        outcome.rows.append(_row(case, subject, clock, peer, call, seconds[peer], peaks.get(peer), outcome))
    del subject, calls
    gc.collect()  # graphs and their memory, before the next case wants it
    return outcome


def _row(
    case: Case,
    subject: Subject,
    clock: Clock,
    peer: str,
    call: Call,
    seconds: list[float],
    peak: int | None,
    outcome: Outcome,
) -> Row:
    replayed: list[float] = []
    launches = subject.launches.get(peer)
    try:
        if clock.is_gpu and statistics.median(seconds) < SHORT:
            replayed = clock.replayed(call, case.bytes)
            if not replayed:
                outcome.missing[f"replays of {peer} ({case.family})"] = call.why_not
        if subject.is_whole and launches is None:
            launches = clock.launches(call)
    except Exception as error:
        outcome.refused[f"replay of {peer}: {case.name}"] = reason(error)
    cold, rotating = ([round(t, 10) for t in times] for times in (seconds, replayed))
    named = (case.family, case.shape, case.dtype, case.direction, peer)
    return Row(*named, case.bytes, cold, rotating, launches, peak)
